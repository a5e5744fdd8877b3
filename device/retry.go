package device

import (
	"context"
	"time"
)

// No vendor asks for more patience than this; whoever does is not believed.
const maxRetryAfter = 24 * time.Hour

// pacer draws the pauses between attempts. Not safe for concurrent use.
type pacer struct {
	retry   Retry
	attempt int
}

// next returns the pause before the next attempt, and counts it.
func (p *pacer) next() time.Duration {
	ceiling := p.retry.Max
	if p.attempt < 30 && p.retry.Base<<p.attempt < p.retry.Max {
		ceiling = p.retry.Base << p.attempt
	}
	p.attempt++
	return time.Duration(p.retry.Jitter() * float64(ceiling))
}

// after returns the pause that the vendor asked for, with some jitter on top
// so that a fleet told the same does not come back at once.
func (a *Agent) after(seconds int) time.Duration {
	asked := maxRetryAfter
	if seconds < int(maxRetryAfter/time.Second) {
		asked = time.Duration(seconds) * time.Second
	}
	return asked + time.Duration(a.cfg.Retry.Jitter()*float64(a.cfg.Retry.Base))
}

func (p *pacer) reset() { p.attempt = 0 }

// sleep waits for d, or returns the context's error at its end.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
