package store_test

import (
	"testing"
	"time"

	"github.com/certvendor/certvendor/internal/store"
)

// TestNoticeByAClockThatRanAhead: what was to be told then is told once it is put
// right, and put off like any other.
func TestNoticeByAClockThatRanAhead(t *testing.T) {
	const ahead = 365 * 24 * time.Hour
	w := open(t, func(c *store.Config) { c.Tells = func(string) bool { return true } })
	due := func() []store.Notice {
		return must[[]store.Notice](t)(w.Outbox().Due(w.ctx, w.clock.Now(), 9))
	}
	w.clock.add(ahead)
	w.ok(w.Outbox().Tell(w.ctx, "topic", "once", "news", nil))
	w.clock.add(-ahead)
	waiting := due()
	if len(waiting) != 1 {
		t.Fatalf("%d notices are due, want 1", len(waiting))
	}
	w.ok(w.Outbox().Failed(w.ctx, waiting[0].ID, w.clock.Now().Add(time.Hour)))
	if n := len(due()); n != 0 {
		t.Errorf("%d notices are due within the hour, want none", n)
	}
	w.clock.add(time.Hour)
	if n := len(due()); n != 1 {
		t.Errorf("%d notices are due after the hour, want 1", n)
	}
}
