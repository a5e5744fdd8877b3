package store_test

import (
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

// draft opens a rotation and has its certificate issued and registered.
func (w *world) draft(id registry.DeviceID, name string, givesWay *rotation.Rotation) (rotation.Rotation, certificate.Certificate) {
	w.t.Helper()
	r := must[rotation.Rotation](w.t)(w.Journal().Open(w.ctx, w.intended(id, name), givesWay))
	c := fake(name)
	r.State, r.Certificate = rotation.Issued, c.ID
	r = w.advance(rotation.Change{Rotation: r, Certificate: &c})
	w.ok(w.Certificates().Register(w.ctx, id, c))
	return r, c
}

func states(h rotation.History) string {
	text := ""
	for _, r := range h.Rotations {
		text += fmt.Sprintf("%d %s;", r.Number, r.State)
	}
	return text
}

func (w *world) wantStates(id registry.DeviceID, want string) {
	w.t.Helper()
	if got := states(w.find(id)); got != want {
		w.t.Errorf("rotations of %s: %q, want %q", id, got, want)
	}
}

func TestNothingIsWrittenBeforeVended(t *testing.T) {
	w := open(t)
	w.device("d1")
	before := w.Commits()
	r, c := w.draft("d1", "k1", nil)
	if w.Commits() != before {
		t.Errorf("%d commits", w.Commits()-before)
	}
	w.wantStates("d1", "1 issued;")
	r.State, r.VendedAt = rotation.Vended, w.clock.Now()
	w.advance(rotation.Change{Rotation: r})
	if w.Commits() != before+1 {
		t.Errorf("%d commits for a vend, want 1", w.Commits()-before)
	}
	w.holding("d1", c.ID)
	if n := w.Drafts(); n != 0 {
		t.Errorf("%d drafts are left", n)
	}
}

func TestDurableIntentWritesAtOnce(t *testing.T) {
	w := open(t, durable)
	w.device("d1")
	_, c := w.draft("d1", "k1", nil)
	w.kill()
	w.wantStates("d1", "1 issued;")
	w.holding("d1", c.ID)
	w.wantEvents("d1", "device.added", "rotation.state intended", "certificate.registered", "rotation.state issued")
}

func TestCrashForgetsADraft(t *testing.T) {
	w := open(t)
	w.device("d1")
	vended, first := w.vend("d1", "k1", nil)
	_, second := w.draft("d1", "k2", &vended)
	w.wantStates("d1", "2 issued;1 superseded;")
	w.kill()
	w.wantStates("d1", "1 vended;")
	w.holding("d1", first.ID)
	if _, held := certificate.Find(w.held("d1"), second.ID); held {
		t.Error("the certificate of a forgotten rotation is held")
	}
}

// What a draft shows and what is read once it is written is the same.
func TestDraftIsSeenAsIfWritten(t *testing.T) {
	for _, state := range []rotation.State{rotation.Superseded, rotation.Finished} {
		postponed, written := open(t), open(t, durable)
		var shown [2]rotation.History
		for i, w := range []*world{postponed, written} {
			w.device("d1")
			vended, _ := w.vend("d1", "k1", nil)
			vended.Version = w.find("d1").Rotations[0].Version
			vended.State, vended.ClosedAt = state, w.clock.Now()
			w.draft("d1", "k2", &vended)
			shown[i] = w.find("d1")
		}
		if diff := cmp.Diff(shown[1], shown[0]); diff != "" {
			t.Errorf("%s: written (-) and postponed (+): %s", state, diff)
		}
	}
}

func TestOpenGivenWayIsSuperseded(t *testing.T) {
	both(t, func(t *testing.T, w *world) {
		w.device("d1")
		vended, _ := w.vend("d1", "k1", nil)
		w.clock.add(time.Minute)
		w.vend("d1", "k2", &vended)
		r := w.find("d1").Rotations[1]
		if r.State != rotation.Superseded || !r.ClosedAt.Equal(w.clock.Now()) || r.Lease != (rotation.Lease{}) {
			t.Errorf("gave way as %+v", r)
		}
	})
}

func TestLeftoverDraftIsReplaced(t *testing.T) {
	for name, named := range map[string]bool{"it is named": true, "what gave way to it is named": false} {
		t.Run(name, func(t *testing.T) {
			w := open(t)
			w.device("d1")
			vended, first := w.vend("d1", "k1", nil)
			leftover, lost := w.draft("d1", "k2", &vended)
			givesWay := &vended
			next := w.intended("d1", "k3")
			if named {
				givesWay = &leftover
			} else {
				next.Number = leftover.Number
			}
			r := must[rotation.Rotation](t)(w.Journal().Open(w.ctx, next, givesWay))
			w.wantStates("d1", fmt.Sprintf("%d intended;1 superseded;", next.Number))
			r.State = rotation.Vended
			w.advance(rotation.Change{Rotation: r})
			w.reopen()
			w.wantStates("d1", fmt.Sprintf("%d vended;1 superseded;", next.Number))
			if _, held := certificate.Find(w.held("d1"), lost.ID); held {
				t.Error("the certificate that was never vended is held")
			}
			w.holding("d1", first.ID)
		})
	}
}

func TestAnothersLeaseOnADraft(t *testing.T) {
	w := open(t)
	w.device("d1")
	w.draft("d1", "k1", nil)
	theirs := w.intended("d1", "k2")
	theirs.Number, theirs.Lease.Instance = 1, "two"
	_, err := w.Journal().Open(w.ctx, theirs, nil)
	w.is(err, rotation.ErrChanged)
	w.wantStates("d1", "1 issued;")
	w.clock.add(rotation.LeaseTime)
	_, err = w.Journal().Open(w.ctx, theirs, nil)
	w.ok(err)
	w.wantStates("d1", "1 intended;")
}

func TestGivingUpADraft(t *testing.T) {
	w := open(t)
	w.device("d1")
	vended, _ := w.vend("d1", "k1", nil)
	r, _ := w.draft("d1", "k2", &vended)
	before := w.Commits()
	r.Lease = rotation.Lease{}
	w.advance(rotation.Change{Rotation: r})
	w.wantStates("d1", "1 vended;")
	if w.Commits() != before || w.Drafts() != 0 {
		t.Errorf("%d commits, %d drafts", w.Commits()-before, w.Drafts())
	}
	w.vend("d1", "k3", &vended)
	w.wantStates("d1", "2 vended;1 superseded;")
}

func TestGivingUpWhatIsWritten(t *testing.T) {
	w := open(t, durable)
	w.device("d1")
	r, _ := w.draft("d1", "k1", nil)
	r.Lease = rotation.Lease{}
	w.advance(rotation.Change{Rotation: r})
	w.wantStates("d1", "1 issued;")
}

func TestGivenWayGoesOn(t *testing.T) {
	both(t, func(t *testing.T, w *world) {
		w.device("d1")
		vended, _ := w.vend("d1", "k1", nil)
		draft, _ := w.draft("d1", "k2", &vended)
		old := w.find("d1").Rotations[1]
		old.State = rotation.Abandoned
		w.advance(rotation.Change{Rotation: old})
		w.reopen()
		w.wantStates("d1", "2 issued;1 abandoned;")
		draft.State = rotation.Vended
		w.advance(rotation.Change{Rotation: draft})
		w.wantStates("d1", "2 vended;1 abandoned;")
	})
}

func TestDraftThatLostItsPlace(t *testing.T) {
	w := open(t)
	w.device("d1")
	vended, _ := w.vend("d1", "k1", nil)
	draft, c := w.draft("d1", "k2", &vended)
	// Another instance, which does not see the draft, goes on with the first.
	proven := vended
	proven.State = rotation.Proven
	w.advance(rotation.Change{Rotation: proven})
	w.wantStates("d1", "1 proven;")
	draft.State = rotation.Vended
	_, err := w.Journal().Advance(w.ctx, rotation.Change{Rotation: draft})
	w.is(err, rotation.ErrChanged)
	if w.Drafts() != 0 {
		t.Error("a draft that can never be written is kept")
	}
	if _, held := certificate.Find(w.held("d1"), c.ID); held {
		t.Error("its certificate is held")
	}
}

func TestPostponedActivation(t *testing.T) {
	both(t, func(t *testing.T, w *world) {
		w.device("d1")
		c := fake("package")
		c.Standing, c.Kind = certificate.Inactive, certificate.Packaged
		w.ok(w.Certificates().Register(w.ctx, "d1", c))
		next := w.intended("d1", "")
		next.ByPackage, next.Certificate = true, c.ID
		r := must[rotation.Rotation](t)(w.Journal().Open(w.ctx, next, nil))
		before := w.Commits()
		for range 2 {
			w.ok(w.Certificates().Activate(w.ctx, "d1", c.ID))
		}
		if !w.cfg.DurableIntent && w.Commits() != before {
			t.Error("the activation was committed by itself")
		}
		r.State = rotation.Vended
		w.advance(rotation.Change{Rotation: r})
		w.reopen()
		if h := w.holding("d1", c.ID); h.Standing != certificate.Active {
			t.Errorf("standing %s", h.Standing)
		}
		if !slices.Contains(w.events("d1"), "certificate.activated") {
			t.Errorf("events %q", w.events("d1"))
		}
	})
}

func TestActivationOfWhatIsNotHeld(t *testing.T) {
	both(t, func(t *testing.T, w *world) {
		w.device("d1")
		next := w.intended("d1", "")
		next.ByPackage, next.Certificate = true, fake("package").ID
		must[rotation.Rotation](t)(w.Journal().Open(w.ctx, next, nil))
		w.is(w.Certificates().Activate(w.ctx, "d1", next.Certificate), certificate.ErrNotHeld)
	})
}

func TestRegistrationOfAnotherCertificateIsNotPostponed(t *testing.T) {
	w := open(t)
	w.device("d1")
	w.draft("d1", "k1", nil)
	c := w.register("d1", "another")
	w.kill()
	w.holding("d1", c.ID)
}

func TestStandingOfARegisteredCertificate(t *testing.T) {
	for given, want := range map[certificate.Standing]certificate.Standing{
		"": certificate.Active, certificate.Active: certificate.Active, certificate.Inactive: certificate.Inactive,
	} {
		both(t, func(t *testing.T, w *world) {
			w.device("d1")
			c := fake("k1")
			c.Standing = given
			r := must[rotation.Rotation](t)(w.Journal().Open(w.ctx, w.intended("d1", "k1"), nil))
			r.State, r.Certificate = rotation.Issued, c.ID
			r = w.advance(rotation.Change{Rotation: r, Certificate: &c})
			r.State = rotation.Vended
			w.advance(rotation.Change{Rotation: r})
			if h := w.holding("d1", c.ID); h.Standing != want {
				t.Errorf("registered as %q, it is %s", given, h.Standing)
			}
		})
	}
}

func TestFailedCommitLeavesTheDraft(t *testing.T) {
	w := open(t)
	w.alone() // what breaks this one is not recorded as a copy could carry it out
	w.device("d1")
	r, c := w.draft("d1", "k1", nil)
	// Something unforeseen stops the commit.
	w.ok(w.Write(w.ctx, `CREATE TRIGGER broken BEFORE INSERT ON holdings BEGIN SELECT raise(ABORT, 'disk on fire'); END`))
	r.State = rotation.Vended
	if _, err := w.Journal().Advance(w.ctx, rotation.Change{Rotation: r}); err == nil {
		t.Fatal("the commit did not fail")
	}
	w.wantStates("d1", "1 issued;")
	w.ok(w.Write(w.ctx, `DROP TRIGGER broken`))
	w.advance(rotation.Change{Rotation: r})
	w.holding("d1", c.ID)
	w.wantStates("d1", "1 vended;")
}

func TestMemoryOfDraftsIsBounded(t *testing.T) {
	w := open(t)
	const devices = store.DraftsKept + 100
	w.many(devices, func(i int) error {
		_, err := w.Journal().Open(w.ctx, rotation.Rotation{
			Device: registry.DeviceID(fmt.Sprintf("d%05d", i)), Number: 1, State: rotation.Intended, Opened: start,
		}, nil)
		return err
	})
	if n := w.Drafts(); n != store.DraftsKept {
		t.Errorf("%d drafts are kept, want %d", n, store.DraftsKept)
	}
}

func TestNothingIsKilledByADraft(t *testing.T) {
	w := open(t, func(cfg *store.Config) { cfg.AuditDir = filepath.Join(t.TempDir(), "audit") })
	w.device("d1")
	old, _ := w.vend("d1", "k0", nil)
	w.draft("d1", "k1", &old)
	w.reopen()
	w.sound()
	w.wantStates("d1", "1 vended;")
}
