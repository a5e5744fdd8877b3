package backendtest

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/rotation"
)

// What a person may ask for about the rotations of a device.

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

func undoScenarios() []scenario {
	return []scenario{
		{"what_was_deactivated_works_again", undoDeactivated},
		{"what_is_due_is_not_taken_away", undoPending},
		{"device_goes_back_and_rotates_again", undoAndRotate},
		{"device_stays_and_rotates_again", undoAndStay},
		{"second_half_of_a_deletion_is_not_made", undoHalfDeleted},
		{"deleted_is_refused", undoDeleted},
		{"shared_certificate_is_held_again", undoShared},
		{"never_used_leftovers_stay_away", undoLeftovers},
		{"older_leftovers_stay_away_with_scope_all", undoOlderLeftovers},
		{"nothing_finished_is_refused", undoNothing},
		{"proven_and_not_finished_is_refused", undoProven},
		{"twice_changes_nothing", undoTwice},
		{"survives_a_crash", undoCrash},
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

// Undo undoes the last finished rotation as a person does.
func (d *Device) Undo() rotation.Undone {
	d.rig.t.Helper()
	d.rig.clock.Advance(tick)
	u, err := d.rig.primary.closer.Undo(d.rig.ctx, d.ID)
	d.rig.must(err)
	d.rig.check(d, "undo")
	return u
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

func undoDeactivated(t *testing.T, open Open) {
	r := start(t, open)
	d, next := r.rotated("d")
	d.Want(certificate.Inactive, d.First)
	undone := d.Undo()
	if len(undone.Back) != 1 || undone.Back[0] != d.First.ID || len(undone.Lost) > 0 || undone.Already {
		t.Errorf("undone %+v", undone)
	}
	d.Want(certificate.Active, d.First, next)
	r.must(d.Connect(d.First))
	r.must(d.Connect(next)) // the one rule would allow the removal from here on
	d.Ack(next).OK()        // the ack again: it brings nothing about
	r.often()
	r.must(d.Connect(next))
	r.Sweep()
	d.Want(certificate.Active, d.First, next)
	d.WantStates(rotation.Finished)
}

func undoPending(t *testing.T, open Open) {
	r := start(t, open, grace(24*time.Hour))
	d, next := r.rotated("d")
	d.Undo()
	if left, _ := d.retirement(d.First); left.Done.IsZero() || left.Why != rotation.WhyUndone {
		t.Errorf("retirement %+v, want it closed", left)
	}
	r.Advance(25 * time.Hour)
	r.must(d.Connect(next))
	r.Sweep()
	d.Want(certificate.Active, d.First, next)
	counts, err := r.world.Backend.Rotations.Counts(r.ctx)
	r.must(err)
	if counts.Retirements != 0 || counts.Stuck != 0 {
		t.Errorf("counted %+v, want nothing left", counts)
	}
}

// undoAndRotate: both what came back and what had replaced it are replaced by
// the next rotation, and not before that is proven.
func undoAndRotate(t *testing.T, open Open) {
	r := start(t, open)
	d, next := r.rotated("d")
	d.Undo()
	r.must(d.Connect(d.First))
	newer := d.Take(d.First)
	r.often()
	d.Want(certificate.Active, d.First, next, newer)
	r.must(d.Connect(newer))
	d.Ack(newer).OK()
	d.Want(certificate.Inactive, d.First, next)
}

func undoAndStay(t *testing.T, open Open) {
	r := start(t, open)
	d, next := r.rotated("d")
	early := d.Take(next) // opened before the undo, and proven after it
	d.Undo()
	r.must(d.Connect(early))
	d.Ack(early).OK()
	d.Want(certificate.Inactive, d.First, next)
	d.Want(certificate.Active, early)
	if back := d.Undo().Back; len(back) != 2 {
		t.Errorf("brought back %v, want both", back)
	}
	d.Want(certificate.Active, d.First, next, early)
}

func undoHalfDeleted(t *testing.T, open Open) {
	r := start(t, open, previous(certificate.Delete))
	d, next := r.rotated("d")
	d.Want(certificate.Inactive, d.First)
	d.Undo()
	r.Settled()
	r.must(d.Connect(next))
	r.Sweep()
	d.Want(certificate.Active, d.First)
}

func undoDeleted(t *testing.T, open Open) {
	r := start(t, open, previous(certificate.Delete))
	d, next := r.rotated("d")
	r.Settled()
	r.must(d.Connect(next))
	r.Sweep()
	d.Want("", d.First)
	_, err := r.primary.closer.Undo(r.ctx, d.ID)
	r.refusedBy(err, "was deleted")
	if one := d.rotations()[0]; !one.UndoneAt.IsZero() {
		t.Errorf("it is written as undone: %+v", one)
	}
	d.Want("", d.First)
}

func undoShared(t *testing.T, open Open) {
	r := start(t, open)
	d, e := r.Device("d"), r.stranger("e")
	r.must(r.world.Backend.Registrar.Add(r.ctx, e.ID, nil))
	e.share(d.First)
	r.must(e.Connect(d.First))
	next := d.Take(d.First)
	d.Ack(next).OK()
	d.Want("", d.First)
	d.Undo()
	d.Want(certificate.Active, d.First, next)
	r.must(d.Connect(d.First))
	// The other has given it up: it does not come back to either unasked.
	d.Ack(d.Take(d.First)).OK()
	e.Ack(e.Take(d.First)).OK()
	e.Want(certificate.Inactive, d.First)
	_, err := r.primary.closer.Undo(r.ctx, d.ID)
	r.unlessRefused(err)
	d.Want("", d.First)
	e.Undo()
	e.Want(certificate.Active, d.First)
}

func undoLeftovers(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	lost := d.Get(d.First, NewKey()).OK()
	next := d.Take(d.First)
	d.Ack(next).OK()
	d.Want(certificate.Inactive, d.First, lost)
	d.Undo()
	d.Want(certificate.Active, d.First, next)
	d.Want(certificate.Inactive, lost)
}

// undoOlderLeftovers: one rotation gave way to the last but one, and was within
// its grace when the last one opened, which replaces all.
func undoOlderLeftovers(t *testing.T, open Open) {
	r := start(t, open, grace(48*time.Hour), scope(rotation.All, certificate.Deactivate))
	d := r.Device("d")
	lost := d.Get(d.First, NewKey()).OK()
	one := d.Take(d.First)
	d.Ack(one).OK()
	two := d.Take(one)
	d.Ack(two).OK()
	d.Undo()
	r.Advance(49 * time.Hour)
	r.must(d.Connect(two))
	r.Sweep()
	d.Want(certificate.Active, one, two)
	d.Want(certificate.Inactive, lost)
}

func undoNothing(t *testing.T, open Open) {
	r := start(t, open, previous(certificate.Keep))
	d := r.Device("d")
	_, err := r.primary.closer.Undo(r.ctx, d.ID)
	r.refusedBy(err, "no rotation of it is finished")
	next := d.Take(d.First)
	d.Ack(next).OK()
	_, err = r.primary.closer.Undo(r.ctx, d.ID)
	r.refusedBy(err, "took nothing away")
}

func undoProven(t *testing.T, open Open) {
	r := start(t, open)
	d, next := r.rotated("d")
	newer := d.Take(next)
	r.must(d.Connect(newer))
	_, err := r.primary.closer.Undo(r.ctx, d.ID)
	r.refusedBy(err, "rotation 2 is proven and not finished")
	d.Want(certificate.Inactive, d.First)
}

func undoTwice(t *testing.T, open Open) {
	r := start(t, open)
	d, _ := r.rotated("d")
	d.Undo()
	before := d.rotations()[0].Version
	if again := d.Undo(); !again.Already || d.rotations()[0].Version != before {
		t.Errorf("undone again: %+v", again)
	}
}

func undoCrash(t *testing.T, open Open) {
	r := start(t, open)
	d, next := r.rotated("d")
	d.Undo()
	r.Crash()
	d.Want(certificate.Active, d.First, next)
	r.Settled()
	r.must(d.Connect(next))
	r.Sweep()
	r.must(d.Connect(d.First))
	if one := d.rotations()[0]; one.UndoneAt.IsZero() || len(one.Undone) != 1 {
		t.Errorf("the journal has %+v", one)
	}
}
