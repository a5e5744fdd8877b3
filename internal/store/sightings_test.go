package store_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

func (w *world) lastSeen(id registry.DeviceID, c certificate.ID, want time.Time) {
	w.t.Helper()
	if got := w.holding(id, c).LastSeen; !got.Equal(want) {
		w.t.Errorf("%s last seen on %.8s at %s, want %s", id, c, got, want)
	}
}

func TestSightingOfWhatCannotBeUsed(t *testing.T) {
	w := open(t)
	c := w.register("d1", "c1")
	w.is(w.seen("d1", fake("unknown").ID, start), certificate.ErrNotHeld)
	w.is(w.seen("d2", c.ID, start), certificate.ErrNotHeld)
	if w.seen("d1", c.ID, time.Time{}) == nil {
		t.Error("a sighting without a time was taken")
	}
	w.lastSeen("d1", c.ID, time.Time{})
}

func TestEarlierSightingChangesNothing(t *testing.T) {
	w := open(t)
	c := w.register("d1", "c1")
	for _, at := range []time.Duration{time.Minute, 0, 30 * time.Second} {
		w.ok(w.seen("d1", c.ID, start.Add(at)))
		w.lastSeen("d1", c.ID, start.Add(time.Minute))
	}
	w.reopen()
	w.ok(w.seen("d1", c.ID, start))
	w.lastSeen("d1", c.ID, start.Add(time.Minute))
}

func TestRepeatedSightingIsNotCommittedAtOnce(t *testing.T) {
	w := open(t)
	c := w.register("d1", "c1")
	before := w.Commits()
	w.ok(w.seen("d1", c.ID, start))
	if w.Commits() != before+1 {
		t.Error("the first sighting was not committed")
	}
	w.ok(w.seen("d1", c.ID, start.Add(time.Second)))
	w.ok(w.seen("d1", c.ID, start.Add(2*time.Second)))
	if _, unwritten := w.Sightings(); unwritten != 1 && w.Commits() == before+1 {
		t.Errorf("%d sightings wait", unwritten)
	}
	w.lastSeen("d1", c.ID, start.Add(2*time.Second))
	listed := w.listed(certificate.Query{})
	if !listed[0].LastSeen.Equal(start.Add(2 * time.Second)) {
		t.Errorf("listed as last seen %s", listed[0].LastSeen)
	}
	w.reopen()
	w.lastSeen("d1", c.ID, start.Add(2*time.Second))
}

func TestRepeatedSightingIsWrittenWithinSeconds(t *testing.T) {
	w := open(t)
	c := w.register("d1", "c1")
	w.ok(w.seen("d1", c.ID, start))
	w.ok(w.seen("d1", c.ID, start.Add(time.Second)))
	eventually(t, "the sighting is written", func() bool {
		seen := must[int64](t)(store.Query[int64](w.ctx, w.Store, `SELECT seen FROM holdings`))
		return seen == start.Add(time.Second).UnixNano()
	})
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for range 600 {
		if is() {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("not within half a minute: %s", what)
}

// A sighting that changes on which certificate the device was last seen is
// durable when Seen returns, whatever happens then.
func TestSightingOnAnotherCertificateIsDurable(t *testing.T) {
	w := open(t)
	a, b := w.register("d1", "a"), w.register("d1", "b")
	w.ok(w.seen("d1", a.ID, start))
	w.ok(w.seen("d1", b.ID, start.Add(time.Second)))
	w.ok(w.seen("d1", a.ID, start.Add(2*time.Second)))
	w.kill()
	w.lastSeen("d1", a.ID, start.Add(2*time.Second))
	w.lastSeen("d1", b.ID, start.Add(time.Second))
}

func TestOlderSightingOnAnotherCertificate(t *testing.T) {
	w := open(t)
	a, b := w.register("d1", "a"), w.register("d1", "b")
	w.ok(w.seen("d1", a.ID, start.Add(time.Minute)))
	w.ok(w.seen("d1", b.ID, start))
	w.lastSeen("d1", b.ID, start)
	latest, _ := certificate.Latest(w.held("d1"))
	if latest.ID != a.ID {
		t.Error("an older sighting became the latest")
	}
}

func TestLiveSightingIsTheLatestWhateverTheClock(t *testing.T) {
	for name, repeat := range map[string]bool{"written": false, "not written yet": true} {
		t.Run(name, func(t *testing.T) {
			w := open(t)
			a, b := w.register("d1", "a"), w.register("d1", "b")
			w.ok(w.seen("d1", a.ID, start))
			w.ok(w.seen("d1", b.ID, start.Add(time.Hour)))
			if repeat {
				w.ok(w.seen("d1", b.ID, start.Add(2*time.Hour)))
			}
			live := certificate.Sighting{Device: "d1", Certificate: a.ID, At: start.Add(-time.Hour), Evidence: certificate.Presence, Live: true}
			w.ok(w.Certificates().Seen(w.ctx, live))
			w.kill()
			if latest, _ := certificate.Latest(w.held("d1")); latest.ID != a.ID || latest.Evidence != certificate.Presence {
				t.Errorf("the latest is %s, %s", latest.Subject, latest.LastSeen)
			}
			w.ok(w.Certificates().Seen(w.ctx, certificate.Sighting{Device: "d1", Certificate: b.ID, At: start.Add(-time.Hour)}))
			if latest, _ := certificate.Latest(w.held("d1")); latest.ID != a.ID {
				t.Error("one that was heard of late came behind it")
			}
		})
	}
}

// What was last seen on a certificate that is INACTIVE now must not let a
// repeated sighting pass unchecked.
func TestSightingOnADeactivatedLatest(t *testing.T) {
	w := open(t)
	a, b := w.register("d1", "a"), w.register("d1", "b")
	w.ok(w.seen("d1", a.ID, start.Add(time.Minute)))
	w.ok(w.Certificates().Retire(w.ctx, removal("d1", a.ID, certificate.Deactivate)))
	w.ok(w.seen("d1", b.ID, start))
	w.is(w.seen("d1", a.ID, start.Add(time.Hour)), certificate.ErrNotActive)
}

func TestMemoryOfSightingsIsBounded(t *testing.T) {
	const devices, latestKept, unwrittenKept = 300, 100, 20
	w := open(t)
	w.Remember(latestKept, unwrittenKept)
	c := fake("shared")
	sight := func(at time.Time) {
		w.many(devices, func(i int) error { return w.seen(registry.DeviceID(fmt.Sprintf("d%d", i)), c.ID, at) })
	}
	w.many(devices, func(i int) error {
		return w.Certificates().Register(w.ctx, registry.DeviceID(fmt.Sprintf("d%d", i)), c)
	})
	for i := range 5 {
		sight(start.Add(time.Duration(i) * time.Second))
	}
	// Those that are remembered can wait, until too many do.
	w.many(latestKept/2, func(i int) error {
		for j := range 20 {
			if err := w.seen(registry.DeviceID(fmt.Sprintf("d%d", i)), c.ID, start.Add(time.Minute+time.Duration(j))); err != nil {
				return err
			}
		}
		return nil
	})
	eventually(t, "sightings are written when many wait", func() bool {
		_, unwritten := w.Sightings()
		return unwritten < unwrittenKept
	})
	if latest, _ := w.Sightings(); latest > latestKept {
		t.Errorf("%d are remembered", latest)
	}
	w.reopen()
	for text, want := range map[string]int{
		`SELECT count(*) FROM holdings WHERE seen >= ?`: devices,
		`SELECT count(*) FROM holdings WHERE seen = ?`:  0,
	} {
		at := start.Add(4 * time.Second).UnixNano()
		if want == 0 {
			at, want = start.Add(time.Minute+19).UnixNano(), latestKept/2
		}
		if n := must[int](t)(store.Query[int](w.ctx, w.Store, text, at)); n != want {
			t.Errorf("%s: %d, want %d", text, n, want)
		}
	}
}

func TestSightingWakesItsRotation(t *testing.T) {
	due := func(w *world) int {
		return len(must[rotation.Work](w.t)(w.Journal().Due(w.ctx, rotation.Horizon{Now: w.clock.Now()})).Rotations)
	}
	for _, state := range []rotation.State{rotation.Vended, rotation.Acknowledged, rotation.Stale} {
		t.Run(string(state), func(t *testing.T) {
			w := open(t)
			r, c := w.vend("d1", "k1", nil)
			if state != rotation.Vended {
				r.State = state
				r = w.advance(rotation.Change{Rotation: r})
			}
			if n := due(w); n != 0 {
				t.Errorf("%d due before it was seen", n)
			}
			w.ok(w.seen("d1", c.ID, w.clock.add(time.Second)))
			if n := due(w); n != 1 {
				t.Errorf("%d due after it was seen", n)
			}
			r.State, r.ProvenAt = rotation.Proven, w.clock.Now()
			w.advance(rotation.Change{Rotation: r})
			if n := due(w); n != 0 {
				t.Errorf("%d due after it was proven", n)
			}
		})
	}
	t.Run("seen between vended and stale", func(t *testing.T) {
		w := open(t)
		r, c := w.vend("d1", "k1", nil)
		w.ok(w.seen("d1", c.ID, w.clock.add(time.Second)))
		r.State = rotation.Stale
		w.advance(rotation.Change{Rotation: r})
		if n := due(w); n != 1 {
			t.Errorf("%d due", n)
		}
	})
}
