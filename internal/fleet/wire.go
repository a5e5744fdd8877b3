package fleet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// How much of what comes is passed on at a time, and how slow a slow reader
// takes it in.
const (
	relayed     = 8 << 10
	slowPortion = 512
)

// wire is the network between one device and the broker: a relay that passes
// on what comes as it is, TLS and all, but for what happens to it. Safe for
// concurrent use.
type wire struct {
	broker, address string
	listener        net.Listener  // nil: nothing is carried
	done            chan struct{} // closed when the wire is
	working         sync.WaitGroup

	mu    sync.Mutex
	links map[*link]struct{}
	mute  []net.Conn // the broker's ends of what was cut; it still thinks them alive
	down  bool       // the device has no power
	pace  int        // octets a second towards the device; 0: as they come
	hold  time.Duration
}

// link is one connection over the wire.
type link struct {
	device, broker net.Conn
	loss           *loss // planned for what it carries next; nil: none
	asked          bool  // it has carried a request since
	cut            bool
}

// loss is a request or its answer that will not arrive: at its first octets
// the connection ends.
type loss struct {
	of    what
	then  func() // what happens with it; may be nil
	spent bool
}

// what goes over a wire.
type what int

const (
	answer  what = iota // from the broker
	request             // to it
)

// straightWire is the way of a device whose network nothing happens to: it dials
// the broker itself, and no octet is carried twice.
func straightWire(broker string) *wire {
	return &wire{broker: broker, address: broker, done: make(chan struct{}), links: map[*link]struct{}{}}
}

// newWire returns the way to a broker. It listens where the broker's name
// leads, because a device verifies the broker by the name it dials.
func newWire(ctx context.Context, broker string) (*wire, error) {
	host, _, err := net.SplitHostPort(broker)
	if err != nil {
		return nil, fmt.Errorf("broker %q: must be host:port", broker)
	}
	var listening net.ListenConfig
	listener, err := listening.Listen(ctx, "tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return nil, fmt.Errorf("listen beside the broker %s: its name must lead to this machine: %w", broker, err)
	}
	_, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	w := &wire{
		broker: broker, address: net.JoinHostPort(host, port), listener: listener,
		done: make(chan struct{}), links: map[*link]struct{}{},
	}
	w.working.Go(w.accept)
	return w, nil
}

// close ends all connections and waits until nothing is at work.
func (w *wire) close() {
	if w.listener != nil {
		_ = w.listener.Close() // nobody is left to hear of it
	}
	w.mu.Lock()
	w.down = true
	close(w.done)
	for _, conn := range w.mute {
		_ = conn.Close()
	}
	w.mu.Unlock()
	w.drop()
	w.working.Wait()
}

func (w *wire) accept() {
	for {
		conn, err := w.listener.Accept()
		if err != nil {
			return // closed; the device sees a network that is down
		}
		w.working.Go(func() { w.serve(conn) })
	}
}

// serve carries one connection to its end.
func (w *wire) serve(device net.Conn) {
	broker, err := net.DialTimeout("tcp", w.broker, 10*time.Second)
	if err != nil {
		_ = device.Close()
		return
	}
	l := &link{device: device, broker: broker}
	w.mu.Lock()
	if w.down {
		w.mu.Unlock()
		_, _ = device.Close(), broker.Close()
		return
	}
	w.links[l] = struct{}{}
	w.mu.Unlock()
	w.working.Go(func() { w.relay(l, l.device, l.broker, w.towardsDevice) })
	w.relay(l, l.broker, l.device, w.towardsBroker)
}

// relay passes on what comes from one end until an end is gone or pass says
// that the rest is lost.
func (w *wire) relay(l *link, to, from net.Conn, pass func(*link) (time.Duration, int, bool)) {
	defer w.end(l)
	buffer := make([]byte, relayed)
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		hold, pace, ok := pass(l)
		if !ok || !w.rest(hold) || !w.write(to, buffer[:n], pace) {
			return
		}
	}
}

// write passes octets on, at most so many a second if pace is not 0.
func (w *wire) write(to net.Conn, octets []byte, pace int) bool {
	for len(octets) > 0 {
		portion := len(octets)
		if pace > 0 {
			portion = min(portion, slowPortion)
			if !w.rest(time.Duration(portion) * time.Second / time.Duration(pace)) {
				return false
			}
		}
		if _, err := to.Write(octets[:portion]); err != nil {
			return false
		}
		octets = octets[portion:]
	}
	return true
}

// rest waits, and reports false if the wire was closed meanwhile.
func (w *wire) rest(d time.Duration) bool {
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-w.done:
		return false
	}
}

func (w *wire) towardsBroker(l *link) (hold time.Duration, pace int, ok bool) {
	w.mu.Lock()
	hold, w.hold = w.hold, 0
	lost := l.loss
	l.asked = true
	happens := lost.hits(request)
	w.mu.Unlock()
	if happens {
		lost.happen()
	}
	return hold, 0, !happens
}

func (w *wire) towardsDevice(l *link) (hold time.Duration, pace int, ok bool) {
	w.mu.Lock()
	lost := l.loss
	happens := l.asked && lost.hits(answer)
	pace = w.pace
	w.mu.Unlock()
	if happens {
		lost.happen()
	}
	return 0, pace, !happens
}

// hits reports whether a planned loss happens to what is passed on; it does
// once.
func (l *loss) hits(passed what) bool {
	if l == nil || l.spent || l.of != passed {
		return false
	}
	l.spent = true
	return true
}

func (l *loss) happen() {
	if l.then != nil {
		l.then()
	}
}

// lose plans a loss on the connections there are, in place of one that has not
// happened. A connection that ends before has lost what it carried anyway.
func (w *wire) lose(planned *loss) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for l := range w.links {
		l.loss, l.asked = planned, false
	}
}

// delay has the device's next octets arrive late.
func (w *wire) delay(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hold = d
}

// slow has the device take in no more than so many octets a second.
func (w *wire) slow(pace int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pace = pace
}

// drop ends every connection. The next one is carried again.
func (w *wire) drop() {
	for _, l := range w.all() {
		w.end(l)
	}
}

// cut is what the network sees of a power cut: the device is gone without a
// word. The broker's ends stay as they are until the wire is closed.
func (w *wire) cut() {
	w.mu.Lock()
	w.down, w.hold = true, 0
	for l := range w.links {
		l.cut = true
		w.mute = append(w.mute, l.broker)
	}
	w.mu.Unlock()
	for _, l := range w.all() {
		w.end(l)
	}
}

// restore lets the device connect again after a cut.
func (w *wire) restore() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down = false
}

func (w *wire) all() []*link {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []*link
	for l := range w.links {
		all = append(all, l)
	}
	return all
}

// end closes a link. It may be repeated.
func (w *wire) end(l *link) {
	w.mu.Lock()
	cut := l.cut
	delete(w.links, l)
	w.mu.Unlock()
	_ = l.device.Close()
	if cut {
		_ = l.broker.SetReadDeadline(time.Now()) // whoever reads from it stops
		return
	}
	_ = l.broker.Close()
}
