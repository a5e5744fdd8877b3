package backendtest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

func revokeScenarios() []scenario {
	return []scenario{
		{"revoked_does_not_connect_and_the_other_does", revokeOne},
		{"last_working_one_needs_its_device_named", revokeLast},
		{"unproven_successor_is_not_counted_on", revokeUnproven},
		{"what_was_given_up_is_not_counted_on", revokeAfterOthers},
		{"one_slot_that_holds_what_was_never_seen", revokeOverwritten},
		{"neither_freeze_nor_block_stops_it", revokeStopped},
		{"shared_is_revoked_for_all", revokeShared},
		{"never_comes_back", revokeForGood},
		{"due_retirement_of_a_revoked_one_is_done", revokeRetired},
		{"revoked_successor_justifies_nothing", revokeSuccessor},
		{"its_key_gets_no_other_certificate", revokeKey},
		{"revoked_package_is_not_vended", revokePackage},
		{"unknown_is_refused", revokeUnknown},
		{"listed_until_it_expires", revokeListed},
	}
}

// watchedRevoker is the world's Revoker. What it revokes is noted: it must
// stay REVOKED, and nothing is promised about it any more.
type watchedRevoker struct {
	certificate.Revoker
	rig *Rig
}

func (w watchedRevoker) Revoke(ctx context.Context, r certificate.Revocation) error {
	err := w.Revoker.Revoke(ctx, r)
	if err == nil {
		w.rig.revoked[r.Certificate] = true
	}
	return err
}

// Revoke revokes as a person does, who may name devices to be bricked.
func (r *Rig) Revoke(c Cert, brick ...registry.DeviceID) error {
	r.t.Helper()
	r.clock.Advance(tick)
	err := r.primary.closer.Revoke(r.ctx, rotation.Revoking{Certificate: c.ID, Reason: 1, Brick: brick})
	r.Check()
	if err == nil && r.known()[c.ID].Standing != certificate.Revoked {
		r.t.Fatalf("%.8s is %s", c.ID, r.known()[c.ID].Standing)
	}
	return err
}

func revokeOne(t *testing.T, open Open) {
	r := start(t, open, grace(24*time.Hour))
	d, next := r.rotated("d")
	r.must(r.Revoke(d.First))
	if err := d.Connect(d.First); !errors.Is(err, certificate.ErrNotActive) {
		t.Errorf("connected with a revoked certificate: %v", err)
	}
	d.Get(d.First, NewKey()).Refused(protocol.NotBound)
	d.Ack(d.First).Refused(protocol.NotBound)
	r.must(d.Connect(next))
	r.Crash()
	if d.Connect(d.First) == nil {
		t.Error("connected with a revoked certificate after a crash")
	}
	r.must(r.Revoke(d.First)) // again
	d.Want(certificate.Active, next)
}

func revokeLast(t *testing.T, open Open) {
	r := start(t, open)
	d, next := r.rotated("d")
	d.Want(certificate.Inactive, d.First)
	r.refusedBy(r.Revoke(next), "device d may be left without a working certificate: `--brick d`")
	d.Want(certificate.Active, next)
	r.refusedBy(r.Revoke(next, "e"), "device d may be left")
	r.must(r.Revoke(d.First)) // it worked no more, so nothing is lost
	r.must(r.Revoke(next, "d"))
	if d.Connect(next) == nil {
		t.Error("connected with a revoked certificate")
	}
}

func revokeUnproven(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	next := d.Take(d.First)
	r.refusedBy(r.Revoke(d.First), "device d may be left")
	r.must(d.Connect(next))
	r.must(r.Revoke(d.First))
	d.Ack(next).OK()
	r.often()
	d.Want(certificate.Active, next)
}

// revokeAfterOthers: a person gave the device a certificate, it used that and
// went back, and threw it away. Nobody but the device knows.
func revokeAfterOthers(t *testing.T, open Open) {
	r := start(t, open)
	d, next := r.rotated("d")
	given := d.Given(certificate.Adopted)
	r.must(d.Connect(given))
	r.must(d.Connect(next))
	r.refusedBy(r.Revoke(next), "device d may be left")
	r.must(d.Connect(next))
	r.must(r.Revoke(given))
	r.must(d.Connect(next))
}

// revokeOverwritten: firmware with one slot has overwritten what it was seen
// on with what it was vended, and was not seen since.
func revokeOverwritten(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	next := d.Take(d.First)
	d.Overwrite(next)
	r.refusedBy(r.Revoke(next), "device d may be left")
	r.must(d.Connect(next))
	r.must(r.Revoke(d.First))
}

func revokeStopped(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	spare := d.Given(certificate.Birth)
	r.Freeze(rotation.Freeze{Vending: true, Retiring: true, Why: "a test"})
	r.must(r.world.Backend.Registrar.Block(r.ctx, d.ID, true))
	d.Want(certificate.Active, d.First, spare) // the block has revoked nothing
	r.clock.Jump(48 * time.Hour)
	r.must(r.Revoke(d.First))
	r.must(d.Connect(spare))
	r.must(r.Revoke(spare, "d")) // a birth certificate too, whose key was stolen
}

func revokeShared(t *testing.T, open Open) {
	r := start(t, open)
	d, e := r.Device("d"), r.stranger("e")
	r.must(r.world.Backend.Registrar.Add(r.ctx, e.ID, nil))
	e.share(d.First)
	r.must(e.Connect(d.First))
	next := d.Take(d.First)
	r.must(d.Connect(next))
	r.refusedBy(r.Revoke(d.First), "device e may be left")
	d.Want(certificate.Active, d.First)
	r.must(r.Revoke(d.First, "e"))
	for _, one := range []*Device{d, e} {
		if one.Connect(d.First) == nil {
			t.Errorf("%s connected with a revoked certificate", one.ID)
		}
	}
}

func revokeForGood(t *testing.T, open Open) {
	r := start(t, open)
	d, next := r.rotated("d")
	gone := r.known()[d.First.ID].Certificate
	r.must(r.Revoke(d.First))
	_, err := r.primary.closer.Undo(r.ctx, d.ID)
	r.refusedBy(err, "is REVOKED")
	if err := r.world.Backend.Inventory.Activate(r.ctx, d.ID, d.First.ID); !errors.Is(err, certificate.ErrRevoked) {
		t.Errorf("activated: %v", err)
	}
	gone.Standing = certificate.Active
	r.must(r.world.Backend.Inventory.Register(r.ctx, d.ID, gone)) // held already: nothing changes
	r.Check()
	e := r.Device("e")
	if err := r.world.Backend.Inventory.Register(r.ctx, e.ID, gone); !errors.Is(err, certificate.ErrRevoked) {
		t.Errorf("registered for another device: %v", err)
	}
	r.must(r.world.Backend.Registrar.Remove(r.ctx, d.ID))
	r.must(r.world.Backend.Registrar.Add(r.ctx, d.ID, nil))
	r.must(r.world.Backend.Inventory.Register(r.ctx, d.ID, gone))
	r.Check()
	if d.Connect(d.First) == nil {
		t.Error("connected with a revoked certificate")
	}
	r.must(d.Connect(next))
}

func revokeRetired(t *testing.T, open Open) {
	r := start(t, open, grace(24*time.Hour), previous(certificate.Delete))
	d, next := r.rotated("d")
	r.must(d.Connect(d.First)) // gone back: the retirement would be put off
	r.must(d.Connect(next))
	r.must(d.Connect(d.First))
	r.refusedBy(r.Revoke(d.First), "--brick d") // it may have given the second up
	r.must(d.Connect(next))
	r.must(r.Revoke(d.First))
	r.Advance(25 * time.Hour)
	for range 3 {
		r.Sweep()
	}
	if left, _ := d.retirement(d.First); left.Done.IsZero() {
		t.Errorf("retirement %+v, want it done", left)
	}
	r.must(d.Connect(next))
}

func revokeSuccessor(t *testing.T, open Open) {
	r := start(t, open, grace(time.Hour))
	d, next := r.rotated("d")
	r.refusedBy(r.Revoke(next), "--brick d") // it may have given the first up
	r.must(r.Revoke(next, "d"))
	r.Advance(2 * time.Hour)
	r.Sweep()
	r.often()
	d.Want(certificate.Active, d.First)
	r.must(d.Connect(d.First))
	newer := d.Take(d.First)
	r.must(d.Connect(newer))
	d.Ack(newer).OK()
}

func revokeKey(t *testing.T, open Open) {
	r := start(t, open, func(s *Setup) { s.Profile.ReuseKey = true })
	d := r.Device("d")
	one := d.Take(d.First)
	// Vended, and never seen: it may have taken the place of the first already.
	r.refusedBy(r.Revoke(one), "--brick d")
	r.must(r.Revoke(one, "d"))
	d.Get(d.First, one.Key).Refused(protocol.CSRRejected)
	d.Abandon()
	if got := d.Get(d.First, one.Key).Refused(protocol.CSRRejected).Detail; got != "the key was revoked, make a new one" {
		t.Errorf("detail %q", got)
	}
	d.Take(d.First)
}

func revokePackage(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	waiting := d.Packaged()
	r.must(r.Revoke(waiting))
	d.GetPackage(d.First).Refused(protocol.NoPackage)
	r.must(d.Connect(d.First))
}

func revokeUnknown(t *testing.T, open Open) {
	r := start(t, open)
	err := r.primary.closer.Revoke(r.ctx, rotation.Revoking{Certificate: certificate.IDOf([]byte("none"))})
	if !errors.Is(err, certificate.ErrUnknown) {
		t.Errorf("got %v", err)
	}
}

func revokeListed(t *testing.T, open Open) {
	r := start(t, open, func(s *Setup) { s.Profile.Validity = 240 * time.Hour })
	d := r.Device("d")
	spare := d.Given(certificate.Birth)
	r.must(r.Revoke(d.First))
	r.must(r.Revoke(spare, "d"))
	for _, c := range []struct {
		in   time.Duration
		want int
	}{{0, 2}, {200 * time.Hour, 2}, {241 * time.Hour, 0}} {
		n := 0
		var after certificate.ID
		for {
			page, err := r.world.Backend.Revoker.Revoked(r.ctx, r.clock.Now().Add(c.in), after, 1)
			r.must(err)
			if len(page) == 0 {
				break
			}
			n, after = n+1, page[0].ID
			if page[0].Reason.String() != "keyCompromise" || page[0].At.IsZero() || !r.revoked[page[0].ID] {
				t.Errorf("listed %+v", page[0])
			}
		}
		if n != c.want {
			t.Errorf("%d listed in %s, want %d", n, c.in, c.want)
		}
	}
}
