package standalone

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/registry"
)

// errBusy is why a connection was not accepted that could have been: the one
// in its place did not end in time, or another took its client id meanwhile.
var errBusy = errors.New("the place of this client id is not free")

// holding is a certificate as one device holds it: sightings, standing and
// closing are per holding, for devices may share a certificate.
type holding struct {
	device      registry.DeviceID
	certificate certificate.ID
}

// connTable knows every connection by its holding and every session by its
// device. A session belongs to one client id, and is connected or stored.
type connTable struct {
	limits BrokerLimits
	now    func() time.Time
	forget func(clientID string) // removes the library's half of a session

	mu       sync.Mutex
	holdings map[holding]map[*mqttLink]struct{}
	sessions map[registry.DeviceID]map[string]*mqttSession
	accepted int
}

// mqttSession is our half of a session.
type mqttSession struct {
	link    *mqttLink // nil: stored
	ended   time.Time // when its last connection closed
	keep    time.Duration
	filters map[string]struct{}
	evicted bool          // to be dropped, not stored, when its connection ends
	gone    chan struct{} // not nil: it is being dropped; closed when it is
}

func newConnTable(limits BrokerLimits, now func() time.Time, forget func(string)) *connTable {
	return &connTable{
		limits: limits, now: now, forget: forget,
		holdings: map[holding]map[*mqttLink]struct{}{},
		sessions: map[registry.DeviceID]map[string]*mqttSession{},
	}
}

// enter notes the connection under its certificate. It comes before the
// certificate's standing is looked up, so that whoever retires it in between
// finds the connection here.
func (t *connTable) enter(l *mqttLink) {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := holding{l.device, l.certificate}
	if t.holdings[h] == nil {
		t.holdings[h] = map[*mqttLink]struct{}{}
	}
	t.holdings[h][l] = struct{}{}
}

// claim gives the connection the session of its client id. A connection that
// has it is closed and waited for, so that one at a time works on a session and
// its end is not taken for that of the next. Where a session too
// many would come to be, the one stored longest goes, or else the connection
// silent longest. Returns errBusy if a place did not become free in time.
func (t *connTable) claim(ctx context.Context, l *mqttLink) error {
	entered := false
	for {
		wait, drop, err := t.try(l, &entered)
		switch {
		case err != nil:
			return err
		case drop != "":
			t.drop(l.device, drop)
		case wait == nil:
			return nil
		default:
			select {
			case <-wait:
			case <-ctx.Done():
				return errBusy
			}
		}
	}
}

// try does one step of claim: it returns what to wait for, or the client id
// of a session to drop, or neither, when the session is the connection's.
// Entered says that the session was given to the connection in an earlier
// step, which has since waited for the former connection's end.
func (t *connTable) try(l *mqttLink, entered *bool) (wait <-chan struct{}, drop string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.sessions[l.device][l.clientID]
	switch {
	case *entered && (s == nil || s.gone != nil || s.link != l):
		return nil, "", errBusy
	case *entered:
	case s == nil:
		if wait, drop := t.makeRoom(l.device); wait != nil || drop != "" {
			return wait, drop, nil
		}
		t.add(l)
	case s.gone != nil:
		return s.gone, "", nil
	default:
		former := s.link
		s.link, s.evicted, *entered = l, false, true
		if former != nil {
			former.kill()
			return former.done, "", nil
		}
	}
	l.accepted.Store(true)
	t.accepted++
	return nil, "", nil
}

func (t *connTable) add(l *mqttLink) {
	if t.sessions[l.device] == nil {
		t.sessions[l.device] = map[string]*mqttSession{}
	}
	t.sessions[l.device][l.clientID] = &mqttSession{link: l, filters: map[string]struct{}{}}
}

// makeRoom decides which session of the device makes room for another, if one
// must.
func (t *connTable) makeRoom(device registry.DeviceID) (wait <-chan struct{}, drop string) {
	if len(t.sessions[device]) < t.limits.Sessions {
		return nil, ""
	}
	var stored, silent *mqttSession
	for id, s := range t.sessions[device] {
		switch {
		case s.gone != nil:
			return s.gone, ""
		case s.evicted:
			return s.link.done, ""
		case s.link == nil && (stored == nil || s.ended.Before(stored.ended)):
			stored, drop = s, id
		case s.link != nil && (silent == nil || s.link.heard.Load() < silent.link.heard.Load()):
			silent = s
		}
	}
	if stored != nil {
		stored.gone = make(chan struct{})
		return nil, drop
	}
	silent.evicted = true
	silent.link.kill()
	return silent.link.done, ""
}

// leave takes out a connection that has ended, and stores or drops its
// session. Whoever waits for the connection's end goes on.
func (t *connTable) leave(l *mqttLink) {
	if t.release(l) {
		t.drop(l.device, l.clientID)
	}
	close(l.done)
}

// release reports whether the connection's session is to be dropped.
func (t *connTable) release(l *mqttLink) (drop bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := holding{l.device, l.certificate}
	delete(t.holdings[h], l)
	if len(t.holdings[h]) == 0 {
		delete(t.holdings, h)
	}
	if l.accepted.Load() {
		t.accepted--
	}
	s := t.sessions[l.device][l.clientID]
	if s == nil || s.link != l {
		return false
	}
	s.link, s.ended, s.keep = nil, t.now(), min(storedFor(l.client), t.limits.StoredSession)
	if s.evicted || s.keep <= 0 {
		s.gone = make(chan struct{})
	}
	return s.gone != nil
}

func (t *connTable) connected(h holding) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for l := range t.holdings[h] {
		if l.accepted.Load() && !l.killed.Load() {
			return true
		}
	}
	return false
}

// heard returns when the last packet came over a connection of the holding;
// zero where none is open.
func (t *connTable) heard(h holding) (at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for l := range t.holdings[h] {
		if last := time.Unix(0, l.heard.Load()); l.accepted.Load() && !l.killed.Load() && last.After(at) {
			at = last
		}
	}
	return at
}

func (t *connTable) closeHolding(h holding) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for l := range t.holdings[h] {
		l.kill()
	}
}

// closeUnless closes every connection that is not to stay.
func (t *connTable) closeUnless(stays func(*mqttLink) bool) {
	for _, l := range t.all() {
		if !stays(l) {
			l.kill()
		}
	}
}

func (t *connTable) all() []*mqttLink {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []*mqttLink
	for _, links := range t.holdings {
		for l := range links {
			all = append(all, l)
		}
	}
	return all
}

func (t *connTable) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.accepted
}
