package aws

import (
	"context"
	"sync"
	"time"
)

// cache keeps what is fetched once for a while. However many want it at the
// same time, it is fetched once; an error is given to whoever waited for it
// and not kept.
type cache[T any] struct {
	lifetime time.Duration
	now      func() time.Time
	load     func(context.Context) (T, error)
	turn     chan struct{} // held by who fetches

	mu      *sync.Mutex
	value   *T
	fetched time.Time
}

func newCache[T any](lifetime time.Duration, now func() time.Time, load func(context.Context) (T, error)) cache[T] {
	return cache[T]{lifetime: lifetime, now: now, load: load, turn: make(chan struct{}, 1), mu: new(sync.Mutex)}
}

func (c *cache[T]) get(ctx context.Context) (T, error) {
	if value, ok := c.fresh(); ok {
		return value, nil
	}
	var none T
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return none, ctx.Err()
	}
	if value, ok := c.fresh(); ok { // somebody else has fetched it meanwhile
		return value, nil
	}
	value, err := c.load(ctx)
	if err != nil {
		return none, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.value, c.fetched = &value, c.now()
	return value, nil
}

func (c *cache[T]) fresh() (value T, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	// A clock that was set back makes nothing younger.
	if c.value == nil || c.now().Sub(c.fetched).Abs() >= c.lifetime {
		return value, false
	}
	return *c.value, true
}

func (c *cache[T]) drop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.value = nil
}
