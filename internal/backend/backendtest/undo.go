package backendtest

import (
	"testing"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/rotation"
)

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
		{"older_retirements_of_it_are_closed_too", undoOwedTwice},
		{"nothing_finished_is_refused", undoNothing},
		{"proven_and_not_finished_is_refused", undoProven},
		{"twice_changes_nothing", undoTwice},
		{"survives_a_crash", undoCrash},
	}
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

// undoOwedTwice: the device went back to its first certificate, and rotated over
// that once more, so that two rotations owe the removal of it.
func undoOwedTwice(t *testing.T, open Open) {
	r := start(t, open, grace(48*time.Hour))
	d, one := r.rotated("d")
	r.must(d.Connect(d.First))
	two := d.Take(d.First)
	d.Ack(two).OK()
	r.must(d.Connect(two))
	if back := d.Undo().Back; len(back) != 1 || back[0] != d.First.ID {
		t.Errorf("brought back %v, want the first", back)
	}
	r.Advance(49 * time.Hour)
	r.must(d.Connect(two))
	r.Sweep()
	d.Want(certificate.Active, d.First, one, two)
	if left, _ := d.retirement(d.First); left.Done.IsZero() || left.Why != rotation.WhyUndone {
		t.Errorf("retirement %+v, want it closed", left)
	}
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
