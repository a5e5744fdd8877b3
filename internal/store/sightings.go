package store

import (
	"container/list"
	"sync"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/registry"
)

const (
	// latestKept is for how many devices the latest sighting is remembered.
	latestKept = 1 << 16
	// unwrittenKept is how many sightings may wait for the next commit before
	// one is made for them.
	unwrittenKept = 1 << 13
)

// sightings holds what need not be durable at once: a device that was last
// seen on a certificate and is seen on it again. What it knows of a device was
// committed before, so a repeat needs no second look at who holds what, unless
// a removal from that device is under way.
type sightings struct {
	full chan struct{} // asks the writer for a commit
	room int           // how many may wait before it is asked
	past int           // how many devices' latest are remembered

	mu        sync.Mutex
	latest    map[registry.DeviceID]*list.Element // of certificate.Sighting
	order     *list.List                          // most recently used first
	unwritten map[registry.DeviceID][]certificate.Sighting
	waiting   int
	removing  map[registry.DeviceID]int
	arriving  map[registry.DeviceID]int // sightings that wait to be committed
}

func (s *sightings) init() {
	s.full = make(chan struct{}, 1)
	s.room, s.past = unwrittenKept, latestKept
	s.latest = map[registry.DeviceID]*list.Element{}
	s.order = list.New()
	s.unwritten = map[registry.DeviceID][]certificate.Sighting{}
	s.removing = map[registry.DeviceID]int{}
	s.arriving = map[registry.DeviceID]int{}
}

// repeat takes a sighting on the certificate that the device was last seen on.
// It returns false for every other: that one has to be committed. While one is
// on its way to be, what comes after it goes behind it.
func (s *sightings) repeat(seen certificate.Sighting) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.latest[seen.Device]
	if !ok || s.removing[seen.Device] > 0 || s.arriving[seen.Device] > 0 {
		return false
	}
	known := e.Value.(certificate.Sighting)
	if known.Certificate != seen.Certificate {
		return false
	}
	s.order.MoveToFront(e)
	if !seen.At.After(known.At) {
		return true
	}
	e.Value = seen
	s.keep(seen)
	return true
}

func (s *sightings) keep(seen certificate.Sighting) {
	all := s.unwritten[seen.Device]
	for i := range all {
		if all[i].Certificate == seen.Certificate {
			all[i] = seen
			return
		}
	}
	s.unwritten[seen.Device] = append(all, seen)
	if s.waiting++; s.waiting < s.room {
		return
	}
	select {
	case s.full <- struct{}{}:
	default:
	}
}

// committed remembers the latest sighting of a device, once it is durable.
func (s *sightings) committed(seen certificate.Sighting) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, ok := s.latest[seen.Device]; ok {
		if seen.At.After(e.Value.(certificate.Sighting).At) {
			e.Value = seen
		}
		return
	}
	s.latest[seen.Device] = s.order.PushFront(seen)
	if s.order.Len() > s.past {
		oldest := s.order.Remove(s.order.Back()).(certificate.Sighting)
		delete(s.latest, oldest.Device)
	}
}

// of returns a device's sightings that are not written yet.
func (s *sightings) of(device registry.DeviceID) []certificate.Sighting {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]certificate.Sighting(nil), s.unwritten[device]...)
}

// arrival is a sighting on its way to be committed.
type arrival struct {
	device           registry.DeviceID
	taken, gone, end bool
}

// arrive makes every other sighting of the device go through the writer, behind
// this one, until it has come to its end.
func (s *sightings) arrive(device registry.DeviceID) *arrival {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.arriving[device]++
	return &arrival{device: device}
}

// take reports whether the sighting is still to be written. Where its caller has
// given up, the connection was refused: the device was not seen.
func (s *sightings) take(a *arrival) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	a.taken = !a.gone
	return a.taken
}

// giveUp is said by a caller that does not wait any more. What is not in the
// writer's hands yet is never written, and nothing waits for it.
func (s *sightings) giveUp(a *arrival) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a.gone = true; !a.taken {
		s.ended(a)
	}
}

// arrived is said by the writer, whatever became of the sighting.
func (s *sightings) arrived(a *arrival) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended(a)
}

func (s *sightings) ended(a *arrival) {
	if a.end {
		return
	}
	a.end = true
	if s.arriving[a.device]--; s.arriving[a.device] == 0 {
		delete(s.arriving, a.device)
	}
}

// hold makes every sighting of a device go through the writer, behind a
// removal, until release.
func (s *sightings) hold(device registry.DeviceID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.removing[device]++
}

// release lets repeats of a device pass again, once they were committed anew.
func (s *sightings) release(device registry.DeviceID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.removing[device]--; s.removing[device] == 0 {
		delete(s.removing, device)
	}
	s.forget(device)
}

// drop has the next sighting of each device looked at by the writer.
func (s *sightings) drop(devices []registry.DeviceID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, device := range devices {
		s.forget(device)
	}
}

func (s *sightings) forget(device registry.DeviceID) {
	if e, ok := s.latest[device]; ok {
		s.order.Remove(e)
		delete(s.latest, device)
	}
}

// flush returns the operation that writes what waits, or nil.
func (s *sightings) flush() *operation {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting == 0 {
		return nil
	}
	all := make([]certificate.Sighting, 0, s.waiting)
	for _, of := range s.unwritten {
		all = append(all, of...)
	}
	return &operation{
		done: make(chan error, 1),
		run: func(t *tx) error {
			for _, seen := range all {
				if err := writeSighting(t, seen); err != nil {
					return err
				}
			}
			return nil
		},
		finish: func(err error) {
			if err == nil {
				s.written(all)
			}
		},
	}
}

// written drops what was committed, but not what came since.
func (s *sightings) written(all []certificate.Sighting) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, seen := range all {
		var left []certificate.Sighting
		for _, waits := range s.unwritten[seen.Device] {
			if waits.Certificate == seen.Certificate && !waits.At.After(seen.At) {
				s.waiting--
				continue
			}
			left = append(left, waits)
		}
		if s.unwritten[seen.Device] = left; len(left) == 0 {
			delete(s.unwritten, seen.Device)
		}
	}
}
