package store_test

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/certvendor/certvendor/certificate"
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
			runtime.Gosched() // who only reads from memory lets nobody else at it
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
	const octets, devices = 16 << 10, 80
	w.RememberLess(octets)
	for i := range devices {
		id := w.device(registry.DeviceID(fmt.Sprintf("d%d", i)))
		_, c := w.vend(id, fmt.Sprintf("k%d", i), nil)
		if d := must[registry.Device](t)(w.Devices().Device(w.ctx, id)); d.ID != id {
			t.Fatalf("%s is %s", id, d.ID)
		}
		w.holding(id, c.ID)
		w.wantStates(id, "1 vended;")
	}
	taken, of := w.Remembered()
	for i := range taken {
		if taken[i] < octets/2 || taken[i] > octets || of[i] >= devices {
			t.Errorf("%d octets of %d devices are remembered", taken[i], of[i])
		}
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

// A statement that names none of the tables that something is remembered of
// changes none of them behind its back, by a trigger or a key.
func TestNoTriggerChangesWhatIsRemembered(t *testing.T) {
	w := open(t)
	triggers, err := w.Triggers(w.ctx)
	w.ok(err)
	for _, g := range triggers {
		if !store.Touches(g.Table, g.Changes) {
			t.Errorf("trigger %s: a change of %s changes %s, of which memory does not hear", g.Name, g.Table, g.Changes)
		}
	}
	if len(triggers) < 5 || store.Touches("members", "holdings") || !store.Touches("certificates", "holdings") {
		t.Errorf("%d changes by triggers: the test shows nothing", len(triggers))
	}
}

// What a device is vended is read by it as soon as that was answered, and nobody
// who reads meanwhile sees less than before.
func TestVendsAreSeenAtOnce(t *testing.T) {
	w := open(t)
	const devices, vends = 3, 12
	shared := fake("shared")
	var vending, reading sync.WaitGroup
	stop := make(chan struct{})
	for i := range devices {
		id := registry.DeviceID(fmt.Sprintf("d%d", i))
		w.ok(w.Certificates().Register(w.ctx, id, shared))
		for range 2 {
			reading.Go(func() { watchVends(w, id, stop) })
		}
		vending.Go(func() {
			l := &life{world: w}
			for n := range vends {
				l.vendAndRead(id, shared, n)
			}
		})
	}
	vending.Wait()
	close(stop)
	reading.Wait()
	for i := range devices { // what the last change of another has forgotten is read once more
		id := registry.DeviceID(fmt.Sprintf("d%d", i))
		w.find(id)
		w.held(id)
	}
	n, err := w.CheckMemory(w.ctx)
	if err != nil || n < 2*devices {
		t.Errorf("of %d devices something is remembered: %v", n, err)
	}
}

// vendAndRead also changes what the others hold: that the certificate is shared,
// and how it stands.
func (l *life) vendAndRead(id registry.DeviceID, shared certificate.Certificate, n int) {
	c := fake(fmt.Sprintf("%s-%d", id, n))
	err := errors.Join(l.vends(id, c),
		l.seen(id, c.ID, l.clock.add(time.Second)),
		l.Certificates().Retire(l.ctx, removal(id, shared.ID, certificate.Deactivate)),
		l.Certificates().Register(l.ctx, id, shared))
	h, find := l.Journal().Find(l.ctx, id)
	held, hold := l.Certificates().Held(l.ctx, id)
	if err := errors.Join(err, find, hold); err != nil {
		l.t.Error(err)
		return
	}
	is, ok := certificate.Find(held, c.ID)
	if h.Rotations[0].Certificate != c.ID || !ok || is.LastSeen.IsZero() || len(held) != n+2 {
		l.t.Errorf("%s was vended %.8s: %+v, %+v", id, c.ID, h.Rotations[0], held)
	}
}

func watchVends(w *world, id registry.DeviceID, stop chan struct{}) {
	var vended, seen int
	for {
		select {
		case <-stop:
			return
		default:
			runtime.Gosched() // who only reads from memory lets nobody else at it
		}
		h, err := w.Journal().Find(w.ctx, id)
		held, also := w.Certificates().Held(w.ctx, id)
		nowVended, nowSeen := 0, 0
		for _, r := range h.Rotations {
			if r.State.Ready() {
				nowVended++
			}
		}
		for _, c := range held {
			if !c.LastSeen.IsZero() {
				nowSeen++
			}
		}
		if err = errors.Join(err, also); err != nil || nowVended < vended || nowSeen < seen {
			w.t.Errorf("%s: %v, %d vended after %d, %d seen after %d", id, err, nowVended, vended, nowSeen, seen)
			return
		}
		vended, seen = nowVended, nowSeen
	}
}

// Of a device with more rotations than are remembered the newest are, and the
// database is asked whether the next one fits.
func TestALongHistoryIsRememberedInPart(t *testing.T) {
	w := open(t)
	w.device("d1")
	w.ok(w.Write(w.ctx, fmt.Sprintf(`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d)
		INSERT INTO rotations SELECT 'd1', i, iif(i = 2, 'vended', 'superseded'), 0, 'k' || i, '', '', '', '', '', '', '', 0, '',
			0, 0, 0, 0, 0, '', 0, 1, 0, 0, '', 0 FROM n`, rotation.HistoryLimit+1)))
	for n := range 3 {
		h := w.find("d1")
		if next := int64(rotation.HistoryLimit + 2 + n); h.Next() != next || len(h.Rotations) != rotation.HistoryLimit {
			t.Fatalf("%d rotations, the next is %d, want %d", len(h.Rotations), h.Next(), next)
		}
		next := w.intended("d1", "new")
		_, err := w.Journal().Open(w.ctx, next, nil)
		w.is(err, rotation.ErrChanged) // the open one is too old to be remembered
		next.Number = 1
		_, err = w.Journal().Open(w.ctx, next, nil)
		w.is(err, rotation.ErrChanged)
		w.ok(w.Write(w.ctx, `UPDATE rotations SET state = 'superseded' WHERE number = 2`))
		r, _ := w.vend("d1", fmt.Sprint("new", n), nil)
		r.State, r.ClosedAt = rotation.Superseded, w.clock.Now()
		w.advance(rotation.Change{Rotation: r})
		if n, err := w.CheckMemory(w.ctx); err != nil || n == 0 {
			t.Fatal(n, err)
		}
		w.ok(w.Write(w.ctx, `UPDATE rotations SET state = 'vended' WHERE number = 2`))
	}
}

func TestRememberedAttributesAreThoseOfTheStore(t *testing.T) {
	w := open(t)
	w.ok(w.Devices().Add(w.ctx, "d1", map[string]string{"first": "1", "second": "2"}))
	for _, change := range []map[string]string{
		{"first": "one"}, {"second": "", "third": "ü\n"}, {"torn": "a\xffb"}, {"torn": "", "zero": "a\x00b"},
		{"zero": "", "first": "", "third": ""}, {"none": ""}, {"last": "z"},
	} {
		must[registry.Device](t)(w.Devices().Device(w.ctx, "d1")) // is remembered
		w.ok(w.Devices().SetAttributes(w.ctx, "d1", change))
		got := must[registry.Device](t)(w.Devices().Device(w.ctx, "d1"))
		listed := must[[]registry.Device](t)(w.Devices().List(w.ctx, registry.Query{}))
		if diff := cmp.Diff(listed[0], got); diff != "" {
			t.Errorf("after %q: %s", change, diff)
		}
	}
}
