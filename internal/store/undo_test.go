package store_test

import (
	"testing"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/rotation"
)

// finished gives d1 an old certificate, what prepare makes of it, and a
// finished rotation that owes its retirement.
func (w *world) finished(prepare func(old certificate.Certificate)) (rotation.Rotation, certificate.Certificate) {
	w.t.Helper()
	w.device("d1")
	old := w.register("d1", "old")
	prepare(old)
	r, _ := w.vend("d1", "k1", nil)
	r.State, r.ProvenAt, r.ClosedAt = rotation.Finished, w.clock.Now(), w.clock.Now()
	r = w.advance(rotation.Change{Rotation: r, Retirements: []rotation.Retirement{
		{Device: "d1", Certificate: old.ID, Rotation: r.Number, Mode: certificate.Deactivate, Due: w.clock.Now()},
	}})
	return r, old
}

// retired carries out the retirement as the closer does.
func (w *world) retiredBy(r rotation.Rotation, id certificate.ID, mode certificate.Mode, noted bool) error {
	gone := removal(r.Device, id, mode)
	gone.Rotation = r.Number
	if err := w.Certificates().Retire(w.ctx, gone); err != nil || !noted {
		return err
	}
	return w.Journal().Note(w.ctx, rotation.Retirement{
		Device: r.Device, Certificate: id, Rotation: r.Number, Deactivated: w.clock.Now(), Done: w.clock.Now(),
	})
}

func undoing(r rotation.Rotation, at time.Time, ids ...certificate.ID) rotation.Change {
	r.UndoneAt, r.Undone = at, ids
	return rotation.Change{Rotation: r, Undo: true}
}

func TestUndo(t *testing.T) {
	for name, c := range map[string]struct {
		prepare  func(*world, certificate.Certificate) // before the rotation
		act      func(*world, rotation.Rotation, certificate.ID) error
		standing certificate.Standing // of the old one afterwards; empty: not held
		nothing  bool
		event    string
	}{
		"not taken away yet": {
			act:      func(*world, rotation.Rotation, certificate.ID) error { return nil },
			standing: certificate.Active, event: "retirement.undone",
		},
		"deactivated": {
			act: func(w *world, r rotation.Rotation, id certificate.ID) error {
				return w.retiredBy(r, id, certificate.Deactivate, true)
			},
			standing: certificate.Active, event: "certificate.activated",
		},
		"deactivated, and the process died before it noted so": {
			act: func(w *world, r rotation.Rotation, id certificate.ID) error {
				return w.retiredBy(r, id, certificate.Deactivate, false)
			},
			standing: certificate.Active, event: "certificate.activated",
		},
		"detached, since another holds it": {
			prepare: func(w *world, old certificate.Certificate) {
				w.ok(w.Certificates().Register(w.ctx, "d2", old))
			},
			act: func(w *world, r rotation.Rotation, id certificate.ID) error {
				return w.retiredBy(r, id, certificate.Deactivate, true)
			},
			standing: certificate.Active, event: "certificate.attached",
		},
		"detached, and the other has given it up": {
			prepare: func(w *world, old certificate.Certificate) {
				w.ok(w.Certificates().Register(w.ctx, "d2", old))
			},
			act: func(w *world, r rotation.Rotation, id certificate.ID) error {
				w.ok(w.retiredBy(r, id, certificate.Deactivate, true))
				return w.Certificates().Retire(w.ctx, removal("d2", id, certificate.Deactivate))
			},
			nothing: true,
		},
		"deleted": {
			act: func(w *world, r rotation.Rotation, id certificate.ID) error {
				return w.retiredBy(r, id, certificate.Delete, true)
			},
			nothing: true,
		},
		"revoked": {
			act: func(w *world, _ rotation.Rotation, id certificate.ID) error {
				return w.Certificates().Revoke(w.ctx, revocation(id))
			},
			standing: certificate.Revoked, nothing: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := open(t)
			r, old := w.finished(func(old certificate.Certificate) {
				if c.prepare != nil {
					c.prepare(w, old)
				}
			})
			w.ok(c.act(w, r, old.ID))
			before := len(w.events("d1"))
			undone, err := w.Journal().Advance(w.ctx, undoing(r, w.clock.add(time.Minute), old.ID))
			w.reopen()
			h, _ := certificate.Find(w.held("d1"), old.ID)
			if h.Standing != c.standing {
				t.Errorf("it is %q, want %q", h.Standing, c.standing)
			}
			is := w.find("d1").Rotations[0]
			if c.nothing {
				w.is(err, rotation.ErrNothingBack)
				if !is.UndoneAt.IsZero() || len(w.events("d1")) != before {
					t.Errorf("something was written: %+v, %v", is, w.events("d1"))
				}
				return
			}
			w.ok(err)
			if !is.UndoneAt.Equal(undone.UndoneAt) || len(is.Undone) != 1 || is.Undone[0] != old.ID || is.Version != r.Version+1 {
				t.Errorf("the journal has %+v", is)
			}
			w.wantClosed(old.ID)
			found := false
			for _, e := range w.events("d1")[before:] {
				found = found || e == c.event
			}
			if !found {
				t.Errorf("events %v, want %s", w.events("d1")[before:], c.event)
			}
		})
	}
}

func (w *world) wantClosed(id certificate.ID) {
	w.t.Helper()
	all, err := w.Journal().Retirements(w.ctx, rotation.Query{Device: "d1"})
	w.ok(err)
	if len(all) != 1 || all[0].Certificate != id || all[0].Done.IsZero() || all[0].Why != rotation.WhyUndone {
		w.t.Errorf("retirements %+v", all)
	}
	work, err := w.Journal().Due(w.ctx, rotation.Horizon{Now: w.clock.add(1000 * time.Hour)})
	w.ok(err)
	if len(work.Retirements) > 0 {
		w.t.Errorf("due is %+v", work.Retirements)
	}
}

// A sweep that had read the retirement before the undo removes nothing after it.
func TestRemovalAfterItsRetirementWasUndone(t *testing.T) {
	w := open(t)
	r, old := w.finished(func(certificate.Certificate) {})
	w.advance(undoing(r, w.clock.Now(), old.ID))
	w.is(w.retiredBy(r, old.ID, certificate.Deactivate, false), rotation.ErrChanged)
	if h := w.holding("d1", old.ID); h.Standing != certificate.Active {
		t.Errorf("it is %s", h.Standing)
	}
	w.ok(w.Journal().Note(w.ctx, rotation.Retirement{Device: "d1", Certificate: old.ID, Rotation: r.Number, Deactivated: w.clock.Now()}))
	w.wantClosed(old.ID)
}

func TestUndoOfWhatWasChangedMeanwhile(t *testing.T) {
	w := open(t)
	r, old := w.finished(func(certificate.Certificate) {})
	w.advance(rotation.Change{Rotation: r})
	_, err := w.Journal().Advance(w.ctx, undoing(r, w.clock.Now(), old.ID))
	w.is(err, rotation.ErrChanged)
	_, err = w.Journal().Advance(w.ctx, undoing(w.find("d1").Rotations[0], w.clock.Now(), certificate.IDOf([]byte("never owed"))))
	w.is(err, rotation.ErrChanged)
}
