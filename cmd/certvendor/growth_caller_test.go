package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net"
	"net/url"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"github.com/certvendor/certvendor/internal/control"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
)

// caller is a device that stays connected and asks again and again.
type caller struct {
	*process
	name    string
	roots   *x509.CertPool
	pair    tls.Certificate // it was vended last
	key     keyPair
	over    mqtt.Client
	replies chan mqtt.Message
}

// newCaller enters a device and connects it.
func newCaller(d *process, name string) *caller {
	d.t.Helper()
	roots, err := d.client.Roots(d.t.Context())
	if err != nil {
		d.t.Fatal(err)
	}
	c := &caller{process: d, name: name, roots: x509.NewCertPool(), replies: make(chan mqtt.Message, 8)}
	c.roots.AppendCertsFromPEM([]byte(roots))
	added, err := d.client.AddDevice(d.t.Context(), control.AddRequest{Name: name, CSR: c.newKey()})
	if err != nil {
		d.t.Fatal(err)
	}
	c.take(added.Certificate)
	c.over = c.connect("/calls", protocol.Get)
	return c
}

// newKey makes a key, and returns the request for it.
func (c *caller) newKey() string {
	c.t.Helper()
	key, err := newKey()
	if err != nil {
		c.t.Fatal(err)
	}
	c.key = key
	csr, err := control.NewRequest(key.signer, registry.DeviceID(c.name))
	if err != nil {
		c.t.Fatal(err)
	}
	return csr
}

func (c *caller) take(certificate string) {
	c.t.Helper()
	block, _ := pem.Decode([]byte(certificate))
	if block == nil {
		c.t.Fatalf("device %s: no certificate in %q", c.name, certificate)
	}
	c.pair = tls.Certificate{Certificate: [][]byte{block.Bytes}, PrivateKey: c.key.signer}
}

// connect opens a connection with the newest certificate, and hears the replies
// to one action.
func (c *caller) connect(id string, action protocol.Action) mqtt.Client {
	c.t.Helper()
	pair := c.pair
	client := mqtt.NewClient(mqtt.NewClientOptions().AddBroker("tls://broker").SetClientID(c.name + id).
		SetProtocolVersion(4).SetAutoReconnect(false).SetKeepAlive(20 * time.Minute).
		SetCustomOpenConnectionFn(func(*url.URL, mqtt.ClientOptions) (net.Conn, error) {
			dialer := tls.Dialer{Config: &tls.Config{
				MinVersion: tls.VersionTLS12, RootCAs: c.roots, ServerName: "127.0.0.1", Certificates: []tls.Certificate{pair},
				CurvePreferences: []tls.CurveID{tls.CurveP256}, // the cheapest, for there are many
			}}
			return dialer.DialContext(c.t.Context(), "tcp", c.broker)
		}))
	if token := client.Connect(); !token.WaitTimeout(patience) || token.Error() != nil {
		c.t.Fatalf("device %s is not connected: %v", c.name, token.Error())
	}
	hear := func(_ mqtt.Client, m mqtt.Message) { c.replies <- m }
	if token := client.Subscribe(protocol.DefaultTopics().Request(c.name, action)+"/+", 1, hear); !token.WaitTimeout(patience) || token.Error() != nil {
		c.t.Fatalf("device %s is not subscribed: %v", c.name, token.Error())
	}
	return client
}

// request makes a key, and the get for it.
func (c *caller) request() []byte {
	c.t.Helper()
	request, err := json.Marshal(map[string]string{"csr": c.newKey()})
	if err != nil {
		c.t.Fatal(err)
	}
	return request
}

// get asks, and takes what it is vended.
func (c *caller) get(request []byte) {
	c.t.Helper()
	var vended protocol.GetAccepted
	if err := protocol.Decode(c.ask(c.over, protocol.Get, request), &vended); err != nil {
		c.t.Fatalf("device %s: %v", c.name, err)
	}
	c.take(vended.Certificate)
}

// ack acks over the certificate it was vended last.
func (c *caller) ack() {
	c.t.Helper()
	over := c.connect("/acks", protocol.Ack)
	defer over.Disconnect(0)
	c.ask(over, protocol.Ack, []byte("{}"))
}

// ask publishes a request, and returns what it was granted.
func (c *caller) ask(over mqtt.Client, action protocol.Action, request []byte) []byte {
	c.t.Helper()
	topics := protocol.DefaultTopics()
	over.Publish(topics.Request(c.name, action), 1, false, request)
	select {
	case m := <-c.replies:
		if m.Topic() != topics.Accepted(c.name, action) {
			c.t.Fatalf("device %s: %s refused: %s", c.name, action, m.Payload())
		}
		return m.Payload()
	case <-time.After(patience):
		c.t.Fatalf("device %s: no reply to %s:\n%s", c.name, action, c.log())
	}
	return nil
}
