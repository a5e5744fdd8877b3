package standalone

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/vending"
)

// anchorsOf lets a test change whom the broker trusts.
type anchorsOf struct {
	pool   atomic.Pointer[x509.CertPool]
	number atomic.Uint64
}

func (a *anchorsOf) trust(cas ...*testCA) {
	pool := x509.NewCertPool()
	for _, ca := range cas {
		pool.AddCert(ca.cert)
	}
	a.pool.Store(pool)
	a.number.Add(1)
}

func (a *anchorsOf) edit(c *BrokerConfig) { c.ClientCAs, c.Trust = a.pool.Load, a.number.Load }

// Connections of a CA that is not trusted any more are closed, also with a
// certificate that has expired meanwhile; those of another go on.
func TestCloseUntrusted(t *testing.T) {
	var anchors anchorsOf
	var later atomic.Int64
	w := startBroker(t, anchors.edit, func(c *BrokerConfig) {
		c.Now = func() time.Time { return time.Now().Add(time.Duration(later.Load())) }
	})
	other := newTestCA(t, "other")
	anchors.trust(w.ca, other)
	lost, kept := make(chan error, 1), make(chan error, 1)
	on := func(into chan error) func(*paho.ClientOptions) {
		return func(o *paho.ClientOptions) {
			o.SetConnectionLostHandler(func(_ paho.Client, err error) { into <- err })
		}
	}
	w.connect(other.device("dev1"), "dev1", on(lost))
	stays := w.connect(w.ca.device("dev2"), "dev2", on(kept))
	later.Store(int64(20 * 365 * 24 * time.Hour)) // longer than either lasts
	w.CloseUntrusted()
	if !w.Connected("dev1", idOfCaller(w, "dev1")) || !w.Connected("dev2", idOfCaller(w, "dev2")) {
		t.Fatal("a connection was closed for having expired")
	}
	anchors.trust(w.ca)
	w.CloseUntrusted()
	select {
	case <-lost:
	case <-time.After(patience):
		t.Fatal("the connection of the CA that is not trusted is open still")
	}
	later.Store(0)
	if err := w.publish(stays, "cdf/certificates/dev2/get", "{}"); err != nil {
		t.Errorf("the other connection: %v", err)
	}
	select {
	case err := <-kept:
		t.Errorf("the other connection was closed: %v", err)
	default:
	}
}

func idOfCaller(w *brokerWorld, device string) (id certificate.ID) {
	w.receiver.mu.Lock()
	defer w.receiver.mu.Unlock()
	for _, c := range w.receiver.presents {
		if string(c.Device) == device {
			id = c.Certificate
		}
	}
	return id
}

// A connection whose handshake was over when its CA was given up is not let in,
// although nobody closed it: it was not entered yet.
func TestDistrustBetweenHandshakeAndConnect(t *testing.T) {
	var anchors anchorsOf
	w := startBroker(t, anchors.edit)
	other := newTestCA(t, "other")
	anchors.trust(w.ca, other)
	handshaken := func() {
		anchors.trust(w.ca)
		w.CloseUntrusted()
	}
	w.receiver.present = func(context.Context, vending.Caller) error {
		t.Error("the receiver was asked")
		return nil
	}
	_, err := w.dial(other.device("dev1"), "dev1", func(o *paho.ClientOptions) {
		config := o.TLSConfig
		config.MaxVersion = tls.VersionTLS12 // its handshake ends after the server has verified the client
		o.SetCustomOpenConnectionFn(func(*url.URL, paho.ClientOptions) (net.Conn, error) {
			conn, err := tls.Dial("tcp", w.Addr().String(), config)
			if err != nil {
				return nil, err
			}
			handshaken()
			return conn, nil
		})
	})
	if err == nil {
		t.Error("let in")
	}
}
