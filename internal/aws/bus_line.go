package aws

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/rs/zerolog"
)

const (
	connectTime = 30 * time.Second // from the first packet to the CONNACK, and for a SUBACK
	writeTime   = 10 * time.Second // for one packet to leave; no longer, so that a publish knows in its time
	lookTime    = time.Minute      // how often a connection is held against its Way
	quiesce     = 250              // milliseconds for the DISCONNECT to leave

	shortLived = 10 * time.Second // of a connection
	suspicious = 3                // how many of them in a row are no accident
)

// Backoff is how long to wait between attempts to connect: a random part of a
// time that doubles from Min to Max.
type Backoff struct{ Min, Max time.Duration }

func (b Backoff) orDefault() Backoff {
	if b.Min <= 0 {
		b.Min = time.Second // AWS IoT lets one client id connect once a second
	}
	if b.Max < b.Min {
		b.Max = max(2*time.Minute, b.Min)
	}
	return b
}

// after returns the wait after so many failures in a row, with full jitter
// above Min, so that a fleet of instances does not come back as one.
func (b Backoff) after(failures int) time.Duration {
	ceiling := b.Min << min(failures, 20)
	if ceiling > b.Max || ceiling < b.Min {
		ceiling = b.Max
	}
	return b.Min + rand.N(ceiling-b.Min+1)
}

// line keeps one connection up.
type line struct {
	bus      *MQTTBus
	name     string // what it does, for people
	clientID string
	clean    bool // nothing is kept for it while it is away
	hint     bool // the bus is ready without it
	filters  []string
	take     func(*link, mqtt.Message)
	state    atomic.Pointer[lineState]
}

// lineState is a link that is up, or why there is none. next is closed when
// another state follows.
type lineState struct {
	link *link
	err  error
	next chan struct{}
}

// link is one MQTT connection. There is a new one after every loss.
type link struct {
	client  mqtt.Client
	opened  time.Time
	lost    chan struct{}
	mu      sync.Mutex
	atWork  int
	renewed bool          // it shall give way to a new one once nothing is at work
	renew   chan struct{} // closed then
}

// keep connects, and connects again after every loss, until ctx ends.
func (l *line) keep(ctx context.Context) {
	defer l.set(&lineState{err: errStopped})
	failures, short := 0, 0 // in a row: attempts that failed, connections that fell at once
	for ctx.Err() == nil {
		k, err := l.open(ctx)
		if err == nil {
			l.set(&lineState{link: k})
			err = l.watch(ctx, k)
			failures, short = l.tally(k, err, failures, short)
			if short >= suspicious {
				err = fmt.Errorf("%w soon after it was made, %d times in a row: does another instance use client id %s, or does a policy forbid what it does?", err, short, l.clientID)
			}
			l.set(&lineState{err: err})
			k.client.Disconnect(quiesce)
		} else {
			failures++
			l.bus.counts.failed.Add(1)
			l.set(&lineState{err: err})
		}
		if ctx.Err() != nil {
			return
		}
		wait := l.bus.config.Backoff.after(failures)
		l.bus.config.Log.WithLevel(levelOf(err)).Err(err).Dur("again_in", wait).Msg("the connection that " + l.name + " is down")
		sleep(ctx, wait)
	}
}

// levelOf is what a connection that is down is worth: one that gives way is
// not worth a warning.
func levelOf(err error) zerolog.Level {
	if errors.Is(err, errRenewed) {
		return zerolog.InfoLevel
	}
	return zerolog.WarnLevel
}

// tally counts a connection that has ended. One that held for a while, or gave
// way, is no failure; one that fell may fall again.
func (l *line) tally(k *link, why error, failures, short int) (int, int) {
	lived := time.Since(k.opened)
	if !errors.Is(why, errLost) || lived > l.bus.config.Backoff.Max {
		failures = 0
	} else {
		failures++
	}
	if !errors.Is(why, errLost) || lived > shortLived {
		return failures, 0
	}
	return failures, short + 1
}

// The ends of a connection.
var (
	errStopped = errors.New("the bus has been stopped")
	errLost    = errors.New("the connection was lost")
	errRenewed = errors.New("a new connection takes its place")
)

// watch returns why the connection ends, when it does.
func (l *line) watch(ctx context.Context, k *link) error {
	look := time.NewTicker(l.bus.look)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return errStopped
		case <-k.lost:
			l.bus.counts.lost.Add(1)
			return errLost
		case <-k.renew:
			return errRenewed
		case <-look.C:
			if l.bus.config.Way.Stale(k.opened) {
				k.renewWhenIdle()
			}
		}
	}
}

func (l *line) set(s *lineState) {
	s.next = make(chan struct{})
	if old := l.state.Swap(s); old != nil && old.next != nil {
		close(old.next)
	}
}

// open returns a connection whose filters the broker has granted.
func (l *line) open(ctx context.Context) (*link, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	k := &link{
		opened: time.Now(), lost: make(chan struct{}), renew: make(chan struct{}),
	}
	socket := make(chan net.Conn, 1)
	k.client = mqtt.NewClient(l.bus.options(l).
		SetConnectionLostHandler(func(mqtt.Client, error) { close(k.lost) }).
		// A persistent session delivers before anything is subscribed.
		SetDefaultPublishHandler(func(_ mqtt.Client, m mqtt.Message) { l.take(k, m) }).
		SetCustomOpenConnectionFn(func(*url.URL, mqtt.ClientOptions) (net.Conn, error) {
			conn, err := l.bus.config.Way.Open(ctx)
			if err == nil {
				socket <- conn
				conn = &hurried{Conn: conn}
			}
			return conn, err
		}))
	token := k.client.Connect()
	select {
	case <-token.Done():
	case <-ctx.Done():
		select {
		case conn := <-socket: // the client cannot be told otherwise
			_ = conn.Close()
			<-token.Done()
		case <-token.Done():
		}
	}
	if err := errors.Join(token.Error(), ctx.Err()); err != nil {
		k.client.Disconnect(0)
		return nil, fmt.Errorf("connect as %s: %w", l.clientID, err)
	}
	if err := k.subscribe(ctx, l.filters); err != nil {
		k.client.Disconnect(quiesce)
		return nil, err
	}
	return k, nil
}

// subscribe returns nil once the broker has granted every filter. It asks for
// them at every connection, also where the broker kept a session: which
// filters that holds, it does not say.
func (k *link) subscribe(ctx context.Context, filters []string) error {
	if len(filters) == 0 {
		return nil
	}
	wanted := map[string]byte{}
	for _, filter := range filters {
		wanted[filter] = 1
	}
	token := k.client.SubscribeMultiple(wanted, nil)
	select {
	case <-token.Done():
	case <-k.lost:
		return errors.New("subscribe: the broker closed the connection")
	case <-ctx.Done():
		return fmt.Errorf("subscribe: %w", ctx.Err())
	}
	if err := token.Error(); err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	for filter, granted := range token.(*mqtt.SubscribeToken).Result() {
		if granted == 0x80 { // MQTT 3.1.1, 3.9.3: failure; the client takes it for success
			return fmt.Errorf("subscribe %s: the broker refuses it: does the daemon's policy allow it?", filter)
		}
	}
	return nil
}

// begin takes a place for a message; false if there is none, or none any more.
func (k *link) begin(places int) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.renewed || k.atWork >= places {
		return false
	}
	k.atWork++
	return true
}

func (k *link) end() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.atWork--
	k.giveWay()
}

// renewWhenIdle has a new connection take the place of this one, once what is
// at work has been acknowledged over it: an acknowledgement over another
// connection would be lost, and the message come again.
func (k *link) renewWhenIdle() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.renewed = true
	k.giveWay()
}

func (k *link) giveWay() {
	if k.renewed && k.atWork == 0 {
		select {
		case <-k.renew:
		default:
			close(k.renew)
		}
	}
}

// hurried gives every packet a time by which it must have left: the client
// sets none for acknowledgements, and one peer that does not read would hold up
// all of them.
type hurried struct {
	net.Conn
	mu sync.Mutex // a WebSocket's deadline and its writes are not safe together
}

func (h *hurried) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.SetWriteDeadline(time.Now().Add(writeTime)); err != nil {
		return 0, err
	}
	return h.Conn.Write(p)
}

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
