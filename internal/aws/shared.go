package aws

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/certvendor/certvendor/internal/store"
)

// Sharing says how several instances share one store. Without a table the store
// is this machine's alone.
type Sharing struct {
	Table string        // of DynamoDB; made if it is not there
	Lease time.Duration // how long nothing is heard of the one that leads before another does
}

// Shared is an instance's part in a store that several share: a copy of it in
// its own data directory, which follows the table until the instance leads. One
// is made by StandBy; Lead waits for its turn; a World takes it over from there.
//
// shared_table.go says what the table holds, shared_log.go and shared_snapshot.go
// how commits and copies get into it, shared_lease.go who leads.
type Shared struct {
	config Config
	log    sharedLog
	lease  *lease
	lock   *store.Lock
	store  *store.Store
	failed chan error
	entry  atomic.Int64
	newest time.Time // of what had happened when this instance took over
}

// StandBy takes the data directory and opens the copy in it, or makes one. It
// makes the table where there is none. Close ends it, unless a World has taken
// it over.
func StandBy(ctx context.Context, config Config) (_ *Shared, err error) {
	table := sharedTable{config.Clients.Dynamo, config.Sharing.Table}
	s := &Shared{
		config: config, log: sharedLog{table, config.Log, snapshotPause}, failed: make(chan error, 1),
		lease: newLease(table, config.Instance, config.Sharing.Lease),
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if s.lock, err = takeData(config); err != nil {
		return nil, err
	}
	if err := table.ensure(ctx); err != nil {
		return nil, err
	}
	return s, s.open(ctx)
}

func (s *Shared) open(ctx context.Context) (err error) {
	c := s.config.storeConfig()
	c.Log, c.LogName, c.Lost = s.log, s.config.Sharing.Table, s.fail
	c.DurableIntent = true // another may go on with what this one has begun
	s.store, err = store.Open(ctx, c)
	return err
}

// fail ends all calls to AWS, and says why.
func (s *Shared) fail(err error) {
	s.lease.forget()
	select {
	case s.failed <- err:
	default: // one is enough
	}
}

// storeConfig is that of a store of this machine alone.
func (c Config) storeConfig() store.Config {
	return store.Config{
		Path: filepath.Join(c.Data, storeFile), Instance: c.Instance, Now: c.Now,
		AuditDir: filepath.Join(c.Data, auditDir), Observe: c.Committed,
		DurableIntent: c.ActsOutside, Elsewhere: true, Tells: c.Tells,
	}
}

// Lead follows the store until this instance leads, and returns then. While AWS
// does not answer it goes on trying; it returns an error if ctx ends, or if the
// copy cannot follow.
func (s *Shared) Lead(ctx context.Context) error {
	for {
		epoch, err := s.step(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case isSharedError(err):
			return err
		case err != nil:
			s.config.Log.Warn().Err(err).Msg("the store that is shared is left for later")
		case epoch > 0:
			return s.lead(ctx, epoch)
		}
		sleep(ctx, s.lease.every())
	}
}

// isSharedError reports whether trying again is of no use.
func isSharedError(err error) bool {
	return errors.Is(err, store.ErrNewer) || errors.Is(err, store.ErrDiverged) || errors.Is(err, store.ErrForeign)
}

// step carries out what is new in the log, and looks at the lease.
func (s *Shared) step(ctx context.Context) (epoch int64, err error) {
	if s.store == nil {
		if err := s.open(ctx); err != nil {
			return 0, err
		}
	}
	_, err = s.store.Follow(ctx)
	switch {
	case errors.Is(err, store.ErrBehind):
		s.config.Log.Info().Err(err).Msg("this copy of the store is made anew")
		err, s.store = s.store.Close(), nil
		return 0, err
	case err != nil:
		return 0, err
	}
	s.entry.Store(s.store.Shared().Seq)
	return s.lease.try(ctx)
}

// lead makes the copy the one that is written to, while the lease is kept.
func (s *Shared) lead(ctx context.Context, epoch int64) error {
	s.config.Clients.Quotas.whileLeading(s.lease.holds)
	keeping, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.keep(keeping)
	}()
	var err error
	if s.newest, err = s.store.Audit().Newest(ctx); err == nil {
		err = s.store.Lead(ctx, epoch)
	}
	stop()
	<-done
	if err == nil {
		err = s.lease.holds()
	}
	return err
}

// Run keeps the lease, and makes snapshots when they are due, until ctx ends. It
// is called once this instance leads. Failed yields an error if that ends.
func (s *Shared) Run(ctx context.Context) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.snapshots(ctx)
	}()
	s.keep(ctx)
	<-done
}

// keep renews the lease until ctx ends, or until it is lost.
func (s *Shared) keep(ctx context.Context) {
	tick := time.NewTicker(s.lease.every())
	defer tick.Stop()
	for {
		err := s.lease.renew(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, errLease):
			s.fail(fmt.Errorf("%w: this instance stops, and stands by when it is started again", err))
			return
		case err != nil:
			s.config.Log.Warn().Err(err).Msg("the lease is renewed later")
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// snapshotEvery is how often it is looked whether a snapshot is due.
const snapshotEvery = time.Minute

func (s *Shared) snapshots(ctx context.Context) {
	tick := time.NewTicker(snapshotEvery)
	defer tick.Stop()
	for {
		if s.store.SnapshotDue() {
			if err := s.store.Snapshot(ctx); err != nil && !errors.Is(err, store.ErrTaken) && ctx.Err() == nil {
				s.config.Log.Warn().Err(err).Msg("a snapshot is left for later")
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Failed yields why this instance does not lead any more.
func (s *Shared) Failed() <-chan error { return s.failed }

// Leader returns who leads, as far as is known here; empty for nobody.
func (s *Shared) Leader() string { return s.lease.leader() }

// clocksMayDiffer is by how much those of two instances may, without one of them
// being wrong.
const clocksMayDiffer = time.Minute

// Newest returns when the newest event was recorded before this instance took
// over, by the clock of who led then; our own time, if that clock is ahead of ours
// by no more than clocks may differ.
func (s *Shared) Newest() time.Time {
	now := s.config.Now()
	if ahead := s.newest.Sub(now); ahead > 0 && ahead <= clocksMayDiffer {
		return now
	}
	return s.newest
}

// Leads reports whether this instance does.
func (s *Shared) Leads() bool { return s.lease.holds() == nil }

// Entry returns the last entry of the log that this copy has.
func (s *Shared) Entry() int64 {
	if s.Leads() {
		return s.store.Shared().Seq
	}
	return s.entry.Load()
}

// releaseTime is how long giving up the lease may take.
const releaseTime = 3 * time.Second

// Close closes the copy, and then gives up the lease, so that another goes on at
// once. Repeatable.
func (s *Shared) Close() error {
	var errs []error
	if s.store != nil {
		errs = append(errs, s.store.Close())
	}
	if s.lease.holds() == nil {
		ctx, cancel := context.WithTimeout(context.Background(), releaseTime)
		defer cancel()
		errs = append(errs, s.lease.release(ctx))
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Release())
		s.lock = nil
	}
	return errors.Join(errs...)
}
