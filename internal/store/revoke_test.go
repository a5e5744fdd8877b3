package store_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/registry"
)

func anybody(registry.DeviceID, []certificate.Holding) error { return nil }

func revocation(id certificate.ID) certificate.Revocation {
	return certificate.Revocation{Certificate: id, Reason: 1, Allowed: anybody}
}

func TestRevoke(t *testing.T) {
	var gone retired
	w := open(t, func(cfg *store.Config) { cfg.Retired = gone.note })
	c := w.register("d1", "stolen")
	w.ok(w.Certificates().Register(w.ctx, "d2", c))
	w.ok(w.seen("d1", c.ID, start))
	for range 2 {
		w.ok(w.Certificates().Revoke(w.ctx, revocation(c.ID)))
	}
	short := fmt.Sprintf("%.8s", c.ID)
	if slices.Sort(gone.all); !slices.Equal(gone.all, []string{"d1/" + short, "d2/" + short}) {
		t.Errorf("told of %v, want each device once", gone.all)
	}
	w.is(w.seen("d1", c.ID, start.Add(time.Second)), certificate.ErrNotActive) // a repeated one too
	w.is(w.seen("d2", c.ID, start), certificate.ErrNotActive)
	for _, id := range []registry.DeviceID{"d1", "d2"} {
		if events := w.events(id); events[len(events)-1] != "certificate.revoked" {
			t.Errorf("events of %s: %v", id, events)
		}
	}
	w.is(w.Certificates().Revoke(w.ctx, revocation(certificate.IDOf([]byte("none")))), certificate.ErrUnknown)
}

// TestRevokedNeverComesBack tries every way there is to another standing.
func TestRevokedNeverComesBack(t *testing.T) {
	for name, try := range map[string]func(*world, certificate.Certificate) error{
		"activate": func(w *world, c certificate.Certificate) error {
			return w.Certificates().Activate(w.ctx, "d1", c.ID)
		},
		"register again":              func(w *world, c certificate.Certificate) error { return w.Certificates().Register(w.ctx, "d1", c) },
		"register for another device": func(w *world, c certificate.Certificate) error { return w.Certificates().Register(w.ctx, "d9", c) },
		"deactivate": func(w *world, c certificate.Certificate) error {
			return w.Certificates().Retire(w.ctx, removal("d1", c.ID, certificate.Deactivate))
		},
		"delete, then register": func(w *world, c certificate.Certificate) error {
			w.ok(w.Certificates().Retire(w.ctx, removal("d1", c.ID, certificate.Delete)))
			return w.Certificates().Register(w.ctx, "d1", c)
		},
		"device removed and added, then register": func(w *world, c certificate.Certificate) error {
			w.ok(w.Devices().Remove(w.ctx, "d1"))
			w.device("d1")
			return w.Certificates().Register(w.ctx, "d1", c)
		},
		"restart": func(w *world, _ certificate.Certificate) error { w.reopen(); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			w := open(t)
			w.device("d1")
			c := w.register("d1", "stolen")
			w.ok(w.Certificates().Revoke(w.ctx, revocation(c.ID)))
			c.Standing = certificate.Active
			err := try(w, c)
			if err != nil && !errors.Is(err, certificate.ErrRevoked) {
				t.Errorf("got %v", err)
			}
			if strings.HasPrefix(name, "activate") || strings.HasSuffix(name, "another device") {
				w.is(err, certificate.ErrRevoked)
			}
			if h := w.holding("d1", c.ID); h.Standing != certificate.Revoked {
				t.Errorf("it is %s", h.Standing)
			}
			w.is(w.seen("d1", c.ID, start), certificate.ErrNotActive)
		})
	}
}

func TestRevokeThatIsNotAllowed(t *testing.T) {
	w := open(t)
	c := w.register("d1", "shared")
	w.ok(w.Certificates().Register(w.ctx, "d2", c))
	spare := w.register("d2", "spare")
	w.ok(w.seen("d2", spare.ID, start))
	w.ok(w.seen("d2", spare.ID, start.Add(time.Second))) // is not written yet
	refused := errors.New("d2 needs it")
	var asked []registry.DeviceID
	r := revocation(c.ID)
	r.Allowed = func(id registry.DeviceID, held []certificate.Holding) error {
		asked = append(asked, id)
		if id != "d2" {
			return nil
		}
		if h, _ := certificate.Find(held, spare.ID); len(held) != 2 || !h.LastSeen.Equal(start.Add(time.Second)) {
			t.Errorf("asked with %+v", held)
		}
		return refused
	}
	if err := w.Certificates().Revoke(w.ctx, r); err != refused {
		t.Errorf("got %v, want what Allowed said, as it is", err)
	}
	if !slices.Equal(asked, []registry.DeviceID{"d1", "d2"}) {
		t.Errorf("asked for %v", asked)
	}
	w.ok(w.seen("d1", c.ID, start))
	if h := w.holding("d1", c.ID); h.Standing != certificate.Active {
		t.Errorf("it is %s", h.Standing)
	}
	r.Allowed = nil
	if w.Certificates().Revoke(w.ctx, r) == nil {
		t.Error("revoked without asking")
	}
}

// A device that is seen all the time is not seen on what was revoked, however
// the two fall together.
func TestRevokeAgainstSeen(t *testing.T) {
	w := open(t)
	for i := range 100 {
		id := registry.DeviceID(fmt.Sprintf("d%d", i))
		c := w.register(id, string(id))
		w.ok(w.seen(id, c.ID, start))
		var both sync.WaitGroup
		both.Go(func() { _ = w.seen(id, c.ID, start.Add(time.Second)) })
		both.Go(func() { w.ok(w.Certificates().Revoke(w.ctx, revocation(c.ID))) })
		both.Wait()
		w.is(w.seen(id, c.ID, start.Add(2*time.Second)), certificate.ErrNotActive)
	}
}

func TestRevokedAreListedUntilTheyExpire(t *testing.T) {
	w := open(t)
	var want []certificate.ID
	var end time.Time
	for i := range 5 {
		c := w.register("d1", fmt.Sprint(i))
		r := revocation(c.ID)
		r.Reason = certificate.Reason(i)
		w.ok(w.Certificates().Revoke(w.ctx, r))
		want, end = append(want, c.ID), c.NotAfter
	}
	slices.Sort(want)
	list := func(at time.Time) (got []certificate.ID) {
		var after certificate.ID
		for {
			page, err := w.Certificates().Revoked(w.ctx, at, after, 2)
			w.ok(err)
			if len(page) == 0 {
				return got
			}
			for _, r := range page {
				got, after = append(got, r.ID), r.ID
				if !r.At.Equal(w.clock.Now()) || r.Serial == "" || r.Standing != certificate.Revoked {
					t.Errorf("listed %+v", r)
				}
			}
		}
	}
	w.reopen()
	if got := list(end.Add(-time.Second)); !slices.Equal(got, want) {
		t.Errorf("listed %v, want %v", got, want)
	}
	if got := list(end); len(got) > 0 {
		t.Errorf("listed %v after they have expired", got)
	}
}

// The number of a CRL only ever grows: over a restart, with a clock that was
// set back, and past an older copy of the store.
func TestNextCRL(t *testing.T) {
	w := open(t)
	next := func() int64 {
		t.Helper()
		n, err := w.NextCRL(w.ctx)
		w.ok(err)
		return n
	}
	first := next()
	if first != start.Unix() {
		t.Errorf("the first is %d", first)
	}
	if n := next(); n != first+1 {
		t.Errorf("%d comes after %d", n, first)
	}
	w.clock.add(-time.Hour)
	w.reopen()
	if n := next(); n != first+2 {
		t.Errorf("%d comes after %d", n, first+1)
	}
	w.clock.add(2 * time.Hour)
	older := open(t) // knows of none of these
	older.clock.add(time.Hour)
	n, err := older.NextCRL(w.ctx)
	w.ok(err)
	if n <= first+2 {
		t.Errorf("%d comes after %d", n, first+2)
	}
}
