package aws

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/iot"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/registry"
)

// afterRead has something happen once after AWS has answered a call, before its
// answer arrives.
func afterRead(path func(string) bool, then func()) func(*Config) {
	var once atomic.Bool
	return func(c *Config) {
		own := c.Clients.Config.Copy()
		next := own.HTTPClient.(*http.Client).Transport
		own.HTTPClient = &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			answer, err := next.RoundTrip(r)
			if r.Method == http.MethodGet && path(r.URL.Path) && once.CompareAndSwap(false, true) {
				then()
			}
			return answer, err
		})}
		c.Clients.IoT = iot.NewFromConfig(own)
	}
}

// A certificate was registered by a request that was cut off. While it is read,
// as AWS has it still, Settle deletes it: the store does not take it in, which
// would have it ACTIVE where AWS does not have it at all.
func TestReadBeforeSettleDeletes(t *testing.T) {
	for name, read := range map[string]func(*testing.T, *World){
		"by a sync": func(t *testing.T, w *World) {
			if state := w.sync(t, SyncOrder{Source: SyncAll}); state.Failed != 0 {
				t.Errorf("state %+v", state)
			}
		},
		"by a device that comes": func(t *testing.T, w *World) {
			if _, err := w.inventory.Held(t.Context(), "a"); err != nil {
				t.Error(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			fake, clock := newFake(), noon()
			var w *World
			settles := func() {
				if err := w.inventory.Settle(t.Context()); err != nil {
					t.Error(err)
				}
			}
			w = fake.open(t, clock, afterRead(func(path string) bool {
				return strings.HasPrefix(path, "/certificates/")
			}, func() { settles() }))
			fake.things = []string{"a"}
			if err := w.registry.Add(t.Context(), "a", nil); err != nil {
				t.Fatal(err)
			}
			cut := fake.hold(t, w, clock, "a")
			mark := func() {
				if err := w.inventory.marks.Begin(t.Context(), store.Mark{Certificate: cut, Device: "a"}); err != nil {
					t.Fatal(err)
				}
			}
			if name == "by a sync" {
				mark()
			} else { // who is marked when it is looked at is left alone: the request begins later
				settle := settles
				settles = func() { mark(); settle() }
			}
			read(t, w)
			want(t, "the inventory", w.holders(t), nil)
			if fake.statusOf(string(cut)) != deleted {
				t.Fatalf("AWS has it as %s: nothing was settled", fake.statusOf(string(cut)))
			}
			if held, err := w.store.Certificates().Held(t.Context(), registry.DeviceID("a")); err != nil || len(held) != 0 {
				t.Errorf("held %v, %v", held, err)
			}
			// One that comes back because somebody has it registered again is taken in.
			fake.mu.Lock()
			fake.status[string(cut)] = "ACTIVE"
			fake.principals["a"] = []string{fakeARN + "cert/" + string(cut)}
			fake.mu.Unlock()
			clock.Advance(removedKept + clockStep)
			w.sync(t, SyncOrder{Source: SyncAll, Full: true})
			want(t, "the inventory", w.holders(t), []string{held("a", cut, certificate.Active)})
		})
	}
}
