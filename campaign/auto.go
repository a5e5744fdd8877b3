package campaign

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

// AutoName is the name of the one campaign that is the daemon's own: devices
// enter it as their certificates come due. It has one wave and never finishes.
// When too many fail it is Stopped, and goes on when an operator resumes it.
const AutoName = "auto"

// IsAuto reports whether the campaign is the daemon's own.
func (c Campaign) IsAuto() bool { return c.Name == AutoName }

// Renewal says who enters the campaign of due certificates, and when.
type Renewal struct {
	Spec   Spec     // its pace, its abort rule, its window; with defaults
	Before Before   // how long before its end a certificate comes due
	Except []string // attributes, name=value: devices with one of them stay out
	// Window is how long after its end a certificate may still connect: until
	// then the device stays in.
	Window time.Duration
	// Until returns when a certificate ends at the latest that is vended now, or
	// why none is: nobody enters to gain nothing.
	Until func(context.Context) (time.Time, error)
}

// Before is how long before its end a certificate comes due: a time, or a part
// of its lifetime in percent, or the zero Before: a third of its lifetime, and
// at least 30 days where that is at most half of it. It is never more than half
// of the lifetime, so that a new certificate is not due at once.
type Before struct {
	Time    time.Duration
	Percent float64
}

const month = 30 * 24 * time.Hour

// Of returns what that is for a certificate with this lifetime.
func (b Before) Of(lifetime time.Duration) time.Duration {
	half := lifetime / 2
	switch {
	case b.Time > 0:
		return min(b.Time, half)
	case b.Percent > 0:
		return min(time.Duration(float64(lifetime)*b.Percent/100), half)
	case half >= month:
		return max(lifetime/3, month)
	}
	return lifetime / 3
}

// Entry is a device whose certificate has come due.
type Entry struct {
	Device  registry.DeviceID
	Zone    string
	Expires time.Time
	// Again is when it may be tried again: if it was in the campaign before, it
	// enters only if that ended earlier, or by a clock that ran ahead.
	Again time.Time
}

// Entrance is where due devices enter a campaign. Methods are safe for
// concurrent use.
type Entrance interface {
	// Keep makes sure that the campaign is there with this spec, and that it has
	// not ended.
	Keep(ctx context.Context, spec Spec) error
	// Candidates calls look with every device of the registry; look may write.
	Candidates(ctx context.Context, attributes []string, look func(Candidate)) error
	// Enter enters devices as pending, in one commit. It leaves alone who is in
	// and has not come to its end, or has come to it after Entry.Again.
	Enter(ctx context.Context, name string, entries []Entry) error
	// Recent counts the latest members that were proven, passed or failed between a
	// time and now, at most so many.
	Recent(ctx context.Context, name string, after time.Time, most int) (map[Standing]int, error)
}

// How many of those that came to their end lately, and since when, the abort
// rule of the campaign looks at: a bad day does not drown in a good year.
const (
	recentMost = 1000
	recentTime = 7 * 24 * time.Hour
)

// How often the registry is looked through for certificates that have come due:
// every minute, or, where that is a lot of work, so seldom that it takes a
// fiftieth of the time.
const (
	lookEvery = time.Minute
	lookShare = 50
)

// faultRest is for how long the campaign holds after failures on our side.
const faultRest = 10 * time.Minute

// tries is how often a device is let in again before its certificate ends, if
// it fails.
const tries = 4

// enterDue has those enter whose certificates have come due.
func (r *Runner) enterDue(ctx context.Context) error {
	now := r.Now().Round(0) // the wall clock, which ends certificates, also where it was set
	if r.Renewal == nil || now.Before(r.looks) && !r.looks.After(now.Add(time.Hour)) {
		return nil
	}
	if err := r.Entrance.Keep(ctx, r.Renewal.Spec); err != nil {
		return err
	}
	until, err := r.Renewal.Until(ctx)
	if err != nil {
		return nil //nolint:nilerr // nobody can be vended anything, which readiness says
	}
	var due []Entry
	var failed error
	enter := func() {
		if failed == nil && len(due) > 0 {
			failed = r.Entrance.Enter(ctx, AutoName, due)
		}
		due = due[:0]
	}
	err = r.Entrance.Candidates(ctx, r.Renewal.attributes(), func(c Candidate) {
		if e, is := r.Renewal.due(c, until, now); is {
			due = append(due, e)
		}
		if len(due) == page {
			enter()
		}
	})
	enter()
	if err == nil {
		err = failed
	}
	r.looks = now.Add(min(max(lookEvery, lookShare*r.Now().Round(0).Sub(now)), time.Hour))
	return err
}

func (a *Renewal) attributes() []string {
	s := a.Spec
	s.Choose.Attributes = append(append([]string{}, s.Choose.Attributes...), a.Except...)
	return s.Attributes()
}

// due reports whether a device shall enter now: by the certificate that it uses. One
// that went back to an older one, or whose rotation was undone, may not have the
// newer any more.
func (a *Renewal) due(c Candidate, until, now time.Time) (Entry, bool) {
	current, has := c.current()
	if !has || c.Blocked || c.Asked || c.Waits || a.leavesOut(c) {
		return Entry{}, false
	}
	before := a.before(current)
	switch {
	case now.Before(dueAt(c.Device, current, before)):
	case c.Campaign != "" && (!c.Pending || now.Before(current.NotAfter.Add(-before/2))): // that one sees to it
	case now.After(current.NotAfter.Add(a.Window)): // it cannot connect any more
	case !until.After(current.NotAfter): // a new one would not last longer
	case c.Open == rotation.Proven:
	case c.Open != "" && now.Sub(c.Began).Abs() < before/tries: // it is at it
	default:
		return Entry{
			Device: c.Device, Zone: c.Attributes[a.Spec.Window.Zone], Expires: current.NotAfter, Again: now.Add(-before / tries),
		}, true
	}
	return Entry{}, false
}

// dueAt returns when a device's turn comes: within the first half of the time
// before the end, at a moment of its own, so that what ends on one day is not
// replaced on one day. It is the same whenever it is asked.
func dueAt(id registry.DeviceID, current Active, before time.Duration) time.Time {
	const steps = 1 << 20
	part := time.Duration(draw(string(current.ID), id) % steps)
	return current.NotAfter.Add(-before + before/2/steps*part)
}

func (a *Renewal) leavesOut(c Candidate) bool {
	for _, pair := range a.Except {
		name, value, _ := strings.Cut(pair, "=")
		if got, has := c.Attributes[name]; has && got == value {
			return true
		}
	}
	return false
}

func (a *Renewal) before(c Active) time.Duration { return a.Before.Of(c.NotAfter.Sub(c.NotBefore)) }

// roundAuto is the round of the campaign of due certificates.
func (r *Runner) roundAuto(ctx context.Context, c Campaign, inFlight int, fault string, now time.Time) error {
	if c.State != Running {
		return nil
	}
	since := now.Add(-recentTime)
	if c.Resumed.After(since) && !c.Resumed.After(now) {
		since = c.Resumed
	}
	recent, err := r.Entrance.Recent(ctx, c.Name, since, recentMost)
	if err != nil {
		return err
	}
	if why := c.failing(recent); why != "" {
		if err := r.withdraw(ctx, c, Pending, ""); err != nil {
			return err
		}
		next := c
		next.State, next.Why = Stopped, why
		return r.turn(ctx, c, next)
	}
	if fault != "" {
		r.restUntil, r.restWhy = now.Add(faultRest), "requests fail on our side: "+fault
	}
	return r.letIn(ctx, c, inFlight, now)
}

// failing says why the campaign must stop, or returns nothing.
func (s Spec) failing(counts map[Standing]int) string {
	failed := counts[Failed]
	ended := failed + counts[Passed] + counts[Proven]
	if failed >= s.Abort.AtLeast && failed >= s.Abort.Failed.Of(ended) {
		return fmt.Sprintf("%d of %d devices failed", failed, ended)
	}
	return ""
}

// endOf returns when a member of the campaign of due certificates cannot connect
// any more, for good; zero: it does not go by that.
func (r *Runner) endOf(c Campaign, m Member) time.Time {
	if !c.IsAuto() || r.Renewal == nil || m.Expires.IsZero() {
		return time.Time{}
	}
	return m.Expires.Add(r.Renewal.Window)
}
