package app_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/control"
	"github.com/certvendor/certvendor/internal/fleet"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/rotation"
)

// state is all that an operator can learn of a world, but for when it was used.
type state struct {
	Devices  map[string]control.DeviceDetail
	Members  []control.Member
	Packages []control.Package
	Status   control.Status
}

// state reads the inventory, the journal, the group and the audit's timelines.
func (w *world) state(t *testing.T) state {
	t.Helper()
	s := state{Devices: map[string]control.DeviceDetail{}}
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for d, err := range w.client.Devices(t.Context(), nil) {
		check(err)
		s.Devices[d.Name] = w.detail(t, d.Name)
	}
	for m, err := range w.client.Members(t.Context()) {
		check(err)
		s.Members = append(s.Members, m)
	}
	for p, err := range w.client.ListPackages(t.Context()) {
		check(err)
		s.Packages = append(s.Packages, p)
	}
	var err error
	s.Status, err = w.client.Status(t.Context())
	check(err)
	return s
}

// detail returns what is known of a device, but for when its certificates were
// used.
func (w *world) detail(t *testing.T, name string) control.DeviceDetail {
	t.Helper()
	d, err := w.client.Device(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	for i := range d.Certificates {
		d.Certificates[i].LastSeen, d.Certificates[i].Connected = time.Time{}, false
	}
	return d
}

// unchanged fails the test if an attack changes anything.
func (w *world) unchanged(t *testing.T, attack func(*testing.T)) {
	t.Helper()
	before := w.state(t)
	attack(t)
	if diff := cmp.Diff(before, w.state(t)); diff != "" {
		t.Errorf("it has changed something (- before, + after):\n%s", diff)
	}
}

// eventually fails the test unless something becomes true.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	eventuallyWithin(t, patience, what, is)
}

func eventuallyWithin(t *testing.T, patience time.Duration, what string, is func() bool) {
	t.Helper()
	for limit := time.Now().Add(patience); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("not so, after %s: %s", patience, what)
		}
	}
}

// settle waits until nothing goes on behind the requests.
func (w *world) settle(t *testing.T) {
	t.Helper()
	eventually(t, "nothing is left to do behind a rotation, and every member has its job", func() bool {
		for r, err := range w.client.Rotations(t.Context(), control.RotationQuery{}) {
			if err != nil || len(r.Left) > 0 {
				return false
			}
		}
		status, err := w.client.Status(t.Context())
		return err == nil && status.Waiting == 0
	})
}

// newKey makes a key of the kind that devices use.
func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// newCSR makes a request for a key, with a common name and other names.
func newCSR(t *testing.T, key crypto.Signer, name string, others ...string) string {
	t.Helper()
	template := &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}, DNSNames: others}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

// body returns a request's body, of names and values by turns.
func body(t *testing.T, members ...string) string {
	t.Helper()
	all := map[string]string{}
	for i := 0; i < len(members); i += 2 {
		all[members[i]] = members[i+1]
	}
	text, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// actor is a device that is played packet by packet.
type actor struct {
	name  string
	old   tls.Certificate
	oldID string
	next  tls.Certificate // vended by get
	csr   string          // what it was vended for
}

// actor registers a device.
func (w *world) actor(t *testing.T, name string) *actor {
	t.Helper()
	d := w.add(name, fleet.Agent)
	pair, err := tls.X509KeyPair(d.Certificate, d.Key)
	if err != nil {
		t.Fatal(err)
	}
	return &actor{name: name, old: pair, oldID: idOf(pair)}
}

// firmware returns the device as the fleet plays it, with its new certificate.
func (a *actor) firmware(t *testing.T) fleet.Device {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(a.next.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return fleet.Device{
		Name: a.name, Firmware: fleet.Agent,
		Certificate: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.next.Certificate[0]}),
		Key:         pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
	}
}

// get has a certificate vended over a connection, for a new key.
func (a *actor) get(t *testing.T, over *peer) {
	t.Helper()
	key := newKey(t)
	a.csr = body(t, "csr", newCSR(t, key, a.name))
	accepted, reply := over.ask(protocol.Get, a.csr)
	var vended protocol.GetAccepted
	if err := protocol.Decode(reply, &vended); err != nil || !accepted {
		t.Fatalf("get of %s: %s, %v", a.name, reply, err)
	}
	block, _ := pem.Decode([]byte(vended.Certificate))
	if block == nil {
		t.Fatalf("get of %s: no certificate in %s", a.name, reply)
	}
	a.next = tls.Certificate{Certificate: [][]byte{block.Bytes}, PrivateKey: key}
}

func idOf(c tls.Certificate) string { return string(certificate.IDOf(c.Certificate[0])) }

// newest returns a device's newest rotation.
func (w *world) newest(t *testing.T, name string) control.Rotation {
	t.Helper()
	d := w.detail(t, name)
	if len(d.Rotations) == 0 {
		t.Fatalf("%s has no rotation", name)
	}
	return d.Rotations[0]
}

// inState fails the test unless a device's newest rotation is in a state.
func (w *world) inState(t *testing.T, name string, want rotation.State) {
	t.Helper()
	if r := w.newest(t, name); r.State != want {
		t.Fatalf("the rotation of %s is %s, not %s", name, r.State, want)
	}
}

// refusesConnect fails the test unless the broker turns a certificate and a
// client id away after the handshake.
func (w *world) refusesConnect(t *testing.T, c tls.Certificate, clientID string) {
	t.Helper()
	if _, code, err := w.knock(t, &c, clientID); err != nil || code == 0 {
		t.Errorf("connect as %q: wanted a refusal in a CONNACK, got code %d, %v", clientID, code, err)
	}
}
