package backendtest

import (
	"crypto"
	"testing"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/rotation"
)

// edgeScenarios are about what lies between two sentences of the rules.
func edgeScenarios() []scenario {
	return []scenario{
		{"failed_issue_leaves_the_open_rotation", failedLeavesOpen},
		{"attributes_of_an_older_rotation_come_too_late", ackAttributesLate},
		{"package_that_is_closed_unproven_is_spent", unprovenPackageIsSpent},
		{"proof_after_presence_is_no_better_than_the_presence", proofAfterPresence},
		{"proof_is_no_sighting_for_older_retirements", proofOlderRetirement},
		{"superseded_before_an_unproven_one_is_retired_too", retireBeforeUnproven},
		{"malformed_request_over_the_old_certificate_is_a_sighting", retireMalformed},
		{"request_over_the_old_certificate_while_blocked_is_a_sighting", retireWhileBlocked},
		{"scope_all_with_keep_leaves_nothing_unused", retireAllKeep},
		{"presence_of_a_blocked_device_proves_nothing_yet", blockedPresence},
		{"request_that_failed_and_was_slept_on", failedAndSleptOn},
	}
}

// failedLeavesOpen: a get with another key that fails has not taken the place
// of the open rotation, unless it may have had an effect outside.
func failedLeavesOpen(t *testing.T, open Open) {
	for _, operation := range []string{"issue", "register", "advance"} {
		r := start(t, open)
		d := r.Device("d")
		next := d.Take(d.First)
		r.faults.fail(operation, 1)
		key := NewKey()
		if d.Get(d.First, key).Accepted {
			t.Fatalf("%s: accepted", operation)
		}
		if r.world.ActsOutside {
			failedGoesOn(d, next, key)
			continue
		}
		if again := d.Get(d.First, next.Key); !again.Accepted || again.Certificate != next.PEM {
			t.Errorf("%s: the open rotation's key gets %s", operation, again)
		}
		d.Ack(next).OK()
	}
}

// failedGoesOn: what may have been issued outside is gone on with, and what was
// vended before works as long as its successor is not proven. The device may
// come back to either.
func failedGoesOn(d *Device, next Cert, key crypto.Signer) {
	d.rig.t.Helper()
	d.Want(certificate.Active, d.First, next)
	if err := d.Connect(next); err != nil {
		d.rig.t.Errorf("over what was vended before: %v", err)
	}
	d.rig.Sweep()
	d.Want(certificate.Active, d.First, next)
	last := d.Get(next, key).OK()
	d.Store(last)
	d.Ack(last).OK()
	d.Want(certificate.Active, last)
}

// ackAttributesLate: a step that was left behind an older rotation does not
// overwrite what a newer one has written.
func ackAttributesLate(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	one := d.Take(d.First)
	r.faults.fail("attributes", 1)
	d.Ack(one).OK()
	two := d.Take(one)
	d.Ack(two).OK()
	d.wantLeft(two)
	r.Sweep()
	d.wantLeft(two)
}

// unprovenPackageIsSpent: a package is spent when its rotation is finished,
// also by a get that closes it without proof.
func unprovenPackageIsSpent(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	waiting := d.Packaged()
	reply := d.Unpack(unseen, waiting)
	d.Ack(unseen).OK()
	d.WantStates(rotation.Acknowledged)
	d.Take(unseen)
	d.WantStates(rotation.Vended, rotation.Finished)
	r.Sweep()
	d.wantDead(reply.Location)
	if p, err := r.world.Backend.Packages.Find(r.ctx, d.ID); err != nil || !p.Spent {
		t.Errorf("the package is %+v (%v), want it spent", p, err)
	}
}

// proofAfterPresence: the device was seen on the new certificate once and has
// gone back to the old one; that it still has the new key says nothing about
// which of the two works.
func proofAfterPresence(t *testing.T, open Open) {
	r := start(t, open, func(s *Setup) { s.Profile.Terms.Retire = rotation.All })
	d := r.Device("d")
	next := d.Take(d.First)
	r.must(d.Connect(next))
	r.must(d.Connect(d.First))
	d.Prove(next).OK()
	d.Want(certificate.Active, d.First, next)
	r.Settled()
	r.Sweep()
	d.Want(certificate.Active, d.First, next)
}

// proofOlderRetirement: the device has gone back from a proven certificate to
// the one before, then proves yet another one by its key only. What the first
// rotation replaced is not taken away on that word.
func proofOlderRetirement(t *testing.T, open Open) {
	r := start(t, open, previous(certificate.Delete))
	d := r.Device("d")
	r.Terms().Grace = time.Hour
	one := d.Take(d.First)
	d.Ack(one).OK()
	r.must(d.Connect(d.First))
	two := d.Take(unseen)
	d.Prove(two).OK()
	r.Advance(2 * time.Hour)
	r.Sweep()
	r.Sweep()
	d.Want(certificate.Active, d.First, one, two)
}

// retireBeforeUnproven: a rotation that was closed without a proof does not
// hide what it had superseded itself.
func retireBeforeUnproven(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	one := d.Get(unseen, NewKey()).OK()
	two := d.Get(unseen, NewKey()).OK()
	d.Ack(unseen).OK()
	three := d.Take(d.First)
	d.WantStates(rotation.Vended, rotation.Finished, rotation.Superseded)
	r.must(d.Connect(three))
	d.Ack(three).OK()
	d.Want(certificate.Inactive, d.First, one)
	d.Want(certificate.Active, two, three) // two's ack said that it was in use
}

// retireMalformed: a request is a sighting, also one that makes no sense: it
// came over a connection.
func retireMalformed(t *testing.T, open Open) {
	r := start(t, open, grace(time.Hour))
	d, _ := r.rotated("d")
	d.Ask(d.First, protocol.Ack, "ping").Refused(protocol.Malformed)
	r.Settled()
	r.Advance(2 * time.Hour)
	r.Sweep()
	d.Want(certificate.Active, d.First)
}

func retireWhileBlocked(t *testing.T, open Open) {
	r := start(t, open, grace(time.Hour))
	d, _ := r.rotated("d")
	r.must(r.world.Backend.Registrar.Block(r.ctx, d.ID, true))
	d.Ack(d.First).Refused(protocol.NotAllowed)
	r.must(r.world.Backend.Registrar.Block(r.ctx, d.ID, false))
	r.Settled()
	r.Advance(2 * time.Hour)
	r.Sweep()
	d.Want(certificate.Active, d.First)
}

// retireAllKeep: what was superseded and never used does not stay active behind
// a proven rotation, also where all that is replaced is kept.
func retireAllKeep(t *testing.T, open Open) { superseded(t, open, rotation.All) }

// blockedPresence: a blocked device's rotation stands still until it is
// unblocked, and then what was seen meanwhile counts.
func blockedPresence(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	next := d.Take(d.First)
	r.must(r.world.Backend.Registrar.Block(r.ctx, d.ID, true))
	_ = d.Connect(next)
	r.Sweep()
	d.WantStates(rotation.Vended)
	r.must(r.world.Backend.Registrar.Block(r.ctx, d.ID, false))
	r.must(d.Connect(next))
	d.WantStates(rotation.Proven)
	d.Ack(next).OK()
}

// failedAndSleptOn: a request was cut off before anything was vended, and the
// device comes again when the rotation is stale. What it gets then works.
func failedAndSleptOn(t *testing.T, open Open) {
	for _, what := range []string{"register", "activate", "link"} {
		r := start(t, open)
		d := r.Device("d")
		key, waiting := NewKey(), d.Packaged()
		ask := func() Reply {
			if what == "register" {
				return d.Get(d.First, key)
			}
			return d.GetPackage(d.First)
		}
		r.faults.fail(what, 1)
		if failed := ask(); failed.Accepted {
			t.Fatalf("%s failed, and was answered %+v", what, failed)
		}
		r.Advance(r.Terms().TTL + time.Hour)
		r.Sweep()
		next := waiting
		if reply := ask(); what == "register" {
			next = reply.OK()
		} else {
			reply.OK()
		}
		d.Overwrite(next)
		r.must(d.Connect(next))
		d.Ack(next).OK()
	}
}
