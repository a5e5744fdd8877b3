package device

import "time"

// The most that is counted at once, so that no sum overflows.
const (
	longestStep     = 365 * 24 * time.Hour
	longestDistance = 100 * longestStep
)

// mostAsleep is how many times longer than awake a device may be asleep for
// where its clock has been before. A clock that goes back and forth must not
// make weeks of every minute.
const mostAsleep = 20

// counter counts the time that passes, from look to look, by whichever of two
// clocks says more: the monotonic one may stand still while the device sleeps,
// the wall clock may be set. A clock that is set back takes nothing away.
type counter struct {
	wall, furthest time.Time     // of the wall clock: the latest look, and the most it ever said
	ran            time.Duration // of the monotonic clock: the latest look
	sum            time.Duration
}

// look returns what has passed since the counter was made.
func (c *counter) look(wall time.Time, ran time.Duration) time.Duration {
	awake := ran - c.ran
	fresh := min(max(wall.Sub(c.furthest), 0), longestStep) // where the clock has never been
	again := min(wall.Sub(c.wall)-fresh, mostAsleep*awake)
	c.sum += min(max(fresh+again, awake, 0), longestStep)
	c.wall, c.ran = wall, ran
	if wall.After(c.furthest) {
		c.furthest = wall
	}
	return c.sum
}

// mark is a moment that is kept in state.json, on the agent's counter.
type mark struct {
	told  time.Time // what the wall clock said; zero for never
	count time.Duration
}

// moment marks the present.
func (a *Agent) moment() mark {
	now := a.cfg.now()
	return mark{told: now, count: a.passed.look(now, a.cfg.Monotonic())}
}

// since returns the time since a moment of state.json, whose mark is m; since
// the agent was made where there is no such moment. Of what passed before that
// only the wall clock knows; a moment in its future was told by another clock,
// and is taken to be as long ago.
func (a *Agent) since(m *mark, told time.Time) time.Duration {
	now := a.moment()
	if !m.told.Equal(told) {
		*m = mark{told: told, count: now.count - min(now.told.Sub(told).Abs(), longestDistance)}
	}
	return now.count - m.count
}
