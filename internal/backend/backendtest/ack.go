package backendtest

import (
	"maps"
	"testing"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/rotation"
)

func ackScenarios() []scenario {
	return []scenario{
		{"case_72_previous_kept", ackKeeps},
		{"case_73_previous_deleted", ackDeletes},
		{"case_74_over_the_old_certificate", ackOverOld},
		{"case_75_82_previous_certificate_named", ackNames},
		{"case_76_certificate_of_another_device_too", ackShared},
		{"case_77_ack_repeated", ackRepeated},
		{"case_78_removal_that_fails_is_repeated", ackRemovalFails},
		{"case_80_leaving_the_group_is_retried_behind", ackLeaveFails},
		{"case_81_no_open_rotation", ackWithoutRotation},
		{"repeated_ack_changes_nothing_not_even_the_group", ackRepeatedGroup},
		{"membership_newer_than_the_rotation_stays", ackNewerMembership},
		{"unknown_evidence_is_acknowledged_and_removes_nothing", ackUnknown},
		{"acknowledged_then_seen", ackThenSeen},
		{"acknowledged_has_no_ttl", ackNoTTL},
		{"unknown_evidence_after_presence_finishes", ackAfterPresence},
		{"presence_proves_and_does_nothing_else", presenceOnly},
		{"presence_on_the_old_certificate_is_nothing", presenceOld},
		{"unproven_ack_rejected_where_configured", ackRejected},
		{"attributes_and_group_after_the_ack", ackAttributes},
		{"attribute_that_fails_never_fails_the_device", ackAttributesFail},
	}
}

// wantLeft checks that the device has left the group and that its attributes
// say which certificate it works on.
func (d *Device) wantLeft(on Cert) {
	r := d.rig
	r.t.Helper()
	if r.members()[d.ID] {
		r.t.Errorf("%s is still in the rotation group", d.ID)
	}
	device, err := r.world.Backend.Registry.Device(r.ctx, d.ID)
	r.must(err)
	want := map[string]string{
		"status": "active", "certificateId": string(on.ID), "certNotAfter": on.notAfter().UTC().Format(time.RFC3339),
	}
	if !maps.Equal(device.Attributes, want) {
		r.t.Errorf("attributes %v, want %v", device.Attributes, want)
	}
}

func (d *Device) join() {
	d.rig.t.Helper()
	d.rig.clock.Advance(tick)
	d.rig.must(d.rig.world.Backend.Group.Add(d.rig.ctx, d.ID))
}

func previous(mode certificate.Mode) func(*Setup) {
	return func(s *Setup) { s.Profile.Terms.Previous = mode }
}

func ackKeeps(t *testing.T, open Open) {
	r := start(t, open, previous(certificate.Keep))
	d := r.Device("d")
	d.join()
	next := d.Take(d.First)
	d.Ack(next).OK()
	d.wantLeft(next)
	r.Settled()
	r.Sweep()
	d.Want(certificate.Active, d.First, next)
	if _, owed := d.retirement(d.First); owed {
		t.Error("a retirement is written")
	}
}

func ackDeletes(t *testing.T, open Open) {
	r := start(t, open, previous(certificate.Delete))
	d := r.Device("d")
	d.join()
	next := d.Take(d.First)
	d.Ack(next).OK()
	d.Want(certificate.Inactive, d.First)
	r.Settled()
	r.must(d.Connect(next))
	r.Sweep()
	d.Want("", d.First)
	d.Want(certificate.Active, next)
	if h := r.known()[d.First.ID]; h.Standing != certificate.Deleted || h.Device != "" {
		t.Errorf("on record as %s of %q", h.Standing, h.Device)
	}
	d.wantLeft(next)
	if d.Connect(d.First) == nil {
		t.Error("a deleted certificate connects")
	}
}

func ackOverOld(t *testing.T, open Open) {
	r := start(t, open, previous(certificate.Delete))
	d := r.Device("d")
	d.join()
	next := d.Take(d.First)
	d.Ack(d.First).Refused(protocol.NotProven)
	d.Ack(d.First, "previousCertificateId", string(d.First.ID)).Refused(protocol.NotProven)
	d.Want(certificate.Active, d.First, next)
	d.WantStates(rotation.Vended)
	if !r.members()["d"] {
		t.Error("it has left the group")
	}
}

func ackNames(t *testing.T, open Open) {
	r := start(t, open)
	d, e := r.Device("d"), r.Device("e")
	other := d.Given(certificate.Adopted)
	next := d.Take(d.First)
	d.Ack(next, "previousCertificateId", string(e.First.ID)).Refused(protocol.PreviousNotHeld)
	d.Ack(next, "previousCertificateId", "a").Refused(protocol.PreviousNotHeld)
	d.Ack(next, "previousCertificateId", string(next.ID)).Refused(protocol.PreviousNotHeld)
	d.WantStates(rotation.Vended)
	d.Ack(next, "previousCertificateId", string(other.ID)).OK()
	d.Want(certificate.Inactive, other)
	d.Want(certificate.Active, d.First, next)
}

func ackShared(t *testing.T, open Open) {
	r := start(t, open, previous(certificate.Delete))
	d, e := r.Device("d"), r.Device("e")
	e.share(d.First)
	next := d.Take(d.First)
	d.Ack(next).OK()
	r.Settled()
	r.must(d.Connect(next))
	r.Sweep()
	d.Want("", d.First)
	e.Want(certificate.Active, d.First)
	r.must(e.Connect(d.First))
}

// share gives the device a certificate that another one has too, as its own.
func (d *Device) share(c Cert) {
	r := d.rig
	r.t.Helper()
	h := r.known()[c.ID].Certificate
	r.must(r.world.Backend.Inventory.Register(r.ctx, d.ID, h))
	d.First = c
	d.Overwrite(c)
	r.must(d.Connect(c))
}

func ackRepeated(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	next := d.Take(d.First)
	d.Ack(next).OK()
	before := len(d.rotations())
	for range 3 {
		d.Ack(next).OK()
		d.Ack(next, "previousCertificateId", string(d.First.ID)).OK()
	}
	d.Ack(unseen).Refused(protocol.NoOpenRotation)
	if len(d.rotations()) != before {
		t.Error("a repeated ack made a rotation")
	}
	d.WantStates(rotation.Finished)
	d.Want(certificate.Active, next)
}

func ackRemovalFails(t *testing.T, open Open) {
	r := start(t, open, previous(certificate.Delete))
	d := r.Device("d")
	d.join()
	next := d.Take(d.First)
	r.faults.fail("retire", 2)
	d.Ack(next).OK() // what fails behind an ack is not the device's trouble
	d.Want(certificate.Active, d.First)
	r.Settled()
	r.must(d.Connect(next))
	r.Sweep() // fails the second time
	d.Want(certificate.Active, d.First)
	r.Sweep()
	r.Sweep()
	d.Want("", d.First)
	d.wantLeft(next)
}

func ackLeaveFails(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	d.join()
	next := d.Take(d.First)
	r.faults.fail("leave", 2)
	d.Ack(next).OK()
	r.Sweep()
	if !r.members()["d"] {
		t.Fatal("it has left the group, though that failed")
	}
	r.Sweep()
	d.wantLeft(next)
}

func ackWithoutRotation(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	d.join()
	d.Ack(d.First).Refused(protocol.NoOpenRotation)
	d.Ack(unseen).Refused(protocol.NoOpenRotation)
	d.Ack(d.First, "previousCertificateId", string(d.First.ID)).Refused(protocol.NoOpenRotation)
	d.Want(certificate.Active, d.First)
	if !r.members()["d"] {
		t.Error("it has left the group")
	}
}

func ackRepeatedGroup(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	d.join()
	next := d.Take(d.First)
	d.Ack(next).OK()
	d.join() // for its next rotation
	d.Ack(next).OK()
	r.Sweep()
	if !r.members()["d"] {
		t.Error("a repeated ack took it out of the group")
	}
}

func ackNewerMembership(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	next := d.Take(d.First)
	d.join()
	d.Ack(next).OK()
	r.Sweep()
	if !r.members()["d"] {
		t.Error("an ack took it out of a group that it joined after its rotation began")
	}
}

func ackUnknown(t *testing.T, open Open) {
	r := start(t, open, func(s *Setup) { s.Profile.Terms.Retire = rotation.All })
	d := r.Device("d")
	d.join()
	next := d.Take(unseen)
	d.Ack(unseen).OK()
	d.Ack(unseen).OK()
	d.WantStates(rotation.Acknowledged)
	if r.members()["d"] {
		t.Error("it is still in the group")
	}
	for range 5 {
		r.Advance(100 * time.Hour)
		r.Sweep()
	}
	d.Want(certificate.Active, d.First, next)
	d.WantStates(rotation.Acknowledged)
	d.Ack(d.First).Refused(protocol.NotProven)
}

func ackThenSeen(t *testing.T, open Open) {
	r := start(t, open, func(s *Setup) { s.Profile.Terms.Retire = rotation.All })
	d := r.Device("d")
	next := d.Take(unseen)
	d.Ack(unseen).OK()
	r.must(d.Connect(next))
	d.WantStates(rotation.Proven)
	d.Want(certificate.Active, d.First)
	r.Settled()
	r.Sweep() // finishes it
	r.Sweep() // and does what it owes
	d.WantStates(rotation.Finished)
	d.Want(certificate.Inactive, d.First)
	d.Ack(next).OK()
}

func ackNoTTL(t *testing.T, open Open) {
	r := start(t, open, func(s *Setup) { s.Profile.Terms.TTL = time.Hour })
	d := r.Device("d")
	next := d.Take(unseen)
	d.Ack(unseen).OK()
	r.Advance(2 * time.Hour)
	r.Sweep()
	d.WantStates(rotation.Acknowledged)
	d.Ack(next).OK()
	d.WantStates(rotation.Finished)
}

func ackAfterPresence(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	next := d.Take(d.First)
	r.must(d.Connect(next))
	d.Ack(unseen).OK()
	d.WantStates(rotation.Finished)
	d.Want(certificate.Inactive, d.First)
	d.Want(certificate.Active, next)
}

func presenceOnly(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	d.join()
	next := d.Take(d.First)
	r.must(d.Connect(next))
	r.Sweep()
	d.WantStates(rotation.Proven)
	d.Want(certificate.Active, d.First)
	if _, owed := d.retirement(d.First); owed || !r.members()["d"] {
		t.Error("presence alone did more than prove")
	}
	r.Settled()
	r.Sweep()
	d.WantStates(rotation.Finished)
	r.Sweep()
	d.Want(certificate.Inactive, d.First)
	d.wantLeft(next)
}

func presenceOld(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	next := d.Take(d.First)
	r.must(d.Connect(d.First))
	r.Settled()
	r.Sweep()
	d.WantStates(rotation.Vended)
	d.Want(certificate.Active, d.First, next)
}

func ackRejected(t *testing.T, open Open) {
	r := start(t, open, func(s *Setup) { s.Config.RejectUnproven = true })
	d := r.Device("d")
	next := d.Take(unseen)
	d.Ack(unseen).Refused(protocol.NotProven)
	d.WantStates(rotation.Vended)
	d.Prove(next).OK()
	d.WantStates(rotation.Finished)
}

func ackAttributes(t *testing.T, open Open) {
	for _, later := range []bool{false, true} {
		r := start(t, open, func(s *Setup) { s.Later = later })
		d := r.Device("d")
		d.join()
		next := d.Take(d.First)
		d.Ack(next).OK()
		if later {
			r.Crash()
			r.Sweep()
		}
		d.wantLeft(next)
	}
}

func ackAttributesFail(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	d.join()
	next := d.Take(d.First)
	r.faults.fail("attributes", 3)
	d.Ack(next).OK()
	d.Want(certificate.Inactive, d.First)
	r.Sweep()
	r.Sweep()
	r.Sweep()
	d.wantLeft(next)
}
