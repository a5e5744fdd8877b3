package aws

import (
	"errors"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/iot"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/vending"
)

// beforeStatus has something happen when AWS is told how a certificate is to
// stand, before AWS hears it; whatever happens in there tells AWS of its own.
func beforeStatus(then func()) func(*Config) {
	var within atomic.Bool
	return func(c *Config) {
		own := c.Clients.Config.Copy()
		next := own.HTTPClient.(*http.Client).Transport
		own.HTTPClient = &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			if r.Method == http.MethodPut && r.URL.Query().Get("newStatus") != "" && within.CompareAndSwap(false, true) {
				then()
				within.Store(false)
			}
			return next.RoundTrip(r)
		})}
		c.Clients.IoT = iot.NewFromConfig(own)
	}
}

// Settle and Retire tell AWS of one certificate in some order, whichever comes
// into the other: AWS has it in the end as the store has it, and never as it was
// before.
func TestSettleAndRetireInOrder(t *testing.T) {
	retire := func(t *testing.T, w *World, id certificate.ID) error {
		return w.inventory.Retire(t.Context(), certificate.Removal{
			Device: "a", Certificate: id, Mode: certificate.Deactivate, Allowed: func([]certificate.Holding) error { return nil },
		})
	}
	for name, one := range map[string]struct {
		outer, inner func(*testing.T, *World, certificate.ID) error
		innerIsLater bool
	}{
		"a removal comes while Settle is at work": {func(t *testing.T, w *World, _ certificate.ID) error { return w.inventory.Settle(t.Context()) }, retire, true},
		"Settle comes while a removal is at work": {retire, func(t *testing.T, w *World, _ certificate.ID) error { return w.inventory.Settle(t.Context()) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			fake, clock := newFake(), noon()
			var w *World
			var id certificate.ID
			come := func() {}
			w = fake.open(t, clock, beforeStatus(func() { come() }))
			fake.things = []string{"a"}
			if err := w.registry.Add(t.Context(), "a", nil); err != nil {
				t.Fatal(err)
			}
			id = fake.hold(t, w, clock, "a")
			if held, err := w.inventory.Held(t.Context(), "a"); err != nil || len(held) != 1 {
				t.Fatalf("held %v, %v", held, err)
			}
			end, err := w.inventory.begin(t.Context(), "a", id) // of a request that was cut off
			if err := errors.Join(err, end(false)); err != nil {
				t.Fatal(err)
			}
			came, standing := 0, certificate.Active
			come = func() {
				came++
				err := one.inner(t, w, id)
				if later := (*vending.Error)(nil); one.innerIsLater != (errors.As(err, &later) && later.Reason == "TRY_AGAIN_LATER") {
					t.Errorf("what came in between was told %v", err)
				}
				at, err := w.inventory.rows.Place(t.Context(), registry.DeviceID("a"), id)
				if err != nil {
					t.Error(err)
				}
				standing = at.Standing
			}
			if err := one.outer(t, w, id); err != nil || came != 1 {
				t.Fatalf("nothing came in between, %d, or %v", came, err)
			}
			if told := fake.statusOf(string(id)); told != string(standing) {
				t.Errorf("AWS has it %s, the store had it %s", told, standing)
			}
			come = func() {}
			if one.innerIsLater { // it comes again
				if err := retire(t, w, id); err != nil {
					t.Fatal(err)
				}
			}
			marked, err := w.inventory.marks.Has(t.Context(), id)
			if err != nil || marked || fake.statusOf(string(id)) != "INACTIVE" {
				t.Errorf("in the end AWS has it %s; still marked: %t, %v", fake.statusOf(string(id)), marked, err)
			}
		})
	}
}
