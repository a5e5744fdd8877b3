package standalone

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
)

// A message that the client says it does not take is not sent, and takes no place
// among those that it has to acknowledge.
func TestAMessageThatIsTooLargeForItsClientHoldsUpNoOther(t *testing.T) {
	w := startBroker(t)
	r := w.raw(w.ca.device("dev1"), "dev1", v5, func(pk *packets.Packet) {
		pk.Properties.ReceiveMaximum, pk.Properties.MaximumPacketSize = 1, 200
	})
	r.subscribe(1, "$aws/things/dev1/jobs/notify")
	for _, payload := range []string{strings.Repeat("x", 1000), "small"} {
		if err := w.Publish(t.Context(), "$aws/things/dev1/jobs/notify", []byte(payload)); err != nil {
			t.Fatal(err)
		}
	}
	pk := r.expect(packets.Publish)
	if string(pk.Payload) != "small" {
		t.Errorf("came: %.20q", pk.Payload)
	}
	r.ack(packets.Puback, pk.PacketID)
	eventually(t, "nothing is held", func() bool {
		client, _ := w.server.Clients.Get("dev1")
		return client.State.Inflight.Len() == 0
	})
	if n := w.Stats().Dropped; n != 1 {
		t.Errorf("%d messages dropped, not 1", n)
	}
}

// An acknowledgement makes room for another message, also when the session has
// forgotten meanwhile what it is of.
func TestALateAcknowledgementMakesRoom(t *testing.T) {
	w := startBroker(t)
	r := w.raw(w.ca.device("dev1"), "dev1", v5, func(pk *packets.Packet) { pk.Properties.ReceiveMaximum = 1 })
	r.subscribe(1, "$aws/things/dev1/jobs/notify")
	for _, payload := range []string{"first", "second"} {
		if err := w.Publish(t.Context(), "$aws/things/dev1/jobs/notify", []byte(payload)); err != nil {
			t.Fatal(err)
		}
	}
	first := r.expect(packets.Publish)
	client, _ := w.server.Clients.Get("dev1")
	if gone := client.ClearExpiredInflights(time.Now().Add(2*time.Hour).Unix(), 3600); len(gone) != 2 {
		t.Fatalf("forgot %v", gone)
	}
	r.ack(packets.Puback, first.PacketID)
	r.ack(packets.Puback, first.PacketID) // of which the second is of nothing
	if err := w.Publish(t.Context(), "$aws/things/dev1/jobs/notify", []byte("third")); err != nil {
		t.Fatal(err)
	}
	for pk := r.expect(packets.Publish); string(pk.Payload) != "third"; pk = r.expect(packets.Publish) {
		r.ack(packets.Puback, pk.PacketID)
	}
}

// Who publishes does not wait while a subscriber is written to that does not read.
func TestAPublisherDoesNotWaitForAWriter(t *testing.T) {
	w := startBroker(t, func(c *BrokerConfig) {
		c.Limits.Pending, c.Limits.Write, c.Limits.UnackedOctets = 4, patience, math.MaxInt
	})
	deaf := w.raw(w.ca.device("dev1"), "dev1")
	deaf.subscribe(1, "$aws/things/dev1/jobs/notify")
	payload := []byte(strings.Repeat("x", 1<<20))
	published := make(chan struct{})
	go func() {
		defer close(published)
		for w.Stats().Dropped == 0 && w.Connections() == 1 {
			_ = w.Publish(t.Context(), "$aws/things/dev1/jobs/notify", payload)
		}
	}()
	<-published
	if w.Stats().Dropped == 0 {
		t.Error("it was waited for until the write deadline")
	}
	_ = deaf.conn.Close()
}
