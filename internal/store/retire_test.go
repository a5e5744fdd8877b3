package store_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/registry"
)

func allowed([]certificate.Holding) error { return nil }

func removal(id registry.DeviceID, c certificate.ID, mode certificate.Mode) certificate.Removal {
	return certificate.Removal{Device: id, Certificate: c, Mode: mode, Allowed: allowed}
}

// retired records what a store says it has taken away.
type retired struct {
	mu  sync.Mutex
	all []string
}

func (r *retired) note(id registry.DeviceID, c certificate.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, fmt.Sprintf("%s/%.8s", id, c))
}

func TestRetire(t *testing.T) {
	for name, c := range map[string]struct {
		mode     certificate.Mode
		shared   bool
		standing certificate.Standing
		held     bool
		event    string
	}{
		"deactivate":        {certificate.Deactivate, false, certificate.Inactive, true, "certificate.deactivated"},
		"delete":            {certificate.Delete, false, certificate.Deleted, false, "certificate.deleted"},
		"deactivate shared": {certificate.Deactivate, true, certificate.Active, false, "certificate.detached"},
		"delete shared":     {certificate.Delete, true, certificate.Active, false, "certificate.detached"},
	} {
		t.Run(name, func(t *testing.T) {
			var gone retired
			w := open(t, func(cfg *store.Config) { cfg.Retired = gone.note })
			old := w.register("d1", "old")
			if c.shared {
				w.ok(w.Certificates().Register(w.ctx, "d2", old))
			}
			for range 3 {
				w.ok(w.Certificates().Retire(w.ctx, removal("d1", old.ID, c.mode)))
			}
			_, held := certificate.Find(w.held("d1"), old.ID)
			if held != c.held {
				t.Errorf("held: %v, want %v", held, c.held)
			}
			listed := w.listed(certificate.Query{Key: old.Key})
			if len(listed) != 1 || listed[0].Standing != c.standing {
				t.Errorf("inventory has %+v, want it once, %s", listed, c.standing)
			}
			want := []string{fmt.Sprintf("d1/%.8s", old.ID)}
			if diff := cmp.Diff(want, gone.all); diff != "" {
				t.Error(diff)
			}
			if events := w.events("d1"); events[len(events)-1] != c.event || len(events) != 2 {
				t.Errorf("events %q, want %q once, last", events, c.event)
			}
			if c.shared {
				w.ok(w.seen("d2", old.ID, start))
			}
			wrong := certificate.ErrNotHeld
			if c.held {
				wrong = certificate.ErrNotActive
			}
			w.is(w.seen("d1", old.ID, start), wrong)
		})
	}
}

func TestDeactivatedThenDeleted(t *testing.T) {
	w := open(t)
	old := w.register("d1", "old")
	w.ok(w.Certificates().Retire(w.ctx, removal("d1", old.ID, certificate.Deactivate)))
	w.ok(w.Certificates().Retire(w.ctx, removal("d1", old.ID, certificate.Delete)))
	if held := w.held("d1"); len(held) != 0 {
		t.Errorf("still held: %+v", held)
	}
	w.wantEvents("d1", "certificate.registered", "certificate.deactivated", "certificate.deleted")
}

func TestLastHolderOfASharedCertificateRetiresIt(t *testing.T) {
	w := open(t)
	c := fake("shared")
	ids := []registry.DeviceID{"d1", "d2", "d3"}
	for _, id := range ids {
		w.ok(w.Certificates().Register(w.ctx, id, c))
	}
	for _, id := range ids {
		w.ok(w.Certificates().Retire(w.ctx, removal(id, c.ID, certificate.Deactivate)))
	}
	if h := w.holding("d3", c.ID); h.Standing != certificate.Inactive || h.Shared {
		t.Errorf("the last one holds %+v", h)
	}
}

func TestRefusedRemovalChangesNothing(t *testing.T) {
	w := open(t)
	old := w.register("d1", "old")
	refused := errors.New("kept")
	r := removal("d1", old.ID, certificate.Delete)
	r.Allowed = func([]certificate.Holding) error { return refused }
	before := w.Commits()
	if err := w.Certificates().Retire(w.ctx, r); err != refused {
		t.Errorf("got %v, want the refusal as it is", err)
	}
	if w.Commits() != before {
		t.Error("something was written")
	}
	w.ok(w.seen("d1", old.ID, start))
}

func TestRemovalNeedsLeaveAndAMode(t *testing.T) {
	w := open(t)
	old := w.register("d1", "old")
	for name, r := range map[string]certificate.Removal{
		"nobody is asked": {Device: "d1", Certificate: old.ID, Mode: certificate.Delete},
		"keep":            removal("d1", old.ID, certificate.Keep),
		"no mode":         removal("d1", old.ID, ""),
		"unknown":         removal("d1", fake("other").ID, certificate.Delete),
	} {
		if err := w.Certificates().Retire(w.ctx, r); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	w.ok(w.seen("d1", old.ID, start))
}

func TestAllowedSeesAllThatIsHeld(t *testing.T) {
	var connected certificate.ID
	w := open(t, func(cfg *store.Config) {
		cfg.Connected = func(_ registry.DeviceID, c certificate.ID) bool { return c == connected }
	})
	old, next := w.register("d1", "old"), w.register("d1", "new")
	connected = next.ID
	w.ok(w.seen("d1", old.ID, start))
	w.ok(w.seen("d1", next.ID, start.Add(time.Second)))
	w.ok(w.seen("d1", next.ID, start.Add(time.Minute))) // is not written yet
	var saw []certificate.Holding
	r := removal("d1", old.ID, certificate.Deactivate)
	r.Allowed = func(held []certificate.Holding) error {
		saw = slices.Clone(held)
		return nil
	}
	w.ok(w.Certificates().Retire(w.ctx, r))
	if len(saw) != 2 {
		t.Fatalf("saw %+v", saw)
	}
	h, _ := certificate.Find(saw, next.ID)
	if !h.Connected || !h.LastSeen.Equal(start.Add(time.Minute)) || h.Evidence != certificate.Connection {
		t.Errorf("the successor as %+v", h)
	}
	if h, _ := certificate.Find(saw, old.ID); h.Connected || !h.LastSeen.Equal(start) {
		t.Errorf("the old one as %+v", h)
	}
}

// Either the sighting comes first, and the removal is refused; or the removal,
// and the sighting is refused. Never is a certificate taken away on which the
// device was just seen.
func TestRetireAgainstSeen(t *testing.T) {
	for name, before := range map[string]bool{"first sighting": false, "repeated sighting": true} {
		t.Run(name, func(t *testing.T) {
			w := open(t)
			for i := range 150 {
				id := registry.DeviceID(fmt.Sprintf("d%d", i))
				old := w.register(id, string(id))
				if before {
					w.ok(w.seen(id, old.ID, start))
				}
				now := start.Add(time.Hour)
				kept := errors.New("seen")
				r := removal(id, old.ID, certificate.Deactivate)
				r.Allowed = func(held []certificate.Holding) error {
					if h, _ := certificate.Find(held, old.ID); !h.LastSeen.Before(now) {
						return kept
					}
					return nil
				}
				var sighting, removed error
				var both sync.WaitGroup
				both.Go(func() { sighting = w.seen(id, old.ID, now) })
				both.Go(func() { removed = w.Certificates().Retire(w.ctx, r) })
				both.Wait()
				if (sighting == nil) == (removed == nil) {
					t.Fatalf("sighting: %v, removal: %v", sighting, removed)
				}
			}
		})
	}
}

func TestRetireWithAContextThatEnded(t *testing.T) {
	w := open(t)
	old := w.register("d1", "old")
	ctx, cancel := context.WithCancel(w.ctx)
	cancel()
	w.is(w.Certificates().Retire(ctx, removal("d1", old.ID, certificate.Delete)), context.Canceled)
	w.ok(w.seen("d1", old.ID, start))
	before := w.Commits()
	w.ok(w.seen("d1", old.ID, start.Add(time.Second)))
	if w.Commits() != before {
		t.Error("sightings of the device are held up for good")
	}
}
