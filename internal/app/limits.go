package app

import (
	"container/list"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/certvendor/certvendor/registry"
)

// maxLimiters bounds the memory that devices can take by asking. A device that
// falls out starts with a full burst again, which 100,000 others asked for.
const maxLimiters = 100_000

// limits keeps a token bucket for each of the devices that asked last. It is a
// vending.Limits.
type limits struct {
	rate  rate.Limit
	burst int
	now   func() time.Time

	mu     sync.Mutex
	recent *list.List // of *bucket, the latest first
	byID   map[registry.DeviceID]*list.Element
}

type bucket struct {
	id      registry.DeviceID
	limiter *rate.Limiter
}

func newLimits(perSecond float64, burst int, now func() time.Time) *limits {
	return &limits{
		rate: rate.Limit(perSecond), burst: burst, now: now,
		recent: list.New(), byID: map[registry.DeviceID]*list.Element{},
	}
}

// Allow counts a request of the device; see vending.Limits.
func (l *limits) Allow(id registry.DeviceID) (time.Duration, bool) {
	now := l.now()
	reservation := l.bucket(id).ReserveN(now, 1)
	if wait := reservation.DelayFrom(now); wait > 0 {
		reservation.CancelAt(now)
		return wait, false
	}
	return 0, true
}

// Peek returns what Allow would; see vending.Limits.
func (l *limits) Peek(id registry.DeviceID) (time.Duration, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e, ok := l.byID[id]
	if !ok {
		return 0, true
	}
	missing := 1 - e.Value.(*bucket).limiter.TokensAt(l.now())
	if missing <= 0 {
		return 0, true
	}
	return time.Duration(missing / float64(l.rate) * float64(time.Second)), false
}

func (l *limits) bucket(id registry.DeviceID) *rate.Limiter {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e, ok := l.byID[id]; ok {
		l.recent.MoveToFront(e)
		return e.Value.(*bucket).limiter
	}
	b := &bucket{id, rate.NewLimiter(l.rate, l.burst)}
	l.byID[id] = l.recent.PushFront(b)
	if l.recent.Len() > maxLimiters {
		oldest := l.recent.Remove(l.recent.Back()).(*bucket)
		delete(l.byID, oldest.id)
	}
	return b.limiter
}
