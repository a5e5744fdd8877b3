package backendtest

import (
	"strings"
	"testing"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/rotation"
)

func proofScenarios() []scenario {
	return []scenario{
		{"good_proof_finishes_and_deactivates_a_day_later", proofGood},
		{"proof_never_deletes", proofNeverDeletes},
		{"proof_is_kept_for_a_longer_grace", proofGrace},
		{"proof_retires_nothing_that_was_seen_since", proofSeenSince},
		{"proof_replaces_nothing_that_nobody_named", proofUnnamed},
		{"bad_proof_is_refused", proofBad},
		{"replayed_proof_repeats_the_answer_and_nothing_else", proofReplayed},
		{"proof_of_an_ended_rotation_does_not_end_the_next", proofVoid},
		{"proof_over_a_known_certificate_is_ignored", proofIgnored},
		{"every_kind_of_key_proves", proofKinds},
	}
}

// blind opens a rotation of which the world knows no certificate, and which
// replaces the first one by its name.
func (d *Device) blind() Cert {
	d.rig.t.Helper()
	next := d.Get(unseen, NewKey(), "previousCertificateId", string(d.First.ID)).OK()
	d.Store(next)
	return next
}

func proofGood(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	d.join()
	next := d.blind()
	d.Prove(next).OK()
	d.WantStates(rotation.Finished)
	d.wantLeft(next)
	r.Advance(23 * time.Hour)
	r.Sweep()
	d.Want(certificate.Active, d.First, next)
	r.Advance(2 * time.Hour)
	r.Sweep()
	d.Want(certificate.Inactive, d.First)
	d.Want(certificate.Active, next)
}

func proofNeverDeletes(t *testing.T, open Open) {
	r := start(t, open, previous(certificate.Delete))
	d := r.Device("d")
	d.Prove(d.blind()).OK()
	for range 5 {
		r.Advance(30 * time.Hour)
		r.Sweep()
	}
	d.Want(certificate.Inactive, d.First)
}

func proofGrace(t *testing.T, open Open) {
	r := start(t, open, func(s *Setup) { s.Profile.Terms.Grace = 72 * time.Hour })
	d := r.Device("d")
	d.Prove(d.blind()).OK()
	r.Advance(71 * time.Hour)
	r.Sweep()
	d.Want(certificate.Active, d.First)
	r.Advance(2 * time.Hour)
	r.Sweep()
	d.Want(certificate.Inactive, d.First)
}

func proofSeenSince(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	next := d.blind()
	d.Prove(next).OK()
	r.must(d.Connect(d.First))
	for range 5 {
		r.Advance(30 * time.Hour)
		r.Sweep()
	}
	d.Want(certificate.Active, d.First, next)
	if kept, _ := d.retirement(d.First); !kept.Reverted {
		t.Errorf("retirement %+v, want it reverted", kept)
	}
}

func proofUnnamed(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	d.Prove(d.Take(unseen)).OK()
	r.Advance(30 * time.Hour)
	r.Sweep()
	d.Want(certificate.Active, d.First)
	if _, owed := d.retirement(d.First); owed {
		t.Error("a retirement is written")
	}
}

func proofBad(t *testing.T, open Open) {
	r := start(t, open)
	d, e := r.Device("d"), r.Device("e")
	next, theirs := d.blind(), e.blind()
	sign := func(c Cert, device, id, nonce string) string {
		proof, err := protocol.SignProof(c.Key, device, id, nonce)
		r.must(err)
		return proof
	}
	id := string(next.ID)
	good := sign(next, "d", id, next.Nonce)
	for name, ack := range map[string][2]string{
		"by another key":                {id, sign(d.First, "d", id, next.Nonce)},
		"of another device":             {id, sign(next, "e", id, next.Nonce)},
		"of another certificate":        {id, sign(next, "d", string(theirs.ID), next.Nonce)},
		"of another nonce":              {id, sign(next, "d", id, theirs.Nonce)},
		"of no nonce":                   {id, sign(next, "d", id, "")},
		"for the old certificate":       {string(d.First.ID), sign(d.First, "d", string(d.First.ID), next.Nonce)},
		"for another's certificate":     {string(theirs.ID), sign(theirs, "d", string(theirs.ID), next.Nonce)},
		"for no certificate":            {"x", good},
		"not base64":                    {id, "%%%"},
		"cut short":                     {id, good[:len(good)/2]},
		"of the wrong length of base64": {id, good + "="},
		"in capitals":                   {strings.ToUpper(id), good},
	} {
		d.Ack(unseen, "certificateId", ack[0], "proof", ack[1]).Refused(protocol.NotProven)
		if d.rotations()[0].State != rotation.Vended {
			t.Fatalf("%s: the rotation is %s", name, d.rotations()[0].State)
		}
	}
	d.Ack(unseen, "certificateId", id).Refused(protocol.Malformed)
	d.Ack(unseen, "proof", good).Refused(protocol.Malformed)
	d.WantStates(rotation.Vended)
	e.WantStates(rotation.Vended)
	d.Prove(next).OK()
}

func proofReplayed(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	next := d.blind()
	d.Prove(next).OK()
	proven := d.rotations()[0].ProvenAt
	r.Advance(20 * time.Hour)
	d.Prove(next).OK()
	r.must(d.Connect(d.First)) // it has gone back
	d.Prove(next).OK()         // recorded long ago, replayed now
	for range 3 {
		r.Advance(20 * time.Hour)
		d.Prove(next).OK()
		r.Sweep()
	}
	d.Want(certificate.Active, d.First)
	if again := d.rotations()[0].ProvenAt; !again.Equal(proven) {
		t.Errorf("proven at %s, then at %s", proven, again)
	}
}

func proofVoid(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	one := d.blind()
	d.Prove(one).OK()
	two := d.Take(unseen)
	d.Prove(one).Refused(protocol.NotProven)
	d.WantStates(rotation.Vended, rotation.Finished)
	if one.Nonce == two.Nonce {
		t.Error("two rotations have one nonce")
	}
	three := d.Take(unseen)
	d.Prove(two).Refused(protocol.NotProven)
	d.Prove(three).OK()
}

func proofIgnored(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	next := d.Take(d.First)
	proof, err := protocol.SignProof(next.Key, "d", string(next.ID), next.Nonce)
	r.must(err)
	d.Ack(d.First, "certificateId", string(next.ID), "proof", proof).Refused(protocol.NotProven)
	d.WantStates(rotation.Vended)
	d.Ack(next, "certificateId", string(next.ID), "proof", "not one").OK()
	if got := d.rotations()[0].Evidence; got != certificate.Connection {
		t.Errorf("proven by %q", got)
	}
}

func proofKinds(t *testing.T, open Open) {
	r := start(t, open)
	for name, key := range strongKeys(t) {
		d := r.Device(name)
		next := d.Get(unseen, key).OK()
		d.Store(next)
		d.Prove(next).OK()
		d.WantStates(rotation.Finished)
	}
}
