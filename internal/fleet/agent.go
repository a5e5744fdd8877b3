package fleet

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/device"
	"github.com/certvendor/certvendor/protocol"
)

// agentConfig is what package device is told.
func (o Options) agentConfig(d Device, event func(device.Event)) device.Config {
	return device.Config{
		Device: d.Name, Broker: o.Broker, Roots: o.Roots, PackageRoots: o.PackageRoots,
		Directory: o.disk(d), Topics: o.Topics, Flow: d.Flow, Retry: o.Retry, Now: o.now, Event: event,
	}
}

func (o Options) provision(d Device) error {
	if _, err := readAgent(o.disk(d)); err == nil {
		return nil
	}
	err := device.Provision(o.disk(d), d.Certificate, d.Key)
	if errors.Is(err, device.ErrProvisioned) {
		return nil
	}
	return err
}

// playAgent lets package device carry out one job.
func (o Options) playAgent(ctx context.Context, d Device, r *Result) error {
	if err := o.provision(d); err != nil {
		return err
	}
	var watch stopwatch
	a, err := device.New(o.agentConfig(d, watch.note))
	if err != nil {
		return err
	}
	r.old = a.Current()
	err = a.RunOnce(ctx)
	r.current, r.Timing, r.Acked, r.Received = a.Current(), watch.timing, watch.acked, watch.received
	return err
}

// maxBoots is how often a device is started until it is left as it is: after
// its power cut, after the part before the switch, and after what went wrong.
const maxBoots = 8

// agentLife is one agent with a plan.
type agentLife struct {
	o      Options
	d      Device
	r      *Result
	s      *script
	watch  stopwatch
	parent context.Context // the life's; what goes on behind ends with it

	waited     bool // the part before the switch is done
	unreported bool // the vendor has not heard that the job is done
	stop       context.CancelFunc
}

// liveAgent lets package device carry out one job, through all of its plan.
func (o Options) liveAgent(ctx context.Context, d Device, r *Result, s *script) error {
	if err := o.provision(d); err != nil {
		return err
	}
	if d.Plan.JobFailed {
		return o.failJob(ctx, d, r)
	}
	l := &agentLife{o: o, d: d, r: r, s: s, parent: ctx}
	defer func() { r.Timing, r.Acked, r.Received = l.watch.timing, l.watch.acked, l.watch.received }()
	var wrong error
	for range maxBoots {
		ended, err := l.boot(ctx)
		on, again := s.lives()
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case !again:
			return nil // dark
		case ended && on:
			return l.settle(ctx)
		case on && err != nil:
			wrong = err
			if err := o.rejoin(ctx, d.Name); err != nil {
				return errors.Join(wrong, err)
			}
		}
	}
	return wrong
}

// boot is a device's life from power on to the end of its rotation, or of its
// power. It returns no error where it is to be started again.
func (l *agentLife) boot(parent context.Context) (ended bool, err error) {
	ctx, stop, err := l.s.boot(parent)
	if err != nil {
		return false, err
	}
	defer stop()
	l.stop = stop
	l.watch.restart()
	state, err := readAgent(l.o.disk(l.d))
	if err != nil {
		return false, err
	}
	if state.waits() && !l.waited {
		if err := l.o.beforeSwitch(ctx, l.d, l.r); err != nil {
			return false, nil // its power was cut, or the life is over
		}
		l.waited = true
		l.watch.restart()
	}
	a, err := device.New(l.o.agentConfig(l.d, l.note))
	if err != nil {
		return false, err
	}
	if idOf(a.Current()) != idOf(l.r.old) && !state.waits() {
		return true, nil // it had rotated, and acked, before its power was cut
	}
	err = a.RunOnce(ctx)
	if ctx.Err() != nil && err != nil {
		return false, nil
	}
	return err == nil, err
}

// note tells the script at which step the device is.
func (l *agentLife) note(e device.Event) {
	e.Time = time.Now() // not what the device takes for the time
	l.watch.note(e)
	switch e.Kind {
	case device.Connected:
		l.s.at(l.parent, StepConnected)
	case device.JobReceived:
		l.s.at(l.parent, StepJob)
	case device.KeyMade:
		l.s.at(l.parent, StepKey)
	case device.Asked:
		l.asked(e.Action)
	case device.CertificateStored:
		l.s.at(l.parent, StepStored)
		if !l.waited && l.o.waitsBeforeSwitch(l.d) {
			l.stop()
		}
	case device.CandidateConnected:
		l.s.at(l.parent, StepSwitched)
	case device.JobReported:
		l.unreported = e.Err != nil
		l.s.at(l.parent, StepReported)
	case device.Acknowledged:
		l.s.at(l.parent, StepAcked)
	}
}

func (l *agentLife) asked(action protocol.Action) {
	if action == protocol.Ack {
		l.s.at(l.parent, StepAck)
		return
	}
	if later := l.s.plan.Duplicate; later > 0 && l.d.Flow != device.ByPackage && l.s.once(DuplicateRequest) {
		request, err := l.o.candidateRequest(l.d)
		if err == nil {
			l.s.behind.Go(func() { l.o.beside(l.s).repeat(l.parent, l.d.Name, l.r.old, duplicate{request, later}) })
		}
	}
	l.s.at(l.parent, StepGet)
}

// settle gives a device whose report was lost the time to make it: it would
// hold a place among those that are at work.
func (l *agentLife) settle(ctx context.Context) error {
	if !l.unreported {
		return nil
	}
	l.s.wire.lose(nil)
	ctx, stop := context.WithTimeout(ctx, 3*time.Second)
	defer stop()
	a, err := device.New(l.o.agentConfig(l.d, func(e device.Event) {
		if e.Kind == device.JobReported && e.Err == nil {
			stop()
		}
	}))
	if err != nil {
		return err
	}
	_ = a.RunOnce(ctx) // ends with ctx: there is nothing left to rotate
	return nil
}

// stopwatch reads what happened, and how long it took, off a device's events.
type stopwatch struct {
	mu                 sync.Mutex
	job, asked, stored time.Time
	acked              bool
	received           []certificate.ID
	timing             Timing
}

// restart leaves out the time for which the device did nothing.
func (w *stopwatch) restart() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked, w.stored = time.Time{}, time.Now()
}

func (w *stopwatch) note(e device.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch e.Kind {
	case device.JobReceived:
		w.job = first(w.job, e.Time)
	case device.Asked:
		w.asked = first(w.asked, e.Time)
	case device.CertificateStored:
		w.timing.Get, w.stored, w.asked = e.Time.Sub(w.asked), e.Time, time.Time{}
		w.received = append(w.received, certificate.ID(e.CertificateID))
	case device.CandidateConnected:
		w.timing.Connect = e.Time.Sub(first(w.stored, e.Time))
	case device.Acknowledged:
		w.timing.Ack, w.acked = e.Time.Sub(w.asked), true
	case device.Promoted:
		w.timing.Total = e.Time.Sub(first(w.job, e.Time))
	}
}

// first returns the earlier moment, where it is known.
func first(earlier, later time.Time) time.Time {
	if earlier.IsZero() {
		return later
	}
	return earlier
}
