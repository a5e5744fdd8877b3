package aws

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/registry"
)

const (
	// readAtOnce is how many are read at a time: enough to use what the quotas
	// let through, and few enough that a device's request, which calls the same
	// APIs, waits behind no more than these.
	readAtOnce = 4
	// readPage is how many are read between two notes of the position, which a
	// kill has read again.
	readPage = 32
	// readTries is how often one is tried that fails alone.
	readTries = 5
)

// outcome is what became of one that was read.
type outcome struct {
	todo  store.Todo
	found store.Found
	err   error
}

// read reads the next few.
func (s *Syncer) read(ctx context.Context, state *SyncState) error {
	todo, err := s.todo.Next(ctx, readPage)
	if err != nil {
		return err
	}
	if len(todo) == 0 {
		return s.finish(ctx, state)
	}
	outcomes := s.readSome(ctx, state, todo)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var read, again []store.Todo
	var all error
	for _, o := range outcomes {
		switch {
		case o.err == nil:
			read = append(read, o.todo)
			state.Read++
			if o.found != store.FoundAlike {
				state.Found[o.found]++
			}
		case o.todo.Tries+1 >= readTries:
			read = append(read, o.todo)
			state.Failed++
			state.Why = o.err.Error()
			s.log.Warn().Err(o.err).Msg("left out of the inventory")
		default:
			again = append(again, o.todo)
			all = o.err
		}
	}
	if len(read) == 0 && isPassing(all) {
		return all // AWS answers nobody: that is no one's fault
	}
	return s.note(state, func(at store.Position) error { return s.todo.Done(ctx, read, again, at) })
}

func (s *Syncer) readSome(ctx context.Context, state *SyncState, todo []store.Todo) []outcome {
	outcomes := make([]outcome, len(todo))
	var reading errgroup.Group
	reading.SetLimit(readAtOnce)
	for i, one := range todo {
		reading.Go(func() error {
			found, err := s.readOne(ctx, state, one)
			outcomes[i] = outcome{one, found, err}
			return nil
		})
	}
	_ = reading.Wait() // each has an outcome of its own
	return outcomes
}

func (s *Syncer) readOne(ctx context.Context, state *SyncState, todo store.Todo) (store.Found, error) {
	if todo.What == store.TodoCertificate {
		if state.ByThing && !state.Full {
			taken, err := s.rows.TakenSince(ctx, certificate.ID(todo.Name), state.Began)
			if err != nil || taken {
				return store.FoundAlike, err // it was read with a thing of it
			}
		}
		return s.readCertificate(ctx, certificate.ID(todo.Name))
	}
	return s.readDevice(ctx, registry.DeviceID(todo.Name))
}

// readDevice takes in what a thing holds.
func (s *Syncer) readDevice(ctx context.Context, id registry.DeviceID) (store.Found, error) {
	if err := s.known(ctx, id); err != nil {
		if errors.Is(err, registry.ErrUnknown) {
			return store.FoundAlike, nil // it is none any more
		}
		return store.FoundAlike, err
	}
	before, err := s.rows.Held(ctx, id)
	if err != nil {
		return store.FoundAlike, err
	}
	s.inventory.views.forget(id)
	if err := s.inventory.learn(ctx, id); err != nil {
		return store.FoundAlike, err
	}
	after, err := s.rows.Held(ctx, id)
	if len(after) > len(before) {
		return store.FoundNew, err
	}
	return store.FoundAlike, err
}

// known makes sure that a thing is a device.
func (s *Syncer) known(ctx context.Context, id registry.DeviceID) error {
	unmet, err := s.devices.Unmet(ctx, []registry.DeviceID{id})
	if err != nil || len(unmet) == 0 {
		return err
	}
	_, err = s.registry.Device(ctx, id)
	return err
}

// readCertificate takes in a certificate and who holds it, or what has become of
// it.
func (s *Syncer) readCertificate(ctx context.Context, id certificate.ID) (store.Found, error) {
	read := s.now()
	c, err := s.inventory.describe(ctx, id)
	if isNotFound(err) {
		return s.inventory.gone(ctx, id, read)
	}
	if err != nil {
		return store.FoundAlike, err
	}
	things, err := s.inventory.thingsOf(ctx, id)
	if err != nil {
		return store.FoundAlike, err
	}
	_, err = s.rows.Certificate(ctx, id)
	isNew := errors.Is(err, certificate.ErrUnknown)
	if err != nil && !isNew {
		return store.FoundAlike, err
	}
	for _, thing := range things {
		if err := s.take(ctx, thing, c); err != nil {
			return store.FoundAlike, err
		}
	}
	found, err := s.rows.Found(ctx, c, read, s.inventory.isRemoved(id))
	if isNew && found == store.FoundAlike {
		found = store.FoundNew
	}
	return found, err
}

// take takes in a certificate as a thing's, if that is a device.
func (s *Syncer) take(ctx context.Context, thing string, c certificate.Certificate) error {
	id, err := registry.ParseDeviceID(thing)
	if err != nil {
		return nil //nolint:nilerr // no device could have that name
	}
	err = s.known(ctx, id)
	if errors.Is(err, registry.ErrUnknown) {
		return nil
	}
	if err != nil {
		return err
	}
	described := func(context.Context, certificate.ID) (certificate.Certificate, error) { return c, nil }
	if err := s.inventory.adoptAs(ctx, id, c.ID, described); err != nil {
		return fmt.Errorf("take in certificate %s of thing %s: %w", c.ID, thing, err)
	}
	return nil
}
