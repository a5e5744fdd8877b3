package backendtest

import (
	"crypto/x509"
	"encoding/pem"
	"errors"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

// Check asserts, for every device, what must hold after every step of every
// scenario. Removals are judged as they are made; see judge.go.
func (r *Rig) Check() {
	r.t.Helper()
	known := r.known()
	for _, d := range r.devices {
		r.checkDevice(d, "check", known)
	}
}

func (r *Rig) check(d *Device, step string) {
	r.t.Helper()
	if len(d.got) > d.confirmed { // what is on record stays there; Check looks again
		d.confirmed = len(d.got)
		r.checkDevice(d, step, r.known())
		return
	}
	r.checkDevice(d, step, nil)
}

// checkDevice checks one device, and that everything vended to it is among what
// is known, unless that is nil.
func (r *Rig) checkDevice(d *Device, step string, known map[certificate.ID]certificate.Holding) {
	r.t.Helper()
	for _, id := range d.got {
		if _, ok := known[id]; known != nil && !ok {
			r.t.Fatalf("%s: certificate %.8s was vended, and the inventory does not know it", step, id)
		}
	}
	held := d.held()
	if !d.works(held) {
		r.t.Fatalf("%s: the device has no certificate that works any more; on its disk: %v", step, d.describe(held))
	}
	rotations := d.rotations()
	open := 0
	for _, one := range rotations {
		if one.State.Open() {
			open++
		}
	}
	if open > 1 {
		r.t.Fatalf("%s: %d rotations are open", step, open)
	}
	d.checkLeftovers(step, rotations, held)
	for _, h := range held {
		if r.revoked[h.ID] && h.Standing != certificate.Revoked {
			r.t.Fatalf("%s: %.8s was revoked, and is %s", step, h.ID, h.Standing)
		}
	}
}

// works reports whether the device could connect now: of what is on its disk
// and has not expired, one is held and active. Where all has expired by
// itself, nothing is promised.
func (d *Device) works(held []certificate.Holding) bool {
	some := false
	for id, c := range d.disk {
		h, ok := certificate.Find(held, id)
		switch {
		case d.rig.revoked[id]: // by a person, who may leave a device with nothing
		case d.rig.unruly[id] || ok && h.Standing == certificate.Active && d.rig.clock.Now().Before(h.NotAfter):
			return true
		case d.rig.clock.Now().Before(c.notAfter()):
			some = true
		}
	}
	return !some
}

// checkLeftovers asserts that behind a proven rotation whose retirements are
// all done, nothing that never was used is active.
func (d *Device) checkLeftovers(step string, rotations []rotation.Rotation, held []certificate.Holding) {
	d.rig.t.Helper()
	retirements, err := d.rig.world.Backend.Rotations.Retirements(d.rig.ctx, rotation.Query{Device: d.ID, Open: true})
	d.rig.must(err)
	if len(retirements) > 0 {
		return
	}
	settled := false
	for _, one := range rotations {
		h, ok := certificate.Find(held, one.Certificate)
		never := ok && !one.IsProven() && !one.Unproven && d.seen[one.Certificate].IsZero()
		waits := one.State == rotation.Abandoned && one.ByPackage // it may be vended again
		if settled && never && h.Standing == certificate.Active && !waits && !h.Shared {
			d.rig.t.Fatalf("%s: %.8s of rotation %d was left active behind a proven one", step, one.Certificate, one.Number)
		}
		settled = settled || one.State == rotation.Finished && one.IsProven()
	}
}

func (d *Device) describe(held []certificate.Holding) []string {
	var all []string
	for id := range d.disk {
		text := string(id[:8]) + " not held"
		if h, ok := certificate.Find(held, id); ok {
			text = string(id[:8]) + " " + string(h.Standing) + " until " + h.NotAfter.String()
		}
		all = append(all, text)
	}
	return all
}

// noteVended checks what was vended for a key: to a device that is known, for
// that key, and the same for ever.
func (d *Device) noteVended(reply Reply) {
	r := d.rig
	r.t.Helper()
	if _, err := r.world.Backend.Registry.Device(r.ctx, d.ID); errors.Is(err, registry.ErrUnknown) {
		r.t.Fatalf("%s: vended %.8s to a device that the registry does not know", d.ID, reply.ID)
	}
	block, rest := pem.Decode([]byte(reply.Certificate))
	if block == nil || len(rest) > 0 {
		r.t.Fatalf("%s: member certificate is not one PEM block", d.ID)
	}
	c, err := x509.ParseCertificate(block.Bytes)
	r.must(err)
	if certificate.IDOf(block.Bytes) != reply.ID {
		r.t.Fatalf("%s: certificateId %.8s is not the certificate's", d.ID, reply.ID)
	}
	key := certificate.KeyIDOf(c.RawSubjectPublicKeyInfo)
	spki, err := x509.MarshalPKIXPublicKey(reply.key.Public())
	r.must(err)
	if key != certificate.KeyIDOf(spki) {
		r.t.Fatalf("%s: the certificate is not for the key it was asked for", d.ID)
	}
	if before := d.vended[key]; before != "" && before != reply.Certificate && !d.reissued[key] {
		r.t.Fatalf("%s: a second certificate for one key", d.ID)
	}
	d.vended[key] = reply.Certificate
	d.got = append(d.got, reply.ID)
}
