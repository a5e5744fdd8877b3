package standalone

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/vending"
)

func TestWhatAConnectMayNotAsk(t *testing.T) {
	w := startBroker(t)
	cert := w.ca.device("dev1")
	will := func(retain bool) func(*packets.Packet) {
		return func(pk *packets.Packet) {
			pk.Connect.WillFlag, pk.Connect.WillRetain = true, retain
			pk.Connect.WillTopic, pk.Connect.WillPayload = "cdf/certificates/dev1/get", []byte("{}")
		}
	}
	keepalive := func(seconds uint16) func(*packets.Packet) {
		return func(pk *packets.Packet) { pk.Connect.Keepalive = seconds }
	}
	for name, test := range map[string]struct {
		clientID string
		edit     func(*packets.Packet)
		code3    byte
		code5    byte
		why      Refusal
	}{
		"a will":                       {"dev1", will(false), 5, 0x87, RefusedWill},
		"an empty client id":           {"", keepalive(60), 2, 0x85, RefusedClientID},
		"an empty device":              {"/dev1", keepalive(60), 2, 0x85, RefusedClientID},
		"a wildcard in the name":       {"dev+", keepalive(60), 2, 0x85, RefusedClientID},
		"a client id beyond measure":   {"dev1/" + strings.Repeat("x", 252), keepalive(60), 2, 0x85, RefusedClientID},
		"no keepalive":                 {"dev1", keepalive(0), 5, 0x87, RefusedKeepalive},
		"a keepalive that is too long": {"dev1", keepalive(1201), 5, 0x87, RefusedKeepalive},
	} {
		t.Run(name, func(t *testing.T) {
			for version, want := range map[byte]byte{4: test.code3, 5: test.code5} {
				before := w.Stats().Refused[test.why]
				r := w.handshake(cert)
				code := r.connect(test.clientID, test.edit, func(pk *packets.Packet) { pk.ProtocolVersion = version })
				if code != want {
					t.Errorf("version %d: CONNACK %#x, not %#x", version, code, want)
				}
				r.expectEnd()
				if after := w.Stats().Refused[test.why]; after != before+1 {
					t.Errorf("version %d: refused as %q %d times, not once", version, test.why, after-before)
				}
			}
		})
	}
	if code := w.handshake(cert).connect("dev1", will(true)); code == 0 {
		t.Error("a retained will was accepted")
	}
	if len(w.receiver.presents) != 0 {
		t.Errorf("the receiver was told of %+v", w.receiver.presents)
	}
	if code := w.handshake(cert).connect("dev1", keepalive(1200)); code != 0 {
		t.Errorf("a keepalive of 1200 s: CONNACK %#x", code)
	}
}

// Over a reset, some stacks throw away the CONNACK that came before it.
func TestARefusalIsNotLostToAReset(t *testing.T) {
	w := startBroker(t)
	looking, sent := make(chan struct{}), make(chan struct{})
	w.receiver.present = func(context.Context, vending.Caller) error {
		close(looking)
		<-sent
		return errors.New("not active")
	}
	r := w.handshake(w.ca.device("dev1"))
	go func() {
		<-looking
		r.publish(0, "cdf/certificates/dev1/get", strings.Repeat("x", 100_000)) // does not wait for the CONNACK
		close(sent)
	}()
	if code := r.connect("dev1"); code != packets.Err3NotAuthorized.Code {
		t.Errorf("CONNACK %#x", code)
	}
	if _, err := r.read(); !errors.Is(err, io.EOF) {
		t.Errorf("ended with %v", err)
	}
}

func TestWhatEndsAConnection(t *testing.T) {
	w := startBroker(t)
	cert := w.ca.device("dev1")
	retained := func(pk *packets.Packet) { pk.FixedHeader.Retain = true }
	twice := func(pk *packets.Packet) { pk.FixedHeader.Qos = 2 }
	same := func(*packets.Packet) {}
	for name, test := range map[string]struct {
		send func(*rawClient)
		why  Refusal
		code byte // of an MQTT 5 DISCONNECT
	}{
		"a retained message":      {func(r *rawClient) { r.publish(1, "cdf/certificates/dev1/get", "{}", retained) }, RefusedRetain, 0x9a},
		"QoS 2":                   {func(r *rawClient) { r.publish(1, "cdf/certificates/dev1/get", "{}", twice) }, RefusedQoS, 0x9b},
		"a PUBREL":                {func(r *rawClient) { r.ack(packets.Pubrel, 1) }, RefusedQoS, 0x9b},
		"another device's topic":  {func(r *rawClient) { r.publish(1, "cdf/certificates/dev2/get", "{}", same) }, RefusedPublish, 0x87},
		"the same with QoS 0":     {func(r *rawClient) { r.publish(0, "cdf/certificates/dev2/get", "{}", same) }, RefusedPublish, 0x87},
		"a topic of nobody":       {func(r *rawClient) { r.publish(1, "news", "{}", same) }, RefusedPublish, 0x87},
		"the broker's own topics": {func(r *rawClient) { r.publish(1, "$SYS/broker/version", "{}", same) }, RefusedPublish, 0x87},
		"a topic beyond measure":  {func(r *rawClient) { r.publish(1, strings.Repeat("/", 60_000), "", same) }, RefusedPublish, 0x87},
		"an alias in place of a topic": {func(r *rawClient) {
			r.publish(1, "", "{}", func(pk *packets.Packet) { pk.Properties.TopicAlias, pk.Properties.TopicAliasFlag = 1, true })
		}, RefusedPublish, 0x87},
	} {
		for _, version := range []byte{4, 5} {
			t.Run(fmt.Sprintf("%s, version %d", name, version), func(t *testing.T) {
				before := w.Stats().Refused[test.why]
				r := w.raw(cert, "dev1", func(pk *packets.Packet) { pk.ProtocolVersion = version })
				test.send(r)
				last := r.expectEnd()
				switch {
				case version == 4 && len(last) != 0:
					t.Errorf("sent before the end: %+v", last)
				case version == 5 && (len(last) != 1 || last[0].FixedHeader.Type != packets.Disconnect || last[0].ReasonCode != test.code):
					t.Errorf("sent before the end: %+v", last)
				}
				if after := w.Stats().Refused[test.why]; after != before+1 {
					t.Errorf("counted %d times, not once", after-before)
				}
			})
		}
	}
	if n := len(w.receiver.requests()); n != 0 {
		t.Errorf("%d requests reached the receiver", n)
	}
}

func TestAPacketOfMoreThan128KiBClosesTheConnection(t *testing.T) {
	w := startBroker(t)
	cert := w.ca.device("dev1")
	r := w.raw(cert, "dev1")
	r.publish(1, "cdf/certificates/dev1/get", strings.Repeat("x", protocol.MaxPayload+1)) // the receiver's to refuse
	r.expect(packets.Puback)
	r.publish(2, "cdf/certificates/dev1/get", strings.Repeat("x", protocol.MaxPacket))
	r.expectEnd()
	if n := len(w.receiver.requests()); n != 1 {
		t.Errorf("%d requests, not 1", n)
	}
	long := w.handshake(cert)
	if ack, err := long.tryConnect("dev1", func(pk *packets.Packet) {
		pk.Connect.UsernameFlag, pk.Connect.Username = true, make([]byte, 65535)
		pk.Connect.PasswordFlag, pk.Connect.Password = true, make([]byte, 65535)
	}); err == nil {
		t.Errorf("a CONNECT of more than 128 KiB: CONNACK %#x", ack.ReasonCode)
	}
}

// A device numbers its packets itself, from 1, as the broker numbers its own:
// the library keeps both in one map.
func TestAPacketOfTheDeviceDoesNotDeleteAMessageOfTheSameNumber(t *testing.T) {
	w := startBroker(t)
	w.receiver.serve = func(context.Context, vending.Message) {}
	cert := w.ca.device("dev1")
	r := w.raw(cert, "dev1", keepSession)
	r.subscribe(1, "$aws/things/dev1/jobs/notify")
	for i := range 5 {
		_ = w.Publish(t.Context(), "$aws/things/dev1/jobs/notify", fmt.Append(nil, i))
	}
	numbers := map[uint16]bool{}
	for range 5 {
		numbers[r.expect(packets.Publish).PacketID] = true // and not acknowledged
	}
	for id := range numbers {
		r.publish(id, "cdf/certificates/dev1/get", "{}")
		if ack := r.expect(packets.Puback); ack.PacketID != id {
			t.Errorf("PUBACK for %d, not %d", ack.PacketID, id)
		}
		if codes := r.subscribe(id, "cdf/certificates/dev1/get/+"); codes[0] != 1 {
			t.Errorf("SUBSCRIBE %d: %v", id, codes)
		}
	}
	_ = r.conn.Close()
	again := w.raw(cert, "dev1", keepSession)
	for range 5 {
		m := again.expect(packets.Publish)
		if !strings.HasSuffix(m.TopicName, "/notify") || !numbers[m.PacketID] || !m.FixedHeader.Dup {
			t.Errorf("redelivered: %d %s", m.PacketID, m.TopicName)
		}
		delete(numbers, m.PacketID)
	}
}

func TestNumbersGoRoundWithoutMeeting(t *testing.T) {
	l := &mqttLink{}
	client := startBroker(t).server.NewClient(nil, "", "dev1", false)
	for _, sent := range []uint32{0, 1, 0x7fff, 0x8000, 0xffff} {
		l.lastSent.Store(sent)
		id := l.standIn(1, client)
		if distance := uint16(id - uint16(sent)); id == 0 || distance < 1000 || distance > 65535-1000 {
			t.Errorf("after %d: %d", sent, id)
		}
		client.State.Inflight.Set(packets.Packet{PacketID: id})
		if again := l.standIn(1, client); again == id || again == 0 {
			t.Errorf("after %d: %d, which a message bears", sent, again)
		}
	}
}

func TestOnlyQoS1IsGranted(t *testing.T) {
	w := startBroker(t)
	r := w.raw(w.ca.device("dev1"), "dev1")
	if codes := r.subscribeAt(2, 1, "cdf/certificates/dev1/get/+"); codes[0] != 1 {
		t.Errorf("granted %v", codes)
	}
}

func TestADeviceNamedLikeTheLibrarysOwnClient(t *testing.T) {
	w := startBroker(t)
	if ack, err := w.handshake(w.ca.device("inline")).tryConnect("inline", keepSession); err != nil || ack.ReasonCode != 0 || ack.SessionPresent {
		t.Fatalf("CONNACK %+v, %v", ack, err)
	}
	client := w.connect(w.ca.device("inline"), "inline")
	replies := w.listen(client, "cdf/certificates/inline/get/+")
	if err := w.publish(client, "cdf/certificates/inline/get", "{}"); err != nil {
		t.Fatal(err)
	}
	receive(t, replies)
	client.Disconnect(0)
	eventually(t, "it is gone", func() bool { return w.Connections() == 0 })
	other := w.connect(w.ca.device("dev1"), "dev1")
	replies = w.listen(other, "cdf/certificates/dev1/get/+")
	if err := w.publish(other, "cdf/certificates/dev1/get", "{}"); err != nil {
		t.Fatal(err)
	}
	receive(t, replies)
}

func TestPingsAreNotARequestButSaveFromSilence(t *testing.T) {
	w := startBroker(t)
	r := w.raw(w.ca.device("dev1"), "dev1", func(pk *packets.Packet) { pk.Connect.Keepalive = 1 })
	for range 4 {
		time.Sleep(500 * time.Millisecond)
		r.alive()
	}
	silent := w.raw(w.ca.device("dev2"), "dev2", func(pk *packets.Packet) { pk.Connect.Keepalive = 1 })
	silent.expectEnd()
	if n := len(w.receiver.requests()); n != 0 {
		t.Errorf("%d requests", n)
	}
}

func TestTheFleetsOwnTopics(t *testing.T) {
	w := startBroker(t, func(c *BrokerConfig) {
		c.Extra = []TopicRule{
			{Filter: "telemetry/{thingName}/#", Publish: true},
			{Filter: "telemetry/+/alarm", Subscribe: true},
		}
	})
	sender, hearer := w.connect(w.ca.device("dev1"), "dev1"), w.connect(w.ca.device("dev2"), "dev2")
	heard := w.listen(hearer, "telemetry/+/alarm")
	if _, code := w.subscribe(hearer, "telemetry/#"); code != 0x80 {
		t.Errorf("more than the rule: %#x", code)
	}
	for _, topic := range []string{"telemetry/dev1/temperature", "telemetry/dev1/alarm"} {
		if err := w.publish(sender, topic, "hot"); err != nil {
			t.Fatal(err)
		}
	}
	if m := receive(t, heard); m.Topic() != "telemetry/dev1/alarm" {
		t.Errorf("heard %s", m.Topic())
	}
	if n := len(w.receiver.requests()); n != 0 {
		t.Errorf("%d of them came to the receiver", n)
	}
	if err := w.publish(sender, "telemetry/dev2/alarm", "x"); err == nil {
		t.Error("published as another device")
	}
}

// TestAPanicEndsOneConnection: what goes wrong on a connection's goroutine, in
// our code or the library's, costs the device its connection and nobody more.
func TestAPanicEndsOneConnection(t *testing.T) {
	w := startBroker(t)
	w.panics = 1
	w.receiver.serve = func(_ context.Context, m vending.Message) {
		panic("a bug met by " + string(m.Caller.Device))
	}
	other := w.raw(w.ca.device("other"), "other")
	evil := w.raw(w.ca.device("evil"), "evil")
	evil.publish(1, "cdf/certificates/evil/get", "{}")
	evil.expectEnd()
	eventually(t, "the connection is gone, and the panic counted", func() bool {
		return w.Connections() == 1 && w.Stats().Panics == 1
	})
	other.alive()
	again := w.raw(w.ca.device("evil"), "evil")
	again.alive()
}
