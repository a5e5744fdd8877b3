package aws

import (
	"container/list"
	"sync"
	"time"
)

// recent remembers what AWS has answered, for a while and for so many keys.
// Safe for concurrent use.
type recent[K comparable, V any] struct {
	keep time.Duration
	most int
	now  func() time.Time

	mu    sync.Mutex
	all   map[K]*list.Element
	order *list.List // of remembered, oldest first
}

type remembered[K comparable, V any] struct {
	key   K
	value V
	at    time.Time
}

func newRecent[K comparable, V any](keep time.Duration, most int, now func() time.Time) *recent[K, V] {
	return &recent[K, V]{keep: keep, most: most, now: now, all: map[K]*list.Element{}, order: list.New()}
}

// get returns what is known of a key, and false if it was never put, or too
// long ago.
func (r *recent[K, V]) get(key K) (V, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e, ok := r.all[key]; ok {
		if known := e.Value.(remembered[K, V]); r.now().Sub(known.at).Abs() < r.keep {
			return known.value, true
		}
	}
	var none V
	return none, false
}

func (r *recent[K, V]) put(key K, value V) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.drop(key)
	r.all[key] = r.order.PushBack(remembered[K, V]{key, value, r.now()})
	if r.order.Len() > r.most {
		r.drop(r.order.Front().Value.(remembered[K, V]).key)
	}
}

func (r *recent[K, V]) forget(key K) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.drop(key)
}

func (r *recent[K, V]) drop(key K) {
	if e, ok := r.all[key]; ok {
		r.order.Remove(e)
		delete(r.all, key)
	}
}
