package standalone

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/certvendor/certvendor/vending"
)

// The library's own loop takes out of its table whoever has a client id when a
// former connection under it ends, and then hears that one and answers nothing. These
// tests hold the broker's, which takes the place of that loop, against it.

// slowForget holds up the next session that is dropped, where the library's half goes,
// until goOn is called.
func (w *brokerWorld) slowForget() (dropping <-chan struct{}, goOn func()) {
	begun, finish := make(chan struct{}), make(chan struct{})
	first, forget := new(sync.Once), w.conns.forget
	w.conns.forget = func(clientID string) {
		first.Do(func() { close(begun); <-finish })
		forget(clientID)
	}
	return begun, sync.OnceFunc(func() { close(finish) })
}

// served fails the test unless what is published reaches the client, and its
// requests are answered.
func (r *rawClient) served(w *brokerWorld) {
	r.t.Helper()
	if codes := r.subscribe(1, "cdf/certificates/dev1/#", "$aws/things/dev1/jobs/notify-next"); codes[0] != 1 || codes[1] != 1 {
		r.t.Fatal(codes)
	}
	if err := w.Publish(r.t.Context(), "$aws/things/dev1/jobs/notify-next", []byte("job")); err != nil {
		r.t.Fatal(err)
	}
	r.expect(packets.Publish)
	r.publish(2, "cdf/certificates/dev1/get", "{}")
	r.expect(packets.Publish)
}

// agree fails the test unless the broker's sessions are the library's, with the
// same subscriptions. Nothing may be at work.
func (w *brokerWorld) agree() {
	w.t.Helper()
	w.conns.mu.Lock()
	defer w.conns.mu.Unlock()
	clients := w.server.Clients.GetAll()
	for device, sessions := range w.conns.sessions {
		for id, s := range sessions {
			client := clients[id]
			delete(clients, id)
			if client == nil || s.gone != nil || s.link != nil && s.link.client != client {
				w.t.Errorf("the session %s of %s is not the library's", id, device)
				continue
			}
			held := client.State.Subscriptions.GetAll()
			if counted := slices.Sorted(maps.Keys(s.filters)); !slices.Equal(counted, slices.Sorted(maps.Keys(held))) {
				w.t.Errorf("%s: %v are counted, %v held", id, counted, held)
			}
			for filter := range held {
				if _, ok := w.server.Topics.Subscribers(filter).Subscriptions[id]; !ok {
					w.t.Errorf("%s: %s is not in the index", id, filter)
				}
			}
		}
	}
	for id := range clients {
		w.t.Errorf("the library has a session %s that is nobody's", id)
	}
}

func TestWhoComesBackWhileItsFormerSessionIsDroppedIsServed(t *testing.T) {
	for name, end := range map[string]func(*brokerWorld, tls.Certificate, *rawClient){
		"its connection ended": func(_ *brokerWorld, _ tls.Certificate, former *rawClient) { _ = former.conn.Close() },
		"it was evicted": func(w *brokerWorld, cert tls.Certificate, _ *rawClient) {
			other := w.handshake(cert)
			go func() { _, _ = other.tryConnect("dev1/other") }()
		},
		"its certificate was retired": func(w *brokerWorld, cert tls.Certificate, _ *rawClient) {
			w.CloseHolding("dev1", idOf(cert))
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := startBroker(t, func(c *BrokerConfig) { c.Limits.Sessions = 2 })
			cert, fresh := w.ca.device("dev1"), w.ca.device("dev1")
			former := w.raw(cert, "dev1")
			w.raw(fresh, "dev1/loud").alive()
			dropping, goOn := w.slowForget()
			defer goOn()
			end(w, cert, former)
			<-dropping
			next := w.handshake(fresh)
			accepted := make(chan error, 1)
			go func() {
				ack, err := next.tryConnect("dev1")
				if err == nil && ack.ReasonCode != 0 {
					err = fmt.Errorf("CONNACK %#x", ack.ReasonCode)
				}
				accepted <- err
			}()
			select {
			case err := <-accepted:
				t.Errorf("accepted while the former session was dropped: %v", err)
			case <-time.After(50 * time.Millisecond):
			}
			goOn()
			if err := <-accepted; err != nil {
				t.Fatal(err)
			}
			next.served(w)
			w.agree()
		})
	}
}

// A connection that is refused after it has the client id leaves what is there to
// the next.
func TestWhoComesAfterOneThatWasRefusedIsServed(t *testing.T) {
	for _, edit := range []func(*packets.Packet){func(*packets.Packet) {}, keepSession} {
		w := startBroker(t, func(c *BrokerConfig) { c.Limits.Handshake = 2 * time.Second })
		cert, fresh := w.ca.device("dev1"), w.ca.device("dev1")
		w.raw(cert, "dev1", keepSession).subscribe(1, "cdf/certificates/dev1/get/+")
		refused := w.handshake(fresh)
		w.receiver.present = func(context.Context, vending.Caller) error {
			_ = refused.conn.Close() // it does not wait for its CONNACK
			w.CloseHolding("dev1", idOf(fresh))
			return nil
		}
		_, _ = refused.tryConnect("dev1", edit)
		eventually(t, "both have ended", func() bool { return w.Connections() == 0 && len(w.conns.all()) == 0 })
		w.agree()
		w.receiver.present = nil
		next := w.raw(cert, "dev1", keepSession)
		next.served(w)
		w.agree()
	}
}

// Connections of one device, under two certificates and a few client ids, end in
// every way while others take their place.
func TestTakeoversInAnyOrderLeaveTheTablesWhole(t *testing.T) {
	w := startBroker(t, func(c *BrokerConfig) { c.Limits.Sessions, c.Limits.Handshake = 3, 2*time.Second })
	certs := []tls.Certificate{w.ca.device("dev1"), w.ca.device("dev1")}
	slow := func(ctx context.Context, m vending.Message) {
		time.Sleep(time.Duration(rand.IntN(3)) * time.Millisecond)
		_ = w.Publish(ctx, m.Topic+"/accepted", nil)
	}
	w.receiver.serve = slow
	w.receiver.present = func(context.Context, vending.Caller) error {
		if rand.IntN(10) == 0 {
			return errors.New("not now")
		}
		return nil
	}
	var all sync.WaitGroup
	for worker := range 8 {
		all.Go(func() {
			for range 60 {
				w.storm(certs[worker%2])
			}
		})
	}
	all.Wait()
	w.receiver.present = nil
	for i := range 5 { // whatever of these is stored is taken over, or makes room
		w.raw(certs[i%2], fmt.Sprintf("dev1/%d", i)).served(w)
	}
	eventually(t, "nothing is at work", func() bool { return w.Connections() == 3 && len(w.conns.all()) == 3 })
	w.agree()
}

// storm is one connection's life.
func (w *brokerWorld) storm(cert tls.Certificate) {
	r, err := w.tryHandshake(w.trust(cert))
	if err != nil {
		return
	}
	defer func() { _ = r.conn.Close() }()
	var edits []func(*packets.Packet)
	for _, edit := range []func(*packets.Packet){keepSession, v5} {
		if rand.IntN(2) == 0 {
			edits = append(edits, edit)
		}
	}
	ack, err := r.tryConnect(fmt.Sprintf("dev1/%d", rand.IntN(5)), edits...)
	if err != nil || ack.ReasonCode != 0 {
		return
	}
	send := []func(){
		func() {
			r.send(encoded(r, packets.Packet{
				FixedHeader: packets.FixedHeader{Type: packets.Subscribe, Qos: 1}, ProtocolVersion: r.version, PacketID: 1,
				Filters: packets.Subscriptions{{Filter: "cdf/certificates/dev1/#", Qos: 1}},
			}))
		},
		func() { r.publish(2, "cdf/certificates/dev1/get", "{}") },
		func() { w.CloseHolding("dev1", idOf(cert)) },
		func() { r.send([]byte{packets.Disconnect << 4, 0}) },
	}
	for range 1 + rand.IntN(3) {
		send[rand.IntN(len(send))]()
	}
	if rand.IntN(2) == 0 {
		_, _ = r.read()
	}
}

func encoded(r *rawClient, pk packets.Packet) []byte {
	var b bytes.Buffer
	if err := pk.SubscribeEncode(&b); err != nil {
		r.t.Error(err)
	}
	return b.Bytes()
}
