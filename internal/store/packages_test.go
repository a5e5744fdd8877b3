package store_test

import (
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

func TestPackages(t *testing.T) {
	w := open(t)
	find := func() store.Package {
		t.Helper()
		return must[store.Package](t)(w.Packages().Find(w.ctx, "d1"))
	}
	_, err := w.Packages().Find(w.ctx, "d1")
	w.is(err, store.ErrNoPackage)
	w.is(w.Packages().Spend(w.ctx, "d1", "a"), store.ErrNoPackage)
	w.ok(w.Packages().Put(w.ctx, "d1", "a"))
	second := w.clock.add(time.Second)
	w.ok(w.Packages().Put(w.ctx, "d1", "b"))
	w.clock.add(time.Second)
	w.ok(w.Packages().Put(w.ctx, "d1", "a"))
	if diff := cmp.Diff(store.Package{Device: "d1", Certificate: "b", Created: second}, find()); diff != "" {
		t.Errorf("the newest: %s", diff)
	}
	spent := w.clock.Now()
	for range 2 {
		w.ok(w.Packages().Spend(w.ctx, "d1", "b"))
		w.clock.add(time.Second)
	}
	if p := find(); p.Certificate != "a" || !p.Spent.IsZero() {
		t.Errorf("with the newest spent: %+v", p)
	}
	w.ok(w.Packages().Spend(w.ctx, "d1", "a"))
	if p := find(); p.Certificate != "b" || !p.Spent.Equal(spent) {
		t.Errorf("with all spent: %+v", p)
	}
	w.wantEvents("d1", "package.put", "package.put", "package.spent", "package.spent")
}

func TestPackagesAreListed(t *testing.T) {
	w := open(t)
	for _, id := range []registry.DeviceID{"d1", "d2", "d3"} {
		for _, c := range []certificate.ID{"a", "b"} {
			w.ok(w.Packages().Put(w.ctx, id, c))
		}
	}
	var got []registry.DeviceID
	for after := registry.DeviceID(""); ; {
		page := must[[]store.Package](t)(w.Packages().List(w.ctx, after, 3))
		if len(page) == 0 {
			break
		}
		for _, p := range page {
			got = append(got, p.Device)
		}
		after = page[len(page)-1].Device
	}
	if diff := cmp.Diff([]registry.DeviceID{"d1", "d1", "d2", "d2", "d3", "d3"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestFreezeIsDurable(t *testing.T) {
	w := open(t)
	frozen := func() rotation.Freeze { return must[rotation.Freeze](t)(w.Brakes().Frozen(w.ctx)) }
	if f := frozen(); f != (rotation.Freeze{}) {
		t.Errorf("a new store is frozen: %+v", f)
	}
	want := rotation.Freeze{Retiring: true, Why: "too many", At: start}
	set := must[rotation.Freeze](t)
	for range 2 {
		set(w.Brakes().SetFrozen(w.ctx, func(f *rotation.Freeze) { f.StopRetiring("too many", start) }))
	}
	w.kill()
	if diff := cmp.Diff(want, frozen()); diff != "" {
		t.Error(diff)
	}
	set(w.Brakes().SetFrozen(w.ctx, func(f *rotation.Freeze) { f.Release(true, true) }))
	if f := frozen(); f.Retiring || f.Vending {
		t.Errorf("after the thaw: %+v", f)
	}
	n := must[int](t)(store.Query[int](w.ctx, w.Store, `SELECT count(*) FROM audit WHERE kind IN ('freeze', 'thaw')`))
	if n != 2 {
		t.Errorf("%d events, want freeze and thaw", n)
	}
}

func TestFreezeLosesNothingThatIsStoppedBesideIt(t *testing.T) {
	w := open(t)
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			_, err := w.Brakes().SetFrozen(w.ctx, func(f *rotation.Freeze) {
				if i%2 == 0 {
					f.StopVending("by hand", start)
				} else {
					f.StopRetiring("breaker", start)
				}
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	f := must[rotation.Freeze](t)(w.Brakes().Frozen(w.ctx))
	if !f.Vending || !f.Retiring || f.VendingWhy() != "by hand" || f.RetiringWhy() != "breaker" {
		t.Errorf("frozen: %+v", f)
	}
}

func TestMeta(t *testing.T) {
	w := open(t)
	if text := must[string](t)(w.Meta(w.ctx, store.CACertificate)); text != "" {
		t.Errorf("a new store has the CA %q", text)
	}
	for range 2 {
		w.ok(w.SetMeta(w.ctx, store.CACertificate, "ca"))
	}
	w.ok(w.SetMeta(w.ctx, "other", "x"))
	w.ok(w.SetMeta(w.ctx, "gone", "x"))
	w.ok(w.SetMeta(w.ctx, "gone", ""))
	w.kill()
	if n := must[int](t)(store.Query[int](w.ctx, w.Store, `SELECT count(*) FROM meta WHERE key IN ('other', 'gone')`)); n != 1 {
		t.Errorf("%d keys, want that of the value that was kept", n)
	}
	if text := must[string](t)(w.Meta(w.ctx, store.CACertificate)); text != "ca" {
		t.Errorf("the CA is %q", text)
	}
	if n := must[int](t)(store.Query[int](w.ctx, w.Store, `SELECT count(*) FROM audit WHERE kind = 'ca.made'`)); n != 1 {
		t.Errorf("%d events of a CA made, want 1", n)
	}
}
