package app_test

import (
	"testing"
	"time"

	"github.com/certvendor/certvendor/internal/config"
)

// TestFinishedRotationsLeave has a device rotate twice: after rotation.keep, the
// first rotation is gone and the second is not. A clock that nobody trusts
// takes nothing out.
func TestFinishedRotationsLeave(t *testing.T) {
	var clock wall
	w := startOn(t, &clock, 0, func(c *config.Config) {
		c.Rotation.Grace, c.Rotation.Settle, c.Rotation.Keep = 0, 0, 48*time.Hour
	})
	a := w.actor(t, "lamp")
	over := w.rotate(t, a, w.open(t, "lamp", "lamp", a.old))
	w.rotate(t, a, over)
	rotations := func() (numbers []int64) {
		for _, r := range w.detail(t, "lamp").Rotations {
			numbers = append(numbers, r.Number)
		}
		return numbers
	}
	w.sweeps(t, false)
	if n := rotations(); len(n) != 2 {
		t.Fatalf("rotations %v before their time", n)
	}
	clock.set(3 * day)
	w.sweeps(t, false)
	if n := rotations(); len(n) != 2 {
		t.Errorf("rotations %v by a clock that was set", n)
	}
	w.sweeps(t, true)
	if n := rotations(); len(n) != 1 || n[0] != 2 {
		t.Errorf("rotations %v after rotation.keep", n)
	}
	if _, err := w.client.VerifyAudit(t.Context()); err != nil {
		t.Error(err)
	}
}
