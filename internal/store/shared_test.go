package store_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/internal/store/storetest"
	"github.com/certvendor/certvendor/registry"
)

// holdAgainstCopy has a copy carry out all that the test's store has recorded,
// and fails the test if any row of any table is another, or is remembered
// otherwise. Every test of this package is held so, and with them every operation
// that the store has.
func (w *world) holdAgainstCopy() {
	if w.shadow == nil || w.t.Failed() {
		return
	}
	ctx := context.Background()
	if _, err := w.CheckMemory(ctx); !errors.Is(err, store.ErrClosed) {
		w.ok(err)
	}
	w.ok(w.Close())
	copied := w.share("copy", w.shadow)
	copied.follow(ctx)
	copied.ok(copied.Close())
	w.sameAs(ctx, copied.cfg.Path)
}

// alone has the test go on with a store that has no copies.
func (w *world) alone() {
	w.t.Helper()
	w.shadow, w.cfg.Log = nil, nil
	w.reopen()
}

// share opens a copy of the store that a log is of.
func (w *world) share(instance string, log store.Log) *world {
	w.t.Helper()
	ctx := context.Background() // also when the test is at its end
	c := &world{t: w.t, ctx: ctx, clock: w.clock, cfg: store.Config{
		Path: filepath.Join(w.t.TempDir(), "store.db"), Instance: instance, Now: w.clock.Now, Log: log, LogName: "shadow",
	}}
	latest, err := log.Latest(ctx)
	w.ok(err)
	if latest.Log == "" { // it begins with this one, which is quicker than making one
		w.ok(os.WriteFile(c.cfg.Path, fresh(), 0o600))
	}
	c.open()
	w.t.Cleanup(func() { c.Close() })
	return c
}

func (w *world) follow(ctx context.Context) {
	w.t.Helper()
	_, err := w.Follow(ctx)
	w.ok(err)
}

// sameAs holds the store, which is closed, against another file.
func (w *world) sameAs(ctx context.Context, path string) {
	w.t.Helper()
	is, err := storetest.Dump(ctx, w.cfg.Path)
	w.ok(err)
	copied, err := storetest.Dump(ctx, path)
	w.ok(err)
	for i := range max(len(is), len(copied)) {
		switch {
		case i >= len(is):
			w.t.Fatalf("the copy has %s besides", copied[i])
		case i >= len(copied):
			w.t.Fatalf("the copy lacks %s", is[i])
		case is[i] != copied[i]:
			w.t.Fatalf("the store has\n%s\nthe copy has\n%s", is[i], copied[i])
		}
	}
}

// pair returns a log, and two copies of its store: the first leads.
func pair(t *testing.T) (*storetest.Log, *world, *world) {
	t.Helper()
	log := &storetest.Log{}
	root := &world{t: t, ctx: t.Context(), clock: &clock{now: start}}
	one := root.share("one", log)
	one.ok(one.Lead(one.ctx, 1))
	return log, one, root.share("two", log)
}

func TestOnlyTheLeaderWrites(t *testing.T) {
	_, one, two := pair(t)
	one.device("d1")
	two.is(two.Devices().Add(two.ctx, "d2", nil), store.ErrFollows)
	two.follow(two.ctx)
	if _, err := two.Devices().Device(two.ctx, "d1"); err != nil {
		t.Errorf("what the leader has written is not read where it is followed: %v", err)
	}
	if at := two.Shared(); at.Leads || at.Seq != one.Shared().Seq {
		t.Errorf("it is at %+v", at)
	}
	one.ok(one.Devices().Block(one.ctx, "d1", true))
	two.follow(two.ctx)
	if d, err := two.Devices().Device(two.ctx, "d1"); err != nil || !d.Blocked {
		t.Errorf("the copy remembers %+v, %v, which the leader has blocked since", d, err)
	}
}

func TestTheOldLeaderIsFencedOff(t *testing.T) {
	log := &storetest.Log{}
	root := &world{t: t, ctx: t.Context(), clock: &clock{now: start}}
	lost := make(chan error, 1)
	one, two := root.share("one", log), root.share("two", log)
	one.ok(one.Close())
	one.cfg.Lost = func(err error) { lost <- err }
	one.open()
	one.ok(one.Lead(one.ctx, 1))
	one.device("d1")
	two.is(two.Lead(two.ctx, 2), store.ErrBehind) // it is from before the log
	two.reopen()
	two.ok(two.Lead(two.ctx, 2))
	two.device("d2")

	err := one.Devices().Add(one.ctx, "d3", nil)
	one.is(err, store.ErrLost)
	one.is(err, store.ErrTaken)
	one.is(<-lost, store.ErrLost)
	if err := one.Devices().Add(one.ctx, "d4", nil); err == nil {
		t.Error("it writes still")
	}
	one.ok(one.Close())
	one.cfg.Lost = nil
	one.open() // as a restart does
	one.follow(one.ctx)
	one.ok(one.Close())
	two.ok(two.Close())
	two.sameAs(two.ctx, one.cfg.Path)
	for _, e := range log.Entries() {
		if e.Epoch == 1 && e.Seq > 2 {
			t.Errorf("entry %d is of the old leader", e.Seq)
		}
	}
}

// A leader dies at every point of every commit of a device's life. Another goes
// on with what is in the log, and the first one joins again with its own disk.
func TestKilledAtEveryPointAnotherGoesOn(t *testing.T) {
	for n, died := 1, true; died; n++ {
		log, one, two := pair(t)
		points := 0
		died = false
		one.OnPoint(func(string) error {
			if points++; points != n {
				return nil
			}
			died = true
			return errKilled
		})
		err := one.life()
		if died != errors.Is(err, errKilled) {
			t.Fatalf("killed at point %d: the life ends with %v", n, err)
		}
		one.Close() //nolint:errcheck // it was killed
		two.ok(two.Lead(two.ctx, 2))
		if err := two.life(); err != nil {
			t.Fatalf("killed at point %d, the next life: %v", n, err)
		}
		two.sound()
		two.lived(n)
		one.OnPoint(nil)
		one.open()
		one.follow(one.ctx)
		one.ok(one.Close())
		two.ok(two.Close())
		two.sameAs(two.ctx, one.cfg.Path)
		if seq := log.Entries(); !inOrder(seq) {
			t.Errorf("killed at point %d: the log has a gap", n)
		}
	}
}

func inOrder(entries []store.Entry) bool {
	for i, e := range entries {
		if e.Seq != entries[0].Seq+int64(i) {
			return false
		}
	}
	return true
}

// Whether a commit is recorded cannot be told: it is not made here, and is found
// in the log by the next start.
func TestAnEntryWithoutAnAnswer(t *testing.T) {
	log, one, two := pair(t)
	unknown := errors.New("no answer")
	log.Behind = func(store.Entry) error { return unknown }
	err := one.Devices().Add(one.ctx, "d1", nil)
	one.is(err, store.ErrLost)
	one.is(err, unknown)
	if _, err := one.Devices().Device(one.ctx, "d1"); !errors.Is(err, registry.ErrUnknown) {
		t.Errorf("it is committed before it was known that it is recorded: %v", err)
	}
	log.Behind = nil
	two.ok(two.Lead(two.ctx, 2))
	if _, err := two.Devices().Device(two.ctx, "d1"); err != nil {
		t.Errorf("what was recorded is lost: %v", err)
	}
}

func TestANewCopyBeginsWithTheSnapshot(t *testing.T) {
	log, one, behind := pair(t)
	for _, id := range []registry.DeviceID{"d1", "d2"} {
		one.device(id)
		one.ok(one.Snapshot(one.ctx))
	}
	one.device("d3")
	one.is(one.Snapshot(one.ctx), nil)
	one.is(one.Snapshot(one.ctx), store.ErrTaken)
	one.device("d4")
	if first := log.Entries()[0].Seq; first != 4 {
		t.Errorf("entry %d is the first that is left, and 3 is in two snapshots", first)
	}
	_, err := behind.Follow(behind.ctx)
	behind.is(err, store.ErrBehind)
	behind.reopen() // as a restart does
	behind.follow(behind.ctx)
	fresh := behind.share("three", log)
	fresh.follow(fresh.ctx)
	one.ok(one.Close())
	for _, c := range []*world{behind, fresh} {
		c.ok(c.Close())
		one.sameAs(one.ctx, c.cfg.Path)
	}
}

func TestSnapshotsAreDueByWhatWasRecorded(t *testing.T) {
	_, one, _ := pair(t)
	one.ok(one.Close())
	one.cfg.SnapshotAfter = 1
	one.open()
	one.ok(one.Lead(one.ctx, 2))
	if one.SnapshotDue() {
		t.Error("one is due after two entries: it is larger than they are")
	}
	for n := 0; !one.SnapshotDue(); n++ {
		if n == 1000 {
			t.Fatal("none is ever due")
		}
		one.device(registry.DeviceID(fmt.Sprint("d", n)))
	}
	one.ok(one.Snapshot(one.ctx))
	if one.SnapshotDue() {
		t.Error("another is due at once")
	}
}

func TestAStoreOfItsOwnIsNoCopy(t *testing.T) {
	log, one, _ := pair(t)
	one.device("d1")
	other := open(t)
	other.alone()
	other.device("d2")
	other.ok(other.Close())
	other.cfg.Log, other.cfg.LogName = log, "shadow"
	_, err := store.Open(other.ctx, other.cfg)
	other.is(err, store.ErrForeign)

	// A copy that was opened by itself is none any more.
	one.ok(one.Close())
	one.cfg.Log = nil
	one.open()
	one.device("d3")
	one.ok(one.Close())
	one.cfg.Log = log
	_, err = store.Open(one.ctx, one.cfg)
	one.is(err, store.ErrForeign)

	// Nor does a copy begin a log of another name.
	copied := one.share("two", log)
	copied.ok(copied.Close())
	copied.cfg.Log, copied.cfg.LogName = &storetest.Log{}, "shadwo"
	_, err = store.Open(copied.ctx, copied.cfg)
	copied.is(err, store.ErrForeign)
}

// A table that was brought back from a backup has lost what a copy has still.
func TestACopyAheadOfItsLogIsRefused(t *testing.T) {
	log, one, two := pair(t)
	two.follow(two.ctx)
	two.ok(two.Close())
	one.device("d1")
	one.ok(one.Close())
	shorter := &storetest.Log{}
	entries := log.Entries()
	latest := must[store.Snapshot](t)(log.Latest(one.ctx))
	var text bytes.Buffer
	one.ok(log.Load(one.ctx, latest, &text))
	one.ok(shorter.Save(one.ctx, latest, &text))
	for _, e := range entries[:len(entries)-1] {
		one.ok(shorter.Append(one.ctx, e))
	}
	one.cfg.Log, two.cfg.Log = shorter, shorter
	one.open()
	one.is(one.Lead(one.ctx, 2), store.ErrForeign)
	two.open()
	two.ok(two.Lead(two.ctx, 2)) // this one has not seen what is lost
	two.device("d2")
	one.reopen()
	_, err := one.Follow(one.ctx) // and this one has seen another
	one.is(err, store.ErrForeign)
}

func TestACopyThatIsNotTheSameStops(t *testing.T) {
	_, one, two := pair(t)
	one.device("d1")
	two.follow(two.ctx)
	two.ok(two.Close())
	log := two.cfg.Log
	two.tamper(`DELETE FROM devices`)
	two.cfg.Log = log
	two.open()
	one.ok(one.Devices().Block(one.ctx, "d1", true))
	_, err := two.Follow(two.ctx)
	two.is(err, store.ErrDiverged)
	if _, again := two.Follow(two.ctx); again == nil {
		t.Error("it goes on")
	}
}

// The first leader of a newer version migrates, and those that follow it do at
// that entry; until then their schema is that of the leader.
func TestANewerVersionMigratesWhereItLeads(t *testing.T) {
	old := len(store.Migrations()) - 1
	path := filepath.Join(t.TempDir(), "old.db")
	w := &world{t: t, ctx: t.Context(), clock: &clock{now: start}}
	w.ok(os.WriteFile(path, nil, 0o600))
	w.ok(store.Migrate(w.ctx, path, store.Migrations()[:old]))
	log := &storetest.Log{}
	w.ok(log.Save(w.ctx, store.Snapshot{Log: "shadow/1"}, packed(t, path)))

	one, two := w.share("one", log), w.share("two", log)
	one.ok(one.Lead(one.ctx, 1))
	one.device("d1")
	if _, err := os.Stat(one.cfg.Path + ".v" + "9" + ".bak"); old == 9 && err != nil {
		t.Errorf("no copy from before: %v", err)
	}
	two.follow(two.ctx)
	w.ok(errors.Join(one.Close(), two.Close()))
	one.sameAs(w.ctx, two.cfg.Path)
	entries := log.Entries()
	entries[0].Schema, entries[0].Seq = old+2, entries[len(entries)-1].Seq+1
	w.ok(log.Append(w.ctx, entries[0]))
	two.open()
	_, err := two.Follow(w.ctx)
	w.is(err, store.ErrNewer)
}

// packed returns a store's file as the snapshot that a log begins with.
func packed(t *testing.T, path string) *bytes.Buffer {
	t.Helper()
	db := must[*sql.DB](t)(sql.Open("sqlite", path))
	if _, err := db.Exec(`INSERT INTO meta VALUES ('log', 'shadow/1'), ('log_seq', '0')`); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	if _, err := z.Write(must[[]byte](t)(os.ReadFile(path))); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return &out
}

// An instance that took the lease, and was then so slow that another took it and
// led, does not lead with its older epoch, although nobody has its next entry.
func TestAnOlderEpochIsFencedOff(t *testing.T) {
	log, one, two := pair(t)
	slow := one.share("slow", log)
	two.ok(two.Lead(two.ctx, 3))
	two.device("d1")
	slow.is(slow.Lead(slow.ctx, 2), store.ErrLost)
	slow.is(slow.Devices().Add(slow.ctx, "d2", nil), store.ErrFollows)
	for _, e := range log.Entries() {
		if e.Epoch == 2 {
			t.Errorf("entry %d is of the one that was too slow", e.Seq)
		}
	}
	two.device("d3") // and nobody has taken its place
	slow.follow(slow.ctx)
	if slow.Shared().Seq != two.Shared().Seq || slow.Shared().Leads {
		t.Errorf("it is at %+v, the leader at %+v", slow.Shared(), two.Shared())
	}
}

// What changes nothing is no entry of the log, which others pay for and wait for.
func TestWhatChangesNothingIsNotRecorded(t *testing.T) {
	_, one, _ := pair(t)
	one.device("d1")
	one.ok(one.Group().Add(one.ctx, "d1"))
	before := one.Shared().Seq
	one.ok(one.Group().Remove(one.ctx, "d1", start)) // it came later
	one.ok(one.Group().Remove(one.ctx, "d2", time.Time{}))
	if n := one.Shared().Seq - before; n != 0 {
		t.Errorf("%d entries", n)
	}
	one.ok(one.Group().Remove(one.ctx, "d1", time.Time{}))
	if n := one.Shared().Seq - before; n != 1 {
		t.Errorf("%d entries, want 1", n)
	}
}
