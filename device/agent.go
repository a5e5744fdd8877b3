package device

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/certvendor/certvendor/protocol"
)

// Agent rotates the certificate of one device. Its methods are safe for
// concurrent use; only one of Run, RunOnce and Rotate is at work at a time, and
// has the directory to itself until it returns.
type Agent struct {
	cfg     Config
	store   *store
	busy    atomic.Bool
	current atomic.Pointer[tls.Certificate]

	// Of whoever is at work:
	unseen  int           // looks for a job in a row that nobody answered
	barred  int           // connections in a row that ended when they were asked about jobs
	lost    int           // renewals in a row that ended with their connection
	resumed int           // how often the candidate's work was taken up again
	begun   attempts      // at the latest job
	glance  time.Duration // how often it is seen whether a renewal is due
	anchors anchors       // what servers are verified by

	passed          counter
	obtained, tried mark // those of state.json
}

// work is what a rotation is about.
type work struct {
	job     jobReference
	topics  protocol.Topics
	renewal bool // the certificate's age began it
}

// New returns the agent of a provisioned device; it connects to nothing.
// ErrNotProvisioned if the directory holds no certificate, ErrInUse while
// another agent is at work there. Whatever is wrong with anything but the pair
// in use is no error: it is put right as far as that goes, and told of.
func New(cfg Config) (*Agent, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("configure device: %w", err)
	}
	a := &Agent{cfg: cfg, store: newStore(cfg), glance: renewalGlance}
	a.passed = counter{wall: cfg.now(), furthest: cfg.now(), ran: cfg.Monotonic()}
	a.store.tell = func(err error) { a.tell(Event{Kind: DirectoryTrouble, Err: err}) }
	if err := a.store.exclusively(func() error { return nil }); err != nil {
		return nil, fmt.Errorf("open the store of device %s: %w", cfg.Device, err)
	}
	a.setCurrent()
	a.loadAnchors()
	return a, nil
}

// Current returns the certificate in use, with its key. An application may
// connect with it. It changes once the broker has taken a new one, before the
// vendor is told, and changes back if the new one is given up: an application
// that is told of Switched and GivenUp has the right one.
func (a *Agent) Current() tls.Certificate { return *a.current.Load() }

func (a *Agent) setCurrent() {
	certificate := a.store.inUse().tls()
	a.current.Store(&certificate)
}

// Run stays connected, carries out rotation jobs and, when the certificate has
// reached the age that Config.RenewAt says, rotates without one, until ctx
// ends, whose error it returns. It returns ErrBusy, ErrInUse or what is wrong
// with the directory at once; whatever else goes wrong is told to Config.Event.
func (a *Agent) Run(ctx context.Context) error {
	return a.exclusively(func() error {
		return a.repeat(ctx, a.awaitWork, func(bool, error) bool { return false })
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
	err := a.store.exclusively(func() error {
		a.setCurrent()
		a.loadAnchors()
		return work()
	})
	if errors.Is(err, ErrInUse) {
		return fmt.Errorf("open the store of device %s: %w", a.cfg.Device, err)
	}
	return err
}

// repeat takes turns until enough says so or ctx ends.
func (a *Agent) repeat(ctx context.Context, find finder, enough func(ended bool, err error) bool) error {
	pace := pacer{retry: a.cfg.Retry}
	for {
		started := a.cfg.Monotonic()
		ended, err := a.turn(ctx, find)
		if ctx.Err() != nil && !ended {
			return ctx.Err()
		}
		if enough(ended, err) {
			return err
		}
		a.tell(Event{Kind: Disconnected, Err: err})
		if err == nil || a.cfg.Monotonic()-started > a.cfg.Retry.Max {
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

// noJob needs no reason to rotate.
func (a *Agent) noJob(ctx context.Context, c *connection) (work, error) {
	if w, ok := a.unfinished(ctx, c); ok {
		return w, nil
	}
	return work{topics: a.cfg.Topics}, nil
}

// awaitJob waits until there is a rotation job.
func (a *Agent) awaitJob(ctx context.Context, c *connection) (work, error) {
	if w, ok := a.unfinished(ctx, c); ok {
		return w, nil
	}
	return a.await(ctx, c, func() bool { return false })
}

// awaitWork waits until there is a rotation job or the certificate's renewal
// is due. A renewal that nobody answered waits for either, too.
func (a *Agent) awaitWork(ctx context.Context, c *connection) (work, error) {
	if next := a.store.state.Candidate; next != nil && (!next.Renewal || next.Job.ID != "" || next.Issued) {
		w, _ := a.unfinished(ctx, c)
		return w, nil
	}
	return a.await(ctx, c, a.renewalDue)
}

// unfinished returns the work that was begun, if there is any.
func (a *Agent) unfinished(ctx context.Context, c *connection) (work, bool) {
	begun := a.store.state.Candidate
	if begun == nil {
		return work{}, false
	}
	topics := a.topics(ctx, c, *begun, a.resumed)
	a.resumed++
	return work{job: begun.Job, topics: topics, renewal: begun.Renewal}, true
}

// await returns the rotation job, or the renewal once due says so, even where
// nobody answers about jobs, or whoever asks is disconnected. Where it finds neither
// it returns an error.
func (a *Agent) await(ctx context.Context, c *connection, due func() bool) (work, error) {
	notices, stop := c.listen(a.jobTopic("notify-next"))
	defer stop()
	for {
		if a.barred >= maxUnseen && due() {
			return a.renewal(ctx, c), nil
		}
		w, found, err := a.pendingJob(ctx, c)
		if err == nil {
			a.barred = 0
		}
		switch {
		case found:
			return w, nil
		case ctx.Err() != nil:
			return work{}, ctx.Err()
		case !c.alive():
			a.barred++
			return work{}, cmp.Or(err, ErrConnectionLost)
		case due():
			return a.renewal(ctx, c), nil
		case err != nil:
			return work{}, err
		}
		if err := a.untilNews(ctx, c, notices, due); err != nil {
			return work{}, err
		}
	}
}

// untilNews waits for a notice about jobs or until due says so.
func (a *Agent) untilNews(ctx context.Context, c *connection, notices *listener, due func() bool) error {
	// A timer for the moment itself would trust a clock that may yet be set.
	ticker := time.NewTicker(a.glance)
	defer ticker.Stop()
	for !due() {
		select {
		case <-notices.messages:
			return nil
		case <-ticker.C:
		case <-c.lost:
			return ErrConnectionLost
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
