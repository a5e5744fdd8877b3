package standalone

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/certvendor/certvendor/vending"
)

func TestARetiredCertificatesConnectionsAreClosed(t *testing.T) {
	w := startBroker(t)
	old, fresh := w.ca.device("dev1"), w.ca.device("dev1")
	closed := []*rawClient{w.raw(old, "dev1"), w.raw(old, "dev1/a")}
	same := w.raw(fresh, "dev1/b")
	w.CloseHolding("dev1", idOf(old))
	for _, r := range closed {
		r.expectEnd()
	}
	same.alive()
	eventually(t, "only the other is connected", func() bool {
		return !w.Connected("dev1", idOf(old)) && w.Connected("dev1", idOf(fresh)) && w.Connections() == 1
	})
}

func TestADeviceThatSharesTheRetiredCertificateStaysConnected(t *testing.T) {
	w := startBroker(t)
	w.receiver.present = func(context.Context, vending.Caller) error { return nil }
	shared := w.ca.device("batch-7")
	one, other := w.raw(shared, "dev1"), w.raw(shared, "dev2")
	w.CloseHolding("dev1", idOf(shared))
	one.expectEnd()
	other.alive()
	if !w.Connected("dev2", idOf(shared)) {
		t.Error("the other device lost its connection")
	}
}

func TestACertificateRetiredDuringTheConnectGetsNoConnection(t *testing.T) {
	w := startBroker(t)
	cert := w.ca.device("dev1")
	looking, retired := make(chan struct{}), make(chan struct{})
	w.receiver.present = func(context.Context, vending.Caller) error {
		close(looking)
		<-retired
		return nil // looked up before it was retired
	}
	r := w.handshake(cert)
	go func() {
		<-looking
		w.CloseHolding("dev1", idOf(cert))
		close(retired)
	}()
	if ack, err := r.tryConnect("dev1"); err == nil {
		t.Errorf("CONNACK %#x", ack.ReasonCode)
	}
	eventually(t, "nothing is left", func() bool { return w.Connections() == 0 && !w.Connected("dev1", idOf(cert)) })
}

func TestWhomTheReceiverRefusesIsNotConnected(t *testing.T) {
	w := startBroker(t)
	w.receiver.present = func(context.Context, vending.Caller) error { return errors.New("not active") }
	cert := w.ca.device("dev1")
	if code := w.handshake(cert).connect("dev1"); code != packets.Err3NotAuthorized.Code {
		t.Errorf("CONNACK %#x over MQTT 3.1.1", code)
	}
	if code := w.handshake(cert).connect("dev1", v5); code != packets.ErrNotAuthorized.Code {
		t.Errorf("CONNACK %#x over MQTT 5", code)
	}
	if n := w.Stats().Refused[RefusedStanding]; n != 2 {
		t.Errorf("%d refused for their standing, not 2", n)
	}
	eventually(t, "nothing is left", func() bool {
		w.conns.mu.Lock()
		defer w.conns.mu.Unlock()
		return len(w.conns.holdings) == 0 && len(w.conns.sessions) == 0 && w.conns.accepted == 0
	})
}

func TestANinthConnectionTakesThePlaceOfTheOneSilentLongest(t *testing.T) {
	w := startBroker(t)
	cert := w.ca.device("dev1")
	var clients []*rawClient
	for i := range 8 {
		clients = append(clients, w.raw(cert, fmt.Sprintf("dev1/%d", i)))
	}
	for _, i := range []int{0, 1, 2, 4, 5, 6, 7} { // all but 3 are heard again
		clients[i].alive()
	}
	ninth := w.raw(cert, "dev1/8")
	clients[3].expectEnd()
	for _, i := range []int{0, 1, 2, 4, 5, 6, 7} {
		clients[i].alive()
	}
	ninth.alive()
	if n := w.Connections(); n != 8 {
		t.Errorf("%d connections, not 8", n)
	}
	w.raw(w.ca.device("dev2"), "dev2").alive()
}

func TestARefusedNinthDisplacesNobody(t *testing.T) {
	w := startBroker(t, func(c *BrokerConfig) { c.Limits.Sessions = 1 })
	first := w.raw(w.ca.device("dev1"), "dev1")
	if code := w.handshake(w.ca.device("dev2")).connect("dev1/other"); code == 0 {
		t.Error("another device's certificate was let in")
	}
	if code := w.handshake(w.ca.device("dev2")).connect("dev1"); code == 0 {
		t.Error("another device's certificate was let in under the same client id")
	}
	first.alive()
}

func TestTheSameClientIDTakesOver(t *testing.T) {
	w := startBroker(t)
	cert := w.ca.device("dev1")
	first := w.raw(cert, "dev1")
	second := w.raw(cert, "dev1")
	if before := first.expectEnd(); len(before) != 0 {
		t.Errorf("an MQTT 3.1.1 client was sent %+v", before)
	}
	second.subscribe(1, "cdf/certificates/dev1/get/+")
	second.publish(2, "cdf/certificates/dev1/get", "{}")
	second.expect(packets.Publish)
	if n := w.Connections(); n != 1 {
		t.Errorf("%d connections, not 1", n)
	}
}

func TestATakeoverWaitsForTheRequestAtWork(t *testing.T) {
	w := startBroker(t)
	cert := w.ca.device("dev1")
	begun, finish := make(chan struct{}), make(chan struct{})
	w.receiver.serve = func(context.Context, vending.Message) { close(begun); <-finish }
	first := w.raw(cert, "dev1")
	first.publish(1, "cdf/certificates/dev1/get", "{}")
	<-begun

	second := w.handshake(cert)
	accepted := make(chan struct{})
	go func() {
		defer close(accepted)
		if ack, err := second.tryConnect("dev1"); err != nil || ack.ReasonCode != 0 {
			t.Errorf("CONNACK %+v, %v", ack, err)
		}
	}()
	first.expectEnd()
	select {
	case <-accepted:
		t.Error("accepted while the former connection was at work")
	case <-time.After(50 * time.Millisecond):
	}
	close(finish)
	<-accepted
	second.alive()
	if _, ok := w.server.Clients.Get("dev1"); !ok {
		t.Error("the library forgot the new connection")
	}
}

func TestAFormerConnectionThatNeverEndsMakesTheNewOneComeBackLater(t *testing.T) {
	w := startBroker(t, func(c *BrokerConfig) { c.Limits.Handshake = 300 * time.Millisecond })
	cert := w.ca.device("dev1")
	begun, finish := make(chan struct{}), make(chan struct{})
	w.receiver.serve = func(context.Context, vending.Message) { close(begun); <-finish }
	first := w.raw(cert, "dev1")
	first.publish(1, "cdf/certificates/dev1/get", "{}")
	<-begun
	second := w.handshake(cert)
	code := second.connect("dev1")
	close(finish)
	if code != packets.Err3ServerUnavailable.Code || w.Stats().Refused[RefusedBusy] != 1 {
		t.Errorf("CONNACK %#x, refused %v", code, w.Stats().Refused)
	}
}

func TestManyTakeoversAtOnceLeaveOneConnection(t *testing.T) {
	w := startBroker(t)
	cert := w.ca.device("dev1")
	var all sync.WaitGroup
	for i := range 30 {
		all.Go(func() {
			options := w.options(cert, fmt.Sprintf("dev1/%d", i%10)).SetConnectTimeout(patience)
			client := paho.NewClient(options)
			client.Connect().WaitTimeout(patience)
			t.Cleanup(func() { client.Disconnect(0) })
		})
	}
	all.Wait()
	eventually(t, "at most 8 are left", func() bool { return w.Connections() <= 8 })
	last := w.raw(cert, "dev1/0")
	last.subscribe(1, "cdf/certificates/dev1/get/+")
	last.publish(2, "cdf/certificates/dev1/get", "{}")
	last.expect(packets.Publish)
	w.conns.mu.Lock()
	defer w.conns.mu.Unlock()
	if n := len(w.conns.sessions["dev1"]); n > 8 {
		t.Errorf("%d sessions", n)
	}
}

func TestAPeerThatNeverReadsCostsTheOthersOneWriteDeadline(t *testing.T) {
	w := startBroker(t, func(c *BrokerConfig) {
		c.Limits.Write = 300 * time.Millisecond
		c.Limits.UnackedOctets = math.MaxInt // more than the system takes for a peer that does not read
		c.Extra = []TopicRule{{Filter: "fleet/all", Publish: true, Subscribe: true}}
	})
	deaf := w.raw(w.ca.device("dev1"), "dev1", func(pk *packets.Packet) { pk.Connect.Keepalive = 1200 })
	deaf.subscribe(1, "fleet/all")
	other := w.connect(w.ca.device("dev2"), "dev2")
	heard := w.listen(other, "fleet/all")
	payload := strings.Repeat("x", 100_000)
	for begun := time.Now(); w.Connections() == 2; {
		if time.Since(begun) > patience {
			t.Fatal("a peer that does not read was never closed")
		}
		if err := w.publish(other, "fleet/all", payload); err != nil {
			t.Fatal(err)
		}
		receive(t, heard)
	}
	if err := w.publish(other, "fleet/all", "after"); err != nil {
		t.Error(err)
	}
	for string(receive(t, heard).Payload()) != "after" {
	}
}

func TestMessagesBeyondThePendingOnesAreDroppedAndCounted(t *testing.T) {
	w := startBroker(t, func(c *BrokerConfig) {
		c.Limits.Pending, c.Limits.Write = 4, patience
	})
	deaf := w.raw(w.ca.device("dev1"), "dev1")
	deaf.subscribeAt(0, 1, "$aws/things/dev1/jobs/notify")
	payload := []byte(strings.Repeat("x", 1<<20))
	deadline := time.Now().Add(patience)
	for w.Stats().Dropped == 0 {
		if time.Now().After(deadline) {
			t.Fatal("nothing was dropped")
		}
		_ = w.Publish(t.Context(), "$aws/things/dev1/jobs/notify", payload)
	}
	_ = deaf.conn.Close()
}

func TestClosingWaitsForTheRequestAtWork(t *testing.T) {
	w := startBroker(t)
	begun, finish := make(chan struct{}), make(chan struct{})
	w.receiver.serve = func(ctx context.Context, m vending.Message) {
		close(begun)
		<-finish
		if ctx.Err() != nil {
			t.Error("the request's context ended")
		}
	}
	r := w.raw(w.ca.device("dev1"), "dev1")
	idle := w.raw(w.ca.device("dev2"), "dev2")
	r.publish(7, "cdf/certificates/dev1/get", "{}")
	r.publish(8, "cdf/certificates/dev1/ack", "{}") // comes too late
	<-begun
	closed := make(chan error, 1)
	go func() { closed <- w.Close(context.WithoutCancel(t.Context())) }()
	idle.expectEnd()
	select {
	case <-closed:
		t.Error("closed while a request was at work")
	case <-time.After(50 * time.Millisecond):
	}
	close(finish)
	if ack := r.expect(packets.Puback); ack.PacketID != 7 {
		t.Errorf("PUBACK for %d", ack.PacketID)
	}
	r.expectEnd()
	if err := <-closed; err != nil {
		t.Error(err)
	}
	if n := len(w.receiver.requests()); n != 1 {
		t.Errorf("%d requests served, not 1", n)
	}
}

func TestClosingOutOfTimeEndsTheRequestAtWork(t *testing.T) {
	w := startBroker(t)
	begun := make(chan struct{})
	w.receiver.serve = func(ctx context.Context, _ vending.Message) { close(begun); <-ctx.Done() }
	r := w.raw(w.ca.device("dev1"), "dev1")
	r.publish(1, "cdf/certificates/dev1/get", "{}")
	<-begun
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := w.Close(ctx); err != nil {
		t.Error(err)
	}
	r.expectEnd()
}

func TestStartNeedsAReceiver(t *testing.T) {
	w := startBroker(t)
	if err := w.Start(t.Context()); err == nil {
		t.Error("started twice")
	}
	config := w.config
	config.Listen = "127.0.0.1:0"
	b, err := NewBroker(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Start(t.Context()); err == nil {
		t.Error("started without a receiver")
	}
	if err := b.Close(t.Context()); err != nil {
		t.Errorf("close before start: %v", err)
	}
}
