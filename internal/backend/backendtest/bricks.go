package backendtest

import (
	"fmt"
	"testing"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/rotation"
)

// brickScenarios are the ways in which a device could be left without any
// certificate that works, if the program did what seems natural.
func brickScenarios() []scenario {
	return []scenario{
		{"one_slot_overwritten_early_ack_and_a_lost_second_reply", brickOneSlot},
		{"switched_threw_its_old_key_away_and_lost_its_ack", brickLostAck},
		{"switched_lost_its_ack_and_was_back_on_the_old_one_once", brickLostAckAndBack},
		{"get_with_a_new_key_over_the_unacked_new_certificate", brickNewKeyOverNew},
		{"due_retirement_does_not_fire_on_a_device_that_has_gone_back", brickGoneBack},
		{"fifty_devices_share_one_certificate", brickShared},
		{"late_duplicate_of_a_superseded_request_changes_nothing", brickLateDuplicate},
		{"ack_repeated_after_its_reply_was_lost", brickAckRepeated},
		{"case_89_two_slots_and_every_reply_lost_twice", brickLostReplies},
		{"went_back_and_rotated_again_from_the_old_one", brickRotatedFromOld},
		{"superseded_certificate_in_use_is_kept", brickSupersededInUse},
		{"proof_by_the_old_connection_of_a_key_never_used", brickProofUnused},
		{"gone_back_after_a_clock_that_ran_ahead_was_set_right", brickClockAhead},
		{"request_over_the_old_one_that_the_process_died_of", brickDiedOfRequest},
		{"package_that_is_vended_again_after_it_was_replaced", brickPackageAgain},
		{"connected_while_the_proof_could_not_be_written", brickProofUnwritten},
	}
}

// often lets a month of sweeps go by.
func (r *Rig) often() {
	r.t.Helper()
	for range 10 {
		r.Advance(72 * time.Hour)
		r.Sweep()
	}
}

// A device with one slot has nothing else to connect with: what keeps the proof
// from being written does not keep the device out.
func brickProofUnwritten(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	next := d.Get(d.First, NewKey()).OK()
	d.Overwrite(next)
	r.faults.fail("advance", 99)
	r.must(d.Connect(next))
	d.WantStates(rotation.Vended)
	r.faults.fail("advance", 0)
	r.Sweep()
	d.WantStates(rotation.Proven)
	d.Ack(next).OK()
	d.WantStates(rotation.Finished)
}

func brickOneSlot(t *testing.T, open Open) {
	r := start(t, open, func(s *Setup) {
		s.Profile.Terms.TTL, s.Profile.Terms.Retire = time.Second, rotation.All
	})
	d := r.Device("d")
	one := d.Get(d.First, NewKey()).OK()
	d.Overwrite(one)
	d.Ack(d.First).Refused(protocol.NotProven)
	d.Get(d.First, NewKey()).OK() // the reply is lost
	r.often()
	r.must(d.Connect(one))
	d.Ack(one).Refused(protocol.NotProven) // another one was vended since
	r.often()
	two := d.Get(one, NewKey()).OK()
	d.Overwrite(two)
	r.must(d.Connect(two))
	d.Ack(two).OK()
	d.WantStates(rotation.Finished, rotation.Superseded, rotation.Superseded)
	d.Want(certificate.Inactive, one, d.First)
	r.often()
}

func brickLostAck(t *testing.T, open Open) {
	r := start(t, open, func(s *Setup) { s.Profile.Terms.TTL = time.Second })
	d := r.Device("d")
	next := d.Get(d.First, NewKey()).OK()
	d.Overwrite(next)
	d.Ack(d.First).Refused(protocol.NotProven)
	r.often() // it was never seen on the new one, and is not heard of for a month
	d.WantStates(rotation.Stale)
	d.Want(certificate.Active, d.First, next)
	r.must(d.Connect(next))
	d.WantStates(rotation.Proven)
	r.often()
	d.Want(certificate.Active, next)
}

func brickLostAckAndBack(t *testing.T, open Open) {
	for _, scope := range []rotation.Scope{rotation.Replaced, rotation.All} {
		r := start(t, open, func(s *Setup) { s.Profile.Terms.TTL, s.Profile.Terms.Retire = time.Second, scope })
		d := r.Device("d")
		next := d.Take(d.First)
		r.must(d.Connect(next))    // its ack is lost
		r.must(d.Connect(d.First)) // once, in between
		d.Overwrite(next)
		r.often()
		d.Want(certificate.Active, next, d.First)
		r.must(d.Connect(next))
		r.often()
		d.Want(certificate.Active, next)
	}
}

func brickNewKeyOverNew(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	one := d.Take(d.First)
	d.Overwrite(one)
	two := d.Get(one, NewKey()).OK() // the reply is lost; the connection lives on
	d.Want(certificate.Active, one)
	d.Want(certificate.Inactive, d.First)
	if again := d.Get(one, two.Key).OK(); again.PEM != two.PEM {
		t.Error("another certificate over the same connection")
	}
	d.Overwrite(two)
	r.must(d.Connect(two))
	d.WantStates(rotation.Proven, rotation.Finished)
	d.Ack(two).OK()
	d.Want(certificate.Inactive, one)
	d.Want(certificate.Active, two)
}

func brickGoneBack(t *testing.T, open Open) {
	for _, mode := range []certificate.Mode{certificate.Deactivate, certificate.Delete} {
		r := start(t, open, func(s *Setup) {
			s.Profile.Terms.Grace, s.Profile.Terms.Previous = 24*time.Hour, mode
		})
		d := r.Device("d")
		next := d.Take(d.First)
		r.must(d.Connect(next))
		d.Ack(next).OK()
		r.Advance(12 * time.Hour)
		r.must(d.Connect(d.First))
		d.Overwrite(d.First) // the new firmware was rolled back with its certificate
		r.often()
		d.Want(certificate.Active, d.First, next)
		if kept, _ := d.retirement(d.First); !kept.Reverted {
			t.Errorf("retirement %+v, want it reverted", kept)
		}
		r.must(d.Connect(d.First))
	}
}

func brickShared(t *testing.T, open Open) {
	const devices = 50
	r := start(t, open)
	all := []*Device{r.Device("shared-00")}
	shared := all[0].First
	for i := range devices - 1 {
		d := r.stranger(fmt.Sprintf("shared-%02d", i+1))
		r.must(r.world.Backend.Registrar.Add(r.ctx, d.ID, nil))
		d.share(shared)
		all = append(all, d)
	}
	for i, d := range all {
		next := d.Get(shared, NewKey()).OK()
		d.Overwrite(next)
		r.must(d.Connect(next))
		d.Ack(next).OK()
		d.Want(certificate.Active, next)
		if d.Connect(shared) == nil {
			t.Fatalf("%s still connects with what it replaced", d.ID)
		}
		if i+1 < devices {
			other := all[(i*7)%(devices-i-1)+i+1] // any that has not rotated yet
			r.must(other.Connect(shared))
		}
	}
	r.Check()
	if h := r.known()[shared.ID]; h.Standing != certificate.Inactive {
		t.Errorf("the shared certificate is %s when nobody needs it any more", h.Standing)
	}
}

func brickLateDuplicate(t *testing.T, open Open) {
	r := start(t, open, func(s *Setup) { s.Profile.Terms.Retire = rotation.All })
	d := r.Device("d")
	late := NewKey()
	one := d.Get(d.First, late).OK()
	two := d.Take(d.First)
	d.Overwrite(two)
	d.Get(d.First, late).Refused(protocol.TryAgainLater)
	d.WantStates(rotation.Vended, rotation.Superseded)
	r.must(d.Connect(two))
	d.Get(d.First, late).Refused(protocol.TryAgainLater) // QoS 1, from the old connection's queue
	r.must(d.Connect(two))
	d.Ack(two).OK()
	d.Get(two, late).Refused(protocol.TryAgainLater)
	r.Advance(time.Hour)
	d.Get(two, late).Refused(protocol.CSRRejected)
	d.WantStates(rotation.Finished, rotation.Superseded)
	d.Want(certificate.Active, two)
	d.Want(certificate.Inactive, one, d.First)
}

func brickAckRepeated(t *testing.T, open Open) {
	r := start(t, open, previous(certificate.Delete))
	d := r.Device("d")
	next := d.Take(d.First)
	d.Overwrite(next)
	d.Ack(next, "previousCertificateId", string(d.First.ID)).OK() // the reply is lost
	d.Want(certificate.Inactive, d.First)
	d.Ack(next, "previousCertificateId", string(d.First.ID)).OK()
	r.Settled()
	r.must(d.Connect(next))
	r.Sweep()
	d.Want("", d.First)
	d.Ack(next, "previousCertificateId", string(d.First.ID)).OK()
	d.WantStates(rotation.Finished)
}

// brickLostReplies: the device never hears an answer at the first try, and
// keeps its key until it does, as the library does.
func brickLostReplies(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	on := d.First
	for range 5 {
		key := NewKey()
		d.Get(on, key).OK()
		r.Crash()
		d.Get(on, key).OK()
		next := d.Get(on, key).OK()
		d.Store(next)
		r.must(d.Connect(next))
		d.Ack(next).OK()
		r.Crash()
		d.Ack(next).OK()
		d.Want(certificate.Inactive, on)
		d.Drop(on)
		on = next
	}
	if n := len(r.known()); n != 6 {
		t.Errorf("%d certificates for five keys and a first one", n)
	}
}

func brickRotatedFromOld(t *testing.T, open Open) {
	r := start(t, open, func(s *Setup) { s.Profile.Terms.Grace, s.Profile.Terms.Retire = time.Hour, rotation.All })
	d := r.Device("d")
	one := d.Take(d.First)
	d.Ack(one).OK()
	r.must(d.Connect(d.First))
	d.Drop(one)
	two := d.Take(d.First) // asked from where it went back to
	r.Advance(2 * time.Hour)
	r.Sweep()
	d.Want(certificate.Active, d.First, two)
	d.Drop(two) // its reply was lost after all
	r.often()
	r.must(d.Connect(d.First))
	three := d.Take(d.First)
	r.must(d.Connect(three))
	d.Ack(three).OK()
	d.Drop(d.First)
	r.Advance(2 * time.Hour)
	r.must(d.Connect(three))
	r.Sweep()
	d.Want(certificate.Inactive, d.First, two)
}

func brickSupersededInUse(t *testing.T, open Open) {
	r := start(t, open, func(s *Setup) { s.Profile.Terms.TTL, s.Profile.Terms.Retire = time.Second, rotation.All })
	d := r.Device("d")
	one := d.Take(d.First)
	two := d.Get(d.First, NewKey()).OK() // lost
	d.Overwrite(one)
	r.must(d.Connect(one))
	r.often()
	d.Want(certificate.Active, one, two)
	d.Get(one, two.Key).OK() // it still has that key, and asks again: two is its own after all
	d.Store(two)
	r.must(d.Connect(two))
	d.Ack(two).OK()
	d.Want(certificate.Inactive, one, d.First)
}

// brickProofUnused: the device acks by signature before it ever tried the new
// certificate, which then does not work for it.
func brickProofUnused(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	next := d.blind()
	d.Prove(next).OK()
	d.Drop(next)
	for range 10 {
		r.Advance(12 * time.Hour)
		r.must(d.Connect(d.First))
		r.Sweep()
	}
	d.Want(certificate.Active, d.First)
}

// brickClockAhead: by the clock, the sighting on the new certificate stays the
// latest for a day after the device has gone back.
func brickClockAhead(t *testing.T, open Open) {
	r := start(t, open, func(s *Setup) { s.Profile.Terms.Grace = time.Hour })
	d := r.Device("d")
	next := d.Take(d.First)
	r.clock.Jump(24 * time.Hour)
	r.must(d.Connect(next))
	d.Ack(next).OK()
	r.clock.Jump(-24 * time.Hour)
	r.must(d.Connect(d.First)) // its new one is lost
	d.Overwrite(d.First)
	r.Advance(27 * time.Hour) // the clock is trusted again, and the grace is over
	r.Sweep()
	d.Want(certificate.Active, d.First, next)
	if left, ok := d.retirement(d.First); !ok || !left.Reverted {
		t.Errorf("not reverted: %+v", left)
	}
}

// brickDiedOfRequest: the process dies before it could note that the device
// speaks over its old certificate. The device comes back with it, and that
// counts.
func brickDiedOfRequest(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	next := d.Take(d.First)
	d.Prove(next).OK()
	r.faults.killAt = r.faults.count + 1
	d.Ack(d.First)
	if !r.faults.isDead() {
		t.Fatal("the process lives on")
	}
	r.Crash()
	r.must(d.Connect(d.First))
	r.often()
	d.Want(certificate.Active, d.First, next)
}

// brickPackageAgain: a package was given up by a person, and a rotation replaced
// its certificate. The package is put and vended again: the retirement of then
// must not take it away from the device, which has one slot.
func brickPackageAgain(t *testing.T, open Open) {
	r := start(t, open, func(s *Setup) { s.Profile.Terms.Retire, s.Profile.Terms.Grace = rotation.All, 48*time.Hour })
	d := r.Device("d")
	waiting := d.Packaged()
	d.Unpack(d.First, waiting)
	d.abandon()
	next := d.Take(d.First)
	d.Prove(next).OK()
	d.WantStates(rotation.Finished, rotation.Abandoned)
	d.Unpack(d.First, waiting)
	d.Overwrite(waiting)
	r.often()
	d.Want(certificate.Active, waiting)
	r.must(d.Connect(waiting))
	d.Ack(waiting).OK()
	if left, ok := d.retirement(waiting); !ok || left.Done.IsZero() {
		t.Errorf("the retirement of then is not closed: %+v", left)
	}
}
