package standalone

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// wrappedListener lets a test decide what Accept returns.
type wrappedListener struct {
	net.Listener
	accept func() (net.Conn, error)
}

func (l *wrappedListener) Accept() (net.Conn, error) { return l.accept() }

// remoteConn claims to come from elsewhere.
type remoteConn struct {
	net.Conn
	addr net.Addr
}

func (c *remoteConn) RemoteAddr() net.Addr { return c.addr }

func fromElsewhere(l net.Listener) net.Listener {
	return &wrappedListener{l, func() (net.Conn, error) {
		c, err := l.Accept()
		if err != nil {
			return nil, err
		}
		return &remoteConn{c, &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1000}}, nil
	}}
}

func TestTheListenerSurvivesTooManyOpenFiles(t *testing.T) {
	var failures atomic.Int32
	w := startBrokerOn(t, func(l net.Listener) net.Listener {
		return &wrappedListener{l, func() (net.Conn, error) {
			if failures.Add(1) <= 3 {
				return nil, &net.OpError{Op: "accept", Err: syscall.EMFILE}
			}
			return l.Accept()
		}}
	})
	w.connect(w.ca.device("dev1"), "dev1")
	if n := w.Stats().AcceptErrors; n != 3 {
		t.Errorf("%d accept errors counted, not 3", n)
	}
}

func TestAPortThatIsTakenFailsAtOnce(t *testing.T) {
	w := startBroker(t)
	config := w.config
	config.Listen = w.Addr().String()
	if b, err := NewBroker(config); err == nil || !strings.Contains(err.Error(), "standalone.broker.listen") {
		t.Errorf("second broker on the port: %v, %v", b, err)
	}
}

func TestAClientThatNeverFinishesTLSIsClosed(t *testing.T) {
	w := startBroker(t, func(c *BrokerConfig) { c.Limits.Handshake = 50 * time.Millisecond })
	conn, err := net.Dial("tcp", w.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.ReadAll(conn); errors.Is(err, syscall.ETIMEDOUT) || isTimeout(err) {
		t.Errorf("still open: %v", err)
	}
	eventually(t, "it is counted", func() bool { return w.Stats().Refused[RefusedTLS] == 1 })
}

func TestAClientThatNeverSendsConnectIsClosed(t *testing.T) {
	w := startBroker(t, func(c *BrokerConfig) { c.Limits.Handshake = 300 * time.Millisecond })
	w.handshake(w.ca.device("dev1")).expectEnd()
	eventually(t, "it is counted", func() bool { return w.Stats().Refused[RefusedConnect] == 1 })
}

func TestTheDeadlineOfTheHandshakeEndsWithTheConnect(t *testing.T) {
	w := startBroker(t, func(c *BrokerConfig) { c.Limits.Handshake = time.Second })
	r := w.raw(w.ca.device("dev1"), "dev1")
	time.Sleep(1200 * time.Millisecond)
	r.alive()
}

func TestUnfinishedConnectionsOfOneAddressWaitForASlot(t *testing.T) {
	w := startBrokerOn(t, fromElsewhere, func(c *BrokerConfig) { c.Limits.Slots = 2 })
	var idle []net.Conn
	for range 2 {
		conn, err := net.Dial("tcp", w.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		idle = append(idle, conn)
	}
	eventually(t, "both slots are taken", func() bool { return w.slotsTaken() == 2 })

	accepted := make(chan error, 1)
	go func() {
		client, err := w.dial(w.ca.device("dev1"), "dev1")
		if err == nil {
			defer client.Disconnect(0)
		}
		accepted <- err
	}()
	eventually(t, "a third waits", func() bool { return w.slotUsers() == 3 })
	select {
	case err := <-accepted:
		t.Fatalf("served without a slot: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	_ = idle[0].Close()
	if err := <-accepted; err != nil {
		t.Errorf("not served with a free slot: %v", err)
	}
}

func TestAnAcceptedConnectionNeedsNoSlot(t *testing.T) {
	w := startBrokerOn(t, fromElsewhere, func(c *BrokerConfig) { c.Limits.Slots = 1 })
	cert := w.ca.device("dev1")
	for i := range 3 {
		w.connect(cert, fmt.Sprintf("dev1/%d", i))
	}
	if n := w.Connections(); n != 3 {
		t.Errorf("%d connections, not 3", n)
	}
	eventually(t, "no slot is left over", func() bool { return w.slotUsers() == 0 })
}

func TestLoopbackNeedsNoSlot(t *testing.T) {
	w := startBroker(t, func(c *BrokerConfig) { c.Limits.Slots = 1 })
	for range 3 {
		conn, err := net.Dial("tcp", w.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	w.connect(w.ca.device("dev1"), "dev1")
}

func TestUnfinishedConnectionsBeyondTheTotalAreClosed(t *testing.T) {
	w := startBroker(t, func(c *BrokerConfig) { c.Limits.Unfinished = 3 })
	var idle []net.Conn
	for range 3 {
		conn, err := net.Dial("tcp", w.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		idle = append(idle, conn)
	}
	eventually(t, "three are unfinished", func() bool { return w.unfinished() == 3 })
	if _, err := w.tryHandshake(w.trust(w.ca.device("dev1"))); err == nil {
		t.Error("a fourth was let in")
	}
	if n := w.Stats().Refused[RefusedCrowded]; n != 1 {
		t.Errorf("%d refused as crowded, not 1", n)
	}
	_ = idle[0].Close()
	eventually(t, "one is gone", func() bool { return w.unfinished() == 2 })
	w.connect(w.ca.device("dev1"), "dev1")
}

func TestClosingTheBrokerEndsTheUnfinished(t *testing.T) {
	w := startBrokerOn(t, fromElsewhere, func(c *BrokerConfig) { c.Limits.Slots = 1 })
	var ended sync.WaitGroup
	for range 3 {
		conn, err := net.Dial("tcp", w.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		ended.Go(func() {
			_ = conn.SetReadDeadline(time.Now().Add(patience))
			if _, err := io.ReadAll(conn); isTimeout(err) {
				t.Error("left open")
			}
		})
	}
	eventually(t, "all have come", func() bool { return w.unfinished() == 3 })
	if err := w.Close(t.Context()); err != nil {
		t.Error(err)
	}
	ended.Wait()
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

func (b *Broker) unfinished() int {
	b.door.mu.Lock()
	defer b.door.mu.Unlock()
	return b.door.unfinished
}

func (b *Broker) slotUsers() (n int) {
	b.door.mu.Lock()
	defer b.door.mu.Unlock()
	for _, s := range b.door.slots {
		n += s.users
	}
	return n
}

func (b *Broker) slotsTaken() (n int) {
	b.door.mu.Lock()
	defer b.door.mu.Unlock()
	for _, s := range b.door.slots {
		n += len(s.taken)
	}
	return n
}

// Whoever opens connections and shows no certificate keeps those who come from
// elsewhere out of nothing.
func TestOneAddressCannotTakeEveryPlace(t *testing.T) {
	for name, evil := range map[string][]string{
		"of one address":       {"192.0.2.1", "192.0.2.1", "192.0.2.1", "192.0.2.1"},
		"of one IPv6 network":  {"2001:db8::1", "2001:db8::2", "2001:db8::3:4", "2001:db8::ffff:0:0:1"},
		"of one mapped to one": {"192.0.2.1", "::ffff:192.0.2.1", "192.0.2.1", "::ffff:192.0.2.1"},
	} {
		t.Run(name, func(t *testing.T) {
			from := make(chan string, len(evil)+1)
			w := startBrokerOn(t, func(l net.Listener) net.Listener {
				return &wrappedListener{l, func() (net.Conn, error) {
					c, err := l.Accept()
					if err != nil {
						return nil, err
					}
					return &remoteConn{c, &net.TCPAddr{IP: net.ParseIP(<-from), Port: 1000}}, nil
				}}
			}, func(c *BrokerConfig) { c.Limits.Unfinished, c.Limits.Slots = len(evil), 1 })
			for _, address := range evil {
				from <- address
				conn, err := net.Dial("tcp", w.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
			}
			eventually(t, "half of them are refused", func() bool {
				return w.unfinished() == len(evil)/2 && w.Stats().Refused[RefusedCrowded] == int64(len(evil)/2)
			})
			from <- "198.51.100.7"
			w.connect(w.ca.device("dev1"), "dev1").Disconnect(0)
			close(from)
		})
	}
}
