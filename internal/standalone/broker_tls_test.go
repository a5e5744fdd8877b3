package standalone

import (
	"crypto/tls"
	"crypto/x509"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
)

func TestTLSBelow12IsRefused(t *testing.T) {
	w := startBroker(t)
	config := w.trust(w.ca.device("dev1"))
	config.MinVersion, config.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	if _, err := w.tryHandshake(config); err == nil {
		t.Error("TLS 1.1 was accepted")
	}
	config.MinVersion, config.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	r, err := w.tryHandshake(config)
	if err != nil {
		t.Fatalf("TLS 1.2: %v", err)
	}
	if code := r.connect("dev1"); code != 0 {
		t.Errorf("TLS 1.2: CONNACK %#x", code)
	}
}

func TestProtocolNames(t *testing.T) {
	for name, test := range map[string]struct {
		offered  []string
		accepted bool
		chosen   string
	}{
		"none":                 {nil, true, ""},
		"the AWS IoT SDK's":    {[]string{"x-amzn-mqtt-ca"}, true, "x-amzn-mqtt-ca"},
		"among others":         {[]string{"h2", "x-amzn-mqtt-ca"}, true, "x-amzn-mqtt-ca"},
		"one that is not MQTT": {[]string{"h2"}, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := startBroker(t)
			config := w.trust(w.ca.device("dev1"))
			config.NextProtos = test.offered
			r, err := w.tryHandshake(config)
			if (err == nil) != test.accepted {
				t.Fatalf("handshake: %v", err)
			}
			if err == nil && r.conn.(*tls.Conn).ConnectionState().NegotiatedProtocol != test.chosen {
				t.Errorf("chosen: %q", r.conn.(*tls.Conn).ConnectionState().NegotiatedProtocol)
			}
		})
	}
}

func TestNoSessionIsResumed(t *testing.T) {
	w := startBroker(t)
	config := w.trust(w.ca.device("dev1"))
	config.ClientSessionCache = tls.NewLRUClientSessionCache(10)
	for range 2 {
		r, err := w.tryHandshake(config)
		if err != nil {
			t.Fatal(err)
		}
		if code := r.connect("dev1"); code != 0 {
			t.Fatalf("CONNACK %#x", code)
		}
		r.alive()
		if r.conn.(*tls.Conn).ConnectionState().DidResume {
			t.Error("the session was resumed")
		}
	}
}

// refused reports how a device with this certificate is refused, or empty.
func (w *brokerWorld) refused(c tls.Certificate, clientID string) Refusal {
	w.t.Helper()
	before := w.Stats().Refused
	r, err := w.tryHandshake(w.trust(c))
	if err == nil {
		var code byte
		ack, readErr := r.tryConnect(clientID)
		code, err = ack.ReasonCode, readErr
		if err == nil && code == 0 {
			return ""
		}
	}
	var why Refusal
	eventually(w.t, "the refusal is counted", func() bool {
		for r, n := range w.Stats().Refused {
			if n > before[r] {
				why = r
			}
		}
		return why != ""
	})
	return why
}

func TestWhoseCertificateIsTrusted(t *testing.T) {
	w := startBroker(t)
	stranger := newTestCA(t, "stranger")
	lookalike := newTestCA(t, "root").intermediate("issuing")
	ago := func(d time.Duration) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-d) }
	}
	for name, test := range map[string]struct {
		cert tls.Certificate
		want Refusal
	}{
		"only its leaf, under the intermediate": {w.ca.device("dev1"), ""},
		"no certificate":                        {tls.Certificate{}, RefusedTLS},
		"a foreign CA":                          {stranger.device("dev1"), RefusedUntrusted},
		"a foreign CA of the same name":         {lookalike.device("dev1"), RefusedUntrusted},
		"expired":                               {w.ca.device("dev1", ago(time.Minute)), RefusedExpired},
		// It was vended while our own clock ran ahead; the receiver knows it.
		"not yet valid": {w.ca.device("dev1", func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Now().Add(time.Minute), time.Now().Add(time.Hour)
		}), ""},
		"not yet valid, of a foreign CA": {stranger.device("dev1", func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Now().Add(time.Minute), time.Now().Add(time.Hour)
		}), RefusedUntrusted},
		"for servers only": {w.ca.device("dev1", func(c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		}), RefusedUntrusted},
		"for anything": {w.ca.device("dev1", func(c *x509.Certificate) { c.ExtKeyUsage = nil }), ""},
	} {
		t.Run(name, func(t *testing.T) {
			if got := w.refused(test.cert, "dev1"); got != test.want {
				t.Errorf("refused: %q, not %q", got, test.want)
			}
		})
	}
}

func TestACAThatIsAddedLaterIsTrusted(t *testing.T) {
	var pool atomic.Pointer[x509.CertPool]
	w := startBroker(t, func(c *BrokerConfig) {
		own := c.ClientCAs
		c.ClientCAs = func() *x509.CertPool {
			if p := pool.Load(); p != nil {
				return p
			}
			return own()
		}
	})
	foreign := newTestCA(t, "foreign")
	sub := foreign.intermediate("foreign issuing")
	cert := sub.device("dev1")
	if got := w.refused(cert, "dev1"); got != RefusedUntrusted {
		t.Fatalf("before: %q", got)
	}
	pool.Store(foreign.pool())
	if got := w.refused(cert, "dev1"); got != RefusedUntrusted {
		t.Fatalf("without its intermediate: %q", got)
	}
	cert.Certificate = append(cert.Certificate, sub.cert.Raw)
	if got := w.refused(cert, "dev1"); got != "" {
		t.Errorf("after, with its chain: %q", got)
	}
}

func TestTheExpiredWindow(t *testing.T) {
	w := startBroker(t, func(c *BrokerConfig) {
		c.Expired = time.Hour
		c.Extra = []TopicRule{{Filter: "fleet/{thingName}", Publish: true, Subscribe: true}}
	})
	expired := func(ago time.Duration) tls.Certificate {
		return w.ca.device("dev1", func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Now().Add(-50*time.Minute), time.Now().Add(-ago)
		})
	}
	old := w.ca.device("dev1", func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-3*time.Hour), time.Now().Add(-2*time.Hour)
	})
	if got := w.refused(old, "dev1"); got != RefusedExpired {
		t.Errorf("beyond the window: %q", got)
	}
	r := w.raw(expired(time.Minute), "dev1")
	codes := r.subscribe(1, "cdf/certificates/dev1/get/+", "$aws/things/dev1/jobs/#", "fleet/dev1")
	if codes[0] != 1 || codes[1] != 1 || codes[2] != 0x80 {
		t.Errorf("subscriptions within the window: %v", codes)
	}
	for i, topic := range []string{"cdf/certificates/dev1/get", "cdf/certificates/dev1/ack", "$aws/things/dev1/jobs/get"} {
		r.publish(uint16(i+2), topic, "")
		r.expect(packets.Puback)
	}
	r.publish(9, "fleet/dev1", "")
	r.expectEnd()

	fresh := w.raw(w.ca.device("dev1"), "dev1/fresh")
	fresh.publish(1, "fleet/dev1", "")
	fresh.expect(packets.Puback)
}

func TestAConnectionOutlivesItsCertificate(t *testing.T) {
	var ahead atomic.Int64
	w := startBroker(t, func(c *BrokerConfig) {
		c.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	})
	cert := w.ca.device("dev1")
	r := w.raw(cert, "dev1")
	ahead.Store(int64(31 * time.Minute))
	r.publish(1, "cdf/certificates/dev1/get", "{}")
	r.expect(packets.Puback)
	if got := w.refused(cert, "dev1/new"); got != RefusedExpired {
		t.Errorf("a new connection: %q", got)
	}
}
