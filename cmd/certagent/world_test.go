package main

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/certvendor/certvendor/internal/loopback"
	"github.com/certvendor/certvendor/protocol"
)

const (
	pump  = "pump-7"
	nonce = "c2VjcmV0IG5vbmNl"
)

// vendor is a CA, a broker that takes only the certificates it knows, and the
// answers of a vendor and a job service on it, for one device.
type vendor struct {
	t       *testing.T
	broker  *mqtt.Server
	address string
	key     *ecdsa.PrivateKey
	ca      *x509.Certificate

	mu       sync.Mutex
	accepted map[string]bool // certificate ID -> the broker takes it
	vended   map[string]*x509.Certificate
	open     string // certificate ID of the open rotation
	gets     []protocol.GetRequest
	acks     int
	job      *protocol.JobExecution
	updates  []protocol.JobUpdate
	onGet    func() (reply any, usual bool) // called with mu held; nil for usual
	from, to time.Duration                  // what certificates are valid, around now
	reuse    bool                           // a key in use gets another certificate
	// Called without mu, before a request is answered and after; nil for nobody.
	heard func(topic string, answered bool)
}

func newVendor(t *testing.T) *vendor {
	v := newCA(t)
	v.serve()
	return v
}

// newCA returns a vendor without a broker.
func newCA(t *testing.T) *vendor {
	v := &vendor{t: t, accepted: map[string]bool{}, vended: map[string]*x509.Certificate{}, from: -time.Hour, to: time.Hour}
	v.key = newKey(t)
	v.ca = v.sign(newAuthority(), v.key.Public())
	return v
}

func newAuthority() *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-240 * time.Hour), NotAfter: time.Now().Add(240 * time.Hour), KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
}

func (v *vendor) serve() {
	key := newKey(v.t)
	leaf := v.leaf("server", key.Public())
	pool := x509.NewCertPool()
	pool.AddCert(v.ca)
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{leaf.Raw}, PrivateKey: key}},
		ClientAuth:   tls.RequireAndVerifyClientCert, ClientCAs: pool,
	})
	if err != nil {
		v.t.Fatal(err)
	}
	v.address = listener.Addr().String()
	v.broker = mqtt.New(&mqtt.Options{InlineClient: true, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err := v.broker.AddHook(&ears{v: v}, nil); err != nil {
		v.t.Fatal(err)
	}
	stop, err := loopback.ServeMQTT(v.broker, listener)
	if err != nil {
		v.t.Fatal(err)
	}
	v.t.Cleanup(func() { _ = stop() })
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (v *vendor) sign(template *x509.Certificate, public crypto.PublicKey) *x509.Certificate {
	parent := v.ca
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, v.key)
	if err != nil {
		v.t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		v.t.Fatal(err)
	}
	return certificate
}

func (v *vendor) leaf(name string, public crypto.PublicKey) *x509.Certificate {
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		v.t.Fatal(err)
	}
	return v.sign(&x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(v.from), NotAfter: time.Now().Add(v.to),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}, public)
}

// firstPair writes a certificate that the broker takes, its key and the roots.
func (v *vendor) firstPair(directory string) {
	v.t.Helper()
	leaf := v.writePair(directory, "first", pump)
	if err := os.WriteFile(filepath.Join(directory, "roots.pem"), pemOf("CERTIFICATE", v.ca.Raw), 0o600); err != nil {
		v.t.Fatal(err)
	}
	v.script(func() { v.accepted[idOf(leaf)] = true })
}

// writePair writes file.pem and file.key, a pair made out to name.
func (v *vendor) writePair(directory, file, name string) *x509.Certificate {
	v.t.Helper()
	key := newKey(v.t)
	leaf := v.leaf(name, key.Public())
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		v.t.Fatal(err)
	}
	for file, text := range map[string][]byte{file + ".pem": pemOf("CERTIFICATE", leaf.Raw), file + ".key": pemOf("PRIVATE KEY", der)} {
		if err := os.WriteFile(filepath.Join(directory, file), text, 0o600); err != nil {
			v.t.Fatal(err)
		}
	}
	return leaf
}

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func parse(t *testing.T, text string) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		t.Fatal("no PEM")
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return certificate
}

func idOf(certificate *x509.Certificate) string {
	sum := sha256.Sum256(certificate.Raw)
	return hex.EncodeToString(sum[:])
}

// script changes the vendor, or looks at it.
func (v *vendor) script(change func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	change()
}

// onlyAccepts reports whether the broker takes this certificate and no other.
func (v *vendor) onlyAccepts(id string) (only bool) {
	v.script(func() { only = v.accepted[id] && len(v.accepted) == 1 && v.open == "" })
	return only
}

func (v *vendor) queueJob(id string) {
	v.script(func() { v.setJob(id) })
	v.publish("$aws/things/"+pump+"/jobs/notify-next", protocol.JobExecutionReply{})
}

func (v *vendor) setJob(id string) {
	v.job = &protocol.JobExecution{
		JobID: id, ThingName: pump, Status: protocol.JobQueued, ExecutionNumber: 1,
		JobDocument: protocol.Encode(protocol.NewJobDocument(protocol.DefaultTopics())),
	}
}

func (v *vendor) publish(topic string, message any) {
	if err := v.broker.Publish(topic, protocol.Encode(message), false, 1); err != nil {
		v.t.Error(err)
	}
}

// ears hears what the device does.
type ears struct {
	mqtt.HookBase
	v *vendor
}

func (*ears) ID() string { return "vendor" }

func (*ears) Provides(b byte) bool {
	return bytes.Contains([]byte{mqtt.OnConnectAuthenticate, mqtt.OnACLCheck, mqtt.OnPublish}, []byte{b})
}

func (*ears) OnACLCheck(*mqtt.Client, string, bool) bool { return true }

func (e *ears) OnConnectAuthenticate(cl *mqtt.Client, _ packets.Packet) (ok bool) {
	device, _, _ := strings.Cut(cl.ID, "/")
	e.v.script(func() { ok = e.v.accepted[callerOf(cl)] && device == pump })
	return ok
}

func callerOf(cl *mqtt.Client) string {
	return idOf(cl.Net.Conn.(*tls.Conn).ConnectionState().PeerCertificates[0])
}

func (e *ears) OnPublish(cl *mqtt.Client, pk packets.Packet) (packets.Packet, error) {
	if cl.Net.Inline {
		return pk, nil
	}
	var reply any
	var heard func(string, bool)
	e.v.script(func() { heard = e.v.heard })
	if heard != nil {
		heard(pk.TopicName, false)
	}
	e.v.script(func() { reply = e.v.answer(callerOf(cl), pk.TopicName, pk.Payload) })
	if heard != nil {
		heard(pk.TopicName, true)
	}
	if reply != nil {
		e.v.publish(pk.TopicName+verdict(reply), reply)
	}
	return pk, packets.CodeSuccessIgnore
}

func verdict(reply any) string {
	switch reply.(type) {
	case protocol.Rejected, protocol.JobRefusal:
		return "/rejected"
	}
	return "/accepted"
}

func (v *vendor) answer(caller, topic string, payload []byte) any {
	jobs, vending := "$aws/things/"+pump+"/jobs/", "cdf/certificates/"+pump
	switch {
	case topic == vending+"/get":
		return v.get(payload)
	case topic == vending+"/ack":
		return v.ack(caller)
	case topic == jobs+"$next/get":
		return protocol.JobExecutionReply{Execution: v.job}
	case topic == jobs+"start-next":
		if v.job != nil {
			started := *v.job
			started.Status = protocol.JobInProgress
			v.job = &started
		}
		return protocol.JobExecutionReply{Execution: v.job}
	case v.job == nil && strings.HasPrefix(topic, jobs) && strings.HasSuffix(topic, "/update"):
		return protocol.JobRefusal{Code: protocol.JobNotFound}
	case v.job != nil && topic == jobs+v.job.JobID+"/update":
		var update protocol.JobUpdate
		if err := protocol.Decode(payload, &update); err != nil {
			v.t.Error(err)
		}
		v.updates, v.job = append(v.updates, update), nil
		return protocol.JobUpdateAccepted{}
	}
	v.t.Errorf("published on %s", topic)
	return nil
}

// get vends one certificate per key.
func (v *vendor) get(payload []byte) any {
	request, err := protocol.DecodeGet(payload, protocol.Address{Device: pump, Action: protocol.Get})
	if err != nil || request.CSR == nil {
		v.t.Errorf("get: %v", err)
		return protocol.Rejected{Message: protocol.Malformed}
	}
	v.gets = append(v.gets, request)
	if v.onGet != nil {
		if reply, usual := v.onGet(); !usual {
			return reply
		}
	}
	block, _ := pem.Decode([]byte(*request.CSR))
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		v.t.Error(err)
		return nil
	}
	spki := string(csr.RawSubjectPublicKeyInfo)
	if v.vended[spki] == nil || v.reuse && v.open == "" {
		v.vended[spki] = v.leaf(pump, csr.PublicKey)
	}
	v.open = idOf(v.vended[spki])
	v.accepted[v.open] = true
	return protocol.GetAccepted{
		DeviceID: pump, Action: protocol.Get, CertificateID: v.open, Nonce: nonce,
		Certificate: string(pemOf("CERTIFICATE", v.vended[spki].Raw)), Chain: string(pemOf("CERTIFICATE", v.ca.Raw)),
	}
}

// ack retires at once whatever the new certificate replaces. It may be repeated.
func (v *vendor) ack(caller string) any {
	v.acks++
	if caller != v.open && (v.open != "" || !v.accepted[caller]) {
		return protocol.Rejected{Message: protocol.NotProven}
	}
	v.accepted, v.open = map[string]bool{caller: true}, ""
	return protocol.AckAccepted{DeviceID: pump, Action: protocol.Ack, Message: "OK"}
}
