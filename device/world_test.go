package device

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
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

	"github.com/certvendor/certvendor/internal/loopback"
	"github.com/certvendor/certvendor/protocol"
)

const deviceUnderTest = "pump-7"

// world is a CA, a broker that takes only the certificates it knows, and a
// vendor and job service that answer on it: as much of the other half as one
// device can see.
type world struct {
	t       *testing.T
	caKey   crypto.Signer
	ca      *x509.Certificate
	roots   *x509.CertPool
	address string
	broker  *mqtt.Server

	mu       sync.Mutex
	server   *tls.Config         // what the broker shows
	spoken   map[string]bool     // protocol names agreed on
	accepted map[string]bool     // certificate ID -> the broker takes it
	issued   []*x509.Certificate // for CSRs, in order
	byKey    map[string]*x509.Certificate
	open     string // certificate ID of the open rotation
	finished string // of the last one acked
	job      *protocol.JobExecution
	updates  []protocol.JobUpdate
	log      []string // what the vendor granted, in order
	gets     int
	keys     []string // of the gets, as they came
	acks     int
	link     string // location for package gets
	linked   string // certificate ID behind it
	anchors  string // what gets are answered with, to verify servers by
	trusted  string // what the last accepted ack said of that

	// The script: what is other than usual. Called with mu held; nil for usual.
	onGet     func(n int) (reply any, usual bool) // a nil reply is none
	onAck     func(n int) (reply any, usual bool)
	blind     bool                       // cannot see certificates: wants a proof
	refuse    func(cert, id string) bool // connections not taken
	denySub   string                     // filter refused
	dropStart int                        // start-next requests left without answer
	noLook    bool                       // $next/get is left without answer
	noJobs    bool                       // nobody answers about jobs
	onLook    func()                     // called at each $next/get
	looks     int                        // how many there were
	reuse     bool                       // a key in use gets another certificate
	from, to  time.Duration              // what certificates are valid, around now
}

const nonce = "bm9uY2U"

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, accepted: map[string]bool{}, byKey: map[string]*x509.Certificate{}, spoken: map[string]bool{}, from: -time.Hour, to: time.Hour}
	w.caKey = newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-365 * 24 * time.Hour), NotAfter: time.Now().Add(365 * 24 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	w.ca = template
	w.ca = w.sign(template, w.caKey.Public())
	w.roots = x509.NewCertPool()
	w.roots.AddCert(w.ca)
	w.listen()
	return w
}

func newKey(t *testing.T) crypto.Signer {
	t.Helper()
	key, err := NewP256()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (w *world) sign(template *x509.Certificate, public crypto.PublicKey) *x509.Certificate {
	der, err := x509.CreateCertificate(rand.Reader, template, w.ca, public, w.caKey)
	if err != nil {
		w.t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		w.t.Fatal(err)
	}
	return certificate
}

func (w *world) leaf(name string, public crypto.PublicKey) *x509.Certificate {
	return w.leafFor(name, public, w.from, w.to)
}

// leafFor makes a certificate that is valid between two moments, from now.
func (w *world) leafFor(name string, public crypto.PublicKey, from, to time.Duration) *x509.Certificate {
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		w.t.Fatal(err)
	}
	return w.sign(&x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(from), NotAfter: time.Now().Add(to),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}, public)
}

func (w *world) serverTLS() *tls.Config {
	return w.serverFor(-300*24*time.Hour, 300*24*time.Hour)
}

func (w *world) serverFor(from, to time.Duration) *tls.Config {
	key := newKey(w.t)
	leaf := w.leafFor("server", key.Public(), from, to)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{leaf.Raw}, PrivateKey: key}}}
}

func (w *world) listen() {
	w.server = w.serverTLS()
	cfg := &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		now := w.server.Clone()
		now.ClientAuth, now.ClientCAs, now.NextProtos = tls.RequireAndVerifyClientCert, w.roots, []string{"x-amzn-mqtt-ca"}
		return now, nil
	}}
	listener, err := tls.Listen("tcp", "127.0.0.1:0", cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.address = listener.Addr().String()
	w.broker = mqtt.New(&mqtt.Options{InlineClient: true, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err := w.broker.AddHook(&hook{w: w}, nil); err != nil {
		w.t.Fatal(err)
	}
	stop, err := loopback.ServeMQTT(w.broker, listener)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = stop() })
}

// provision returns the configuration of a device with a first certificate.
func (w *world) provision() Config {
	w.t.Helper()
	key := newKey(w.t)
	first := w.leaf(deviceUnderTest, key.Public())
	text, err := encodeKey(key)
	if err != nil {
		w.t.Fatal(err)
	}
	directory := w.t.TempDir() + "/store"
	if err := Provision(directory, encodeChain([]*x509.Certificate{first}), text); err != nil {
		w.t.Fatal(err)
	}
	w.accept(first)
	return Config{
		Device: deviceUnderTest, Broker: "tls://" + w.address, Roots: w.roots, Directory: directory,
		Retry: Retry{Base: time.Millisecond, Max: 20 * time.Millisecond, Reply: 300 * time.Millisecond, Attempts: 4},
	}
}

func (w *world) accept(certificate *x509.Certificate) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.accepted[idOf(pair{chain: []*x509.Certificate{certificate}})] = true
}

func (w *world) takes(p pair) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(p.chain) > 0 && w.accepted[idOf(p)]
}

// script changes the world's behaviour, or looks at it.
func (w *world) script(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
}

// queueJob makes a rotation job pending.
func (w *world) queueJob(id string, document any) {
	text, err := json.Marshal(document)
	if err != nil {
		w.t.Fatal(err)
	}
	w.mu.Lock()
	w.job = &protocol.JobExecution{JobID: id, ThingName: deviceUnderTest, Status: protocol.JobQueued, ExecutionNumber: 1, JobDocument: text}
	notice := protocol.Encode(protocol.JobExecutionReply{Execution: w.job})
	w.mu.Unlock()
	if err := w.broker.Publish("$aws/things/"+deviceUnderTest+"/jobs/notify-next", notice, false, 1); err != nil {
		w.t.Fatal(err)
	}
}

type hook struct {
	mqtt.HookBase
	w *world
}

func (h *hook) ID() string { return "world" }

func (h *hook) Provides(b byte) bool {
	return bytes.Contains([]byte{mqtt.OnConnectAuthenticate, mqtt.OnACLCheck, mqtt.OnPublish}, []byte{b})
}

func (h *hook) OnConnectAuthenticate(cl *mqtt.Client, pk packets.Packet) bool {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	id := certificateOf(cl)
	h.w.spoken[cl.Net.Conn.(*tls.Conn).ConnectionState().NegotiatedProtocol] = true
	device, _, _ := strings.Cut(cl.ID, "/")
	if device != deviceUnderTest || pk.Connect.WillFlag || pk.Connect.Keepalive == 0 || pk.Connect.Keepalive > 1200 || !pk.Connect.Clean {
		return false
	}
	return h.w.accepted[id] && (h.w.refuse == nil || !h.w.refuse(id, cl.ID))
}

func (h *hook) OnACLCheck(cl *mqtt.Client, topic string, _ bool) bool {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	return topic != h.w.denySub
}

func (h *hook) OnPublish(cl *mqtt.Client, pk packets.Packet) (packets.Packet, error) {
	if cl.Net.Inline {
		return pk, nil
	}
	h.w.mu.Lock()
	topic, reply := h.w.answer(certificateOf(cl), pk.TopicName, pk.Payload)
	h.w.mu.Unlock()
	if reply != nil {
		if err := h.w.broker.Publish(topic, protocol.Encode(reply), false, 1); err != nil {
			h.w.t.Error(err)
		}
	}
	return pk, packets.CodeSuccessIgnore
}

func certificateOf(cl *mqtt.Client) string {
	conn, ok := cl.Net.Conn.(*tls.Conn)
	if !ok {
		return ""
	}
	return idOf(pair{chain: conn.ConnectionState().PeerCertificates})
}

func (w *world) answer(certificate, topic string, payload []byte) (string, any) {
	jobs := "$aws/things/" + deviceUnderTest + "/jobs/"
	if suffix, ok := strings.CutPrefix(topic, jobs); ok {
		return w.answerJob(topic, suffix, payload)
	}
	var reply any
	var usual bool
	switch {
	case strings.HasSuffix(topic, "/"+deviceUnderTest+"/get"):
		w.gets++
		w.keys = append(w.keys, keyOf(payload))
		if reply, usual = nil, true; w.onGet != nil {
			reply, usual = w.onGet(w.gets)
		}
		if usual {
			reply = w.answerGet(payload)
		}
	case strings.HasSuffix(topic, "/"+deviceUnderTest+"/ack"):
		w.acks++
		if reply, usual = nil, true; w.onAck != nil {
			reply, usual = w.onAck(w.acks)
		}
		if usual {
			reply = w.answerAck(certificate, payload)
		}
	default:
		w.t.Errorf("published on %s", topic)
	}
	if _, rejected := reply.(protocol.Rejected); rejected {
		return topic + "/rejected", reply
	}
	return topic + "/accepted", reply
}

func keyOf(payload []byte) string {
	r, err := protocol.DecodeGet(payload, protocol.Address{})
	if err != nil || r.CSR == nil {
		return ""
	}
	block, _ := pem.Decode([]byte(*r.CSR))
	if block == nil {
		return ""
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil || csr.CheckSignature() != nil || csr.Subject.CommonName != deviceUnderTest {
		return ""
	}
	return string(csr.RawSubjectPublicKeyInfo)
}

func (w *world) answerGet(payload []byte) any {
	r, err := protocol.DecodeGet(payload, protocol.Address{Device: deviceUnderTest, Action: protocol.Get})
	if err != nil {
		return protocol.Rejected{Message: protocol.Malformed}
	}
	if r.CSR == nil {
		w.open, w.accepted[w.linked] = w.linked, true
		w.log = append(w.log, "get")
		return protocol.GetAccepted{DeviceID: deviceUnderTest, Action: protocol.Get, Location: w.link, CertificateID: w.linked, TrustAnchors: w.anchors}
	}
	spki := keyOf(payload)
	public, err := x509.ParsePKIXPublicKey([]byte(spki))
	if err != nil {
		return protocol.Rejected{Message: protocol.CSRRejected, ClientToken: r.ClientToken}
	}
	certificate := w.byKey[spki]
	if certificate == nil || w.reuse && w.open == "" {
		certificate = w.leaf(deviceUnderTest, public)
		w.byKey[spki] = certificate
		w.issued = append(w.issued, certificate)
	}
	id := idOf(pair{chain: []*x509.Certificate{certificate}})
	w.open, w.accepted[id] = id, true
	w.log = append(w.log, "get")
	return protocol.GetAccepted{
		DeviceID: deviceUnderTest, Action: protocol.Get, CertificateID: id, Nonce: nonce, ClientToken: r.ClientToken,
		Certificate: string(encodeChain([]*x509.Certificate{certificate})), Chain: string(encodeChain([]*x509.Certificate{w.ca})),
		TrustAnchors: w.anchors,
	}
}

// answerAck retires at once whatever the new certificate replaces, which is
// the hardest a vendor may be.
func (w *world) answerAck(certificate string, payload []byte) any {
	r, err := protocol.DecodeAck(payload, protocol.Address{Device: deviceUnderTest, Action: protocol.Ack})
	if err != nil {
		return protocol.Rejected{Message: protocol.Malformed}
	}
	ok := protocol.AckAccepted{DeviceID: deviceUnderTest, Action: protocol.Ack, Message: "OK", ClientToken: r.ClientToken}
	switch {
	case w.open == "" && certificate == w.finished:
		return ok
	case w.open == "":
		return protocol.Rejected{Message: protocol.NoOpenRotation, ClientToken: r.ClientToken}
	case w.blind && !w.proven(r), !w.blind && certificate != w.open:
		return protocol.Rejected{Message: protocol.NotProven, ClientToken: r.ClientToken}
	}
	w.finished, w.open, w.trusted = w.open, "", r.TrustAnchorsSHA256
	w.accepted = map[string]bool{w.finished: true}
	w.log = append(w.log, "ack")
	return ok
}

func (w *world) proven(r protocol.AckRequest) bool {
	public := w.issued[len(w.issued)-1].PublicKey.(*ecdsa.PublicKey)
	return r.CertificateID == w.open && protocol.VerifyProof(public, deviceUnderTest, w.open, nonce, r.Proof) == nil
}
