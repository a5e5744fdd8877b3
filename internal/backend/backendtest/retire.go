package backendtest

import (
	"strings"
	"testing"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/rotation"
)

func retireScenarios() []scenario {
	return []scenario{
		{"grace_is_waited_for", retireGrace},
		{"scope_all", retireAll},
		{"keep_ends_what_was_superseded_and_never_used", retireKeepSuperseded},
		{"delete_is_deactivate_then_delete", retireDelete},
		{"reverted_and_returned", retireReturned},
		{"reverted_and_returned_by_an_ack", retireReturnedByAck},
		{"sweep_settles_after_a_start", retireSettles},
		{"successor_not_seen_lately_justifies_nothing", retireRecent},
		{"expired_certificate_is_retired_anyway", retireExpired},
		{"successor_that_expired_justifies_nothing", retireSuccessorExpired},
		{"successor_that_was_withdrawn_justifies_nothing", retireSuccessorWithdrawn},
		{"birth_certificate_is_never_retired", retireBirth},
		{"certificate_that_a_person_calls_a_birth_certificate_is_never_retired", retireCalledBirth},
	}
}

func grace(d time.Duration) func(*Setup) {
	return func(s *Setup) { s.Profile.Terms.Grace = d }
}

// rotated returns a device that has acked its second certificate.
func (r *Rig) rotated(name string) (*Device, Cert) {
	r.t.Helper()
	d := r.Device(name)
	next := d.Take(d.First)
	d.Ack(next).OK()
	return d, next
}

func retireGrace(t *testing.T, open Open) {
	r := start(t, open, grace(168*time.Hour))
	d, next := r.rotated("d")
	for range 6 {
		r.Advance(24 * time.Hour)
		r.must(d.Connect(next))
		r.Sweep()
		d.Want(certificate.Active, d.First)
	}
	r.Crash()
	r.Advance(25 * time.Hour)
	r.must(d.Connect(next))
	r.Sweep()
	d.Want(certificate.Inactive, d.First)
}

func scope(s rotation.Scope, previous certificate.Mode) func(*Setup) {
	return func(setup *Setup) { setup.Profile.Terms.Retire, setup.Profile.Terms.Previous = s, previous }
}

func retireAll(t *testing.T, open Open) {
	r := start(t, open, scope(rotation.All, certificate.Deactivate))
	d := r.Device("d")
	other := d.Given(certificate.Adopted)
	birth := d.Given(certificate.Birth)
	waiting := d.Packaged()
	next := d.Take(unseen)
	later := d.Given(certificate.Adopted) // came after the rotation opened
	d.Ack(next).OK()
	d.Want(certificate.Inactive, d.First, other, waiting)
	d.Want(certificate.Active, next, birth, later)
	d.Unpack(next, waiting)
}

// retireKeepSuperseded: what was superseded and never used does not stay
// active behind a proven rotation, also where what is replaced is kept.
func retireKeepSuperseded(t *testing.T, open Open) { superseded(t, open, rotation.Replaced) }

func superseded(t *testing.T, open Open, s rotation.Scope) {
	t.Helper()
	r := start(t, open, scope(s, certificate.Keep))
	d := r.Device("d")
	one := d.Get(d.First, NewKey()).OK()
	two := d.Take(d.First)
	d.Ack(two).OK()
	r.Settled()
	r.must(d.Connect(two))
	r.Sweep()
	d.Want(certificate.Active, d.First, two)
	d.Want(certificate.Inactive, one)
}

func retireDelete(t *testing.T, open Open) {
	r := start(t, open, scope(rotation.Replaced, certificate.Delete))
	d, next := r.rotated("d")
	d.Want(certificate.Inactive, d.First)
	r.Sweep() // within settle
	d.Want(certificate.Inactive, d.First)
	r.Settled()
	r.must(d.Connect(next))
	r.Sweep()
	d.Want("", d.First)
	done, _ := d.retirement(d.First)
	if done.Done.IsZero() || done.Deactivated.IsZero() || !done.Done.After(done.Deactivated) {
		t.Errorf("retirement %+v", done)
	}
}

func retireReturned(t *testing.T, open Open) {
	r := start(t, open, grace(24*time.Hour))
	d, next := r.rotated("d")
	r.Advance(20 * time.Hour)
	r.must(d.Connect(d.First))
	r.Advance(10 * time.Hour)
	r.Sweep()
	if kept, _ := d.retirement(d.First); !kept.Reverted || kept.Why == "" {
		t.Fatalf("retirement %+v, want it reverted", kept)
	}
	counts, err := r.world.Backend.Rotations.Counts(r.ctx)
	r.must(err)
	if counts.Stuck != 1 {
		t.Errorf("counted %+v, want one stuck", counts)
	}
	r.must(d.Connect(next)) // and the grace starts anew
	r.Advance(20 * time.Hour)
	r.Sweep()
	d.Want(certificate.Active, d.First)
	if kept, _ := d.retirement(d.First); kept.Reverted {
		t.Errorf("retirement %+v, want its mark cleared", kept)
	}
	r.Advance(5 * time.Hour)
	r.must(d.Connect(next))
	r.Sweep()
	r.Advance(25 * time.Hour)
	r.must(d.Connect(next))
	r.Sweep()
	d.Want(certificate.Inactive, d.First)
}

func retireReturnedByAck(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	next := d.Take(d.First)
	r.must(d.Connect(next))
	r.must(d.Connect(d.First))
	r.Settled()
	r.Sweep() // finishes it
	r.Sweep() // and puts its retirement off
	d.WantStates(rotation.Finished)
	if kept, _ := d.retirement(d.First); !kept.Reverted {
		t.Fatalf("retirement %+v, want it reverted", kept)
	}
	d.Ack(d.First).Refused(protocol.NoOpenRotation)
	d.Want(certificate.Active, d.First)
	d.Ack(next).OK()
	d.Want(certificate.Inactive, d.First)
}

func retireSettles(t *testing.T, open Open) {
	r := start(t, open, grace(time.Hour))
	d, next := r.rotated("d")
	r.Advance(2 * time.Hour)
	r.Crash()
	r.must(d.Connect(next))
	r.Sweep()
	d.Want(certificate.Active, d.First)
	if kept, _ := d.retirement(d.First); kept.Why == "" || kept.Reverted {
		t.Errorf("retirement %+v, want why it waits", kept)
	}
	// An ack's own removal does not wait.
	e := r.Device("e")
	r.Terms().Grace = 0
	then := e.Take(e.First)
	e.Ack(then).OK()
	e.Want(certificate.Inactive, e.First)
	r.Settled()
	r.Sweep()
	d.Want(certificate.Inactive, d.First)
}

func retireRecent(t *testing.T, open Open) {
	r := start(t, open, grace(48*time.Hour))
	d, next := r.rotated("d")
	r.Advance(49 * time.Hour)
	r.Sweep()
	r.often()
	d.Want(certificate.Active, d.First)
	if kept, _ := d.retirement(d.First); !strings.Contains(kept.Why, "last seen") {
		t.Errorf("retirement %+v, want why it waits", kept)
	}
	r.must(d.Connect(next))
	r.Sweep()
	d.Want(certificate.Inactive, d.First)
}

func retireExpired(t *testing.T, open Open) {
	r := start(t, open, grace(time.Hour), func(s *Setup) { s.Profile.Validity = 240 * time.Hour })
	d := r.Device("d")
	r.Advance(200 * time.Hour)
	next := d.Take(d.First)
	d.Ack(next).OK()
	r.must(d.Connect(d.First)) // gone back
	r.Advance(30 * time.Hour)
	r.Sweep()
	d.Want(certificate.Active, d.First)
	r.Advance(20 * time.Hour) // it has expired now, but a connection may outlive it
	r.Sweep()
	d.Want(certificate.Active, d.First)
	other := d.Get(next, NewKey()).OK() // it has come back, so the grace starts anew
	r.Sweep()
	d.Want(certificate.Active, d.First)
	r.Advance(2 * time.Hour)
	r.Sweep()
	d.Want(certificate.Inactive, d.First)
	d.Want(certificate.Active, next, other)
}

func retireSuccessorExpired(t *testing.T, open Open) {
	r := start(t, open, func(s *Setup) {
		s.Profile.Validity, s.Profile.Terms.Grace, s.Profile.Terms.Recent = 1000*time.Hour, 48*time.Hour, 1000*time.Hour
	})
	d := r.Device("d")
	r.setup.Profile.Validity = 24 * time.Hour
	r.serve()
	next := d.Take(d.First)
	d.Ack(next).OK()
	r.Advance(49 * time.Hour)
	r.Sweep()
	r.Sweep()
	d.Want(certificate.Active, d.First)
}

// withdraw takes a certificate away as a person does who names it.
func (r *Rig) withdraw(d *Device, c Cert, mode certificate.Mode) {
	r.t.Helper()
	r.must(r.world.Backend.Inventory.Retire(r.ctx, certificate.Removal{
		Device: d.ID, Certificate: c.ID, Mode: mode, Allowed: func([]certificate.Holding) error { return nil },
	}))
}

func retireSuccessorWithdrawn(t *testing.T, open Open) {
	r := start(t, open, grace(time.Hour))
	d, next := r.rotated("d")
	r.withdraw(d, next, certificate.Deactivate)
	r.Advance(2 * time.Hour)
	r.Sweep()
	r.often()
	d.Want(certificate.Active, d.First)
	if d.Connect(next) == nil {
		t.Error("a withdrawn certificate connects")
	}
	d.Ack(next).Refused(protocol.NotBound)
	r.must(d.Connect(d.First))
}

func retireBirth(t *testing.T, open Open) {
	for _, s := range []rotation.Scope{rotation.Replaced, rotation.All} {
		r := start(t, open, scope(s, certificate.Delete))
		d := r.Device("d")
		birth := d.Given(certificate.Birth)
		r.must(d.Connect(birth))
		next := d.Take(birth)
		d.Ack(next, "previousCertificateId", string(birth.ID)).OK()
		for range 3 {
			r.Settled()
			r.must(d.Connect(next))
			r.Sweep()
		}
		d.Want(certificate.Active, birth, next)
		r.must(d.Connect(birth))
	}
}

// retireCalledBirth: the certificate was known before a person said what it is.
func retireCalledBirth(t *testing.T, open Open) {
	r := start(t, open, scope(rotation.Replaced, certificate.Delete))
	d := r.Device("d")
	h, _ := certificate.Find(d.held(), d.First.ID)
	called := h.Certificate
	called.Kind = certificate.Birth
	r.must(r.world.Backend.Inventory.Register(r.ctx, d.ID, called))
	r.Crash()
	next := d.Take(d.First)
	d.Ack(next).OK()
	for range 3 {
		r.Settled()
		r.must(d.Connect(next))
		r.Sweep()
	}
	d.Want(certificate.Active, d.First, next)
}
