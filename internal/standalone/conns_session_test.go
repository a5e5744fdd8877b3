package standalone

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
)

func TestAStoredSessionKeepsMessagesForItsHour(t *testing.T) {
	w := startBroker(t)
	cert := w.ca.device("dev1")
	r := w.raw(cert, "dev1", keepSession)
	r.subscribe(1, "$aws/things/dev1/jobs/notify-next")
	_ = r.conn.Close()
	eventually(t, "it is gone", func() bool { return w.Connections() == 0 })
	if err := w.Publish(t.Context(), "$aws/things/dev1/jobs/notify-next", []byte("job")); err != nil {
		t.Fatal(err)
	}
	again := w.handshake(cert)
	ack, err := again.tryConnect("dev1", keepSession)
	if err != nil || !ack.SessionPresent {
		t.Fatalf("CONNACK %+v, %v", ack, err)
	}
	if m := again.expect(packets.Publish); string(m.Payload) != "job" {
		t.Errorf("redelivered %q", m.Payload)
	}
}

func TestAStoredSessionIsDroppedInTheEnd(t *testing.T) {
	w := startBroker(t, func(c *BrokerConfig) { c.Limits.StoredSession = 200 * time.Millisecond })
	cert := w.ca.device("dev1")
	r := w.raw(cert, "dev1", keepSession)
	r.subscribe(1, "cdf/certificates/dev1/get/+")
	open := w.raw(cert, "dev1/open", keepSession)
	_ = r.conn.Close()
	eventually(t, "the session is dropped", func() bool {
		_, there := w.server.Clients.Get("dev1")
		w.conns.mu.Lock()
		defer w.conns.mu.Unlock()
		return !there && len(w.conns.sessions["dev1"]) == 1
	})
	if s := w.server.Topics.Subscribers("cdf/certificates/dev1/get/accepted"); len(s.Subscriptions) != 0 {
		t.Errorf("subscriptions left in the index: %v", s.Subscriptions)
	}
	open.alive()
	if ack, err := w.handshake(cert).tryConnect("dev1", keepSession); err != nil || ack.SessionPresent {
		t.Errorf("CONNACK %+v, %v", ack, err)
	}
}

func TestStoredSessionsOfADeviceAreBounded(t *testing.T) {
	w := startBroker(t, func(c *BrokerConfig) { c.Limits.Sessions = 3 })
	cert := w.ca.device("dev1")
	for i := range 10 {
		r := w.raw(cert, fmt.Sprintf("dev1/%d", i), keepSession)
		r.subscribe(1, fmt.Sprintf("cdf/certificates/dev1/%d", i))
		_ = r.conn.Close()
		eventually(t, "it is stored", func() bool { return w.Connections() == 0 })
	}
	if n := w.server.Clients.Len(); n != 3 {
		t.Errorf("the library keeps %d sessions, not 3", n)
	}
	if ack, err := w.handshake(cert).tryConnect("dev1/9", keepSession); err != nil || !ack.SessionPresent {
		t.Errorf("the newest was dropped: %+v, %v", ack, err)
	}
	if ack, err := w.handshake(cert).tryConnect("dev1/0", keepSession); err != nil || ack.SessionPresent {
		t.Errorf("the oldest was kept: %+v, %v", ack, err)
	}
}

func TestASessionOfMQTT5EndsWhenItsClientSays(t *testing.T) {
	w := startBroker(t, func(c *BrokerConfig) { c.Limits.StoredSession = time.Hour })
	cert := w.ca.device("dev1")
	r := w.raw(cert, "dev1", v5, func(pk *packets.Packet) { pk.Connect.Clean = false })
	_ = r.conn.Close() // no expiry: it ends with the connection
	eventually(t, "it is dropped", func() bool { return w.server.Clients.Len() == 0 })

	long := w.handshake(cert)
	ack, err := long.tryConnect("dev1", v5, func(pk *packets.Packet) {
		pk.Connect.Clean = false
		pk.Properties.SessionExpiryInterval, pk.Properties.SessionExpiryIntervalFlag = 1<<31, true
	})
	if err != nil || ack.Properties.SessionExpiryInterval != 3600 {
		t.Errorf("CONNACK %+v, %v", ack, err)
	}
}

func TestASubscriptionTooManyIsRefused(t *testing.T) {
	w := startBroker(t)
	cert := w.ca.device("dev1")
	one, other := w.raw(cert, "dev1"), w.raw(cert, "dev1/other", v5)
	for i := range 49 {
		if codes := one.subscribe(1, fmt.Sprintf("cdf/certificates/dev1/get/%d", i)); codes[0] != 1 {
			t.Fatalf("subscription %d: %v", i, codes)
		}
	}
	if codes := other.subscribe(2, "cdf/certificates/dev1/a", "cdf/certificates/dev1/b"); codes[0] != 1 || codes[1] < 0x80 {
		t.Errorf("the 50th and the 51st: %v", codes)
	}
	if codes := one.subscribe(3, "cdf/certificates/dev1/b"); codes[0] != 0x80 {
		t.Errorf("the 51st again: %v", codes)
	}
	if codes := one.subscribe(4, "cdf/certificates/dev1/get/0"); codes[0] != 1 {
		t.Errorf("one that is there already: %v", codes)
	}
	_ = one.conn.Close() // a clean session gives back its subscriptions
	eventually(t, "it is gone", func() bool { return w.Connections() == 1 })
	if codes := other.subscribe(5, "cdf/certificates/dev1/b"); codes[0] != 1 {
		t.Errorf("when there is room again: %v", codes)
	}
}

func TestUnsubscribingMakesRoom(t *testing.T) {
	w := startBroker(t, func(c *BrokerConfig) { c.Limits.Subscriptions = 1 })
	client := w.connect(w.ca.device("dev1"), "dev1")
	w.listen(client, "cdf/certificates/dev1/a")
	if _, code := w.subscribe(client, "cdf/certificates/dev1/b"); code != 0x80 {
		t.Errorf("the second: %#x", code)
	}
	if token := client.Unsubscribe("cdf/certificates/dev1/a"); !token.WaitTimeout(patience) || token.Error() != nil {
		t.Fatal(token.Error())
	}
	w.listen(client, "cdf/certificates/dev1/b")
}

func TestASessionThatAcknowledgesNothingIsGivenNoMore(t *testing.T) {
	for name, limit := range map[string]func(*BrokerLimits){
		"messages": func(l *BrokerLimits) { l.Unacked = 10 },
		"octets":   func(l *BrokerLimits) { l.UnackedOctets = 10_500 },
	} {
		t.Run(name, func(t *testing.T) {
			w := startBroker(t, func(c *BrokerConfig) { limit(&c.Limits) })
			r := w.raw(w.ca.device("dev1"), "dev1", keepSession)
			r.subscribe(1, "$aws/things/dev1/jobs/notify")
			_ = r.conn.Close()
			eventually(t, "it is stored", func() bool { return w.Connections() == 0 })
			for range 15 {
				_ = w.Publish(t.Context(), "$aws/things/dev1/jobs/notify", []byte(strings.Repeat("x", 1000)))
			}
			client, _ := w.server.Clients.Get("dev1")
			if n := client.State.Inflight.Len(); n != 10 {
				t.Errorf("%d messages are held, not 10", n)
			}
			if n := w.Stats().Unacked; n != 5 {
				t.Errorf("%d counted, not 5", n)
			}
		})
	}
}

// Who takes over from a connection gets no session that was to end with it: what it
// was sent, and what it subscribed to, was nobody else's.
func TestATakeoverResumesOnlyWhatIsKept(t *testing.T) {
	keep := func(pk *packets.Packet) {
		pk.Connect.Clean = false
		pk.Properties.SessionExpiryInterval, pk.Properties.SessionExpiryIntervalFlag = 60, true
	}
	const topic = "cdf/certificates/dev1/get/accepted"
	w := startBroker(t)
	cert := w.ca.device("dev1")
	for _, version := range []func(*packets.Packet){func(*packets.Packet) {}, v5} {
		former := w.raw(cert, "dev1", version)
		former.subscribe(1, topic)
		for _, kept := range []bool{false, true} {
			next := w.handshake(cert)
			if ack, err := next.tryConnect("dev1", version, keep); err != nil || ack.SessionPresent != kept {
				t.Fatalf("session present: %t, not %t; %v", ack.SessionPresent, kept, err)
			}
			former.expectEnd()
			if n := len(w.server.Topics.Subscribers(topic).Subscriptions); n != 0 && !kept {
				t.Error("the subscription is there still")
			}
			if codes := next.subscribe(1, topic); codes[0] != 1 {
				t.Error(codes)
			}
			next.publish(2, "cdf/certificates/dev1/get", "{}")
			next.expect(packets.Publish)
			former = next
		}
	}
	w.conns.mu.Lock()
	defer w.conns.mu.Unlock()
	if n := len(w.conns.sessions["dev1"]["dev1"].filters); n != 1 {
		t.Errorf("%d subscriptions are counted", n)
	}
}
