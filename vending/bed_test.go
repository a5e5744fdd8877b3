package vending_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
	"github.com/certvendor/certvendor/vending"
)

const device registry.DeviceID = "pump-7"

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// errBroken is a failure that nobody has a word for.
var errBroken = errors.New("arn:aws:iam::123456789012:role/secret: disk on fire")

// bed is a handler on fakes: each field is what a port answers, and a test
// replaces the one it is about. As it is made, the device holds one
// certificate, has no rotation, and every get by CSR succeeds.
type bed struct {
	t       *testing.T
	config  vending.Config
	changes []string // what was changed in the world, in order
	replies []reply
	served  []vending.Outcome
	behind  []rotation.Rotation

	device    func(registry.DeviceID) (registry.Device, error)
	held      []certificate.Holding
	listed    []certificate.Holding // under any key
	history   rotation.History
	seen      func(certificate.Sighting) error
	register  func(certificate.Certificate) error
	activate  func(certificate.ID) error
	open      func() error
	advance   func(rotation.Change) error
	frozen    rotation.Freeze
	issue     func(certificate.Order) (certificate.Certificate, error)
	pack      func() (vending.Package, error)
	link      func() (string, error)
	allow     func() (time.Duration, bool)
	publish   func(topic string) error
	anchors   vending.Anchors
	approver  vending.Approver
	owed      func() ([]rotation.Retirement, error)
	queue     vending.Queue
	publisher vending.Publisher
}

// reply is what was published.
type reply struct {
	topic   string
	payload []byte
}

func newBed(t *testing.T) *bed {
	b := &bed{
		t:        t,
		config:   config(),
		device:   func(id registry.DeviceID) (registry.Device, error) { return registry.Device{ID: id}, nil },
		held:     []certificate.Holding{holding(oldCertificate)},
		seen:     func(certificate.Sighting) error { return nil },
		register: func(certificate.Certificate) error { return nil },
		activate: func(certificate.ID) error { return nil },
		open:     func() error { return nil },
		advance:  func(rotation.Change) error { return nil },
		pack:     func() (vending.Package, error) { return vending.Package{Certificate: waiting.ID}, nil },
		link:     func() (string, error) { return "https://files.example/1?token=2", nil },
		allow:    func() (time.Duration, bool) { return 0, true },
		publish:  func(string) error { return nil },
		owed:     func() ([]rotation.Retirement, error) { return nil, nil },
		issue: func(o certificate.Order) (certificate.Certificate, error) {
			return makeCertificate(o.Key, string(o.Device)), nil
		},
	}
	b.queue = directQueue{}
	b.publisher = fakePublisher{b}
	return b
}

func config() vending.Config {
	return vending.Config{
		Instance: "test", Binding: vending.Attached, NewKeys: 6, NewKeysPer: 24 * time.Hour, Backdate: 5 * time.Minute,
		Profiles: []vending.Profile{{
			Name: "default", Validity: 8760 * time.Hour, Policy: vending.Policy{Mode: vending.PolicyDefault, Default: "device"},
			Terms: rotation.Terms{
				Previous: certificate.Deactivate, Retire: rotation.Replaced, TTL: 720 * time.Hour,
				Recent: 24 * time.Hour, MaxRetirePerHour: 100,
			},
		}},
	}
}

// serve has a handler answer one message over the device's certificate.
func (b *bed) serve(topic, payload string) {
	b.t.Helper()
	b.serveOver(vending.Caller{Certificate: oldCertificate.ID, Evidence: certificate.Connection}, topic, payload)
}

func (b *bed) serveOver(caller vending.Caller, topic, payload string) {
	b.t.Helper()
	b.handler().Serve(b.t.Context(), vending.Message{Topic: topic, Payload: []byte(payload), Caller: caller})
}

func (b *bed) handler() *vending.Handler {
	b.t.Helper()
	now := func() time.Time { return noon }
	clock := rotation.NewClock(now, func() time.Duration { return 0 }, time.Time{}, time.Hour)
	closer := rotation.NewCloser(rotation.Ports{
		Journal: fakeJournal{b}, Retirements: fakeRetirements{b: b}, Inventory: fakeInventory{b},
		Registry: fakeRegistry{b}, Brakes: fakeBrakes{b},
	}, clock, func(string) rotation.Terms { return b.config.Profiles[0].Terms })
	v, err := vending.New(b.config, vending.Ports{
		Registry: fakeRegistry{b}, Inventory: fakeInventory{b}, Certificates: fakeCatalogue{b}, Journal: fakeJournal{b},
		Brakes: fakeBrakes{b}, Issuer: fakeIssuer{b}, Packages: fakePackages{b: b}, Limits: fakeLimits{b},
		Closer: closer, Now: now, Anchors: b.anchors, Approver: b.approver,
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return &vending.Handler{
		Vendor: v, Topics: protocol.DefaultTopics(), Queue: b.queue, Publisher: b.publisher,
		Served: func(o vending.Outcome) { b.served = append(b.served, o) },
		Settle: func(r rotation.Rotation) { b.behind = append(b.behind, r) },
	}
}

// wantRejected checks that exactly one reply went out, that it refuses for
// this reason in the protocol's form, that the outcome says the same, and that
// no cause of the operator's is in it.
func (b *bed) wantRejected(action protocol.Action, want protocol.Reason) protocol.Rejected {
	b.t.Helper()
	got := b.onlyReply(protocol.DefaultTopics().Rejected(string(device), action))
	var rejected protocol.Rejected
	if err := strictly(got.payload, &rejected); err != nil {
		b.t.Fatalf("reply %s: %v", got.payload, err)
	}
	if rejected.Message != want || rejected.DeviceID != string(device) || rejected.Action != action {
		b.t.Fatalf("reply %s, want %s", got.payload, want)
	}
	for _, secret := range []string{"arn:", "disk on fire", "/work", "BEGIN"} {
		if strings.Contains(string(got.payload), secret) {
			b.t.Errorf("the reply tells the device %q: %s", secret, got.payload)
		}
	}
	o := b.outcome()
	if o.Accepted || o.Reason != want || o.Device != device || o.Action != action {
		b.t.Errorf("outcome %+v, want it rejected by %s", o, want)
	}
	return rejected
}

func (b *bed) wantAccepted(action protocol.Action, into any) {
	b.t.Helper()
	got := b.onlyReply(protocol.DefaultTopics().Accepted(string(device), action))
	if err := strictly(got.payload, into); err != nil {
		b.t.Fatalf("reply %s: %v", got.payload, err)
	}
	if o := b.outcome(); !o.Accepted || o.Reason != "" {
		b.t.Errorf("outcome %+v, want it accepted", o)
	}
}

// wantUnchanged checks that nothing was issued, registered, activated or
// written.
func (b *bed) wantUnchanged() {
	b.t.Helper()
	if len(b.changes) > 0 {
		b.t.Errorf("a refused request changed: %v", b.changes)
	}
}

func (b *bed) onlyReply(topic string) reply {
	b.t.Helper()
	if len(b.replies) != 1 {
		b.t.Fatalf("%d replies, want exactly one: %s", len(b.replies), b.replies)
	}
	if b.replies[0].topic != topic {
		b.t.Fatalf("reply %s on %s, want it on %s", b.replies[0].payload, b.replies[0].topic, topic)
	}
	return b.replies[0]
}

func (b *bed) outcome() vending.Outcome {
	b.t.Helper()
	if len(b.served) != 1 {
		b.t.Fatalf("%d outcomes, want one", len(b.served))
	}
	return b.served[0]
}

func strictly(payload []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(payload))
	d.DisallowUnknownFields()
	return d.Decode(into)
}

// The certificates of the tests: the one the device came with, the one of an
// open rotation, and the one of a waiting package.
var (
	oldKey, openKey = newKey(), newKey()
	oldCertificate  = makeCertificate(oldKey.Public(), string(device))
	openCertificate = makeCertificate(openKey.Public(), string(device))
	waiting         = makeCertificate(newKey().Public(), string(device))
)

func newKey() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return key
}

// makeCertificate returns an ACTIVE certificate for a key, signed by nobody in
// particular.
func makeCertificate(key crypto.PublicKey, name string) certificate.Certificate {
	signer := newKey()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: noon.Add(-time.Hour), NotAfter: noon.Add(8760 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key, signer)
	if err != nil {
		panic(err)
	}
	c, err := certificate.New(der, nil)
	if err != nil {
		panic(err)
	}
	c.Standing, c.Kind, c.Policies = certificate.Active, certificate.First, []string{"old"}
	return c
}

func holding(c certificate.Certificate) certificate.Holding {
	return certificate.Holding{Certificate: c, Device: device, LastSeen: noon.Add(-time.Minute)}
}

// openRotation is one that vended openCertificate over the old one.
func openRotation() rotation.Rotation {
	return rotation.Rotation{
		Device: device, Number: 1, State: rotation.Vended, Key: openCertificate.Key, Certificate: openCertificate.ID,
		Over: oldCertificate.ID, Held: []certificate.ID{oldCertificate.ID}, Nonce: "nonce", Opened: noon, VendedAt: noon,
	}
}

func makeCSR(key crypto.Signer, name string) string {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}}, key)
	if err != nil {
		panic(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

// getBody is the body of a get by CSR, with more members by name.
func getBody(csr string, more ...string) string {
	members := map[string]any{"csr": csr}
	for i := 0; i < len(more); i += 2 {
		members[more[i]] = more[i+1]
	}
	return string(protocol.Encode(members))
}

// directQueue gives every request its turn at once.
type directQueue struct{}

func (directQueue) Do(ctx context.Context, _ registry.DeviceID, _ protocol.Action, work func(context.Context) vending.Outcome) (vending.Outcome, error) {
	return work(ctx), nil
}

func topic(action protocol.Action) string {
	return fmt.Sprintf("cdf/certificates/%s/%s", device, action)
}
