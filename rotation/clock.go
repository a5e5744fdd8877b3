package rotation

import (
	"errors"
	"fmt"
	"sync"
	"time"
)

// How far the wall clock may leave the monotonic one between two looks, and
// how long it must then stay with it before removals go on.
const (
	maxDrift   = time.Minute
	steadyTime = time.Hour
)

// Clock watches the wall clock, because a removal that is due only by a clock
// that jumped is not due. Vending goes on whatever the clock does. It is safe
// for concurrent use.
type Clock struct {
	now     func() time.Time     // wall time
	elapsed func() time.Duration // monotonic time since some fixed moment

	mu       sync.Mutex
	lastWall time.Time
	lastMono time.Duration
	until    time.Duration // removals stop until elapsed() is past this
	why      string        // and until when, for people; the same as long as it holds
}

// NewClock returns a clock that distrusts its first hour if now lies before
// the newest event ever recorded, or more than ttl after it. A zero newest
// means that nothing was recorded yet. A nil elapsed is the runtime's
// monotonic clock.
func NewClock(now func() time.Time, elapsed func() time.Duration, newest time.Time, ttl time.Duration) *Clock {
	if elapsed == nil {
		start := time.Now()
		elapsed = func() time.Duration { return time.Since(start) }
	}
	c := &Clock{now: now, elapsed: elapsed, lastWall: now().Round(0), lastMono: elapsed()}
	switch gap := c.lastWall.Sub(newest); {
	case newest.IsZero():
	case gap < 0:
		c.distrust(fmt.Sprintf("the clock is %s earlier than the newest recorded event", (-gap).Round(time.Second)))
	case gap > ttl:
		c.distrust(fmt.Sprintf("the clock is %s later than the newest recorded event", gap.Round(time.Hour)))
	}
	return c
}

// Now returns the wall time.
func (c *Clock) Now() time.Time { return c.now() }

// Steady returns nil if the clock may be trusted with a removal, and otherwise
// an error that says why not and what to do.
func (c *Clock) Steady() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	wall, mono := c.now().Round(0), c.elapsed()
	drift := wall.Sub(c.lastWall) - (mono - c.lastMono)
	c.lastWall, c.lastMono = wall, mono
	if drift.Abs() > maxDrift {
		c.distrust(fmt.Sprintf("the clock was set by %s", drift.Round(time.Second)))
	}
	if c.why == "" || mono >= c.until {
		c.why = ""
		return nil
	}
	return errors.New(c.why)
}

// Trust takes the clock as it is now for right, on an operator's word.
func (c *Clock) Trust() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lastWall, c.lastMono, c.why = c.now().Round(0), c.elapsed(), ""
}

func (c *Clock) distrust(why string) {
	c.until = c.elapsed() + steadyTime
	c.why = fmt.Sprintf("%s: nothing is retired until %s, or until `certvendor rotation sweep --now`",
		why, c.now().Add(steadyTime).UTC().Format(time.RFC3339))
}
