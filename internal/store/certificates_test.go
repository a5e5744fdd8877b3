package store_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/registry"
)

func TestCertificateIsKeptAsItIs(t *testing.T) {
	w := open(t)
	never := time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC) // RFC 5280, 4.1.2.5
	for name, notAfter := range map[string]time.Time{"ends": start.Truncate(time.Second).AddDate(3, 0, 0), "never ends": never} {
		t.Run(name, func(t *testing.T) {
			id := registry.DeviceID(name[:3])
			c := real(t, name, notAfter)
			c.Kind, c.Policies = certificate.Birth, []string{"a", "b"}
			w.ok(w.Certificates().Register(w.ctx, id, c))
			c.Standing, c.Created = certificate.Active, start // the defaults
			want := []certificate.Holding{{Certificate: c, Device: id, Attached: start}}
			if diff := cmp.Diff(want, w.held(id)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestRegisterTwice(t *testing.T) {
	w := open(t)
	c := w.register("d1", "c1")
	w.ok(w.Certificates().Retire(w.ctx, removal("d1", c.ID, certificate.Deactivate)))
	w.clock.add(time.Hour)
	w.ok(w.Certificates().Register(w.ctx, "d1", c))
	h := w.holding("d1", c.ID)
	if h.Standing != certificate.Inactive || !h.Attached.Equal(start) {
		t.Errorf("registering again brought back %+v", h)
	}
}

func TestRegisterAfterDeletion(t *testing.T) {
	w := open(t)
	c := w.register("d1", "c1")
	w.ok(w.seen("d1", c.ID, start))
	w.ok(w.Certificates().Retire(w.ctx, removal("d1", c.ID, certificate.Delete)))
	w.ok(w.Certificates().Register(w.ctx, "d1", c))
	if h := w.holding("d1", c.ID); h.Standing != certificate.Active {
		t.Errorf("standing %s", h.Standing)
	}
}

func TestDeactivatedCertificateStaysSoForAnotherDevice(t *testing.T) {
	w := open(t)
	c := w.register("d1", "c1")
	w.ok(w.Certificates().Retire(w.ctx, removal("d1", c.ID, certificate.Deactivate)))
	w.ok(w.Certificates().Register(w.ctx, "d2", c))
	if h := w.holding("d2", c.ID); h.Standing != certificate.Inactive {
		t.Errorf("standing %s", h.Standing)
	}
}

func TestInactiveUntilActivated(t *testing.T) {
	w := open(t)
	c := fake("package")
	c.Standing, c.Kind = certificate.Inactive, certificate.Packaged
	w.is(w.Certificates().Activate(w.ctx, "d1", c.ID), certificate.ErrNotHeld)
	w.ok(w.Certificates().Register(w.ctx, "d1", c))
	w.is(w.seen("d1", c.ID, start), certificate.ErrNotActive)
	w.is(w.Certificates().Activate(w.ctx, "d2", c.ID), certificate.ErrNotHeld)
	for range 2 {
		w.ok(w.Certificates().Activate(w.ctx, "d1", c.ID))
	}
	w.ok(w.seen("d1", c.ID, start))
	w.wantEvents("d1", "certificate.registered", "certificate.activated")
}

func TestSharedCertificate(t *testing.T) {
	w := open(t)
	c := w.register("d1", "shared")
	if w.holding("d1", c.ID).Shared {
		t.Error("shared with nobody")
	}
	w.ok(w.Certificates().Register(w.ctx, "d2", c))
	for _, id := range []registry.DeviceID{"d1", "d2"} {
		if !w.holding(id, c.ID).Shared {
			t.Errorf("%s shares it with another", id)
		}
	}
	w.wantEvents("d2", "certificate.attached")
}

func TestHeldIsOldestFirst(t *testing.T) {
	w := open(t)
	var want []certificate.ID
	for i := range 5 {
		want = append(want, w.register("d1", fmt.Sprint(i)).ID)
		w.clock.add(time.Second)
	}
	var got []certificate.ID
	for _, h := range w.held("d1") {
		got = append(got, h.ID)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func (w *world) listed(query certificate.Query) []certificate.Holding {
	w.t.Helper()
	var all []certificate.Holding
	for {
		page := must[[]certificate.Holding](w.t)(w.Certificates().List(w.ctx, query))
		if len(page) == 0 {
			return all
		}
		if len(all) > 0 && !follows(query, page[0], all[len(all)-1]) {
			w.t.Fatal("a page begins before the one before it ends")
		}
		all = append(all, page...)
		query.After = page[len(page)-1].ID
	}
}

// follows reports whether one certificate comes after another in a list.
func follows(query certificate.Query, c, before certificate.Holding) bool {
	if !query.ExpiresBy.IsZero() && !c.NotAfter.Equal(before.NotAfter) {
		return c.NotAfter.After(before.NotAfter)
	}
	return c.ID > before.ID
}

func TestCertificatesAreListed(t *testing.T) {
	w := open(t)
	w.ok(w.Devices().Add(w.ctx, "d1", map[string]string{"site": "A", "line": "1"}))
	w.ok(w.Devices().Add(w.ctx, "d2", map[string]string{"site": "A"}))
	shared := w.register("d1", "shared")
	w.ok(w.Certificates().Register(w.ctx, "d2", shared))
	w.ok(w.Certificates().Register(w.ctx, "d3", shared))
	other := fake("other")
	other.Issuer, other.NotAfter = "CN=foreign", other.NotAfter.AddDate(-2, 0, 0)
	w.ok(w.Certificates().Register(w.ctx, "d1", other))
	gone := w.register("d2", "gone")
	w.ok(w.Certificates().Retire(w.ctx, removal("d2", gone.ID, certificate.Delete)))

	for name, c := range map[string]struct {
		query certificate.Query
		want  []string // device/certificate
	}{
		"all":        {certificate.Query{}, []string{"/gone", "d1/other", "d1/shared", "d2/shared", "d3/shared"}},
		"device":     {certificate.Query{Device: "d1"}, []string{"d1/other", "d1/shared"}},
		"key":        {certificate.Query{Key: gone.Key}, []string{"/gone"}},
		"standing":   {certificate.Query{Standing: certificate.Active}, []string{"d1/other", "d1/shared", "d2/shared", "d3/shared"}},
		"deleted":    {certificate.Query{Standing: certificate.Deleted}, []string{"/gone"}},
		"issuer":     {certificate.Query{Issuer: "CN=foreign"}, []string{"d1/other"}},
		"expires":    {certificate.Query{ExpiresBy: other.NotAfter}, []string{"d1/other"}},
		"all expire": {certificate.Query{ExpiresBy: shared.NotAfter}, []string{"/gone", "d1/other", "d1/shared", "d2/shared", "d3/shared"}},
		"not yet":    {certificate.Query{ExpiresBy: other.NotAfter.Add(-time.Second)}, nil},
		"attribute":  {certificate.Query{Attributes: map[string]string{"site": "A"}}, []string{"d1/other", "d1/shared", "d2/shared"}},
		"attributes": {certificate.Query{Attributes: map[string]string{"site": "A", "line": "1"}}, []string{"d1/other", "d1/shared"}},
		"several":    {certificate.Query{Device: "d1", Issuer: "CN=issuing"}, []string{"d1/shared"}},
	} {
		for _, limit := range []int{0, 1, 2, 3} {
			t.Run(fmt.Sprintf("%s by %d", name, limit), func(t *testing.T) {
				w := &world{Store: w.Store, t: t, ctx: w.ctx}
				c.query.Limit = limit
				got := map[string]bool{}
				for _, h := range w.listed(c.query) {
					got[string(h.Device)+"/"+h.Subject[3:]] = true
				}
				want := map[string]bool{}
				for _, name := range c.want {
					want[name] = true
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Error(diff)
				}
			})
		}
	}
}

func TestAllHoldingsOfACertificateComeInOnePage(t *testing.T) {
	w := open(t)
	c := fake("shared")
	for i := range 7 {
		w.ok(w.Certificates().Register(w.ctx, registry.DeviceID(fmt.Sprintf("d%d", i)), c))
	}
	if page := must[[]certificate.Holding](t)(w.Certificates().List(w.ctx, certificate.Query{Limit: 3})); len(page) != 7 {
		t.Errorf("a page with %d of 7 holdings", len(page))
	}
}
