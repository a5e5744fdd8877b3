package fleet

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"
)

// script makes a device's plan come true: the device says at which step it is,
// and the script does to its network, its power and its disk what the plan
// says. The zero plan does nothing. Safe for concurrent use.
type script struct {
	plan    Plan
	wire    *wire
	disk    string
	started time.Time
	limit   func() *time.Timer // starts the time that the device has from its job

	timers sync.WaitGroup // what happens some time after a step
	behind sync.WaitGroup // what goes on beside the device

	mu       sync.Mutex
	happened []Fault            // once each
	dropped  map[int]bool       // which of the disconnects
	stop     context.CancelFunc // takes the power from what runs now
	off      bool               // it has none
	gone     bool               // for ever
	limited  *time.Timer
	err      error // of the disk
}

// newScript returns the script of a device with a disk at the path.
func newScript(ctx context.Context, broker, disk string, plan Plan) (*script, error) {
	w := straightWire(broker)
	if plan.onTheWire() {
		var err error
		if w, err = newWire(ctx, broker); err != nil {
			return nil, err
		}
	}
	w.slow(plan.SlowReader)
	return &script{plan: plan, wire: w, disk: disk, started: time.Now(), dropped: map[int]bool{}}, nil
}

// close ends what goes on beside the device and its network, and puts the disk
// of a device that is gone back where it can be looked at.
func (s *script) close() error {
	s.timers.Wait()
	s.behind.Wait()
	s.wire.close()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.limited != nil {
		s.limited.Stop()
	}
	return s.putBack()
}

// begin starts the time that the device has.
func (s *script) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.limited == nil {
		s.limited = s.limit()
	}
}

// now is what the device's clock shows.
func (s *script) now() time.Time {
	now := time.Now()
	if s.plan.ClockSet > 0 && now.Sub(s.started) > s.plan.ClockSet {
		return now
	}
	return now.Add(s.plan.ClockSkew)
}

// boot gives the device its power: the context ends when it is taken away. A
// device whose disk was pulled finds it as it was then.
func (s *script) boot(ctx context.Context) (context.Context, context.CancelFunc, error) {
	s.timers.Wait()
	if on, _ := s.lives(); !on {
		if err := pause(ctx, s.plan.PowerAway); err != nil {
			return nil, nil, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.putBack(); err != nil {
		return nil, nil, err
	}
	s.wire.restore()
	ctx, cancel := context.WithCancel(ctx)
	s.stop, s.off = cancel, false
	return ctx, cancel, nil
}

// lives reports whether the device has power, or will have it again.
func (s *script) lives() (on, again bool) {
	s.timers.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.off, !s.gone
}

// at does what the plan has for a step, or will until ctx, the device's whole
// life, ends. It is called on the device's own goroutine, before the device
// goes on: where the power is cut, nothing the device still does reaches its
// disk or its network.
func (s *script) at(ctx context.Context, step Step) {
	if step == StepJob {
		s.begin()
	}
	for i, m := range s.plan.Disconnects {
		if m.Step.begins(step) && s.first(i) {
			s.drop(ctx, m)
		}
	}
	if m := s.plan.PowerCut; m != nil && m.Step == step && s.once(PowerCut) {
		s.after(ctx, m.After, s.cutPower)
		if m.After == 0 {
			return
		}
	}
	switch step {
	case StepGet:
		s.lose(LostReply, StepGetAnswered)
	case StepAck:
		if s.plan.LateAck > 0 && s.once(LateAck) {
			s.wire.delay(s.plan.LateAck)
		}
		s.lose(LostAck, StepAckAnswered)
	case StepSwitched:
		if s.plan.Dark && s.once(Dark) {
			s.mu.Lock()
			s.gone = true
			s.mu.Unlock()
			s.cutPower()
		}
	}
}

// begins reports whether a step begins at the other. That an answer is on its
// way only the wire knows; the device is there from when it has asked.
func (s Step) begins(other Step) bool {
	return s == other || s == StepGetAnswered && other == StepGet || s == StepAckAnswered && other == StepAck
}

// lose plans what the wire does with a request that is about to leave, or with
// its answer: the planned loss, or else a power cut when the answer comes. The
// next request is the other's turn, or another try if the connection ended
// before either happened.
func (s *script) lose(fault Fault, answered Step) {
	if of, planned := s.plan.loses(fault); planned && !s.had(fault) {
		s.wire.lose(&loss{of: of, then: func() { s.once(fault) }})
		return
	}
	if m := s.plan.PowerCut; m != nil && m.Step == answered && !s.had(PowerCut) {
		s.wire.lose(&loss{then: func() {
			if s.once(PowerCut) && s.wire.rest(m.After) {
				s.cutPower()
			}
		}})
	}
}

// loses returns what a fault loses, if it is planned.
func (p Plan) loses(fault Fault) (of what, planned bool) {
	switch {
	case fault == LostReply:
		return answer, p.LostReply
	case p.AckLost:
		return request, p.LostAck
	}
	return answer, p.LostAck
}

func (s *script) drop(ctx context.Context, m Moment) {
	if m.Step == StepGetAnswered || m.Step == StepAckAnswered {
		m.After += answerComes
	}
	s.after(ctx, m.After, s.wire.drop)
}

// answerComes is about how long an answer takes on an idle machine.
const answerComes = 10 * time.Millisecond

// once reports true the first time it is asked.
func (s *script) once(fault Fault) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.Contains(s.happened, fault) {
		return false
	}
	s.happened = append(s.happened, fault)
	return true
}

func (s *script) had(fault Fault) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Contains(s.happened, fault)
}

// first reports true the first time it is asked about one of the disconnects.
func (s *script) first(disconnect int) bool {
	s.once(Disconnect)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dropped[disconnect] {
		return false
	}
	s.dropped[disconnect] = true
	return true
}

// after does something at once, or some time later, unless ctx ends before.
func (s *script) after(ctx context.Context, d time.Duration, do func()) {
	if d == 0 {
		do()
		return
	}
	s.timers.Go(func() {
		if pause(ctx, d) == nil {
			do()
		}
	})
}

// cutPower takes the network, the disk and the processor away, in an instant:
// the disk is moved to where whoever still writes to it does not find it.
func (s *script) cutPower() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.off {
		return
	}
	s.wire.cut()
	s.off, s.err = true, errors.Join(s.err, os.Rename(s.disk, s.pulled()))
	if s.stop != nil {
		s.stop()
	}
}

func (s *script) pulled() string { return s.disk + ".pulled" }

// putBack puts a pulled disk back. What was written where it had been meanwhile
// is nobody's. Called with mu held.
func (s *script) putBack() error {
	if s.err != nil {
		return s.err
	}
	if _, err := os.Stat(s.pulled()); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return errors.Join(os.RemoveAll(s.disk), os.Rename(s.pulled(), s.disk))
}
