package fleet

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/loopback"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/rotation"
)

// world is a CA, a broker with topic rules, a vendor without grace and a job
// for every device: what a fleet needs to be seen at work.
type world struct {
	mqtt.HookBase
	t      *testing.T
	key    *ecdsa.PrivateKey
	ca     *x509.Certificate
	roots  *x509.CertPool
	addr   string
	broker *mqtt.Server

	mu        sync.Mutex
	accepted  map[certificate.ID]bool
	open      map[string]certificate.ID
	held      map[string][]certificate.ID
	succeeded map[string]int
	issued    map[string]int
	acks      map[string]int
	connects  map[string]int
	late      map[string]time.Duration // how long after it had connected a device acked
	since     map[string]time.Time
	trespass  map[string]int // publishes and subscriptions that were refused
	malformed map[string]int
	byKey     map[string]certificate.ID
	chains    map[certificate.ID]*x509.Certificate
	seen      map[certificate.ID]bool
	stale     map[certificate.ID]bool
	joined    map[string]int
	// What is other than usual.
	lax        bool // no topic rules, any client id
	trusting   bool // takes any ack
	keepOld    bool // retires nothing
	refuseGets int  // so many gets of each device are refused first
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{
		t: t, accepted: map[certificate.ID]bool{}, open: map[string]certificate.ID{},
		held: map[string][]certificate.ID{}, succeeded: map[string]int{}, issued: map[string]int{}, acks: map[string]int{},
		connects: map[string]int{}, late: map[string]time.Duration{}, since: map[string]time.Time{}, trespass: map[string]int{},
		malformed: map[string]int{}, byKey: map[string]certificate.ID{}, chains: map[certificate.ID]*x509.Certificate{},
		seen: map[certificate.ID]bool{}, stale: map[certificate.ID]bool{}, joined: map[string]int{},
	}
	w.key = w.newKey()
	w.ca = &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(30 * 24 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	w.ca = w.sign(w.ca, &w.key.PublicKey)
	w.roots = x509.NewCertPool()
	w.roots.AddCert(w.ca)
	serverKey := w.newKey()
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{w.leaf("server", &serverKey.PublicKey).Raw}, PrivateKey: serverKey}},
		ClientAuth:   tls.RequireAndVerifyClientCert, ClientCAs: w.roots,
	})
	w.must(err)
	w.addr = listener.Addr().String()
	w.broker = mqtt.New(&mqtt.Options{InlineClient: true, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	w.must(w.broker.AddHook(w, nil))
	stop, err := loopback.ServeMQTT(w.broker, listener)
	w.must(err)
	t.Cleanup(func() { _ = stop() })
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) newKey() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	w.must(err)
	return key
}

func (w *world) sign(template *x509.Certificate, public any) *x509.Certificate {
	der, err := x509.CreateCertificate(rand.Reader, template, w.ca, public, w.key)
	w.must(err)
	c, err := x509.ParseCertificate(der)
	w.must(err)
	return c
}

func (w *world) leaf(name string, public any) *x509.Certificate {
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	w.must(err)
	return w.sign(&x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(30 * 24 * time.Hour),
	}, public)
}

// device provisions a device with this firmware.
func (w *world) device(name string, firmware Firmware) Device {
	key := w.newKey()
	c := w.leaf(name, &key.PublicKey)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	w.must(err)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hold(name, c)
	return Device{
		Name: name, Firmware: firmware,
		Certificate: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}),
		Key:         pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
	}
}

func (w *world) hold(name string, c *x509.Certificate) certificate.ID {
	id := certificate.IDOf(c.Raw)
	w.held[name], w.accepted[id] = append(w.held[name], id), true
	return id
}

func (w *world) ID() string { return "world" }

func (w *world) Provides(b byte) bool {
	return bytes.Contains([]byte{mqtt.OnConnectAuthenticate, mqtt.OnACLCheck, mqtt.OnPublish}, []byte{b})
}

func peer(cl *mqtt.Client) *x509.Certificate {
	return cl.Net.Conn.(*tls.Conn).ConnectionState().PeerCertificates[0]
}

func (w *world) OnConnectAuthenticate(cl *mqtt.Client, _ packets.Packet) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	name, _, _ := strings.Cut(cl.ID, "/")
	id := certificate.IDOf(peer(cl).Raw)
	taken := w.accepted[id] && (w.lax || name == peer(cl).Subject.CommonName)
	if taken {
		w.connects[name]++
		w.seen[id] = true
		w.since[name] = time.Now()
	}
	return taken
}

func (w *world) OnACLCheck(cl *mqtt.Client, topic string, _ bool) bool {
	if cl.Net.Inline || w.lax {
		return true
	}
	name := peer(cl).Subject.CommonName
	own := strings.HasPrefix(topic, "cdf/certificates/"+name+"/") || strings.HasPrefix(topic, "$aws/things/"+name+"/jobs/")
	if !own {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.trespass[name]++
	}
	return own
}

func (w *world) OnPublish(cl *mqtt.Client, pk packets.Packet) (packets.Packet, error) {
	if cl.Net.Inline {
		return pk, nil
	}
	w.mu.Lock()
	suffix, reply := w.answer(peer(cl), pk)
	w.mu.Unlock()
	if err := w.broker.Publish(pk.TopicName+suffix, protocol.Encode(reply), false, 1); err != nil {
		w.t.Error(err)
	}
	return pk, packets.CodeSuccessIgnore
}

func (w *world) answer(c *x509.Certificate, pk packets.Packet) (suffix string, reply any) {
	name, id := c.Subject.CommonName, certificate.IDOf(c.Raw)
	job := strings.HasPrefix(pk.TopicName, "$aws/")
	switch last := pk.TopicName[strings.LastIndex(pk.TopicName, "/")+1:]; {
	case last == "start-next", job && last == "get":
		if w.succeeded[name] > 0 {
			return "/accepted", protocol.JobExecutionReply{}
		}
		return "/accepted", protocol.JobExecutionReply{Execution: &protocol.JobExecution{
			JobID: "rotate", ExecutionNumber: 1, Status: protocol.JobInProgress,
			JobDocument: protocol.Encode(protocol.NewJobDocument(protocol.DefaultTopics())),
		}}
	case last == "update":
		w.succeeded[name]++
		return "/accepted", protocol.JobUpdateAccepted{}
	case last == "get":
		return w.get(name, pk.Payload)
	default:
		return w.ack(name, id)
	}
}

func (w *world) get(name string, payload []byte) (string, any) {
	r, err := protocol.DecodeGet(payload, protocol.Address{})
	if err == nil {
		w.issued[name]++
	}
	if w.issued[name] <= w.refuseGets && err == nil {
		return "/rejected", protocol.Rejected{Message: protocol.TooManyRequests, RetryAfter: 1}
	}
	if err != nil || r.CSR == nil {
		w.malformed[name]++
		return "/rejected", protocol.Rejected{Message: protocol.Malformed}
	}
	block, _ := pem.Decode([]byte(*r.CSR))
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return "/rejected", protocol.Rejected{Message: protocol.CSRRejected}
	}
	key := string(csr.RawSubjectPublicKeyInfo)
	c := w.chains[w.byKey[key]]
	if c == nil {
		c = w.leaf(name, csr.PublicKey)
		w.open[name] = w.hold(name, c)
		w.byKey[key], w.chains[w.open[name]] = w.open[name], c
	}
	return "/accepted", protocol.GetAccepted{Certificate: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))}
}

func (w *world) ack(name string, over certificate.ID) (string, any) {
	w.acks[name]++
	w.late[name] = time.Since(w.since[name])
	if over != w.open[name] && !w.trusting {
		return "/rejected", protocol.Rejected{Message: protocol.NotProven}
	}
	for _, id := range w.held[name] {
		w.accepted[id] = w.keepOld || id == w.open[name]
	}
	return "/accepted", protocol.AckAccepted{Message: "OK"}
}

// Join implements Operator.
func (w *world) Join(_ context.Context, device string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.joined[device]++
	return nil
}

// Account implements Operator.
func (w *world) Account(_ context.Context, device string) (Account, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	account := Account{Holds: map[certificate.ID]certificate.Standing{}}
	for i, id := range w.held[device] {
		account.Holds[id] = certificate.Inactive
		if w.accepted[id] {
			account.Holds[id] = certificate.Active
		}
		if i == 0 {
			continue // not vended
		}
		state := rotation.Vended
		switch {
		case w.seen[id]:
			state = rotation.Proven
		case id != w.open[device]:
			state = rotation.Superseded
		case w.stale[id]:
			state = rotation.Stale
		}
		account.Vends = append([]Vend{{id, state}}, account.Vends...)
	}
	return account, nil
}

// Sweep implements Operator.
func (w *world) Sweep(context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, id := range w.open {
		w.stale[id] = w.stale[id] || !w.seen[id]
	}
	return nil
}
