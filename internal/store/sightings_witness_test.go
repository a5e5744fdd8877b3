package store_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/rotation"
)

// shown is a device that was vended a certificate and is about to be seen on it.
func (w *world) shown() (certificate.Sighting, rotation.Change) {
	w.t.Helper()
	w.device("d1")
	old := w.register("d1", "old")
	w.ok(w.seen("d1", old.ID, w.clock.Now()))
	r, c := w.vend("d1", "new", nil)
	at := w.clock.add(time.Minute)
	r.State, r.Evidence, r.ProvenAt = rotation.Proven, certificate.Presence, at
	return certificate.Sighting{Device: "d1", Certificate: c.ID, At: at, Evidence: certificate.Presence, Live: true},
		rotation.Change{Rotation: r}
}

func TestASightingAndWhatItProvesAreOneCommit(t *testing.T) {
	w := open(t)
	seen, change := w.shown()
	before := w.Commits()
	r := must[rotation.Rotation](t)(w.Certificates().Witness(w.ctx, seen, change))
	if n := w.Commits() - before; n != 1 {
		t.Errorf("%d commits, want 1", n)
	}
	w.reopen()
	w.lastSeen("d1", seen.Certificate, seen.At)
	if diff := cmp.Diff([]rotation.Rotation{r}, w.find("d1").Rotations); diff != "" || r.State != rotation.Proven {
		t.Errorf("%s: %s", r.State, diff)
	}
	if due, _ := w.due(rotation.Horizon{Now: w.clock.Now(), Limit: 9}); len(due) > 0 {
		t.Errorf("left to the sweep: %v", due)
	}
	// What was just found usable is repeated without a commit.
	before = w.Commits()
	w.ok(w.seen("d1", seen.Certificate, seen.At.Add(time.Second)))
	if latest, waiting := w.Sightings(); latest != 1 || waiting != 1 && w.Commits() == before {
		t.Errorf("%d are remembered, %d wait", latest, waiting)
	}
}

func TestASightingComesBehindTheOneBefore(t *testing.T) {
	w := open(t)
	seen, change := w.shown()
	seen.At = start.Add(-time.Hour) // by a clock that was set back
	must[rotation.Rotation](t)(w.Certificates().Witness(w.ctx, seen, change))
	if latest, _ := certificate.Latest(w.held("d1")); latest.ID != seen.Certificate {
		t.Errorf("the latest sighting is that on %.8s", latest.ID)
	}
}

// A witness that fails leaves neither the sighting nor the proof.
func TestAWitnessIsAllOrNothing(t *testing.T) {
	for name, test := range map[string]struct {
		spoil func(*world, *certificate.Sighting, *rotation.Change)
		want  error
	}{
		"somebody else changed the rotation": {func(_ *world, _ *certificate.Sighting, c *rotation.Change) { c.Rotation.Version-- }, rotation.ErrChanged},
		"it is not the device's":             {func(_ *world, s *certificate.Sighting, _ *rotation.Change) { s.Certificate = fake("other").ID }, certificate.ErrNotHeld},
		"it was deactivated": {func(w *world, s *certificate.Sighting, _ *rotation.Change) {
			w.ok(w.Certificates().Retire(w.ctx, certificate.Removal{
				Device: "d1", Certificate: s.Certificate, Mode: certificate.Deactivate,
				Allowed: func([]certificate.Holding) error { return nil },
			}))
		}, certificate.ErrNotActive},
		"another rotation is about to take its place": {func(w *world, _ *certificate.Sighting, c *rotation.Change) {
			vended := w.find("d1").Rotations[0]
			must[rotation.Rotation](w.t)(w.Journal().Open(w.ctx, w.intended("d1", "third"), &vended))
		}, rotation.ErrChanged},
	} {
		t.Run(name, func(t *testing.T) {
			w := open(t)
			seen, change := w.shown()
			if test.want == certificate.ErrNotActive {
				change.Rotation.State = rotation.Stale // what is open is kept
				change.Rotation = w.advance(change)
				change.Rotation.State = rotation.Proven
			}
			test.spoil(w, &seen, &change)
			_, err := w.Certificates().Witness(w.ctx, seen, change)
			w.is(err, test.want)
			w.reopen()
			if r := w.find("d1").Rotations[0]; r.State == rotation.Proven {
				t.Error("it is proven")
			}
			for _, h := range w.held("d1") {
				if h.ID == seen.Certificate && !h.LastSeen.IsZero() {
					t.Errorf("it was seen at %s", h.LastSeen)
				}
			}
		})
	}
}
