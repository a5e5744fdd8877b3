// Package app makes a running program out of a configuration: it opens a
// world, puts the vendor on it, and listens. It touches no signal and no
// terminal, so that tests run exactly what production runs.
//
// Read app.go for the life of the program, setup.go for what is joined to what,
// behind.go for what goes on behind the requests.
package app

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/certvendor/certvendor/campaign"
	"github.com/certvendor/certvendor/internal/aws"
	"github.com/certvendor/certvendor/internal/backend"
	"github.com/certvendor/certvendor/internal/config"
	"github.com/certvendor/certvendor/internal/control"
	"github.com/certvendor/certvendor/internal/standalone"
	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/internal/webhook"
	"github.com/certvendor/certvendor/jobs"
	"github.com/certvendor/certvendor/rotation"
	"github.com/certvendor/certvendor/vending"
)

// drainTime bounds how long Stop waits for requests that are at work.
const drainTime = 15 * time.Second

// App is the whole program. New makes it, Start lets devices in, Stop ends it.
type App struct {
	config  config.Config
	log     zerolog.Logger
	now     func() time.Time // the one clock of all parts
	world   world
	alone   *standalone.World // the world, where it is that one
	cloud   *aws.World        // the world, where it is that one
	bus     *aws.MQTTBus      // of that world
	backend backend.Backend
	clock   *rotation.Clock
	closer  *rotation.Closer
	handler *vending.Handler
	// recorded is what a survey asks.
	recorded *control.Recorded
	runner   *campaign.Runner
	look     chan struct{} // has the runner look at once
	queue    *backend.Queue
	sender   *webhook.Sender // nil: nobody is told
	metrics  *metrics
	http     *http.Server // of the metrics
	listen   net.Listener
	control  *control.Server
	behind   chan rotation.Rotation

	// Of a store that several instances share.
	shared atomic.Pointer[aws.Shared]
	up     atomic.Bool // what Start starts has started
	once   sync.Once
	ready  func(*App) // told that the program is up; optional

	writable probe
	warned   time.Time  // when the CA was last warned about; the sweep's goroutine only
	failed   chan error // from a part that ended by itself
	stack    []teardown
	stopping sync.Once
	stopped  error
}

// teardown undoes one step of New or Start.
type teardown struct {
	what string
	do   func(context.Context) error
}

// onStop registers what Stop does for a part, the moment the part exists. Stop
// goes through them last in, first out.
func (a *App) onStop(what string, do func(context.Context) error) {
	a.stack = append(a.stack, teardown{what, do})
}

// New opens everything that can fail to open: the world, the ports, the
// sockets. If any of it fails, nothing stays open.
func New(ctx context.Context, cfg config.Config, log zerolog.Logger) (*App, error) {
	return newAt(ctx, cfg, log, time.Now)
}

// newAt is New with a clock of the caller's, which may be set while the
// program runs.
func newAt(ctx context.Context, cfg config.Config, log zerolog.Logger, now func() time.Time) (*App, error) {
	return newTelling(ctx, cfg, log, now, nil)
}

// newTelling is newAt with somebody to tell that the program is up, which it is
// too while it stands by.
func newTelling(ctx context.Context, cfg config.Config, log zerolog.Logger, now func() time.Time, ready func(*App)) (*App, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	a := &App{
		config: cfg, log: log, now: now, metrics: newMetrics(),
		behind: make(chan rotation.Rotation, behindLength), failed: make(chan error, 4),
		look: make(chan struct{}, 1), ready: ready,
	}
	if err := a.setup(ctx); err != nil {
		return nil, errors.Join(err, a.Stop(ctx))
	}
	return a, nil
}

// Start lets devices and operators in. It does not block.
func (a *App) Start(ctx context.Context) error {
	if a.config.Observe {
		a.log.Warn().Msg(observing)
	} else if err := a.ensureJob(ctx); err != nil {
		return err
	}
	a.goBehind(ctx)
	if a.listen != nil {
		a.run("metrics", a.serveMetrics, a.http.Shutdown)
	}
	a.run("control", a.control.Serve, a.control.Shutdown)
	if err := a.world.Start(ctx); err != nil {
		return err
	}
	a.log.Info().Str("broker", a.BrokerAddr()).Str("packages", a.PackagesAddr()).
		Str("metrics", a.MetricsAddr()).Str("control", a.config.Control.Socket).Msg("certvendor serves")
	a.up.Store(true)
	return nil
}

// observing is what a daemon says of itself that only looks on.
const observing = "observe is true: gets and acks are logged and not answered, and nothing is changed"

// ensureJob makes the job of this configuration. One that gave way to other
// topics goes on when its topics are back; one that a person has canceled stays
// canceled.
func (a *App) ensureJob(ctx context.Context) error {
	job, err := a.backend.Jobs.Ensure(ctx, a.job())
	if err != nil {
		return fmt.Errorf("ensure the job: %w", err)
	}
	if job.State == jobs.Canceled {
		a.log.Warn().Str("job", job.ID).Msg("the rotation job is canceled: nobody gets it before `certvendor job ensure`")
	}
	return nil
}

// run starts a part that works until end makes it return. If it returns an
// error by itself, the program ends.
func (a *App) run(what string, work func() error, end func(context.Context) error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := work(); err != nil {
			a.failed <- fmt.Errorf("%s: %w", what, err)
		}
	}()
	a.onStop(what, func(ctx context.Context) error {
		err := end(ctx)
		<-done
		return err
	})
}

// Stop lets nobody in any more, lets requests finish, and ends all parts in
// the opposite order of their making. Repeatable.
func (a *App) Stop(ctx context.Context) error {
	a.stopping.Do(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
		defer cancel()
		var errs []error
		for _, part := range slices.Backward(a.stack) {
			if err := part.do(ctx); err != nil {
				errs = append(errs, fmt.Errorf("stop %s: %w", part.what, err))
			}
		}
		a.stopped = errors.Join(errs...)
	})
	return a.stopped
}

// Run makes an app and runs it until ctx ends or a part of it fails. ready is
// called when devices can come in, or when this instance stands by.
func Run(ctx context.Context, cfg config.Config, log zerolog.Logger, ready func(*App)) error {
	room := headroom()
	defer runtime.KeepAlive(room)
	a, err := newTelling(ctx, cfg, log, time.Now, ready)
	if errors.Is(err, errStoodBy) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := a.Start(ctx); err != nil {
		return errors.Join(err, a.Stop(ctx))
	}
	a.announce()
	select {
	case <-ctx.Done():
	case err = <-a.failed:
	case err = <-a.world.Failed():
	}
	log.Info().Msg("certvendor drains")
	return errors.Join(err, a.Stop(ctx))
}

// Ready says in words why requests cannot be answered, or returns nil. It
// really writes to the store, at most once a second.
func (a *App) Ready(ctx context.Context) error {
	if standing := a.standing(); standing != "" {
		return errors.New(standing)
	}
	var why []string
	if err := a.writable.ask(ctx, a.world.Store()); err != nil {
		why = append(why, "the store cannot be written: "+err.Error())
	}
	if err := a.worldReady(); err != nil {
		why = append(why, err.Error())
	}
	if len(why) > 0 {
		return errors.New(strings.Join(why, "; "))
	}
	return nil
}

// probe remembers for a second whether the store can be written.
type probe struct {
	mu  sync.Mutex
	at  time.Time
	err error
}

const (
	probeEvery = time.Second
	probeTime  = 3 * time.Second // a disk that takes longer serves nobody in time
)

func (p *probe) ask(ctx context.Context, s *store.Store) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Since(p.at) < probeEvery {
		return p.err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), probeTime)
	defer cancel()
	p.err = s.SetMeta(ctx, "probed", time.Now().UTC().Format(time.RFC3339Nano))
	p.at = time.Now()
	return p.err
}

// Restrained says in words what is stopped although requests are answered:
// what is frozen, a clock that is not trusted, and files of the audit that a
// restore would miss rows in. Empty when nothing is.
func (a *App) Restrained(ctx context.Context) string {
	var what []string
	if a.config.Observe {
		what = append(what, observing)
	}
	frozen, err := a.backend.Brakes.Frozen(ctx)
	if err == nil && frozen.Vending {
		what = append(what, "vending is frozen: "+frozen.VendingWhy())
	}
	if err == nil && frozen.Retiring {
		what = append(what, "retiring is frozen: "+frozen.RetiringWhy())
	}
	if err := a.clock.Steady(); err != nil {
		what = append(what, err.Error())
	}
	if err := a.world.Store().Audit().CopyFailure(); err != nil {
		what = append(what, err.Error())
	}
	return strings.Join(what, "; ")
}

// BrokerAddr returns the address that devices connect to.
func (a *App) BrokerAddr() string {
	if a.alone == nil {
		return a.config.AWS.Broker.Endpoint
	}
	return a.alone.Broker().Addr().String()
}

// PackagesAddr returns the address that packages are fetched from.
func (a *App) PackagesAddr() string {
	if a.alone == nil {
		return a.config.AWS.Packages.Bucket
	}
	return a.alone.PackagesAddr().String()
}

// MetricsAddr returns the address of /metrics, /healthz and /readyz.
// Empty where there is no such listener.
func (a *App) MetricsAddr() string {
	if a.listen == nil {
		return ""
	}
	return a.listen.Addr().String()
}
