package store

import (
	"container/list"
	"sync"

	"github.com/certvendor/certvendor/registry"
)

// recall is one thing that is remembered of devices, as the last commit left it.
// A reader that does not find it is given a place, reads the store, and keeps
// there what it has read. The writer says before each commit what that changes,
// and afterwards whether it was made: in between nothing of that is found and no
// place is given for it, and a place that was given before is lost. So whatever
// is found is no older than the last commit, and no newer.
//
// What is remembered is never changed, only replaced.
type recall[T any] struct {
	size func(T) int // of what is remembered, about, in octets
	room int         // how many octets there may be

	mu       sync.Mutex
	all      map[registry.DeviceID]*recalled[T]
	order    *list.List // of registry.DeviceID, latest used first
	taken    int        // octets
	changing changes[T] // by the commit that is being made
}

// recalled is what is remembered of a device, or the place for it while it is
// read.
type recalled[T any] struct {
	value T
	read  bool
	size  int
	order *list.Element
}

// changes are what a transaction changes of what is remembered, in order, by
// device. A change makes of what was remembered what is to be, or returns false:
// then it is to be read anew.
type changes[T any] struct {
	all bool // or of any device, nobody knows what
	of  map[registry.DeviceID][]func(T) (T, bool)
}

func (c *changes[T]) note(device registry.DeviceID, change func(T) (T, bool)) {
	if c.of == nil {
		c.of = map[registry.DeviceID][]func(T) (T, bool){}
	}
	c.of[device] = append(c.of[device], change)
}

// drop notes a change that is to be read anew.
func (c *changes[T]) drop(device registry.DeviceID) {
	c.note(device, func(none T) (T, bool) { return none, false })
}

func (m *recall[T]) init(room int, size func(T) int) {
	m.room, m.size = room, size
	m.all = map[registry.DeviceID]*recalled[T]{}
	m.order = list.New()
}

// find returns what is remembered. Where it is not, it returns the place in which
// the reader is to keep what it reads; nil if it is not to.
func (m *recall[T]) find(device registry.DeviceID) (v T, known bool, place *recalled[T]) {
	m.mu.Lock()
	defer m.mu.Unlock()
	there := m.all[device]
	switch {
	case m.isChanging(device):
		return v, false, nil
	case there != nil && there.read:
		m.order.MoveToFront(there.order)
		return there.value, true, nil
	case there != nil:
		return v, false, nil // somebody reads it
	}
	place = &recalled[T]{order: m.order.PushFront(device)}
	m.all[device] = place
	return v, false, place
}

func (m *recall[T]) isChanging(device registry.DeviceID) bool {
	_, one := m.changing.of[device]
	return one || m.changing.all
}

// keep remembers what was read in the place given for it, unless the place was
// lost. What was not found leaves it.
func (m *recall[T]) keep(device registry.DeviceID, place *recalled[T], v T, found bool) {
	if place == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.all[device] != place:
	case found:
		m.put(place, v)
	default:
		m.forget(device)
	}
}

// put makes room by forgetting what was not used for longest. There is always
// enough for one.
func (m *recall[T]) put(place *recalled[T], v T) {
	m.taken -= place.size
	place.value, place.read, place.size = v, true, m.size(v)
	m.taken += place.size
	m.order.MoveToFront(place.order)
	for m.taken > m.room && m.order.Len() > 1 {
		m.forget(m.order.Back().Value.(registry.DeviceID))
	}
}

func (m *recall[T]) forget(device registry.DeviceID) {
	if there := m.all[device]; there != nil {
		m.taken -= there.size
		m.order.Remove(there.order)
		delete(m.all, device)
	}
}

// change says what a commit is about to change.
func (m *recall[T]) change(c changes[T]) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.changing = c
	if c.all {
		clear(m.all)
		m.order.Init()
		m.taken = 0
	}
	for device := range c.of {
		if there := m.all[device]; there != nil && !there.read {
			m.forget(device)
		}
	}
}

// changed says that the commit is over, and whether it was made. Where it was
// not, who knows what the store holds: it is read anew.
func (m *recall[T]) changed(made bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	of := m.changing.of
	m.changing = changes[T]{}
	for device, all := range of {
		there := m.all[device]
		if there == nil {
			continue
		}
		v, ok := there.value, made
		for i := 0; ok && i < len(all); i++ {
			v, ok = all[i](v)
		}
		if ok {
			m.put(there, v)
		} else {
			m.forget(device)
		}
	}
}
