package backendtest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"strings"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
	"github.com/certvendor/certvendor/vending"
)

// Device is a model device: what it has on its disk, and what it has done.
type Device struct {
	rig   *Rig
	ID    registry.DeviceID
	First Cert

	disk   map[certificate.ID]Cert      // what it could still connect with
	seen   map[certificate.ID]time.Time // when it last connected or asked with each
	proofs map[certificate.ID]time.Time // when a proof of it was first accepted
	vended map[certificate.KeyID]string // the certificate it got for each key
	got    []certificate.ID             // every certificate that was ever in a reply to it
	// confirmed is how many of these were found in the inventory.
	confirmed int
	// reissued are keys that may get another certificate.
	reissued map[certificate.KeyID]bool
}

// Cert is a certificate and the key it is for, as a device keeps them. The
// zero Cert, as what a request is made over, means that the world does not
// know which certificate speaks.
type Cert struct {
	ID    certificate.ID
	Key   crypto.Signer
	PEM   string
	Nonce string // of the rotation that vended it
}

// notAfter returns the end of the certificate's validity.
func (c Cert) notAfter() time.Time {
	block, _ := pem.Decode([]byte(c.PEM))
	parsed, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		panic(err) // it was checked when it was vended
	}
	return parsed.NotAfter
}

// unseen is a caller whose certificate nobody knows.
var unseen Cert

// Given registers a certificate that came to the device some other way.
func (d *Device) Given(kind certificate.Kind) Cert {
	d.rig.t.Helper()
	key := NewKey()
	c := d.rig.issue(d.ID, key, kind, certificate.Active)
	d.rig.must(d.rig.world.Backend.Inventory.Register(d.rig.ctx, d.ID, c))
	cert := Cert{ID: c.ID, Key: key, PEM: c.PEM()}
	d.disk[c.ID] = cert
	return cert
}

// issue has a certificate signed outside of any rotation, as `device add` and
// `package create` do.
func (r *Rig) issue(id registry.DeviceID, key crypto.Signer, kind certificate.Kind, standing certificate.Standing) certificate.Certificate {
	r.t.Helper()
	subject, err := certificate.Naming{Mode: certificate.ForceName}.Subject(request(r, CSR(key, "")), certificate.Names{Device: id})
	r.must(err)
	c, err := r.world.Backend.Issuer.Issue(r.ctx, certificate.Order{
		Device: id, Key: key.Public(), RawSubject: subject,
		NotBefore: r.clock.Now().Add(-r.setup.Config.Backdate), NotAfter: r.clock.Now().Add(r.setup.Profile.Validity),
		Request: request(r, CSR(key, "")).CSR,
	})
	r.must(err)
	c.Standing, c.Kind, c.Created, c.Policies = standing, kind, r.clock.Now(), []string{"given"}
	return c
}

func request(r *Rig, text string) *certificate.Request {
	r.t.Helper()
	csr, err := certificate.ParseRequest(text)
	r.must(err)
	return csr
}

// NewKey returns a key as a device makes one.
func NewKey() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err) // no entropy
	}
	return key
}

// CSR returns a certificate signing request for a key, as PEM.
func CSR(key crypto.Signer, name string) string {
	return csrFrom(key, x509.CertificateRequest{Subject: pkix.Name{CommonName: name}})
}

func csrFrom(key crypto.Signer, template x509.CertificateRequest) string {
	der, err := x509.CreateCertificateRequest(rand.Reader, &template, key)
	if err != nil {
		panic(err) // not a key that signs
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

// Store puts a certificate on the device's disk, beside what is there.
func (d *Device) Store(c Cert) { d.disk[c.ID] = c }

// Overwrite puts a certificate on the disk of a device with one slot.
func (d *Device) Overwrite(c Cert) { d.disk = map[certificate.ID]Cert{c.ID: c} }

// Drop takes a certificate from the device's disk.
func (d *Device) Drop(c Cert) { delete(d.disk, c.ID) }

// Connect connects, and returns the broker's refusal. A connection that is let
// in is a sighting, of which the world knows too.
func (d *Device) Connect(c Cert) error {
	d.rig.t.Helper()
	d.rig.clock.Advance(tick)
	err := d.rig.primary.handler.Present(d.rig.ctx, d.caller(c, certificate.Presence))
	if err == nil {
		d.use(c)
	}
	d.rig.note(d, step(d, "connect", c), err)
	d.rig.check(d, step(d, "connect", c))
	return err
}

// use notes that the device was seen on a certificate.
func (d *Device) use(c Cert) {
	if c.ID == "" {
		return
	}
	d.seen[c.ID] = d.rig.clock.Now()
}

func (d *Device) caller(c Cert, evidence certificate.Evidence) vending.Caller {
	if c.ID == "" {
		return vending.Caller{}
	}
	return vending.Caller{Device: d.ID, Certificate: c.ID, CommonName: string(d.ID), Evidence: evidence}
}

// Get asks for a certificate for a key, with more members of the body by name.
func (d *Device) Get(over Cert, key crypto.Signer, more ...string) Reply {
	d.rig.t.Helper()
	return d.GetCSR(over, key, CSR(key, string(d.ID)), more...)
}

// GetCSR is Get with a request made by hand.
func (d *Device) GetCSR(over Cert, key crypto.Signer, csr string, more ...string) Reply {
	d.rig.t.Helper()
	members := map[string]string{"csr": csr}
	for i := 0; i < len(more); i += 2 {
		members[more[i]] = more[i+1]
	}
	reply := d.Ask(over, protocol.Get, string(protocol.Encode(members)))
	reply.key = key
	if reply.Accepted && reply.Location == "" {
		d.noteVended(reply)
	}
	return reply
}

// GetPackage asks for the package that waits for the device.
func (d *Device) GetPackage(over Cert) Reply {
	d.rig.t.Helper()
	reply := d.Ask(over, protocol.Get, "")
	if reply.Accepted {
		d.got = append(d.got, reply.ID)
	}
	return reply
}

// Take asks for a certificate for a new key, which must succeed, and stores it.
func (d *Device) Take(over Cert) Cert {
	d.rig.t.Helper()
	c := d.Get(over, NewKey()).OK()
	d.Store(c)
	return c
}

// Ack acks, with members of the body by name.
func (d *Device) Ack(over Cert, members ...string) Reply {
	d.rig.t.Helper()
	body := map[string]string{}
	for i := 0; i < len(members); i += 2 {
		body[members[i]] = members[i+1]
	}
	return d.Ask(over, protocol.Ack, string(protocol.Encode(body)))
}

// Prove acks with a proof by the certificate's key, over a connection that the
// world does not know.
func (d *Device) Prove(c Cert) Reply {
	d.rig.t.Helper()
	proof, err := protocol.SignProof(c.Key, string(d.ID), string(c.ID), c.Nonce)
	d.rig.must(err)
	if _, known := d.proofs[c.ID]; known {
		return d.Ack(unseen, "certificateId", string(c.ID), "proof", proof)
	}
	d.proofs[c.ID] = d.rig.clock.Now().Add(tick)
	reply := d.Ack(unseen, "certificateId", string(c.ID), "proof", proof)
	if !reply.Accepted {
		delete(d.proofs, c.ID)
	}
	return reply
}

// Ask sends a request with a body made by hand, and checks everything after it.
func (d *Device) Ask(over Cert, action protocol.Action, body string) Reply {
	d.rig.t.Helper()
	return d.askOf(d.rig.primary, over, action, body)
}

func (d *Device) askOf(i *instance, over Cert, action protocol.Action, body string) Reply {
	d.rig.t.Helper()
	r := d.rig
	r.clock.Advance(tick)
	before := d.seen[over.ID]
	d.use(over)
	foretold := d.foretell(i, over, action, body)
	r.replies = nil
	r.ask(i, vending.Message{
		Topic: protocol.DefaultTopics().Request(string(d.ID), action), Payload: []byte(body),
		Caller: d.caller(over, certificate.Connection),
	})
	if h, _ := certificate.Find(d.held(), over.ID); r.faults.isDead() && h.LastSeen.Before(d.seen[over.ID]) {
		d.seen[over.ID] = before // nobody heard it: the process died before it could note that
	}
	reply := r.onlyReply(d, action)
	r.note(d, step(d, string(action), over), reply)
	d.agree(foretold, reply, step(d, string(action), over))
	r.check(d, step(d, string(action), over))
	return reply
}

// Standing returns how a certificate of the device stands; empty if it holds
// it no more.
func (d *Device) Standing(c Cert) certificate.Standing {
	d.rig.t.Helper()
	h, _ := certificate.Find(d.held(), c.ID)
	return h.Standing
}

func (d *Device) held() []certificate.Holding {
	d.rig.t.Helper()
	held, err := d.rig.world.Backend.Inventory.Held(d.rig.ctx, d.ID)
	d.rig.must(err)
	return held
}

// Want checks how certificates of the device stand.
func (d *Device) Want(standing certificate.Standing, all ...Cert) {
	d.rig.t.Helper()
	for _, c := range all {
		if got := d.Standing(c); got != standing {
			d.rig.t.Fatalf("%s: certificate %.8s is %q, want %q", d.ID, c.ID, got, standing)
		}
	}
}

// rotations returns the device's rotations, newest first.
func (d *Device) rotations() []rotation.Rotation {
	d.rig.t.Helper()
	h, err := d.rig.world.Backend.Journal.Find(d.rig.ctx, d.ID)
	d.rig.must(err)
	return h.Rotations
}

// WantStates checks the states of the device's rotations, newest first.
func (d *Device) WantStates(states ...rotation.State) {
	d.rig.t.Helper()
	var got, want []string
	for _, r := range d.rotations() {
		got = append(got, string(r.State))
	}
	for _, s := range states {
		want = append(want, string(s))
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		d.rig.t.Fatalf("%s: rotations are %v, want %v", d.ID, got, want)
	}
}

// retirement returns what is written about the retirement of a certificate,
// the newest of them.
func (d *Device) retirement(c Cert) (rotation.Retirement, bool) {
	d.rig.t.Helper()
	all, err := d.rig.world.Backend.Rotations.Retirements(d.rig.ctx, rotation.Query{Device: d.ID})
	d.rig.must(err)
	for _, r := range all {
		if r.Certificate == c.ID {
			return r, true
		}
	}
	return rotation.Retirement{}, false
}
