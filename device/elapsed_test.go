package device

import (
	"testing"
	"time"
)

// clocks are a device's two, which a test moves.
type clocks struct {
	wall time.Time
	ran  time.Duration
}

func (c *clocks) of(cfg *Config) {
	cfg.Now = func() time.Time { return c.wall }
	cfg.Monotonic = func() time.Duration { return c.ran }
}

// live lets the device be awake and then asleep.
func (c *clocks) live(awake, asleep time.Duration) {
	c.wall, c.ran = c.wall.Add(awake+asleep), c.ran+awake
}

const (
	hoursOfAWeek = 7 * 24
	week         = hoursOfAWeek * time.Hour
)

// rotated returns a device with these clocks that has got a certificate for a
// week from now.
func rotated(t *testing.T, c *clocks) *Agent {
	t.Helper()
	w := newWorld(t)
	w.from, w.to = 0, week
	cfg := w.provision()
	c.of(&cfg)
	cfg.RenewJitter = -1
	a := open(t, cfg)
	if err := a.Rotate(deadline(t)); err != nil {
		t.Fatal(err)
	}
	return a
}

// dueWithin returns after how many steps the renewal is due, at most n.
func dueWithin(n int, a *Agent, step func()) int {
	for i := range n {
		if a.renewalDue() {
			return i
		}
		step()
	}
	return n
}

func TestDeviceThatSleepsRenewsInTime(t *testing.T) {
	c := &clocks{wall: time.Now()}
	a := rotated(t, c)
	hour := func() { c.live(3*time.Minute, 57*time.Minute) }
	if got := dueWithin(hoursOfAWeek, a, hour); got < 110 || got > 112 {
		t.Errorf("due after %d hours of 168, of which it was awake for a twentieth", got)
	}
}

// The clock is set back by more than any pause, and the device sleeps: what had
// passed has passed, and it goes on.
func TestClockThatIsSetBackHidesNoTime(t *testing.T) {
	c := &clocks{wall: time.Now()}
	a := rotated(t, c)
	a.tried = a.moment()
	if err := a.store.tried(a.tried.told); err != nil {
		t.Fatal(err)
	}
	hour := func() { c.live(3*time.Minute, 57*time.Minute) }
	for range 6 {
		hour()
	}
	before := a.since(&a.tried, a.store.state.Tried)
	c.wall = c.wall.Add(-40 * 24 * time.Hour)
	if got := a.since(&a.tried, a.store.state.Tried); got != before {
		t.Errorf("%s had passed, then %s", before, got)
	}
	for range 6 {
		hour()
	}
	if got := a.since(&a.tried, a.store.state.Tried); got != 12*time.Hour {
		t.Errorf("after 12 hours: %s", got)
	}
}

// A clock that goes back and forth by more than any pause costs a renewal for
// every pause that may have passed, not one for every jump.
func TestClockThatJumpsFarDoesNotLoop(t *testing.T) {
	c := &clocks{wall: time.Now().Add(50 * 24 * time.Hour)}
	a := rotated(t, c)
	a.cfg.RenewAt = 1e-9
	renewals := 0
	for range 60 {
		for _, jump := range []time.Duration{1000 * time.Hour, -1000 * time.Hour} {
			c.live(30*time.Second, jump)
			if a.renewalDue() {
				renewals++
				a.obtained = a.moment()
				a.store.state.Obtained = a.obtained.told
			}
		}
	}
	if renewals == 0 || renewals > 2 { // one for the first jump
		t.Errorf("%d renewals in an hour", renewals)
	}
}

// A clock without a battery that nobody sets counts from 1970.
func TestClockThatStaysBehindRenewsByWhatHasPassed(t *testing.T) {
	c := &clocks{wall: time.Unix(1000, 0)}
	a := rotated(t, c)
	hour := func() { c.live(time.Hour, 0) }
	for range 50 {
		hour()
	}
	again := open(t, a.cfg) // the machine stays on
	if got := dueWithin(hoursOfAWeek, again, hour); got < 60 || got > 62 {
		t.Errorf("due after 50 and %d hours of 168", got)
	}
	if err := again.renewed(t.Context(), errNotYet); err != nil {
		t.Fatal(err)
	}
	if got := dueWithin(hoursOfAWeek, again, hour); got < 5 || got > 8 { // an eighth of 57 hours
		t.Errorf("due again after %d hours", got)
	}
}

// The clock begins in 1970 at every start and is set a little later. That alone
// makes nothing due.
func TestStartInThePastMakesNothingDue(t *testing.T) {
	c := &clocks{wall: time.Now()}
	a := rotated(t, c)
	right := c.wall
	for range 3 {
		c.wall, c.ran = time.Unix(0, 0), 0
		again := open(t, a.cfg)
		if got := dueWithin(10, again, func() { c.live(time.Minute, 0) }); got < 10 {
			t.Errorf("due after %d minutes", got)
		}
		c.wall = right
		if again.renewalDue() {
			t.Error("due when the clock was set right")
		}
	}
}

func TestCounterDoesNotOverflow(t *testing.T) {
	var c counter
	last := time.Duration(0)
	for year := range 250 { // each further than the clock ever was
		now := c.look(time.Date(40*year, 1, 1, 0, 0, 0, 0, time.UTC), 0)
		if now < last {
			t.Fatalf("%s passed, then %s", last, now)
		}
		last = now
	}
}
