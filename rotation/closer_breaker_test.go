package rotation

import (
	"context"
	"testing"
	"time"
)

// lever is a Brakes that one closer has.
type lever struct{ Freeze }

func (l *lever) Frozen(context.Context) (Freeze, error) { return l.Freeze, nil }

func (l *lever) SetFrozen(_ context.Context, change func(*Freeze)) (Freeze, error) {
	change(&l.Freeze)
	return l.Freeze, nil
}

// TestBreakerRemembers: a restart gives the circuit breaker no new hour.
func TestBreakerRemembers(t *testing.T) {
	now := noon
	brakes := &lever{}
	terms := Terms{MaxRetirePerHour: 3}
	closer := NewCloser(Ports{Brakes: brakes}, NewClock(func() time.Time { return now }, nil, time.Time{}, 0), func(string) Terms { return terms })
	closer.Remember([]time.Time{noon.Add(-2 * time.Hour), noon.Add(-50 * time.Minute), noon.Add(-time.Minute)})
	if err := closer.checkBreaker(t.Context(), terms); err != nil || brakes.Retiring {
		t.Errorf("froze after two within an hour: %v", err)
	}
	closer.count(now)
	if err := closer.checkBreaker(t.Context(), terms); err == nil || !brakes.Retiring {
		t.Error("did not freeze after three within an hour")
	}
}
