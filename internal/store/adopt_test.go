package store_test

import (
	"testing"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/registry"
)

// lost is a restore that may have lost the last hour.
var lost = store.Restoration{At: start, Since: start.Add(-time.Hour)}

func (w *world) adopt(id registry.DeviceID, c certificate.Certificate) bool {
	w.t.Helper()
	return must[bool](w.t)(w.Certificates().Adopt(w.ctx, id, c, lost))
}

func begins(t *testing.T, name string, at time.Time) certificate.Certificate {
	c := real(t, name, start.AddDate(1, 0, 0))
	c.NotBefore = at
	return c
}

func TestAdoptWhatWasLost(t *testing.T) {
	w := open(t)
	w.device("d1")
	c := begins(t, "lost", start.Add(-time.Minute))
	if _, err := w.Certificates().Adopt(w.ctx, "stranger", c, lost); err == nil {
		t.Error("a certificate of a device that is not known was adopted")
	}
	if !w.adopt("d1", c) || w.adopt("d1", c) {
		t.Error("not adopted once, and once only")
	}
	if h := w.holding("d1", c.ID); h.Standing != certificate.Active || h.Kind != certificate.Adopted {
		t.Errorf("%s %s", h.Standing, h.Kind)
	}
	w.wantEvents("d1", "device.added", "certificate.registered", "certificate.adopted")
}

func TestAdoptNothingElse(t *testing.T) {
	w := open(t)
	w.device("d1")
	retired := begins(t, "retired", start.Add(-time.Minute))
	w.ok(w.Certificates().Register(w.ctx, "d1", retired))
	w.ok(w.Certificates().Retire(w.ctx, removal("d1", retired.ID, certificate.Deactivate)))
	foreign := begins(t, "another device's", start.Add(-time.Minute))
	w.ok(w.Certificates().Register(w.ctx, "d2", foreign))
	for name, c := range map[string]certificate.Certificate{
		"retired": retired, "another device's": foreign,
		"issued before what was lost": begins(t, "before", start.Add(-2*time.Hour)),
		"issued after the restore":    begins(t, "after", start.Add(time.Hour)),
	} {
		if w.adopt("d1", c) {
			t.Errorf("%s: adopted", name)
		}
	}
	if h := w.holding("d1", retired.ID); h.Standing != certificate.Inactive {
		t.Errorf("retired, and %s", h.Standing)
	}
}

// TestAdoptAPackage shows that a package which waits on record and is in use was
// fetched in the time that was lost, and that one which was used stays retired.
func TestAdoptAPackage(t *testing.T) {
	w := open(t)
	w.device("d1")
	packaged := func(name string) certificate.Certificate {
		c := begins(t, name, start.AddDate(0, -1, 0))
		c.Kind, c.Standing = certificate.Packaged, certificate.Inactive
		w.ok(w.Certificates().Register(w.ctx, "d1", c))
		w.ok(w.Packages().Put(w.ctx, "d1", c.ID))
		return c
	}
	spent, waiting := packaged("spent"), packaged("waiting")
	w.ok(w.Packages().Spend(w.ctx, "d1", spent.ID))
	if w.adopt("d1", spent) || w.holding("d1", spent.ID).Standing != certificate.Inactive {
		t.Error("a package that was used, or replaced, came back")
	}
	if !w.adopt("d1", waiting) || w.holding("d1", waiting.ID).Standing != certificate.Active {
		t.Error("a package that was fetched is not active")
	}
}
