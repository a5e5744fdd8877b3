package backendtest

import (
	"errors"
	"strings"
	"testing"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/rotation"
)

func abandonScenarios() []scenario {
	return []scenario{
		{"certificate_is_kept_until_a_later_one_is_proven", abandonKeeps},
		{"acknowledged_and_stale_may_be_abandoned", abandonAnyOpen},
		{"proven_or_seen_is_refused", abandonProven},
		{"nothing_open_is_refused", abandonNothing},
		{"device_leaves_the_group_also_after_a_crash", abandonLeaves},
		{"device_took_it_after_all", abandonInUse},
		{"at_work_elsewhere_is_refused", abandonAtWork},
		{"abandoned_package_is_vended_again", abandonPackage},
	}
}

// refusedBy fails the scenario unless a person was refused with such words.
func (r *Rig) refusedBy(err error, words string) {
	r.t.Helper()
	if !errors.As(err, new(rotation.Refused)) || !strings.Contains(err.Error(), words) {
		r.t.Fatalf("got %v, want a refusal with %q", err, words)
	}
}

// Abandon ends the open rotation as a person does.
func (d *Device) Abandon() rotation.Rotation {
	d.rig.t.Helper()
	r, err := d.rig.primary.closer.Abandon(d.rig.ctx, d.ID)
	d.rig.must(err)
	d.reissued[r.Key] = true
	d.rig.check(d, "abandon")
	return r
}

func abandonKeeps(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	one := d.Take(d.First)
	d.Abandon()
	d.WantStates(rotation.Abandoned)
	r.often()
	d.Want(certificate.Active, d.First, one)
	d.Ack(one).Refused(protocol.NoOpenRotation)
	two := d.Take(d.First)
	r.often()
	d.Want(certificate.Active, d.First, one, two)
	r.must(d.Connect(two))
	d.Ack(two).OK()
	r.must(d.Connect(two))
	r.Settled()
	r.Sweep()
	d.Want(certificate.Inactive, d.First, one)
	d.Want(certificate.Active, two)
}

func abandonAnyOpen(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	d.Take(d.First)
	r.Advance(r.Terms().TTL + tick)
	r.Sweep()
	d.WantStates(rotation.Stale)
	d.Abandon()
	d.WantStates(rotation.Abandoned)
	d.Take(d.First)
	d.Ack(unseen).OK()
	d.WantStates(rotation.Acknowledged, rotation.Abandoned)
	d.Abandon()
	d.WantStates(rotation.Abandoned, rotation.Abandoned)
	if left := d.rotations()[0].Behind; len(left) > 0 {
		t.Errorf("%v is left to be done", left)
	}
}

func abandonProven(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	next := d.Take(d.First)
	r.must(d.Connect(next))
	d.WantStates(rotation.Proven)
	_, err := r.primary.closer.Abandon(r.ctx, d.ID)
	r.refusedBy(err, "rotation 1 is proven")
	// Seen, and the sweep has not resolved it yet.
	e := r.Device("e")
	taken := e.Take(e.First)
	r.clock.Advance(tick)
	r.must(r.world.Backend.Inventory.Seen(r.ctx, certificate.Sighting{
		Device: e.ID, Certificate: taken.ID, At: r.clock.Now(), Evidence: certificate.Presence, Live: true,
	}))
	e.use(taken)
	e.WantStates(rotation.Vended)
	_, err = r.primary.closer.Abandon(r.ctx, e.ID)
	r.refusedBy(err, "rotation 1 is proven")
}

func abandonNothing(t *testing.T, open Open) {
	r := start(t, open)
	d, _ := r.rotated("d")
	_, err := r.primary.closer.Abandon(r.ctx, d.ID)
	r.refusedBy(err, "no rotation is open")
	d.WantStates(rotation.Finished)
}

func abandonLeaves(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	d.Take(d.First)
	r.clock.Advance(tick)
	d.join() // after the rotation had opened
	r.clock.Advance(tick)
	r.faults.fail("leave", 1)
	ended, err := r.primary.closer.Abandon(r.ctx, d.ID)
	if err == nil || ended.State != rotation.Abandoned {
		t.Fatalf("abandoned %+v, %v", ended.State, err)
	}
	r.Crash()
	if !r.members()[d.ID] {
		t.Fatal("it has left the group already")
	}
	r.Sweep()
	if r.members()[d.ID] {
		t.Error("it is still in the group")
	}
	d.join()
	r.Sweep()
	if !r.members()[d.ID] {
		t.Error("it was put into the group after all, and is taken out")
	}
}

// abandonInUse: the reply was on its way, and the device moves on to it.
func abandonInUse(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	one := d.Take(d.First)
	d.Abandon()
	d.Overwrite(one)
	r.must(d.Connect(one))
	r.often()
	d.Want(certificate.Active, one, d.First)
	two := d.Take(one)
	r.must(d.Connect(two))
	d.Ack(two).OK()
	d.Want(certificate.Inactive, one, d.First)
}

func abandonAtWork(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	_, goOn := d.atWork(CSR(NewKey(), "d"))
	_, err := r.primary.closer.Abandon(r.ctx, d.ID)
	r.refusedBy(err, "at work")
	goOn()
	d.WantStates(rotation.Vended)
	d.Abandon()
}

// abandonPackage: the get that opens its rotation anew is also what finishes
// the one before it, which must not spend the package.
func abandonPackage(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	waiting := d.Packaged()
	d.Unpack(d.First, waiting)
	d.Abandon()
	next := d.Take(d.First)
	r.must(d.Connect(next))
	d.Unpack(next, waiting)
	d.WantStates(rotation.Vended, rotation.Finished, rotation.Abandoned)
	r.must(d.Connect(waiting))
	d.Ack(waiting).OK()
	d.Want(certificate.Active, waiting)
	d.Want(certificate.Inactive, d.First, next)
}
