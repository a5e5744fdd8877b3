// Package store keeps everything durable of a world that runs on machines of
// its own in one SQL database: devices, certificates and who holds them, the
// journal of rotations, the rotation group and its job, packages and the
// audit. It is SQLite in one file, in WAL mode with synchronous=FULL.
//
// One goroutine writes at a time. It takes every operation that is queued, carries
// them out in one transaction and answers all of them after its commit, so that the
// price of a sync is shared. Reads go to a pool of their own and see the last
// commit.
//
// Read this file for how a Store is opened, writer.go for what a commit is,
// drafts.go for what is postponed, then journal.go, retire.go and sightings.go,
// which carry the guarantees the rotations stand on.
package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/registry"
)

// The kinds of errors of this package that callers may test for, beyond those
// of the ports.
var (
	// ErrClosed is returned for what is asked of a store that was closed.
	ErrClosed = errors.New("the store is closed")
	// ErrNewer says that a newer program wrote this store.
	ErrNewer = errors.New("the store was written by a newer version of certvendor")
	// ErrNoPackage says that a device has no such package.
	ErrNoPackage = errors.New("no package")
	// ErrNoExecution says that there is no such execution of a job.
	ErrNoExecution = errors.New("no such job execution")
	// ErrNoJob says that there is no such job.
	ErrNoJob = errors.New("no such job")
)

// Config is what a Store is opened with. Path and Instance are required.
type Config struct {
	Path     string           // of the database file; made with mode 0600 if it is not there
	Instance string           // who writes, for the audit
	Now      func() time.Time // the clock; nil is time.Now
	// Connected reports whether a device has an open connection with a
	// certificate now. It is called while a removal is decided, must not ask
	// the store to write, and must return at once. Nil: never.
	Connected func(registry.DeviceID, certificate.ID) bool
	// Heard returns when the device was last heard over an open connection with
	// a certificate: one that is open and silent shows nothing. Nil: never.
	Heard func(registry.DeviceID, certificate.ID) time.Time
	// Retired is called after the commit that took a certificate away from a
	// device, before Retire or Revoke returns, on the goroutine that writes: it must
	// not ask the store to write. Nil: nothing.
	Retired func(registry.DeviceID, certificate.ID)
	// Observe is called after every commit with the time it took, from its
	// first operation to the end of its sync, and how many operations it
	// carried. Nil: nothing.
	Observe func(took time.Duration, ops int)
	// DurableIntent makes every state of a rotation durable before it is
	// returned, for a world whose issuer acts outside the store.
	DurableIntent bool
	// Elsewhere says that another place keeps the certificates too: the commit
	// that vends one ends what Unsettled.Begin has begun for it.
	Elsewhere bool
	// Tells reports which kinds of notices are put into the outbox. Nil: none.
	Tells func(kind string) bool
	// AuditDir is where the audit is copied to, in segments of 64 MiB. Empty:
	// it stays in the store only.
	AuditDir string
	// Log is shared by several copies of the store; see shared.go. A store with a
	// Log follows when it is opened: see Follow and Lead. Nil: the store is this
	// file alone.
	Log     Log
	LogName string // names a log that is not begun; without a slash
	// Lost is called once a copy that led does not any more, on the goroutine
	// that writes. Optional.
	Lost func(error)
	// SnapshotAfter is how many bytes of entries at least are between two
	// snapshots. Default 8 MiB.
	SnapshotAfter int64
}

// Store is an open store. Its methods, and those of the handles it gives out,
// are safe for concurrent use.
//
// A method that writes and whose context ends while it waits for its commit
// returns the context's error; what it asked for may have been done, or may
// still be done, all the same.
type Store struct {
	cfg     Config
	life    context.Context // that of the goroutines; ends with Close
	end     context.CancelFunc
	read    *sql.DB
	idle    chan *session // those of read that nobody uses
	opened  int           // how many there are
	written *sql.DB       // one connection, the writer's

	writer  *writer
	turn    sync.Mutex // of whoever writes, with all that the writer owns
	queue   chan *operation
	waiting atomic.Int64 // operations that are queued, and one that is taken from there
	closing chan struct{}
	stopped chan struct{} // the writer has ended
	once    sync.Once
	closed  error
	work    sync.WaitGroup // the goroutines beside the writer
	commits atomic.Int64
	copying atomic.Int32 // copies of the whole that are being made

	drafts    drafts
	sightings sightings
	memory    memory
	pruned    pruned
	copier    *copier // nil without an AuditDir

	// hook is called around every commit; tests kill the store with it.
	hook func(point hookPoint) error

	// Of a store that is shared.
	leads         atomic.Bool
	named         atomic.Bool // it is a copy of what a log is of
	checked       atomic.Bool // the log has what it has
	seq           atomic.Int64
	sinceSnapshot atomic.Int64 // bytes of entries
	snapshotSize  atomic.Int64
	patience      context.Context // of an entry that is being recorded; ends a while after Close has begun
	giveUp        context.CancelFunc
}

// Open opens the store, makes it if the file is not there, and brings an older
// one to this version's schema after a copy of the file was made beside it. A
// store of a newer version is refused with ErrNewer. The goroutines it starts
// end with Close; the context given is for the opening alone.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	if cfg.Path == "" || cfg.Instance == "" {
		return nil, errors.New("open store: path and instance are required")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.SnapshotAfter == 0 {
		cfg.SnapshotAfter = snapshotLeast
	}
	s, err := open(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", cfg.Path, err)
	}
	return s, nil
}

func open(ctx context.Context, cfg Config) (*Store, error) {
	if err := prepare(ctx, cfg); err != nil {
		return nil, err
	}
	s := &Store{
		cfg:   cfg,
		queue: make(chan *operation, queueLength), closing: make(chan struct{}), stopped: make(chan struct{}),
		idle: make(chan *session, readers),
		read: connect(cfg.Path, readers, "query_only(1)"), written: connect(cfg.Path, 1, "wal_autocheckpoint(0)"),
	}
	s.life, s.end = context.WithCancel(context.WithoutCancel(ctx))
	s.patience, s.giveUp = context.WithCancel(s.life)
	s.drafts.init()
	s.sightings.init()
	s.memory.init()
	if err := s.start(ctx); err != nil {
		s.end()
		return nil, errors.Join(err, s.closeReaders(), s.written.Close())
	}
	return s, nil
}

// prepare makes the file, or brings it to this version's schema.
func prepare(ctx context.Context, cfg Config) error {
	if cfg.Log != nil {
		return joinLog(ctx, cfg)
	}
	if err := create(cfg.Path); err != nil {
		return err
	}
	if err := migrate(ctx, cfg.Path, migrations()); err != nil {
		return err
	}
	return leaveLog(ctx, cfg.Path)
}

// start brings up the writer first, then what works beside it.
func (s *Store) start(ctx context.Context) error {
	if err := s.openReaders(ctx); err != nil {
		return err
	}
	w, err := newWriter(ctx, s)
	if err != nil {
		return err
	}
	if s.cfg.AuditDir != "" {
		if s.copier, err = newCopier(s); err != nil {
			return errors.Join(err, w.close())
		}
		s.work.Go(s.copier.loop)
	}
	s.writer = w
	go w.loop()
	s.work.Go(s.checkpoints)
	return nil
}

// Close carries out what is queued, writes what was postponed and may be lost
// to nobody's harm (sightings), copies the audit to its end, and closes the
// file. Rotations that are only intended or issued in memory are forgotten.
// Idempotent.
func (s *Store) Close() error {
	s.once.Do(func() {
		close(s.closing)
		impatient := time.AfterFunc(recordTime, s.giveUp)
		<-s.stopped
		impatient.Stop()
		s.end()
		s.work.Wait()
		var copied error
		if s.copier != nil {
			copied = s.copier.close()
		}
		s.closed = errors.Join(copied, s.closeReaders(), s.written.Close())
	})
	return s.closed
}

// Devices returns the registry: Store, Catalogue and Registrar.
func (s *Store) Devices() Devices { return Devices{s} }

// Certificates returns the inventory and its catalogue.
func (s *Store) Certificates() Certificates { return Certificates{s} }

// Journal returns the journal of rotations and its catalogue.
func (s *Store) Journal() Journal { return Journal{s: s} }

// Brakes returns what is frozen.
func (s *Store) Brakes() Brakes { return Brakes{s} }

// Group returns the rotation group.
func (s *Store) Group() Group { return Group{s} }

// Jobs returns the continuous job and its executions.
func (s *Store) Jobs() Jobs { return Jobs{s} }

// Packages returns the rows about package files.
func (s *Store) Packages() Packages { return Packages{s} }

// Campaigns returns the campaigns.
func (s *Store) Campaigns() Campaigns { return Campaigns{s} }

// Audit returns the audit.
func (s *Store) Audit() Audit { return Audit{s} }

func (s *Store) now() time.Time { return s.cfg.Now() }

func (s *Store) connected(device registry.DeviceID, id certificate.ID) bool {
	return s.cfg.Connected != nil && s.cfg.Connected(device, id)
}
