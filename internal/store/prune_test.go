package store_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

// wasFinished has a device finish a rotation now, with a retirement that is done,
// or not yet.
func (w *world) wasFinished(id registry.DeviceID, key string, done bool) rotation.Rotation {
	w.t.Helper()
	old := w.register(id, "before "+string(id)+key)
	r, _ := w.vend(id, key, nil)
	r.State, r.ProvenAt, r.ClosedAt = rotation.Finished, w.clock.Now(), w.clock.Now()
	owed := rotation.Retirement{Device: id, Certificate: old.ID, Rotation: r.Number, Mode: certificate.Deactivate, Due: w.clock.Now()}
	r = w.advance(rotation.Change{Rotation: r, Retirements: []rotation.Retirement{owed}})
	if done {
		owed.Done = w.clock.Now()
		w.ok(w.Journal().Note(w.ctx, owed))
	}
	return r
}

func (w *world) numbers(id registry.DeviceID) (all []int64) {
	w.t.Helper()
	for _, r := range w.find(id).Rotations {
		all = append(all, r.Number)
	}
	return all
}

func (w *world) prune(most int) int {
	w.t.Helper()
	return must[int](w.t)(w.Journal().Prune(w.ctx, w.clock.Now(), most))
}

func TestPrune(t *testing.T) {
	for name, c := range map[string]struct {
		live func(*world)
		want []int64 // newest first
	}{
		"the last one stays": {func(w *world) { w.wasFinished("d1", "k1", true) }, []int64{1}},
		"older ones go": {func(w *world) {
			w.wasFinished("d1", "k1", true)
			w.wasFinished("d1", "k2", true)
			w.wasFinished("d1", "k3", true)
		}, []int64{3}},
		"the last finished one stays, under those that came to nothing": {func(w *world) {
			w.wasFinished("d1", "k1", true)
			w.wasFinished("d1", "k2", true)
			w.vend("d1", "k3", nil)
		}, []int64{3, 2}},
		"while a retirement is open, all stay": {func(w *world) {
			w.wasFinished("d1", "k1", true)
			w.wasFinished("d1", "k2", false)
			w.wasFinished("d1", "k3", true)
		}, []int64{3, 2, 1}},
		"while something is left to do behind one, it stays, and what came after it": {func(w *world) {
			r := w.wasFinished("d1", "k1", true)
			r.Behind = []rotation.Step{rotation.LeaveGroup}
			w.advance(rotation.Change{Rotation: r})
			w.wasFinished("d1", "k2", true)
			w.wasFinished("d1", "k3", true)
		}, []int64{3, 2, 1}},
		"superseded ones stay: their keys never open again": {func(w *world) {
			first, _ := w.vend("d1", "k1", nil)
			second, _ := w.vend("d1", "k2", &first)
			second.State, second.ProvenAt, second.ClosedAt = rotation.Finished, w.clock.Now(), w.clock.Now()
			w.advance(rotation.Change{Rotation: second})
			w.wasFinished("d1", "k3", true)
		}, []int64{3, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			w := open(t)
			w.device("d1")
			c.live(w)
			before := len(w.numbers("d1"))
			if gone := w.prune(10); gone != 0 {
				t.Errorf("%d rotations went that were finished just now", gone)
			}
			w.clock.add(time.Hour)
			if gone := w.prune(10); gone != before-len(c.want) {
				t.Errorf("%d went", gone)
			}
			if diff := cmp.Diff(c.want, w.numbers("d1")); diff != "" {
				t.Error(diff)
			}
			w.wantTallied()
		})
	}
}

// wantTallied holds the totals against the rows.
func (w *world) wantTallied() {
	w.t.Helper()
	off := must[int](w.t)(store.Query[int](w.ctx, w.Store, `SELECT count(*) FROM tallies WHERE what = 'rotation'
		AND n <> (SELECT count(*) FROM rotations WHERE rotations.state = tallies.state)`))
	if off != 0 {
		w.t.Errorf("%d totals are not those of the rows", off)
	}
	orphans := must[int](w.t)(store.Query[int](w.ctx, w.Store, `SELECT count(*) FROM retirements WHERE NOT EXISTS (
		SELECT 1 FROM rotations WHERE rotations.device = retirements.device AND rotations.number = retirements.rotation)`))
	if orphans != 0 {
		w.t.Errorf("%d retirements of no rotation", orphans)
	}
}

// TestPruneIsBounded looks at a few rotations at a time, also past many that
// stay, and gets round to all.
func TestPruneIsBounded(t *testing.T) {
	w := open(t)
	for i := range 12 {
		id := registry.DeviceID(fmt.Sprintf("d%02d", i))
		w.device(id)
		w.wasFinished(id, "k1"+string(id), true)
		if i%3 == 0 {
			w.wasFinished(id, "k2"+string(id), true)
		}
	}
	w.clock.add(time.Hour)
	total := 0
	for range 16/3 + 1 {
		gone := w.prune(3)
		if gone > 3 {
			t.Fatalf("%d went at once", gone)
		}
		total += gone
	}
	if total != 4 {
		t.Errorf("%d of 4 went", total)
	}
	w.wantTallied()
}
