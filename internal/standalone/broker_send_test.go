package standalone

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/certvendor/certvendor/vending"
)

// countedConn counts the writes to the raw socket.
type countedConn struct {
	net.Conn
	writes atomic.Int64
}

func (c *countedConn) Write(p []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(p)
}

// A reply and the acknowledgement of its request cost one record and one write.
func TestAReplyAndItsAcknowledgementAreOneWrite(t *testing.T) {
	w := startBroker(t)
	r := w.raw(w.ca.device("dev1"), "dev1")
	r.subscribe(1, "cdf/certificates/dev1/get/accepted")
	var counted *countedConn
	w.receiver.serve = func(ctx context.Context, m vending.Message) {
		// The link's own goroutine is here, so that nobody writes meanwhile.
		for _, l := range w.conns.all() {
			counted = &countedConn{Conn: l.Conn}
			l.Conn = counted
		}
		if err := w.Publish(ctx, m.Topic+"/accepted", []byte("{}")); err != nil {
			t.Error(err)
		}
	}
	r.publish(7, "cdf/certificates/dev1/get", "{}")
	if pk := r.expect(packets.Publish); string(pk.Payload) != "{}" {
		t.Errorf("the reply is %q", pk.Payload)
	}
	if pk := r.expect(packets.Puback); pk.PacketID != 7 {
		t.Errorf("PUBACK for %d", pk.PacketID)
	}
	if n := counted.writes.Load(); n != 1 {
		t.Errorf("%d writes, not 1", n)
	}
}

// What others have for a device does not wait for the request that it has at
// work, nor does what is published for a request that has been given up.
func TestMessagesDoNotWaitForTheRequestAtWork(t *testing.T) {
	w := startBroker(t)
	finish := make(chan context.Context, 1)
	begun := make(chan context.Context, 1)
	w.receiver.serve = func(ctx context.Context, _ vending.Message) { begun <- ctx; <-finish }
	r := w.raw(w.ca.device("dev1"), "dev1")
	r.subscribe(1, "$aws/things/dev1/jobs/notify")
	r.publish(7, "cdf/certificates/dev1/get", "{}")
	ctx := <-begun
	if err := w.Publish(t.Context(), "$aws/things/dev1/jobs/notify", []byte("during")); err != nil {
		t.Error(err)
	}
	if pk := r.expect(packets.Publish); string(pk.Payload) != "during" {
		t.Errorf("came: %q", pk.Payload)
	}
	finish <- ctx
	r.expect(packets.Puback)
	if err := w.Publish(ctx, "$aws/things/dev1/jobs/notify", []byte("after")); err != nil {
		t.Error(err)
	}
	if pk := r.expect(packets.Publish); string(pk.Payload) != "after" {
		t.Errorf("came: %q", pk.Payload)
	}
}

// A client of MQTT 5 says how many messages it takes unacknowledged.
func TestAClientIsGivenNoMoreThanItTakes(t *testing.T) {
	const n = 6
	w := startBroker(t)
	r := w.raw(w.ca.device("dev1"), "dev1", v5, func(pk *packets.Packet) { pk.Properties.ReceiveMaximum = 2 })
	r.subscribe(1, "$aws/things/dev1/jobs/notify")
	for i := range n {
		if err := w.Publish(t.Context(), "$aws/things/dev1/jobs/notify", fmt.Appendf(nil, "%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	var came []packets.Packet
	for len(came) < 2 {
		came = append(came, r.expect(packets.Publish))
	}
	r.send([]byte{packets.Pingreq << 4, 0})
	if pk, err := r.read(); err != nil || pk.FixedHeader.Type != packets.Pingresp {
		t.Errorf("after two messages came %+v, %v", pk.FixedHeader, err)
	}
	for i := range n {
		if string(came[i].Payload) != fmt.Sprint(i) {
			t.Errorf("message %d is %q", i, came[i].Payload)
		}
		r.ack(packets.Puback, came[i].PacketID)
		if len(came) < n {
			came = append(came, r.expect(packets.Publish))
		}
	}
	eventually(t, "nothing is held", func() bool {
		client, _ := w.server.Clients.Get("dev1")
		return client.State.Inflight.Len() == 0
	})
}

// A session's messages come again in their order, also those of one second.
func TestAResumedSessionIsGivenItsMessagesInOrder(t *testing.T) {
	const n = 50
	w := startBroker(t)
	cert := w.ca.device("dev1")
	r := w.raw(cert, "dev1", keepSession)
	r.subscribe(1, "$aws/things/dev1/jobs/notify")
	for i := range n {
		if i == n/2 { // some came, some did not
			_ = r.conn.Close()
			eventually(t, "it is gone", func() bool { return w.Connections() == 0 })
		}
		if err := w.Publish(t.Context(), "$aws/things/dev1/jobs/notify", fmt.Appendf(nil, "%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	again := w.raw(cert, "dev1", keepSession)
	for i := range n {
		if pk := again.expect(packets.Publish); string(pk.Payload) != fmt.Sprint(i) || !pk.FixedHeader.Dup {
			t.Fatalf("message %d is %q", i, pk.Payload)
		}
	}
}

// Whoever publishes waits for no subscriber, however long that one takes.
func TestAPublisherWaitsForNoSubscriber(t *testing.T) {
	w := startBroker(t, func(c *BrokerConfig) { c.Limits.Write = time.Hour })
	deaf := w.raw(w.ca.device("dev1"), "dev1")
	deaf.subscribeAt(0, 1, "$aws/things/dev1/jobs/notify")
	large := make([]byte, 1<<20)
	for w.Stats().Dropped == 0 { // from then on somebody waits to write
		if err := w.Publish(t.Context(), "$aws/things/dev1/jobs/notify", large); err != nil {
			t.Fatal(err)
		}
	}
	other := w.raw(w.ca.device("dev2"), "dev2")
	other.subscribe(1, "$aws/things/dev2/jobs/notify")
	if err := w.Publish(t.Context(), "$aws/things/dev2/jobs/notify", []byte("x")); err != nil {
		t.Fatal(err)
	}
	other.expect(packets.Publish)
	_ = deaf.conn.Close()
}

// What a session holds when it is resumed takes no room from what comes, and
// what came while it was resumed comes once, behind it.
func TestAnOutboxBeginsWithWhatIsHeld(t *testing.T) {
	message := func(id uint16) packets.Packet {
		return packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: 1}, PacketID: id, Created: int64(id / 4)}
	}
	var o outbox
	for _, id := range []uint16{8, 9} {
		pk := message(id)
		if !o.offer(&pk, 3) || o.begin() {
			t.Errorf("before the session is resumed, message %d is refused or written", id)
		}
	}
	o.open(0, []packets.Packet{message(3), message(8), message(2), message(7), message(1)})
	for _, id := range []uint16{10, 11} {
		if pk := message(id); !o.offer(&pk, 3) {
			t.Errorf("message %d is refused", id)
		}
	}
	if pk := message(12); o.offer(&pk, 3) {
		t.Error("there was room for a fourth")
	}
	if !o.begin() || o.begin() {
		t.Error("not one writes")
	}
	var came []uint16
	for pk := o.next(); pk != nil; pk = o.next() {
		came = append(came, pk.PacketID)
		if pk.FixedHeader.Dup != (pk.PacketID < 9) {
			t.Errorf("message %d: said to be sent again: %t", pk.PacketID, pk.FixedHeader.Dup)
		}
	}
	if !slices.Equal(came, []uint16{1, 2, 3, 7, 8, 9, 10, 11}) {
		t.Errorf("came %v", came)
	}
}
