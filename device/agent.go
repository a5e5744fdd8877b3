package device

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/certvendor/certvendor/protocol"
)

// Agent rotates the certificate of one device. Its methods are safe for
// concurrent use; only one of Run, RunOnce and Rotate is at work at a time.
type Agent struct {
	cfg     Config
	store   *store
	busy    atomic.Bool
	current atomic.Pointer[tls.Certificate]
}

// work is what a rotation is about.
type work struct {
	job    jobReference
	topics protocol.Topics
}

// New returns the agent of a provisioned device; it connects to nothing.
// ErrNotProvisioned if the directory holds no certificate.
func New(cfg Config) (*Agent, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("configure device: %w", err)
	}
	s, err := openStore(cfg)
	if err != nil {
		return nil, fmt.Errorf("open the store of device %s: %w", cfg.Device, err)
	}
	a := &Agent{cfg: cfg, store: s}
	a.setCurrent()
	return a, nil
}

// Current returns the certificate in use, with its key. An application may
// connect with it; it changes with a rotation.
func (a *Agent) Current() tls.Certificate { return *a.current.Load() }

func (a *Agent) setCurrent() {
	certificate := a.store.current.tls()
	a.current.Store(&certificate)
}

// Run stays connected and carries out rotation jobs until ctx ends, whose
// error it returns, or ErrBusy. What goes wrong is told to Config.Event.
func (a *Agent) Run(ctx context.Context) error {
	return a.exclusively(func() error {
		return a.repeat(ctx, a.awaitJob, func(bool, error) bool { return false })
	})
}

// RunOnce waits for a rotation job and carries it out. It returns nil once the
// new certificate is in use, the reason once the rotation is given up, or the
// error of ctx. A rotation left unfinished by an earlier call is finished
// instead.
func (a *Agent) RunOnce(ctx context.Context) error {
	return a.exclusively(func() error {
		return a.repeat(ctx, a.awaitJob, func(ended bool, _ error) bool { return ended })
	})
}

// Rotate performs one rotation now, without a job, or finishes one that was
// left unfinished. After an error that is not *Refused or ErrCandidate it may
// be called again and goes on where it stopped.
func (a *Agent) Rotate(ctx context.Context) error {
	return a.exclusively(func() error {
		turns := 0
		return a.repeat(ctx, a.noJob, func(ended bool, err error) bool {
			var refused *Refused
			turns++
			return ended || turns >= a.cfg.Retry.Attempts || errors.As(err, &refused)
		})
	})
}

func (a *Agent) exclusively(work func() error) error {
	if !a.busy.CompareAndSwap(false, true) {
		return ErrBusy
	}
	defer a.busy.Store(false)
	return work()
}

// repeat takes turns until enough says so or ctx ends.
func (a *Agent) repeat(ctx context.Context, find finder, enough func(ended bool, err error) bool) error {
	pace := pacer{retry: a.cfg.Retry}
	for {
		started := a.cfg.Now()
		ended, err := a.turn(ctx, find)
		if ctx.Err() != nil && !ended {
			return ctx.Err()
		}
		if enough(ended, err) {
			return err
		}
		a.tell(Event{Kind: Disconnected, Err: err})
		if err == nil || a.cfg.Now().Sub(started) > a.cfg.Retry.Max {
			pace.reset()
		}
		if err := sleep(ctx, pace.next()); err != nil {
			return err
		}
	}
}

// finder says what to do over a connection with the certificate in use.
type finder func(context.Context, *connection) (work, error)

// turn makes one connection of use: it finishes what is unfinished, or finds
// work and does it. It reports true if a rotation ended, well or not.
func (a *Agent) turn(ctx context.Context, find finder) (ended bool, err error) {
	var untaken error
	if c := a.store.state.Candidate; c != nil && c.Issued {
		untaken = a.switchOver(ctx)
		if !errors.Is(untaken, ErrCandidate) {
			return a.store.state.Candidate == nil, untaken
		}
	}
	c, err := a.connect(ctx, a.cfg.Device, a.store.current.tls())
	if err != nil {
		// Neither may be a bad network, so neither proves anything.
		return false, errors.Join(untaken, err)
	}
	defer c.close()
	a.tell(Event{Kind: Connected, CertificateID: idOf(a.store.current)})
	return a.rotate(ctx, c, find)
}

func (a *Agent) noJob(context.Context, *connection) (work, error) {
	return work{topics: a.cfg.Topics}, nil
}

// awaitJob waits until there is a rotation job. Jobs that ask for something
// else are left alone.
func (a *Agent) awaitJob(ctx context.Context, c *connection) (work, error) {
	notices, stop := c.listen(a.jobTopic("notify-next"))
	defer stop()
	if err := a.followJobs(ctx, c); err != nil {
		return work{}, err
	}
	for {
		execution, err := a.nextJob(ctx, c)
		if err != nil {
			return work{}, err
		}
		if w, ok := a.workOf(ctx, c, execution); ok {
			return w, nil
		}
		select {
		case <-notices.messages:
		case <-c.lost:
			return work{}, ErrConnectionLost
		case <-ctx.Done():
			return work{}, ctx.Err()
		}
	}
}

func (a *Agent) workOf(ctx context.Context, c *connection, execution *protocol.JobExecution) (work, bool) {
	if execution == nil {
		return work{}, false
	}
	var document jobDocument
	if err := protocol.Decode(execution.JobDocument, &document); err != nil || !document.rotates() {
		a.tell(Event{Kind: JobIgnored, Job: execution.JobID, Err: err})
		return work{}, false
	}
	job := jobReference{ID: execution.JobID, Execution: execution.ExecutionNumber}
	if job == a.store.state.Finished {
		// Done already; only the report was lost. Its error is told.
		_ = a.report(ctx, c, job, protocol.JobUpdate{Status: protocol.JobSucceeded})
		return work{}, false
	}
	a.tell(Event{Kind: JobReceived, Job: job.ID})
	return work{job: job, topics: document.topics(a.cfg.Topics)}, true
}
