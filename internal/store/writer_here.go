package store

import (
	"context"
	"fmt"
	"runtime/debug"
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
	defer fatal()
	op := &operation{run: run, finish: finish, done: make(chan error, 1)}
	s.writer.carry([]*operation{op})
	return <-op.done
}

// fatal makes of a panic one that nobody up the stack recovers from, as it is on the
// writer's own goroutine: who was left amid a transaction, or behind its commit,
// is not gone on with. The next start finds what was committed.
func fatal() {
	if p := recover(); p != nil {
		go panic(fmt.Sprintf("%v, while it was written:\n%s", p, debug.Stack()))
		select {}
	}
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
