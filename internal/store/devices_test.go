package store_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/certvendor/certvendor/registry"
)

func TestDeviceIsAddedOnce(t *testing.T) {
	w := open(t)
	w.ok(w.Devices().Add(w.ctx, "d1", map[string]string{"site": "A", "empty": ""}))
	w.clock.add(time.Hour)
	w.ok(w.Devices().Add(w.ctx, "d1", map[string]string{"site": "B"}))
	got := must[registry.Device](t)(w.Devices().Device(w.ctx, "d1"))
	want := registry.Device{ID: "d1", Attributes: map[string]string{"site": "A"}, Added: start}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	w.wantEvents("d1", "device.added")
}

func TestUnknownDevice(t *testing.T) {
	w := open(t)
	_, err := w.Devices().Device(w.ctx, "d1")
	for name, err := range map[string]error{
		"Device":        err,
		"SetAttributes": w.Devices().SetAttributes(w.ctx, "d1", map[string]string{"a": "b"}),
		"Remove":        w.Devices().Remove(w.ctx, "d1"),
		"Block":         w.Devices().Block(w.ctx, "d1", true),
	} {
		if !errors.Is(err, registry.ErrUnknown) {
			t.Errorf("%s: got %v, want ErrUnknown", name, err)
		}
	}
}

func TestAttributesAreMerged(t *testing.T) {
	w := open(t)
	w.ok(w.Devices().Add(w.ctx, "d1", map[string]string{"keep": "1", "change": "2", "drop": "3"}))
	for range 2 {
		w.ok(w.Devices().SetAttributes(w.ctx, "d1", map[string]string{"change": "x", "drop": "", "new": "ü\n"}))
	}
	got := must[registry.Device](t)(w.Devices().Device(w.ctx, "d1")).Attributes
	if diff := cmp.Diff(map[string]string{"keep": "1", "change": "x", "new": "ü\n"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestBlockAndUnblock(t *testing.T) {
	w := open(t)
	w.device("d1")
	for _, blocked := range []bool{true, true, false, false} {
		w.ok(w.Devices().Block(w.ctx, "d1", blocked))
		if got := must[registry.Device](t)(w.Devices().Device(w.ctx, "d1")).Blocked; got != blocked {
			t.Errorf("blocked is %v, want %v", got, blocked)
		}
	}
	w.wantEvents("d1", "device.added", "device.blocked", "device.unblocked")
}

func TestRemovedDeviceLeavesItsCertificatesOnRecord(t *testing.T) {
	w := open(t)
	w.ok(w.Devices().Add(w.ctx, "d1", map[string]string{"site": "A"}))
	c := w.register("d1", "first")
	w.ok(w.Group().Add(w.ctx, "d1"))
	w.ok(w.Devices().Remove(w.ctx, "d1"))
	if members, err := w.Group().Members(w.ctx, "", 0); err != nil || len(members) != 0 {
		t.Errorf("members %v, %v: want none", members, err)
	}
	w.device("d1")
	if got := must[registry.Device](t)(w.Devices().Device(w.ctx, "d1")); len(got.Attributes) != 0 {
		t.Errorf("old attributes came back: %v", got.Attributes)
	}
	w.holding("d1", c.ID)
	w.wantEvents("d1", "device.added", "certificate.registered", "group.added",
		"group.removed", "device.removed", "device.added")
}

func TestDevicesAreListedByPage(t *testing.T) {
	w := open(t)
	for i := range 25 {
		w.ok(w.Devices().Add(w.ctx, registry.DeviceID(fmt.Sprintf("d%02d", i)), map[string]string{
			"even": fmt.Sprint(i%2 == 0), "third": fmt.Sprint(i%3 == 0),
		}))
	}
	for name, c := range map[string]struct {
		attributes map[string]string
		want       int
	}{
		"all":            {nil, 25},
		"one attribute":  {map[string]string{"even": "true"}, 13},
		"two attributes": {map[string]string{"even": "true", "third": "true"}, 5},
		"no such value":  {map[string]string{"even": "maybe"}, 0},
		"no such name":   {map[string]string{"odd": "true"}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			var all []registry.DeviceID
			query := registry.Query{Attributes: c.attributes, Limit: 4}
			for {
				page := must[[]registry.Device](t)(w.Devices().List(w.ctx, query))
				if len(page) > 4 {
					t.Fatalf("a page of %d", len(page))
				}
				if len(page) == 0 {
					break
				}
				for _, d := range page {
					if len(all) > 0 && d.ID <= all[len(all)-1] {
						t.Fatalf("%s after %s", d.ID, all[len(all)-1])
					}
					all = append(all, d.ID)
				}
				query.After = all[len(all)-1]
			}
			if len(all) != c.want {
				t.Errorf("got %d devices, want %d", len(all), c.want)
			}
		})
	}
}
