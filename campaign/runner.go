package campaign

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

// page is how many members are looked at in one read.
const page = 500

// Ports are what a Runner works on.
type Ports struct {
	Store Store
	Roll  Roll
	Watch Watch
	Group rotation.Group
	// Hold says why nobody should be let in now, or returns nothing: we are not
	// ready, or vending is frozen.
	Hold func(context.Context) string
	// Unserved says why no device can be vended anything now, or returns nothing:
	// we are not ready, or vending is frozen. What a device does not do meanwhile
	// does not count. Optional.
	Unserved func(context.Context) string
	// LetIn is called when the group has grown.
	LetIn func()
	// Told is called when a campaign has come to another state, after it is
	// durable.
	Told func(Campaign)
	Now  func() time.Time
	// Renewal says who enters the campaign of due certificates; nil: nobody does.
	Renewal  *Renewal
	Entrance Entrance // with Renewal
}

// Runner carries out campaigns, a round at a time. Refused is safe for
// concurrent use; Round is called from one goroutine.
type Runner struct {
	Ports
	paces  map[string]*allowance
	holds  map[string]string
	began  time.Time       // since when devices could be heard, and served
	last   time.Time       // of the rounds
	known  map[string]bool // campaigns whose members were all looked at since the start, since they run again, or since the clock was set
	rested map[string]bool // campaigns that did not run in the last round

	rounds sync.Mutex // of the round that is under way

	looks     time.Time // when certificates that have come due are looked for next
	restUntil time.Time // AutoName holds
	restWhy   string

	mu      sync.Mutex
	refused map[registry.DeviceID]string // since the last round
	faults  []time.Time                  // on our side, within a minute
	fault   string
}

// NewRunner returns a runner that has seen nothing yet: what it needs to know
// is in the store.
func NewRunner(ports Ports) *Runner {
	return &Runner{Ports: ports, began: ports.Now(), last: ports.Now().Round(0), paces: map[string]*allowance{}, holds: map[string]string{}, known: map[string]bool{}, rested: map[string]bool{}, refused: map[registry.DeviceID]string{}}
}

// How many requests may fail within a minute for a reason on our side until
// campaigns pause.
const (
	manyFaults  = 5
	faultsCount = time.Minute
)

// Refused tells that a get was refused for a reason that is the device's.
func (r *Runner) Refused(id registry.DeviceID, why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.refused) < 100_000 { // what a round cannot have missed
		r.refused[id] = why
	}
}

// Failed tells that a get failed for a reason on our side.
func (r *Runner) Failed(why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.Now()
	r.faults = slices.DeleteFunc(r.faults, func(t time.Time) bool { return now.Sub(t).Abs() > faultsCount })
	r.faults, r.fault = append(r.faults, now), why
}

// Holding says why nobody is let into a campaign now; empty if somebody may be.
func (r *Runner) Holding(name string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.holds[name]
}

// Between calls do while no round is under way, so that none lets anybody into
// a campaign that do has ended.
func (r *Runner) Between(do func()) {
	r.rounds.Lock()
	defer r.rounds.Unlock()
	do()
}

// gapMost is how long the time between two rounds may be, by the wall clock: the
// other stands still while the machine sleeps. Where it was longer, or went back,
// the machine has slept or its clock was set: what a device did not do meanwhile
// does not count, and when a member was to be looked at next is not to be relied on.
const gapMost = time.Minute

func (r *Runner) listen(now time.Time) {
	now = now.Round(0)
	if gap := now.Sub(r.last); gap < 0 || gap > gapMost {
		r.began = now
		clear(r.known)
	}
	r.last = now
}

// Round looks at every campaign that has not ended and does what is due. A
// failure of one leaves the others alone; the error joins all.
func (r *Runner) Round(ctx context.Context) error {
	r.rounds.Lock()
	defer r.rounds.Unlock()
	r.listen(r.Now())
	var errs []error
	if err := r.enterDue(ctx); err != nil {
		errs = append(errs, fmt.Errorf("look for certificates that have come due: %w", err))
	}
	campaigns, err := r.Store.Running(ctx)
	if err != nil {
		return errors.Join(append(errs, fmt.Errorf("campaigns: %w", err))...)
	}
	if len(campaigns) > 0 && r.Unserved != nil && r.Unserved(ctx) != "" {
		r.began = r.last
	}
	refused, fault := r.news()
	if len(refused) > 0 && len(campaigns) > 0 {
		if err := r.Watch.Wake(ctx, slices.Collect(maps.Keys(refused))); err != nil {
			return errors.Join(append(errs, fmt.Errorf("campaigns: %w", err))...)
		}
	}
	for _, c := range campaigns {
		if err := r.round(ctx, c, refused, fault); err != nil {
			errs = append(errs, fmt.Errorf("campaign %s: %w", c.Name, err))
		}
	}
	return errors.Join(errs...)
}

// news returns what was told since the last round.
func (r *Runner) news() (refused map[registry.DeviceID]string, fault string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	refused, r.refused = r.refused, map[registry.DeviceID]string{}
	if len(r.faults) >= manyFaults {
		fault, r.faults = r.fault, nil
	}
	return refused, fault
}

// round is one campaign's. Members are judged whatever its state, so that an
// operator sees what has become of them; only one that runs lets others in.
func (r *Runner) round(ctx context.Context, c Campaign, refused map[registry.DeviceID]string, fault string) error {
	now := r.Now()
	if c.State == Running && r.rested[c.Name] { // who was lost before is added again only while it runs
		r.known[c.Name] = false
	}
	r.rested[c.Name] = c.State != Running
	o, inFlight, err := r.judge(ctx, c, refused, now)
	if err != nil {
		return err
	}
	if c.IsAuto() {
		return r.roundAuto(ctx, c, inFlight, fault, now)
	}
	next := r.decide(c, o, fault, now)
	if next.State != c.State || next.Wave != c.Wave {
		return r.turn(ctx, c, next)
	}
	if c.State != Running {
		return nil
	}
	return r.letIn(ctx, c, inFlight, now)
}

// judge looks at the members of which something may have become, writes where
// they stand, and returns the outlook, with how many are at work.
func (r *Runner) judge(ctx context.Context, c Campaign, refused map[registry.DeviceID]string, now time.Time) (o outlook, inFlight int, err error) {
	if err := r.look(ctx, c, refused, now); err != nil {
		return o, 0, err
	}
	if o.overdue, err = r.Watch.Overdue(ctx, c.Name, now.Add(-c.VerifyWithin)); err != nil {
		return o, 0, err
	}
	if o.tally, err = r.Store.Tally(ctx, c.Name); err != nil {
		return o, 0, err
	}
	inFlight = o.total(Added) + o.total(Vended)
	for _, n := range o.overdue {
		inFlight -= n
	}
	if now.Before(r.began.Add(c.VerifyWithin)) { // nobody was listened for so long
		o.overdue = nil
	}
	return o, inFlight, nil
}

// decide returns the campaign as it shall be.
func (r *Runner) decide(c Campaign, o outlook, fault string, now time.Time) Campaign {
	waves := 0
	for wave := range o.tally {
		waves = max(waves, wave+1)
	}
	switch why := c.tooMany(o); {
	case why != "":
		c.State, c.Why, c.Ended = Aborted, why, now
	case !c.Deadline.IsZero() && now.After(c.Deadline):
		c.State, c.Why, c.Ended = Finished, "its deadline has passed", now
	case c.State != Running:
	case fault != "":
		c.State, c.Why = Paused, "requests fail on our side: "+fault
	case o.total(Pending)+o.total(Added)+o.total(Vended)+o.total(Proven) == 0:
		c.State, c.Why, c.Ended = Finished, "", now
	case c.Wave+1 < waves && c.hasPassed(c.Wave, o):
		if c.Gates == Manual {
			c.State, c.Why = AtGate, "the wave has passed"
			return c
		}
		c.Wave++
	}
	return c
}

// turn makes a campaign what it shall be, and does what follows from that.
func (r *Runner) turn(ctx context.Context, c, next Campaign) error {
	if next.State.Ended() {
		if err := r.Withdraw(ctx, next); err != nil {
			return err
		}
	}
	saved, err := r.Store.Save(ctx, next)
	if err != nil || !saved {
		return err // somebody else changed it: the next round looks again
	}
	if next.State != c.State && r.Told != nil {
		r.Told(next)
	}
	return nil
}

// Withdraw takes those of a campaign out of the group that have been vended
// nothing: nothing new is begun for it. Who is waited for by another campaign
// stays. What is vended stays valid. Members that were not heard of are late
// from then on. Idempotent.
func (r *Runner) Withdraw(ctx context.Context, c Campaign) error {
	return r.withdraw(ctx, c, Late, "not heard of before the campaign ended")
}

func (r *Runner) withdraw(ctx context.Context, c Campaign, standing Standing, why string) error {
	for after := -1; ; {
		seen, err := r.Roll.InProgress(ctx, c.Name, after, page)
		if err != nil {
			return err
		}
		var late []Noted
		for _, s := range seen {
			if s.Rotation.Number != 0 {
				continue
			}
			if err := r.letGo(ctx, s); err != nil {
				return err
			}
			s.Standing, s.Why, s.Since = standing, why, r.Now()
			late = append(late, Noted{Member: s.Member, Turn: s.Turn})
		}
		if len(late) > 0 {
			if err := r.Roll.Mark(ctx, c.Name, late); err != nil {
				return err
			}
		}
		if len(seen) < page {
			return nil
		}
		after = seen[len(seen)-1].Place
	}
}
