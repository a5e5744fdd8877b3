package store_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

func durable(cfg *store.Config) { cfg.DurableIntent = true }

// both runs a test with a postponing journal and with a durable one.
func both(t *testing.T, test func(*testing.T, *world)) {
	t.Run("postponed", func(t *testing.T) { test(t, open(t)) })
	t.Run("durable intent", func(t *testing.T) { test(t, open(t, durable)) })
}

func TestRotationIsKeptAsItWasWritten(t *testing.T) {
	both(t, func(t *testing.T, w *world) {
		w.device("d1")
		r, c := w.vend("d1", "k1", nil)
		r.State, r.Evidence, r.ProvenAt = rotation.Proven, certificate.Connection, w.clock.add(time.Minute)
		r.AckedAt, r.Named, r.ByPackage, r.Unproven = w.clock.Now(), "named", true, true
		r.Behind = []rotation.Step{rotation.Attributes, rotation.LeaveGroup}
		r = w.advance(rotation.Change{Rotation: r})
		w.reopen()
		if diff := cmp.Diff([]rotation.Rotation{r}, w.find("d1").Rotations); diff != "" {
			t.Error(diff)
		}
		h := w.holding("d1", c.ID)
		if h.Standing != certificate.Active || h.Kind != certificate.Rotated {
			t.Errorf("holding %+v", h)
		}
	})
}

func TestOneOpenRotationPerDevice(t *testing.T) {
	both(t, func(t *testing.T, w *world) {
		w.device("d1")
		vended, _ := w.vend("d1", "k1", nil)
		_, err := w.Journal().Open(w.ctx, w.intended("d1", "k2"), nil)
		w.is(err, rotation.ErrChanged)

		taken := w.intended("d1", "k2")
		taken.Number = vended.Number
		_, err = w.Journal().Open(w.ctx, taken, &vended)
		w.is(err, rotation.ErrChanged)

		stale := vended
		stale.Version--
		_, err = w.Journal().Open(w.ctx, w.intended("d1", "k2"), &stale)
		w.is(err, rotation.ErrChanged)

		w.vend("d1", "k2", &vended)
		states := []rotation.State{}
		for _, r := range w.find("d1").Rotations {
			states = append(states, r.State)
		}
		if diff := cmp.Diff([]rotation.State{rotation.Vended, rotation.Superseded}, states); diff != "" {
			t.Error(diff)
		}
	})
}

func TestAdvanceComparesVersions(t *testing.T) {
	both(t, func(t *testing.T, w *world) {
		w.device("d1")
		intended := must[rotation.Rotation](t)(w.Journal().Open(w.ctx, w.intended("d1", "k1"), nil))
		issued := intended
		issued.State = rotation.Issued
		issued = w.advance(rotation.Change{Rotation: issued})
		_, err := w.Journal().Advance(w.ctx, rotation.Change{Rotation: intended})
		w.is(err, rotation.ErrChanged)
		vended := issued
		vended.State = rotation.Vended
		vended = w.advance(rotation.Change{Rotation: vended})
		for _, old := range []rotation.Rotation{intended, issued} {
			old.State = rotation.Vended
			_, err := w.Journal().Advance(w.ctx, rotation.Change{Rotation: old})
			w.is(err, rotation.ErrChanged)
		}
		unknown := vended
		unknown.Number = 9
		_, err = w.Journal().Advance(w.ctx, rotation.Change{Rotation: unknown})
		w.is(err, rotation.ErrChanged)
	})
}

func TestReopeningWaitsForTheOpenOne(t *testing.T) {
	w := open(t)
	w.device("d1")
	stale, _ := w.vend("d1", "k1", nil)
	stale.State = rotation.Stale
	stale = w.advance(rotation.Change{Rotation: stale})
	w.vend("d1", "k2", nil)
	stale.State = rotation.Vended
	_, err := w.Journal().Advance(w.ctx, rotation.Change{Rotation: stale})
	w.is(err, rotation.ErrChanged)
}

func TestClosedRotationHasNoLease(t *testing.T) {
	for _, state := range []rotation.State{rotation.Finished, rotation.Stale, rotation.Superseded, rotation.Abandoned} {
		t.Run(string(state), func(t *testing.T) {
			w := open(t)
			w.device("d1")
			r, _ := w.vend("d1", "k1", nil)
			r.State, r.Lease = state, rotation.Lease{Instance: "one", Until: w.clock.Now().Add(time.Minute)}
			if r = w.advance(rotation.Change{Rotation: r}); r.Lease != (rotation.Lease{}) {
				t.Errorf("returned with lease %v", r.Lease)
			}
			if got := w.find("d1").Rotations[0].Lease; got != (rotation.Lease{}) {
				t.Errorf("kept with lease %v", got)
			}
		})
	}
}

func TestVoidLeases(t *testing.T) {
	w := open(t, durable)
	for _, id := range []registry.DeviceID{"d1", "d2"} {
		_, err := w.Journal().Open(w.ctx, w.intended(w.device(id), "k"+string(id)), nil)
		w.ok(err)
	}
	w.vend(w.device("d3"), "k3", nil)
	for _, want := range []int{2, 0} {
		if n := must[int](t)(w.Journal().VoidLeases(w.ctx)); n != want {
			t.Errorf("voided %d, want %d", n, want)
		}
	}
	if got := w.find("d1").Rotations[0].Lease; got != (rotation.Lease{}) {
		t.Errorf("lease %v", got)
	}
}

func TestAuditOfAVend(t *testing.T) {
	w := open(t)
	w.device("d1")
	first, _ := w.vend("d1", "k1", nil)
	w.vend("d1", "k2", &first)
	w.wantEvents("d1", "device.added",
		"certificate.registered", "rotation.state vended",
		"rotation.state superseded", "certificate.registered", "rotation.state vended")
}

func TestRetirementsAreWrittenOnce(t *testing.T) {
	w := open(t)
	w.device("d1")
	old := w.register("d1", "old")
	r, _ := w.vend("d1", "k1", nil)
	owed := rotation.Retirement{
		Device: "d1", Certificate: old.ID, Rotation: r.Number, Mode: certificate.Delete,
		Evidence: certificate.Connection, ProvenAt: w.clock.Now(), Due: w.clock.Now().Add(time.Hour),
	}
	r.State, r.ProvenAt = rotation.Proven, w.clock.Now()
	r = w.advance(rotation.Change{Rotation: r, Retirements: []rotation.Retirement{owed}})
	later := owed
	later.Due = owed.Due.Add(time.Hour)
	r.State = rotation.Finished
	w.advance(rotation.Change{Rotation: r, Retirements: []rotation.Retirement{later}})
	if diff := cmp.Diff([]rotation.Retirement{owed}, w.retirements()); diff != "" {
		t.Error(diff)
	}
}

func (w *world) retirements() []rotation.Retirement {
	w.t.Helper()
	return must[[]rotation.Retirement](w.t)(w.Journal().Retirements(w.ctx, rotation.Query{}))
}

func TestNoteOfARetirement(t *testing.T) {
	w := open(t)
	w.device("d1")
	r, _ := w.vend("d1", "k1", nil)
	owed := rotation.Retirement{Device: "d1", Certificate: "old", Rotation: 1, Mode: certificate.Delete, Due: w.clock.Now()}
	w.is(w.Journal().Note(w.ctx, owed), rotation.ErrChanged)
	w.advance(rotation.Change{Rotation: r, Retirements: []rotation.Retirement{owed}})

	steps := []func(){
		func() { owed.Why = "the device was last seen on it" },
		func() { owed.Reverted = true },
		func() { owed.Reverted, owed.Due = false, w.clock.Now().Add(time.Hour) },
		func() { owed.Deactivated = w.clock.Now() },
		func() { owed.Done, owed.Why = w.clock.Now(), "" },
	}
	for i, step := range steps {
		step()
		for range 2 {
			w.ok(w.Journal().Note(w.ctx, owed))
		}
		if diff := cmp.Diff([]rotation.Retirement{owed}, w.retirements()); diff != "" {
			t.Errorf("step %d: %s", i, diff)
		}
	}
	late := owed
	late.Done, late.Why, late.Deactivated = time.Time{}, "late", time.Time{}
	w.ok(w.Journal().Note(w.ctx, late))
	if diff := cmp.Diff([]rotation.Retirement{owed}, w.retirements()); diff != "" {
		t.Errorf("what is done was undone: %s", diff)
	}
	for since, want := range map[time.Time]int{owed.Deactivated: 1, owed.Deactivated.Add(1): 0, start: 1} {
		if got := must[[]time.Time](t)(w.Journal().RemovedSince(w.ctx, since)); len(got) != want || want == 1 && !got[0].Equal(owed.Deactivated) {
			t.Errorf("removed since %s: %v", since, got)
		}
	}
	w.clock.add(-time.Minute) // it was done by a clock that ran ahead
	if got := must[[]time.Time](t)(w.Journal().RemovedSince(w.ctx, start.Add(-time.Hour))); len(got) != 0 {
		t.Errorf("removed before the clock was put right: %v", got)
	}
	w.wantEvents("d1", "device.added", "certificate.registered", "rotation.state vended", "retirement.written",
		"retirement.reverted", "retirement.put_off", "retirement.returned", "retirement.deactivated", "retirement.done")
}
