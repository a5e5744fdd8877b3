package aws

import (
	"context"
	"errors"
	"testing"

	"github.com/certvendor/certvendor/registry"
)

// removing is a source that is asked about a device, and while it answers a
// person removes that device.
type removing struct {
	source
	meanwhile func(registry.DeviceID)
}

func (r removing) look(ctx context.Context, id registry.DeviceID) (map[string]string, error) {
	attributes, err := r.source.look(ctx, id)
	r.meanwhile(id)
	return attributes, err
}

func (r removing) write(ctx context.Context, id registry.DeviceID, attributes map[string]string) error {
	err := r.source.write(ctx, id, attributes)
	r.meanwhile(id)
	return err
}

// TestRemovedMeanwhile: who was about to enter a device that a person removes
// does not bring it back, wherever it was when that happened.
func TestRemovedMeanwhile(t *testing.T) {
	for name, enters := range map[string]func(context.Context, *Registry) error{
		"a sync that has looked before": func(ctx context.Context, r *Registry) error {
			_, err := r.row(ctx, "a", map[string]string{"site": "here"})
			return err
		},
		"a request": func(ctx context.Context, r *Registry) error { _, err := r.Device(ctx, "a"); return err },
		"attributes": func(ctx context.Context, r *Registry) error {
			return r.SetAttributes(ctx, "a", map[string]string{"site": "there"})
		},
	} {
		t.Run(name, func(t *testing.T) {
			fake := newFake()
			w := fake.open(t, noon())
			if err := w.registry.Add(t.Context(), "a", nil); err != nil {
				t.Fatal(err)
			}
			asked, removed := w.registry.source, false
			remove := func(id registry.DeviceID) {
				if removed {
					return
				}
				removed, w.registry.source = true, asked
				if err := w.registry.Remove(context.WithoutCancel(t.Context()), id); err != nil {
					t.Error(err)
				}
			}
			w.registry.source = removing{asked, remove}
			w.registry.known.forget("a")
			if name == "a sync that has looked before" {
				remove("a")
			}
			if err := enters(t.Context(), w.registry); !errors.Is(err, registry.ErrUnknown) || !removed {
				t.Errorf("got %v", err)
			}
			if devices, err := w.registry.List(t.Context(), registry.Query{}); err != nil || len(devices) != 0 {
				t.Errorf("it is back: %v, %v", devices, err)
			}
			if err := w.registry.Add(t.Context(), "a", nil); err != nil { // as a person may
				t.Fatal(err)
			}
			if _, err := w.registry.Device(t.Context(), "a"); err != nil {
				t.Error(err)
			}
		})
	}
}
