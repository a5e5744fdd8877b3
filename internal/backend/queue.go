package backend

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/certvendor/certvendor/internal/crew"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/vending"
)

// Queue gives each request its turn. Of one device, one request is at work,
// and one get and one ack may wait, the ack first; over all devices, no more
// are at work than there are slots. It is a vending.Queue, used by both
// worlds, and safe for concurrent use.
type Queue struct {
	slots    chan struct{}
	deadline time.Duration

	mu    sync.Mutex
	lines map[registry.DeviceID]*line
	crew  crew.Crew // the work goes deep, into the store
	work  sync.WaitGroup
}

// line is what waits for one device. A device with nothing at work has none.
type line struct {
	waiting map[protocol.Action]chan struct{} // closed when its turn has come
}

// NewQueue returns a queue with so many slots, whose callers wait no longer
// than the deadline.
func NewQueue(slots int, deadline time.Duration) *Queue {
	return &Queue{
		slots: make(chan struct{}, slots), deadline: deadline,
		lines: map[registry.DeviceID]*line{},
	}
}

// Do is described at vending.Queue. Work that has begun is given as long as a
// lease lasts and is never cut short by its caller; work whose turn did not
// come within the deadline is not begun.
func (q *Queue) Do(ctx context.Context, id registry.DeviceID, action protocol.Action, work func(context.Context) vending.Outcome) (vending.Outcome, error) {
	turn, err := q.enter(id, action)
	if err != nil {
		return vending.Outcome{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, q.deadline)
	defer cancel()
	done := make(chan vending.Outcome, 1)
	q.work.Add(1)
	q.crew.Go(func() {
		defer q.work.Done()
		if !q.await(ctx, id, action, turn) {
			return
		}
		defer q.next(id)
		select {
		case q.slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		defer func() { <-q.slots }()
		if ctx.Err() == nil {
			done <- q.run(ctx, work)
		}
	})
	select {
	case outcome := <-done:
		return outcome, nil
	case <-ctx.Done():
		return vending.Outcome{}, vending.ErrLate
	}
}

// Wait returns when no work is left, and no goroutine, or with ctx's error when that
// ends first. Nothing may be queued meanwhile.
func (q *Queue) Wait(ctx context.Context) error {
	done := make(chan struct{})
	go func() { q.work.Wait(); q.crew.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("requests are at work still: %w", ctx.Err())
	}
}

func (q *Queue) run(ctx context.Context, work func(context.Context) vending.Outcome) vending.Outcome {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), workTime)
	defer cancel()
	return work(ctx)
}

// workTime is how long a request may work on behind its answer; it ends before
// the lease does.
const workTime = 50 * time.Second

// enter takes a place in the device's line, or says that there is none. A nil
// channel means that it is this request's turn at once.
func (q *Queue) enter(id registry.DeviceID, action protocol.Action) (chan struct{}, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	l := q.lines[id]
	if l == nil {
		q.lines[id] = &line{waiting: map[protocol.Action]chan struct{}{}}
		return nil, nil
	}
	if l.waiting[action] != nil {
		return nil, vending.ErrBusy
	}
	turn := make(chan struct{})
	l.waiting[action] = turn
	return turn, nil
}

// await reports whether the turn came in time. A place that is given up is
// free for the device's next request.
func (q *Queue) await(ctx context.Context, id registry.DeviceID, action protocol.Action, turn chan struct{}) bool {
	if turn == nil {
		return true
	}
	select {
	case <-turn:
		return true
	case <-ctx.Done():
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if l := q.lines[id]; l != nil && l.waiting[action] == turn {
		delete(l.waiting, action)
		return false
	}
	return true // it came just now: take it, so that it is passed on
}

// next passes the turn on, to a waiting ack first.
func (q *Queue) next(id registry.DeviceID) {
	q.mu.Lock()
	defer q.mu.Unlock()
	l := q.lines[id]
	for _, action := range []protocol.Action{protocol.Ack, protocol.Get} {
		if turn := l.waiting[action]; turn != nil {
			delete(l.waiting, action)
			close(turn)
			return
		}
	}
	delete(q.lines, id)
}
