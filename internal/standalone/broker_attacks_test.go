package standalone

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/vending"
)

// TestAttacksOnTheBroker is what a device with a good certificate, and a
// stranger without one, try against the others. A victim listens all the time:
// in the end it must have heard nothing but the vendor.
func TestAttacksOnTheBroker(t *testing.T) {
	w := startBroker(t, func(c *BrokerConfig) {
		c.Limits.Handshake, c.Limits.Write = 500*time.Millisecond, 300*time.Millisecond
	})
	evil := w.ca.device("evil")
	victimCert := w.ca.device("victim")
	victim := w.raw(victimCert, "victim")
	if codes := victim.subscribe(1, "cdf/certificates/victim/#", "$aws/things/victim/#"); codes[0] != 1 || codes[1] != 1 {
		t.Fatal(codes)
	}

	attacks := map[string]func(*testing.T){
		"publishing on another's topics": func(t *testing.T) {
			for _, topic := range []string{
				"cdf/certificates/victim/get", "cdf/certificates/victim/ack", "cdf/certificates/victim/get/accepted",
				"$aws/things/victim/jobs/get", "$aws/things/victim/jobs/notify", "$aws/things/victim/jobs/x/update",
			} {
				for id := range uint16(2) {
					r := w.raw(evil, "evil")
					r.publish(id, topic, "{}")
					r.expectEnd()
				}
			}
		},
		"publishing its own get/accepted": func(*testing.T) {
			r := w.raw(evil, "evil")
			r.publish(1, "cdf/certificates/evil/get/accepted", "{}")
			r.expectEnd()
		},
		"subscribing to what is another's": func(t *testing.T) {
			r := w.raw(evil, "evil")
			for _, filter := range []string{
				"#", "+/#", "$SYS/#", "$aws/#", "cdf/#", "cdf/certificates/+/get/accepted", "cdf/certificates/victim/#",
				"$aws/things/+/jobs/notify", "$aws/things/victim/jobs/notify",
				"$share/evil/cdf/certificates/victim/#", "$share/evil/cdf/certificates/evil/#", "$SHARE/evil/#",
			} {
				if codes := r.subscribe(1, filter); codes[0] != 0x80 {
					t.Errorf("%s: %v", filter, codes)
				}
			}
			_ = w.Publish(t.Context(), "cdf/certificates/victim/get/accepted", []byte("secret"))
			r.alive()
			if s := w.server.Topics.Subscribers("cdf/certificates/victim/get/accepted"); len(s.Subscriptions) != 1 || len(s.Shared) != 0 {
				t.Errorf("who hears it: %v %v", s.Subscriptions, s.Shared)
			}
		},
		"a will on another's topic": func(t *testing.T) {
			for _, retain := range []bool{false, true} {
				r := w.handshake(evil)
				code := r.connect("evil", func(pk *packets.Packet) {
					pk.Connect.WillFlag, pk.Connect.WillRetain, pk.Connect.WillQos = true, retain, 1
					pk.Connect.WillTopic, pk.Connect.WillPayload = "cdf/certificates/victim/get/accepted", []byte("forged")
				})
				if code == 0 {
					t.Error("accepted")
				}
				_ = r.conn.Close()
			}
		},
		"another's name as client id": func(t *testing.T) {
			for _, id := range []string{"victim", "victim/evil"} {
				if code := w.handshake(evil).connect(id); code == 0 {
					t.Errorf("%s: accepted", id)
				}
			}
		},
		"a name with a wildcard, a slash or NUL": func(t *testing.T) {
			for _, id := range []string{"+", "#", "vic+im", "victim#", "/victim", "../victim", "evil\x00victim", "vïctim", "evil victim"} {
				ack, err := w.handshake(evil).tryConnect(id)
				if err == nil && ack.ReasonCode == 0 {
					t.Errorf("%q: accepted", id)
				}
			}
		},
		"a NUL in a topic": func(*testing.T) {
			r := w.raw(evil, "evil")
			r.publish(1, "cdf/certificates/evil\x00/get", "{}")
			r.expectEnd()
		},
		"a thousand client ids": func(t *testing.T) {
			for i := range 1000 {
				r := w.raw(evil, fmt.Sprintf("evil/%d", i), keepSession)
				if i%100 == 0 {
					r.subscribe(1, "cdf/certificates/evil/#")
				}
				if i >= 20 {
					_ = r.conn.Close()
				}
			}
			if n := w.Connections(); n > 1+8 {
				t.Errorf("%d connections", n)
			}
			if n := w.server.Clients.Len(); n > 1+8 {
				t.Errorf("%d sessions", n)
			}
		},
		"a certificate that has expired, or of a foreign CA": func(t *testing.T) {
			stranger := newTestCA(t, "root").intermediate("issuing").device("victim")
			if why := w.refused(stranger, "victim"); why != RefusedUntrusted {
				t.Errorf("foreign CA: %q", why)
			}
			old := w.ca.device("victim", expiredYesterday)
			if why := w.refused(old, "victim"); why != RefusedExpired {
				t.Errorf("expired: %q", why)
			}
		},
		"never finishing TLS": func(t *testing.T) {
			conn, err := net.Dial("tcp", w.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_, _ = conn.Write([]byte{22, 3, 1, 0xff, 0xff, 1}) // the beginning of a ClientHello
			_ = conn.SetReadDeadline(time.Now().Add(patience))
			for {
				if _, err := conn.Read(make([]byte, 100)); err != nil {
					if isTimeout(err) {
						t.Error("left open")
					}
					return
				}
			}
		},
		"MQTT without TLS": func(t *testing.T) {
			conn, err := net.Dial("tcp", w.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_, _ = conn.Write([]byte{0x10, 18, 0, 4, 'M', 'Q', 'T', 'T', 4, 2, 0, 60, 0, 6, 'v', 'i', 'c', 't', 'i', 'm'})
			_ = conn.SetReadDeadline(time.Now().Add(patience))
			var answer bytes.Buffer
			_, _ = answer.ReadFrom(conn)
			if bytes.HasPrefix(answer.Bytes(), []byte{0x20}) {
				t.Errorf("a CONNACK: %x", answer.Bytes())
			}
		},
		"never reading": func(t *testing.T) {
			r := w.raw(evil, "evil/deaf")
			r.subscribe(1, "cdf/certificates/evil/#")
			for i := range 200 {
				r.publish(uint16(i+1), "cdf/certificates/evil/get", strings.Repeat("x", 60_000))
				if i%50 == 0 {
					victim.alive()
				}
			}
		},
		"a second CONNECT as another": func(*testing.T) {
			r := w.raw(evil, "evil")
			_, _ = r.tryConnect("victim")
			r.expectEnd()
		},
	}
	for name, attack := range attacks {
		t.Run(name, attack)
		victim.alive()
	}

	_ = w.Publish(t.Context(), "$aws/things/victim/jobs/notify", []byte("last"))
	for m := victim.expect(packets.Publish); string(m.Payload) != "last"; m = victim.expect(packets.Publish) {
		if string(m.Payload) != "secret" {
			t.Errorf("the victim heard %s %.80q", m.TopicName, m.Payload)
		}
	}
	for _, m := range w.receiver.requests() {
		want := vending.Caller{Device: "evil", Certificate: idOf(evil), CommonName: "evil", Evidence: certificate.Connection}
		if m.Caller != want || m.Topic != "cdf/certificates/evil/get" {
			t.Errorf("a request reached the receiver: %s, %+v", m.Topic, m.Caller)
		}
	}
}

func expiredYesterday(c *x509.Certificate) {
	c.NotBefore, c.NotAfter = time.Now().Add(-48*time.Hour), time.Now().Add(-24*time.Hour)
}
