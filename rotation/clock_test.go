package rotation

import (
	"strings"
	"testing"
	"time"
)

// fakeTime is a wall clock and a monotonic one that a test can part.
type fakeTime struct {
	wall time.Time
	mono time.Duration
}

func (f *fakeTime) pass(d time.Duration) { f.wall, f.mono = f.wall.Add(d), f.mono+d }

func (f *fakeTime) clock(newest time.Time) *Clock {
	return NewClock(func() time.Time { return f.wall }, func() time.Duration { return f.mono }, newest, 720*time.Hour)
}

func TestClock(t *testing.T) {
	for _, test := range []struct {
		name   string
		newest time.Time
		do     func(*fakeTime, *Clock)
		why    string // empty: steady
	}{
		{"nothing recorded yet", time.Time{}, func(f *fakeTime, c *Clock) { f.pass(48 * time.Hour) }, ""},
		{"a minute of drift", noon, func(f *fakeTime, c *Clock) { f.wall = f.wall.Add(time.Minute) }, ""},
		{"set forward by a day", noon, func(f *fakeTime, c *Clock) { f.wall = f.wall.Add(24 * time.Hour) }, "set by 24h0m0s"},
		{"set back by a year", noon, func(f *fakeTime, c *Clock) { f.wall = f.wall.AddDate(-1, 0, 0) }, "set by -8760h0m0s"},
		{"slewed slowly by an hour in all", noon, func(f *fakeTime, c *Clock) {
			for range 120 {
				f.pass(time.Hour)
				f.wall = f.wall.Add(30 * time.Second)
				_ = c.Steady()
			}
		}, ""},
		{"set, then steady for 59 minutes", noon, func(f *fakeTime, c *Clock) {
			f.wall = f.wall.Add(time.Hour)
			_ = c.Steady()
			f.pass(59 * time.Minute)
		}, "set by 1h0m0s"},
		{"set, then steady for an hour", noon, func(f *fakeTime, c *Clock) {
			f.wall = f.wall.Add(time.Hour)
			_ = c.Steady()
			f.pass(time.Hour)
		}, ""},
		{"set, and an operator says it is right", noon, func(f *fakeTime, c *Clock) {
			f.wall = f.wall.Add(time.Hour)
			_ = c.Steady()
			c.Trust()
		}, ""},
		{"started before the newest event", noon.Add(time.Second), func(*fakeTime, *Clock) {}, "earlier than the newest"},
		{"started more than ttl after the newest event", noon.Add(-721 * time.Hour), func(*fakeTime, *Clock) {}, "later than the newest"},
		{"started within ttl of it", noon.Add(-719 * time.Hour), func(*fakeTime, *Clock) {}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := &fakeTime{wall: noon}
			c := f.clock(test.newest)
			test.do(f, c)
			switch err := c.Steady(); {
			case test.why == "" && err != nil:
				t.Fatal(err)
			case test.why != "" && (err == nil || !strings.Contains(err.Error(), test.why)):
				t.Fatalf("got %v, want %q", err, test.why)
			}
		})
	}
}
