package standalone

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/backend"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/vending"
)

// patience is how long a test waits for what must happen.
const patience = 20 * time.Second

// testCA signs the certificates of one test.
type testCA struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newTestCA(t *testing.T, name string) *testCA {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return &testCA{t: t, cert: parseDER(t, der), key: key}
}

// intermediate returns a CA signed by this one.
func (ca *testCA) intermediate(name string) *testCA {
	ca.t.Helper()
	key := newKey(ca.t)
	der := ca.sign(&x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
	}, key.Public())
	return &testCA{t: ca.t, cert: parseDER(ca.t, der), key: key}
}

// device returns a client certificate, changed by the edits.
func (ca *testCA) device(name string, edits ...func(*x509.Certificate)) tls.Certificate {
	ca.t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(30 * time.Minute),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	for _, edit := range edits {
		edit(template)
	}
	key := newKey(ca.t)
	return tls.Certificate{Certificate: [][]byte{ca.sign(template, key.Public())}, PrivateKey: key}
}

func (ca *testCA) server() tls.Certificate {
	return ca.device("broker", func(c *x509.Certificate) {
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	})
}

func (ca *testCA) sign(template *x509.Certificate, public crypto.PublicKey) []byte {
	ca.t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, public, ca.key)
	if err != nil {
		ca.t.Fatal(err)
	}
	return der
}

func (ca *testCA) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	return pool
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func parseDER(t *testing.T, der []byte) *x509.Certificate {
	t.Helper()
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func idOf(c tls.Certificate) certificate.ID { return certificate.IDOf(c.Certificate[0]) }

// testReceiver answers "accepted" to every request, over the broker, and lets
// everybody in whose certificate's common name is the device's.
type testReceiver struct {
	broker  *Broker
	serve   func(context.Context, vending.Message)      // instead, if set
	present func(context.Context, vending.Caller) error // instead, if set

	mu       sync.Mutex
	served   []vending.Message
	presents []vending.Caller
}

var _ backend.Receiver = (*testReceiver)(nil)

func (r *testReceiver) Serve(ctx context.Context, m vending.Message) {
	r.mu.Lock()
	r.served = append(r.served, m)
	r.mu.Unlock()
	if r.serve != nil {
		r.serve(ctx, m)
		return
	}
	_ = r.broker.Publish(ctx, m.Topic+"/accepted", m.Payload)
}

func (r *testReceiver) Present(ctx context.Context, c vending.Caller) error {
	r.mu.Lock()
	r.presents = append(r.presents, c)
	r.mu.Unlock()
	if r.present != nil {
		return r.present(ctx, c)
	}
	if c.CommonName != string(c.Device) {
		return errors.New("the device does not hold this certificate")
	}
	return nil
}

func (r *testReceiver) requests() []vending.Message {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]vending.Message(nil), r.served...)
}

// noJobs answers every job request with its own topic.
type noJobs struct{}

func (noJobs) Answer(_ context.Context, _ registry.DeviceID, topic string, payload []byte) (string, []byte) {
	return topic + "/accepted", payload
}

// brokerWorld is a broker with its CA and receiver.
type brokerWorld struct {
	*Broker
	t        *testing.T
	ca       *testCA
	receiver *testReceiver
	panics   int64 // that the test brings about
}

// startBroker starts a broker on loopback, changed by the edits, and checks
// when the test ends that it leaves no goroutine behind.
func startBroker(t *testing.T, edits ...func(*BrokerConfig)) *brokerWorld {
	t.Helper()
	return startBrokerOn(t, nil, edits...)
}

func startBrokerOn(t *testing.T, wrap func(net.Listener) net.Listener, edits ...func(*BrokerConfig)) *brokerWorld {
	t.Helper()
	already := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, already) })
	ca := newTestCA(t, "root").intermediate("issuing")
	server, pool := ca.server(), ca.pool()
	config := BrokerConfig{
		Listen:      "127.0.0.1:0",
		Certificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &server, nil },
		ClientCAs:   func() *x509.CertPool { return pool },
		Topics:      protocol.DefaultTopics(),
		Now:         time.Now,
		Log:         zerolog.New(zerolog.NewTestWriter(t)),
	}
	for _, edit := range edits {
		edit(&config)
	}
	listener, err := net.Listen("tcp", config.Listen)
	if err != nil {
		t.Fatal(err)
	}
	if wrap != nil {
		listener = wrap(listener)
	}
	b, err := newBroker(config, listener)
	if err != nil {
		t.Fatal(err)
	}
	w := &brokerWorld{Broker: b, t: t, ca: ca, receiver: &testReceiver{broker: b}}
	b.Subscribe(w.receiver)
	b.ServeJobs(noJobs{})
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := b.Close(ctx); err != nil {
			t.Errorf("close broker: %v", err)
		}
		if stats := b.Stats(); stats.Panics != w.panics || stats.Connections != 0 {
			t.Errorf("after close: %+v", stats)
		}
	})
	return w
}

// trust is the client's half of TLS with a certificate, none if it is empty.
func (w *brokerWorld) trust(c tls.Certificate) *tls.Config {
	config := &tls.Config{RootCAs: w.ca.pool(), ServerName: "127.0.0.1"}
	if c.Certificate != nil {
		config.Certificates = []tls.Certificate{c}
	}
	return config
}

// options are those of a well-behaved client.
func (w *brokerWorld) options(c tls.Certificate, clientID string) *paho.ClientOptions {
	return paho.NewClientOptions().AddBroker("ssl://" + w.Addr().String()).SetClientID(clientID).
		SetTLSConfig(w.trust(c)).SetProtocolVersion(4).SetAutoReconnect(false).SetConnectRetry(false).
		SetKeepAlive(30 * time.Second).SetConnectTimeout(patience).SetCleanSession(true)
}

// connect connects a well-behaved client, or fails the test.
func (w *brokerWorld) connect(c tls.Certificate, clientID string, edits ...func(*paho.ClientOptions)) paho.Client {
	w.t.Helper()
	client, err := w.dial(c, clientID, edits...)
	if err != nil {
		w.t.Fatalf("connect %s: %v", clientID, err)
	}
	return client
}

func (w *brokerWorld) dial(c tls.Certificate, clientID string, edits ...func(*paho.ClientOptions)) (paho.Client, error) {
	w.t.Helper()
	options := w.options(c, clientID)
	for _, edit := range edits {
		edit(options)
	}
	client := paho.NewClient(options)
	token := client.Connect()
	if !token.WaitTimeout(patience) {
		w.t.Fatalf("connect %s: no answer", clientID)
	}
	if token.Error() == nil {
		w.t.Cleanup(func() { client.Disconnect(0) })
	}
	return client, token.Error()
}

// listen subscribes and returns what comes; it fails the test if the broker
// refuses.
func (w *brokerWorld) listen(client paho.Client, filter string) <-chan paho.Message {
	w.t.Helper()
	messages, code := w.subscribe(client, filter)
	if code > 1 {
		w.t.Fatalf("subscribe %s: refused with %#x", filter, code)
	}
	return messages
}

func (w *brokerWorld) subscribe(client paho.Client, filter string) (<-chan paho.Message, byte) {
	w.t.Helper()
	messages := make(chan paho.Message, 1000)
	token := client.Subscribe(filter, 1, func(_ paho.Client, m paho.Message) { messages <- m })
	if !token.WaitTimeout(patience) {
		w.t.Fatalf("subscribe %s: no SUBACK", filter)
	}
	result := token.(*paho.SubscribeToken).Result()
	if code, ok := result[filter]; ok {
		return messages, code
	}
	w.t.Fatalf("subscribe %s: %v, %v", filter, result, token.Error())
	return nil, 0
}

func (w *brokerWorld) publish(client paho.Client, topic string, payload string) error {
	w.t.Helper()
	token := client.Publish(topic, 1, false, payload)
	if !token.WaitTimeout(patience) {
		w.t.Fatalf("publish on %s: no PUBACK and no end", topic)
	}
	return token.Error()
}

func receive(t *testing.T, messages <-chan paho.Message) paho.Message {
	t.Helper()
	select {
	case m := <-messages:
		return m
	case <-time.After(patience):
		t.Fatal("no message")
		return nil
	}
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if condition() {
			return
		}
	}
	t.Fatalf("never: %s", what)
}

func TestARequestIsServedAnsweredAndAcknowledged(t *testing.T) {
	w := startBroker(t)
	cert := w.ca.device("dev1")
	client := w.connect(cert, "dev1")
	replies := w.listen(client, "cdf/certificates/dev1/get/+")
	if err := w.publish(client, "cdf/certificates/dev1/get", "{}"); err != nil {
		t.Fatal(err)
	}
	if m := receive(t, replies); m.Topic() != "cdf/certificates/dev1/get/accepted" || string(m.Payload()) != "{}" || m.Qos() != 1 || m.Retained() {
		t.Errorf("reply: %s %s QoS %d", m.Topic(), m.Payload(), m.Qos())
	}
	want := vending.Caller{Device: "dev1", Certificate: idOf(cert), CommonName: "dev1", Evidence: certificate.Connection}
	requests := w.receiver.requests()
	if len(requests) != 1 || requests[0].Caller != want || requests[0].Topic != "cdf/certificates/dev1/get" {
		t.Errorf("requests: %+v", requests)
	}
	want.Evidence = certificate.Presence
	if p := w.receiver.presents; len(p) != 1 || p[0] != want {
		t.Errorf("presents: %+v", p)
	}
	if !w.Connected("dev1", idOf(cert)) || w.Connections() != 1 {
		t.Error("not counted as connected")
	}
	client.Disconnect(0)
	eventually(t, "the connection is gone", func() bool { return w.Connections() == 0 && !w.Connected("dev1", idOf(cert)) })
}

func TestAQoS0RequestIsServedToo(t *testing.T) {
	w := startBroker(t)
	client := w.connect(w.ca.device("dev1"), "dev1/console")
	replies := w.listen(client, "cdf/certificates/dev1/ack/accepted")
	client.Publish("cdf/certificates/dev1/ack", 0, false, "")
	if m := receive(t, replies); !strings.HasSuffix(m.Topic(), "/ack/accepted") {
		t.Errorf("reply on %s", m.Topic())
	}
}
