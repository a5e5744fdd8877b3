package app

import (
	"testing"
	"time"
)

// TestPeekAtLimits: what Peek says is what Allow then says, and it counts
// nothing, however often it is asked.
func TestPeekAtLimits(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	l := newLimits(0.5, 2, func() time.Time { return now })
	refused := 0
	for range 20 {
		var told time.Duration
		var may bool
		for range 5 {
			told, may = l.Peek("d")
		}
		wait, ok := l.Allow("d")
		if ok != may || (told-wait).Abs() > time.Microsecond {
			t.Fatalf("Allow says %v, %s, and Peek said %v, %s", ok, wait, may, told)
		}
		if !ok {
			refused++
		}
		now = now.Add(700 * time.Millisecond)
	}
	if refused == 0 || refused > 13 {
		t.Errorf("%d of 20 refused", refused)
	}
	if _, ok := l.Peek("another"); !ok || l.recent.Len() != 1 {
		t.Error("asking about a device has entered it")
	}
}
