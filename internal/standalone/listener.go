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

// slots are those of one address: of a network of 64 bits where it is IPv6, for
// whoever has one address there has them all (RFC 4291, 2.5.4).
type slots struct {
	of    netip.Addr
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

// enter lets nobody take more than half of the places, who might keep all others out
// of them without showing a certificate.
func (d *door) enter(raw net.Conn) (*mqttLink, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.slotsOf(addressOf(raw))
	if d.draining || d.unfinished >= d.limits.Unfinished || s != nil && s.users >= max(d.limits.Unfinished/2, 1) {
		return nil, false
	}
	link := newMQTTLink(raw, d.limits)
	if link.slots = s; s != nil {
		d.slots[s.of] = s
		s.users++
	}
	d.unfinished++
	d.open[link] = struct{}{}
	return link, true
}

// slotsOf returns nil for loopback, which needs none: there stands a proxy, a tunnel
// or a simulated fleet, and nobody else.
func (d *door) slotsOf(addr netip.Addr) *slots {
	if addr.IsLoopback() {
		return nil
	}
	if network, err := addr.Prefix(64); err == nil && addr.Is6() {
		addr = network.Addr()
	}
	if s := d.slots[addr]; s != nil {
		return s
	}
	return &slots{of: addr, taken: make(chan struct{}, d.limits.Slots)}
}

func (d *door) leave(link *mqttLink) {
	d.finish(link)
	link.kill()
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.open, link)
}

// slot waits, off the accept loop, until the connection's address has a slot.
// It reports false if the door closed meanwhile.
func (d *door) slot(link *mqttLink, stop <-chan struct{}) bool {
	s := link.slots
	if s == nil {
		return true
	}
	select {
	case s.taken <- struct{}{}:
		link.release = func() { <-s.taken }
		return true
	case <-stop:
		return false
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
		if s := link.slots; s != nil {
			if s.users--; s.users == 0 {
				delete(d.slots, s.of)
			}
		}
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
