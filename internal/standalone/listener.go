package standalone

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

// door accepts connections and keeps the unfinished ones, which have not shown
// a certificate and a CONNECT yet, within bounds.
type door struct {
	listener net.Listener
	limits   BrokerLimits
	counts   *brokerCounts

	mu         sync.Mutex
	open       map[*mqttLink]struct{} // every connection, finished or not
	unfinished int
	draining   bool
	slots      map[netip.Addr]*slots
}

// slots are those of one address.
type slots struct {
	taken chan struct{} // as many as are at work
	users int           // at work or waiting
}

func newDoor(listener net.Listener, limits BrokerLimits, counts *brokerCounts) *door {
	return &door{
		listener: listener, limits: limits, counts: counts,
		open: map[*mqttLink]struct{}{}, slots: map[netip.Addr]*slots{},
	}
}

// serve accepts until stop is closed. An error of Accept, such as too many
// open files, is counted and waited out: it must not end the daemon's ears.
func (d *door) serve(stop <-chan struct{}, spawn func(func()), handle func(*mqttLink)) {
	const shortest, longest = 5 * time.Millisecond, time.Second
	pause := shortest
	for {
		raw, err := d.listener.Accept()
		select {
		case <-stop:
			if err == nil {
				_ = raw.Close()
			}
			return
		default:
		}
		if err != nil {
			d.counts.acceptErrors.Add(1)
			wait(stop, pause)
			pause = min(2*pause, longest)
			continue
		}
		pause = shortest
		link, ok := d.enter(raw)
		if !ok {
			d.counts.refuse(RefusedCrowded)
			_ = raw.Close()
			continue
		}
		spawn(func() { defer d.leave(link); handle(link) })
	}
}

func wait(stop <-chan struct{}, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-stop:
	case <-timer.C:
	}
}

func (d *door) enter(raw net.Conn) (*mqttLink, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.draining || d.unfinished >= d.limits.Unfinished {
		return nil, false
	}
	link := newMQTTLink(raw, d.limits)
	d.unfinished++
	d.open[link] = struct{}{}
	return link, true
}

func (d *door) leave(link *mqttLink) {
	d.finish(link)
	link.kill()
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.open, link)
}

// slot waits, off the accept loop, until the connection's address has a slot.
// It reports false if the door closed meanwhile. Loopback needs none: there
// stands a proxy, a tunnel or a simulated fleet, and nobody else.
func (d *door) slot(link *mqttLink, stop <-chan struct{}) bool {
	addr := addressOf(link.raw)
	if addr.IsLoopback() {
		return true
	}
	d.mu.Lock()
	s := d.slots[addr]
	if s == nil {
		s = &slots{taken: make(chan struct{}, d.limits.Slots)}
		d.slots[addr] = s
	}
	s.users++
	d.mu.Unlock()

	select {
	case s.taken <- struct{}{}:
		link.release = func() { <-s.taken; d.quit(addr, s) }
		return true
	case <-stop:
		d.quit(addr, s)
		return false
	}
}

func (d *door) quit(addr netip.Addr, s *slots) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if s.users--; s.users == 0 {
		delete(d.slots, addr)
	}
}

// finish gives the slot back: the connection is accepted, or has ended.
func (d *door) finish(link *mqttLink) {
	link.finished.Do(func() {
		if link.release != nil {
			link.release()
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		d.unfinished--
	})
}

func (d *door) close() error { return d.listener.Close() }

// drain ends the unfinished connections at once and the others as soon as
// what they are doing is done.
func (d *door) drain() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.draining = true
	for link := range d.open {
		if link.accepted.Load() {
			link.drain()
		} else {
			link.kill()
		}
	}
}

// kill ends every connection at once.
func (d *door) kill() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for link := range d.open {
		link.kill()
	}
}

func addressOf(c net.Conn) netip.Addr {
	at, err := netip.ParseAddrPort(c.RemoteAddr().String())
	if err != nil {
		return netip.Addr{}
	}
	return at.Addr().Unmap().WithZone("")
}
