package aws

import (
	"container/list"
	"sync"
	"time"
)

// tracesKept bounds how many trace ids are remembered, the latest ones. AWS IoT
// delivers 100 messages a second at most, and each is remembered for six
// minutes at most.
const tracesKept = 1 << 16

// traces remembers the requests that have been taken, for as long as their
// envelopes are young enough to be taken again. What was taken before the
// process started is not known: the same request with the same key is then
// answered again with the same certificate.
type traces struct {
	mu    sync.Mutex
	all   map[string]*trace
	order *list.List // of string, oldest first
}

type trace struct {
	ended   chan struct{}
	ok      bool
	expires time.Time
}

func newTraces() *traces { return &traces{all: map[string]*trace{}, order: list.New()} }

// turn is what enter found: the first of its kind, or one after it.
type turn struct {
	*trace
	first bool
}

// answered reports, once it has ended, whether the request was answered.
func (t turn) answered() bool { return t.ok }

func (ts *traces) enter(id string, expires, now time.Time) turn {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if t := ts.all[id]; t != nil {
		return turn{trace: t}
	}
	ts.forgetOld(now)
	t := &trace{ended: make(chan struct{}), expires: expires}
	ts.all[id] = t
	ts.order.PushBack(id)
	return turn{trace: t, first: true}
}

// end settles the first's turn. One that was not answered may come again.
func (ts *traces) end(id string, t turn, answered bool) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	t.ok = answered
	close(t.ended)
	if !answered && ts.all[id] == t.trace {
		delete(ts.all, id)
	}
}

func (ts *traces) forgetOld(now time.Time) {
	for e := ts.order.Front(); e != nil; e = ts.order.Front() {
		id := e.Value.(string)
		t := ts.all[id]
		if t != nil && len(ts.all) < tracesKept && now.Before(t.expires) {
			return
		}
		delete(ts.all, id)
		ts.order.Remove(e)
	}
}
