package store_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

// Whatever is read after a change was answered shows it, however many read the
// same device meanwhile; and nobody sees less than was seen before.
func TestReadsAreNeverOlderThanTheCommit(t *testing.T) {
	w := open(t)
	const devices, changes = 4, 150
	stop := make(chan struct{})
	var reading, writing sync.WaitGroup
	for i := range devices {
		id := registry.DeviceID(fmt.Sprintf("d%d", i))
		w.ok(w.Devices().Add(w.ctx, id, map[string]string{"n": "0000"}))
		for range 2 {
			reading.Go(func() { watch(w, id, stop) })
		}
		writing.Go(func() {
			for n := range changes {
				changeAndRead(w, id, n+1)
			}
		})
	}
	writing.Wait()
	close(stop)
	reading.Wait()
}

// watch reads a device until it is told to stop.
func watch(w *world, id registry.DeviceID, stop chan struct{}) {
	last := ""
	for {
		select {
		case <-stop:
			return
		default:
		}
		d, err := w.Devices().Device(w.ctx, id)
		if err != nil || d.Attributes["n"] < last {
			w.t.Errorf("%s: %v, %v after %s", id, d, err, last)
			return
		}
		last = d.Attributes["n"]
		d.Attributes["n"] = "what a caller does with it is its own"
	}
}

func changeAndRead(w *world, id registry.DeviceID, n int) {
	want := fmt.Sprintf("%04d", n)
	if err := w.Devices().SetAttributes(w.ctx, id, map[string]string{"n": want}); err != nil {
		w.t.Error(err)
	}
	if err := w.Devices().Block(w.ctx, id, n%2 == 0); err != nil {
		w.t.Error(err)
	}
	d, err := w.Devices().Device(w.ctx, id)
	if err != nil || d.Attributes["n"] != want || d.Blocked != (n%2 == 0) {
		w.t.Errorf("%s: %+v, %v after %s was written", id, d, err, want)
	}
}

func TestWhatIsRememberedFollowsEveryChange(t *testing.T) {
	w := open(t)
	is := func(want string) {
		t.Helper()
		for range 2 { // read, and remembered
			d, err := w.Devices().Device(w.ctx, "d1")
			if got := fmt.Sprint(d.Attributes, d.Blocked); err != nil || got != want {
				t.Errorf("%s, %v; want %s", got, err, want)
			}
		}
	}
	unknown := func() {
		t.Helper()
		for range 2 {
			if _, err := w.Devices().Device(w.ctx, "d1"); !errors.Is(err, registry.ErrUnknown) {
				t.Errorf("%v, want %v", err, registry.ErrUnknown)
			}
		}
	}
	unknown()
	w.ok(w.Devices().Add(w.ctx, "d1", map[string]string{"a": "1"}))
	is("map[a:1] false")
	w.ok(w.Write(w.ctx, `UPDATE attributes SET value = '2'`)) // as no operation does
	is("map[a:2] false")
	w.ok(w.Write(w.ctx, `UPDATE devices SET blocked = 1`))
	is("map[a:2] true")
	if err := w.Carry(w.ctx, `UPDATE devices SET blocked = 0`, func() error { return errors.New("rolled back") }); err == nil {
		t.Error("no error")
	}
	is("map[a:2] true")
	w.ok(w.Devices().Remove(w.ctx, "d1"))
	unknown()
	w.ok(w.Devices().Add(w.ctx, "d1", nil))
	is("map[] false")
}

func TestManyDevicesAreNotAllRemembered(t *testing.T) {
	w := open(t)
	w.ok(w.Write(w.ctx, fmt.Sprintf(`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d)
		INSERT INTO devices SELECT 'd' || i, 0, 0 FROM n`, 2*store.RememberedDevices)))
	for i := range 2 * store.RememberedDevices {
		id := registry.DeviceID(fmt.Sprintf("d%d", i+1))
		if d := must[registry.Device](t)(w.Devices().Device(w.ctx, id)); d.ID != id {
			t.Fatalf("%s is %s", id, d.ID)
		}
	}
	if n := w.Remembered(); n != store.RememberedDevices {
		t.Errorf("%d are remembered, want %d", n, store.RememberedDevices)
	}
}

func TestFreezeIsSeenAtOnce(t *testing.T) {
	w := open(t)
	for _, stop := range []bool{true, false, true} {
		if f := must[rotation.Freeze](t)(w.Brakes().SetFrozen(w.ctx, func(f *rotation.Freeze) { f.Vending = stop })); f.Vending != stop {
			t.Errorf("%+v", f)
		}
		for range 2 {
			if f := must[rotation.Freeze](t)(w.Brakes().Frozen(w.ctx)); f.Vending != stop {
				t.Errorf("%+v, want %t", f, stop)
			}
		}
	}
	w.ok(w.Close())
	if _, err := w.Brakes().Frozen(w.ctx); !errors.Is(err, store.ErrClosed) {
		t.Errorf("%v, want %v", err, store.ErrClosed)
	}
}
