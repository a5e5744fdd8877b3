package standalone

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/archive"
	"github.com/certvendor/certvendor/internal/backend"
	"github.com/certvendor/certvendor/internal/backup"
	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/vending"
)

// Config is what a standalone world is made of.
type Config struct {
	Data     string // the directory that everything durable lives in
	Instance string // who we are, in leases and in the audit
	CA       CAConfig
	Broker   BrokerConfig // Certificate, ClientCAs, Topics and Now are filled in
	Packages PackageListener
	Job      JobPace
	Topics   protocol.Topics
	Now      func() time.Time
	Log      zerolog.Logger
	// Committed is told how long each commit of the store took. Optional.
	Committed func(took time.Duration, ops int)
	// Tells reports which notices the store keeps for others. Optional.
	Tells func(kind string) bool
	// Observes says that nobody is answered and nothing is given out: there is
	// no pacer, the Jobs API is silent, and nobody is adopted.
	Observes bool
	// Issuer signs instead of the CA on disk, outside of this world, so that
	// every intention is durable before it is asked. Optional.
	Issuer vending.Issuer
}

// PackageListener says where packages are fetched from.
type PackageListener struct {
	Listen  string
	URL     string // what links begin with, where it is not the listener's own
	LinkTTL time.Duration
	Keep    bool
}

// JobPace says how fast the group's members get their job.
type JobPace struct {
	PerMinute         int
	MaxInFlight       int
	InProgressTimeout time.Duration
}

// World is a whole world on one machine: a store, a CA, a broker, packages
// over HTTPS and the Jobs API. It holds the exclusive right to its data
// directory from Open to Close.
type World struct {
	config   Config
	lock     *store.Lock
	ca       *CA
	store    *store.Store
	broker   *Broker
	packages *Packages
	listener net.Listener
	files    *http.Server
	jobs     *Jobs
	pacer    *Pacer

	stop    context.CancelFunc
	running sync.WaitGroup
	failed  chan error
	backing backup.Maker
	turning sync.Mutex        // held while the CA is changed
	step    func(what string) // called before each step of that; tests look at the directory then

	restored store.Restoration // when this world was restored; zero: it was not
	steady   func() error      // see ByClock; nil: the clock is right
}

const (
	storeFile = archive.Store
	auditDir  = backup.AuditDir
)

// Open takes the data directory, makes what is not there yet, and listens.
// Nobody is let in before Start. Whatever fails, nothing stays open.
func Open(ctx context.Context, config Config) (_ *World, err error) {
	w := &World{config: config, failed: make(chan error, 1)}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.Close())
		}
	}()
	if w.lock, err = TakeLock(config.Data, config.Now()); err != nil {
		return nil, err
	}
	if err := backup.Discard(config.Data); err != nil {
		return nil, err
	}
	if err := initialise(ctx, config); err != nil {
		return nil, err
	}
	if w.ca, err = readCA(config.Data, config.CA); err != nil {
		return nil, err
	}
	if err := w.openStore(ctx); err != nil {
		return nil, err
	}
	if err := w.takeCA(ctx); err != nil {
		return nil, err
	}
	turns, err := w.serverTurns(ctx)
	if err != nil {
		return nil, err
	}
	if err := w.ca.loadOthers(config.CA, turns); err != nil {
		return nil, err
	}
	if err := w.listen(); err != nil {
		return nil, err
	}
	if err := w.packages.discardOrphans(ctx, w.store.Packages()); err != nil {
		return nil, err
	}
	// The retirement of a CA may have been interrupted.
	if err := w.store.Authorities().Distrust(ctx); err != nil {
		return nil, err
	}
	return w, nil
}

// Init makes the CA and the store of an empty data directory, and does nothing
// to one that has them.
func Init(ctx context.Context, config Config) error {
	lock, err := TakeLock(config.Data, config.Now())
	if err != nil {
		return err
	}
	return errors.Join(initialise(ctx, config), lock.Release())
}

// initialise makes CA and store together, so that neither is ever there
// without the other.
func initialise(ctx context.Context, config Config) error {
	if err := backup.Finish(config.Data); err != nil {
		return err
	}
	return Initialise(config.Data, func(dir string) error {
		if err := MakeCA(dir, config.CA); err != nil {
			return err
		}
		s, err := store.Open(ctx, store.Config{Path: filepath.Join(dir, storeFile), Instance: config.Instance, Now: config.Now})
		if err != nil {
			return err
		}
		return s.Close()
	})
}

// openStore opens the store, and takes what earlier processes held of it.
func (w *World) openStore(ctx context.Context) (err error) {
	path := filepath.Join(w.config.Data, storeFile)
	made, err := store.Made(ctx, path)
	if err != nil {
		return fmt.Errorf("look for the store %s: %w", path, err)
	}
	if !made {
		// CA and store were made together.
		return fmt.Errorf("the store %s is gone: `certvendor restore` makes it anew from a backup and the audit's files", path)
	}
	w.store, err = store.Open(ctx, store.Config{
		Path: path, Instance: w.config.Instance, Now: w.config.Now,
		AuditDir: filepath.Join(w.config.Data, auditDir), Observe: w.config.Committed,
		DurableIntent: w.config.Issuer != nil, Tells: w.config.Tells,
		Connected: func(id registry.DeviceID, c certificate.ID) bool { return w.broker.Connected(id, c) },
		Heard:     func(id registry.DeviceID, c certificate.ID) time.Time { return w.broker.Heard(id, c) },
		Retired:   func(id registry.DeviceID, c certificate.ID) { w.broker.CloseHolding(id, c) },
	})
	if err != nil {
		return err
	}
	if w.restored, err = w.store.Restored(ctx); err != nil {
		return err
	}
	// The lock is ours alone: whoever held a lease is gone.
	if w.config.Observes {
		return nil
	}
	_, err = w.store.Journal().VoidLeases(ctx)
	return err
}

// listen opens both listeners, so that a port that is taken fails at once.
func (w *World) listen() (err error) {
	config := w.config.Broker
	config.Certificate, config.ClientCAs, config.Trust = w.ca.GetCertificate, w.ca.ClientPool, w.ca.Trust
	config.Topics, config.Now, config.Log = w.config.Topics, w.config.Now, w.config.Log
	if !w.restored.At.IsZero() && !w.config.Observes {
		config.Adopt = w.adopt
	}
	if w.broker, err = NewBroker(config); err != nil {
		return err
	}
	if w.listener, err = net.Listen("tcp", w.config.Packages.Listen); err != nil {
		return fmt.Errorf("standalone.packages.listen: %w", err)
	}
	base, err := LinkBase(w.config.Packages.URL, w.config.CA.Names, w.listener.Addr())
	if err != nil {
		return err
	}
	w.packages, err = OpenPackages(PackagesConfig{
		Data: w.config.Data, Base: base, TTL: w.config.Packages.LinkTTL, Keep: w.config.Packages.Keep, Now: w.config.Now,
	}, packageRows{w.store.Packages()})
	if err != nil {
		return err
	}
	w.files = &http.Server{
		Handler:           w.packages,
		TLSConfig:         &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: w.ca.GetCertificate},
		ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 20 * time.Second,
		WriteTimeout: time.Minute, IdleTimeout: 30 * time.Second, MaxHeaderBytes: 16 << 10,
		// It would log every client that hangs up in its handshake.
		ErrorLog: log.New(io.Discard, "", 0),
	}
	return w.serveJobs()
}

// serveJobs joins the Jobs API and the pacer with the broker.
func (w *World) serveJobs() (err error) {
	pace := w.config.Job
	w.jobs = NewJobs(JobsConfig{
		Store: w.store.Jobs(), Publish: w.broker.Publish, Ended: w.Poke,
		InProgressTimeout: pace.InProgressTimeout, Now: w.config.Now, Log: w.config.Log,
	})
	if w.config.Observes {
		w.broker.ServeJobs(silence{})
	} else {
		w.broker.ServeJobs(w.jobs)
	}
	w.pacer, err = NewPacer(PacerConfig{
		Store: w.store.Jobs(), Jobs: w.jobs, PerMinute: pace.PerMinute, MaxInFlight: pace.MaxInFlight,
		InProgressTimeout: pace.InProgressTimeout, Now: w.config.Now, Log: w.config.Log,
	})
	return err
}

// Backend returns the ports of this world.
func (w *World) Backend() backend.Backend {
	b := backend.Backend{
		Registry: w.store.Devices(), Devices: w.store.Devices(), Registrar: w.store.Devices(),
		Inventory: w.store.Certificates(), Certificates: w.store.Certificates(),
		Revoker: w.store.Certificates(), Witness: w.store.Certificates(),
		Journal: w.store.Journal().Ending(), Rotations: w.store.Journal(), Brakes: w.store.Brakes(),
		Group: w.jobs.Group(w.store.Group()), Jobs: w.jobs.Continuous(w.store.Jobs()),
		Issuer: w.ca, Packages: w.packages, Bus: w.broker,
		Signs: w.ca.Signs, Anchors: anchors{w},
	}
	if w.config.Issuer != nil {
		b.Issuer, b.Signs = w.config.Issuer, nil
	}
	return b
}

// Start lets devices in. What it starts ends with Close.
func (w *World) Start(ctx context.Context) error {
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	w.stop = stop
	if !w.config.Observes {
		w.running.Go(func() { w.pacer.Run(running) })
	}
	w.running.Go(func() {
		if err := w.files.ServeTLS(w.listener, "", ""); !errors.Is(err, http.ErrServerClosed) {
			w.failed <- fmt.Errorf("package listener: %w", err)
		}
	})
	return w.broker.Start(ctx)
}

// Failed yields an error if a listener dies while the world runs.
func (w *World) Failed() <-chan error { return w.failed }

// Drain lets nobody in any more and lets requests finish, until ctx ends.
func (w *World) Drain(ctx context.Context) error {
	err := w.broker.Close(ctx)
	return errors.Join(err, w.files.Shutdown(ctx))
}

// Close ends everything, and gives the data directory back. Drain comes first
// if requests shall finish.
func (w *World) Close() error {
	var errs []error
	if w.stop != nil {
		w.stop()
	}
	if w.files != nil {
		errs = append(errs, w.files.Close())
	}
	if w.listener != nil {
		_ = w.listener.Close() // closed already if it was served
	}
	if w.broker != nil {
		now, cancel := context.WithCancel(context.Background()) // no time left to drain
		cancel()
		errs = append(errs, w.broker.Close(now))
	}
	w.running.Wait()
	if w.store != nil {
		errs = append(errs, w.store.Close())
	}
	if w.lock != nil {
		errs = append(errs, w.lock.Release())
	}
	return errors.Join(errs...)
}

// Restored returns when this world was restored from a backup, or the zero time.
func (w *World) Restored() time.Time { return w.restored.At }

// CA returns the world's CA.
func (w *World) CA() *CA { return w.ca }

// Store returns the world's store, for the audit and what it alone knows.
func (w *World) Store() *store.Store { return w.store }

// Broker returns the world's broker, for its address and its counts.
func (w *World) Broker() *Broker { return w.broker }

// PackagesAddr returns the address that packages are fetched from.
func (w *World) PackagesAddr() net.Addr { return w.listener.Addr() }

// Poke has the pacer look at once whether somebody may have a job.
func (w *World) Poke() { w.pacer.Poke() }

// silence is a Jobs API that answers nobody.
type silence struct{}

func (silence) Answer(context.Context, registry.DeviceID, string, []byte) (string, []byte) {
	return "", nil
}

// packageRows gives the store's rows the errors of the port.
type packageRows struct{ rows store.Packages }

func (p packageRows) Put(ctx context.Context, id registry.DeviceID, c certificate.ID) error {
	return p.rows.Put(ctx, id, c)
}

func (p packageRows) Find(ctx context.Context, id registry.DeviceID) (PackageRow, error) {
	row, err := p.rows.Find(ctx, id)
	if errors.Is(err, store.ErrNoPackage) {
		return PackageRow{}, vending.ErrNoPackage
	}
	return PackageRow{Certificate: row.Certificate, Spent: row.Spent}, err
}

func (p packageRows) IsSpent(ctx context.Context, id registry.DeviceID, c certificate.ID) (bool, error) {
	return p.rows.IsSpent(ctx, id, c)
}

func (p packageRows) Spend(ctx context.Context, id registry.DeviceID, c certificate.ID) error {
	err := p.rows.Spend(ctx, id, c)
	if errors.Is(err, store.ErrNoPackage) {
		return vending.ErrNoPackage
	}
	return err
}
