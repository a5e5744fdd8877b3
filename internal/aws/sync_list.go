package aws

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/iot"
	"golang.org/x/sync/errgroup"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/registry"
)

const (
	listPage = 250 // the most that AWS IoT lists at a time
	// metAtOnce is how many devices are entered at a time: they share a commit.
	metAtOnce = 64
)

// listCertificates takes a page of AWS's certificates: those that the store does
// not know, or has standing otherwise, are to be read.
func (s *Syncer) listCertificates(ctx context.Context, state *SyncState) error {
	page, err := s.iot.ListCertificates(ctx, &iot.ListCertificatesInput{
		PageSize: new(int32(listPage)), Marker: optional(state.Marker), AscendingOrder: true,
	})
	if err != nil {
		return s.lostPlace(ctx, state, "certificates", fmt.Errorf("list certificates: %w", err))
	}
	var listed []store.Listed
	for _, c := range page.Certificates {
		if id, err := certificate.ParseID(deref(c.CertificateId)); err == nil {
			listed = append(listed, store.Listed{ID: id, Standing: standingOf(c.Status)})
		}
	}
	wanted, err := s.wanted(ctx, state, listed)
	if err != nil {
		return err
	}
	state.Listed["certificates"] += len(page.Certificates)
	state.Marker = deref(page.NextMarker)
	if state.Marker == "" {
		state.Phase = SyncThings
	}
	return s.note(state, func(at store.Position) error { return s.todo.Add(ctx, wanted, at) })
}

func (s *Syncer) wanted(ctx context.Context, state *SyncState, listed []store.Listed) ([]store.Todo, error) {
	var wanted []store.Todo
	if state.Full {
		for _, one := range listed {
			wanted = append(wanted, store.Todo{What: store.TodoCertificate, Name: string(one.ID)})
		}
		return wanted, nil
	}
	differ, err := s.rows.Differ(ctx, listed)
	for _, id := range differ {
		wanted = append(wanted, store.Todo{What: store.TodoCertificate, Name: string(id)})
	}
	return wanted, err
}

// lostPlace begins a list of something anew whose place AWS does not know any
// more.
func (s *Syncer) lostPlace(ctx context.Context, state *SyncState, what string, err error) error {
	if state.Marker == "" || codeOf(err) != invalidRequest {
		return err
	}
	state.Marker, state.Strange = "", 0
	delete(state.Listed, what)
	return errors.Join(err, s.note(state, func(at store.Position) error { return s.todo.Add(ctx, nil, at) }))
}

// listThings takes a page of AWS's things: they are devices, if things are the
// registry. After a first time, those that are new are to be read, which may
// hold what is known already.
func (s *Syncer) listThings(ctx context.Context, state *SyncState) error {
	page, err := s.iot.ListThings(ctx, &iot.ListThingsInput{MaxResults: new(int32(listPage)), NextToken: optional(state.Marker)})
	if err != nil {
		return s.lostPlace(ctx, state, "things", fmt.Errorf("list things: %w", err))
	}
	attributes := map[registry.DeviceID]map[string]string{}
	var ids []registry.DeviceID
	for _, thing := range page.Things {
		if id, err := registry.ParseDeviceID(deref(thing.ThingName)); err == nil {
			attributes[id], ids = thing.Attributes, append(ids, id)
		}
	}
	unmet, err := s.devices.Unmet(ctx, ids)
	if err != nil {
		return err
	}
	strange, err := s.meetAll(ctx, attributes)
	if err != nil {
		return err
	}
	what := store.TodoPerhaps
	if !state.Full && !state.Whole.IsZero() {
		what, ids = store.TodoDevice, unmet
	}
	var wanted []store.Todo
	for _, id := range ids {
		wanted = append(wanted, store.Todo{What: what, Name: string(id)})
	}
	// The last page is one as long as it is not decided what is read.
	marker := deref(page.NextToken)
	if marker == "" {
		if err := s.note(state, func(at store.Position) error { return s.todo.Add(ctx, wanted, at) }); err != nil {
			return err
		}
	}
	state.Listed["things"] += len(page.Things)
	state.Strange += strange
	state.Marker = marker
	if marker == "" {
		return s.decide(ctx, state)
	}
	return s.note(state, func(at store.Position) error { return s.todo.Add(ctx, wanted, at) })
}

// decide begins to read. Who holds what is asked of the things or of the
// certificates, whichever are fewer.
func (s *Syncer) decide(ctx context.Context, state *SyncState) error {
	left, err := s.todo.Left(ctx)
	if err != nil {
		return err
	}
	perhaps, certificates := left[store.TodoPerhaps], left[store.TodoCertificate]
	state.ByThing = perhaps > 0 && perhaps < certificates
	state.Total = certificates + left[store.TodoDevice]
	if state.ByThing {
		state.Total += perhaps
	}
	state.Phase = SyncReading
	return s.note(state, func(at store.Position) error { return s.todo.Decide(ctx, state.ByThing, at) })
}

// meetAll enters things as devices, and returns how many are none.
func (s *Syncer) meetAll(ctx context.Context, attributes map[registry.DeviceID]map[string]string) (strange int, err error) {
	var meeting errgroup.Group
	meeting.SetLimit(metAtOnce)
	none := make(chan struct{}, len(attributes))
	for id, of := range attributes {
		meeting.Go(func() error {
			err := s.registry.meet(ctx, id, of)
			if errors.Is(err, registry.ErrUnknown) {
				none <- struct{}{}
				return nil
			}
			return err
		})
	}
	err = meeting.Wait()
	return len(none), err
}

// meet enters a thing that was listed with its attributes as a device. What
// another registry decides is asked there; registry.ErrUnknown for one that is
// none, or that a person has removed.
func (r *Registry) meet(ctx context.Context, id registry.DeviceID, attributes map[string]string) error {
	if !r.isThings() {
		_, err := r.Device(ctx, id)
		return err
	}
	removed, err := r.IsRemoved(ctx, id)
	switch {
	case err != nil:
		return err
	case removed:
		return registry.ErrUnknown
	}
	if attributes == nil {
		attributes = map[string]string{}
	}
	_, err = r.row(ctx, id, attributes)
	return err
}

// optional is nil for an empty text, as the SDK wants it.
func optional(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}

// finish ends a sync that has nothing left to read.
func (s *Syncer) finish(ctx context.Context, state *SyncState) error {
	state.Phase, state.Ended = SyncDone, s.now()
	if state.Source == SyncAll {
		state.Whole = state.Began
		if state.Full && state.Failed == 0 {
			state.Fully = state.Began
		}
	}
	if err := s.note(state, func(at store.Position) error { return s.todo.Drop(ctx, at) }); err != nil {
		return err
	}
	s.log.Info().Str("from", string(state.Source)).Int("read", state.Read).Int("failed", state.Failed).
		Dur("took", state.Ended.Sub(state.Began).Round(time.Second)).Msg("the inventory is read")
	return nil
}
