package store

import (
	"context"
	"errors"
)

// commitHere is commitThen for a caller that is likely to share its commit with
// nobody, and may be kept, also when its context ends, as long as that takes. Where
// nothing is being written and nothing waits to be, it carries its operation out
// itself: that saves two changes of goroutine, of which each may wake a processor.
func (s *Store) commitHere(ctx context.Context, run func(*tx) error, finish func(error)) error {
	if !s.takeTurn(ctx) {
		return s.commitThen(ctx, run, finish)
	}
	defer s.turn.Unlock()
	op := &operation{run: run, finish: finish, done: make(chan error, 1)}
	left := errors.New("it was left in a panic")
	defer func() {
		if left != nil && finish != nil {
			finish(left)
		}
	}()
	s.writer.carry([]*operation{op})
	left = nil
	return <-op.done
}

// takeTurn reports whether it is the caller's turn to write, until it unlocks it.
func (s *Store) takeTurn(ctx context.Context) bool {
	if ctx.Err() != nil || s.cfg.Log != nil && !s.leads.Load() || !s.turn.TryLock() {
		return false
	}
	select {
	case <-s.closing:
	default:
		if s.waiting.Load() == 0 {
			return true
		}
	}
	s.turn.Unlock()
	return false
}
