package store_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// hold keeps the writer at work until release is called.
func (w *world) hold() (release func()) {
	w.t.Helper()
	held, free := make(chan struct{}), make(chan struct{})
	var done sync.WaitGroup
	done.Go(func() {
		if err := w.Carry(w.ctx, "", func() error { close(held); <-free; return nil }); err != nil {
			w.t.Error(err)
		}
	})
	<-held
	return func() {
		close(free)
		done.Wait()
	}
}

// queued runs fn for 0 to n-1 while the writer is held, and lets it go when all
// of them wait. It returns their errors.
func (w *world) queued(n int, fn func(int) error) []error {
	w.t.Helper()
	release := w.hold()
	errs := make([]error, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { errs[i] = fn(i) })
	}
	eventually(w.t, "all of them wait", func() bool { return w.Queued() == n })
	release()
	all.Wait()
	return errs
}

func TestWhatIsQueuedSharesOneCommit(t *testing.T) {
	var mu sync.Mutex
	var observed []int
	w := open(t, func(cfg *store.Config) {
		cfg.Observe = func(took time.Duration, ops int) {
			mu.Lock()
			defer mu.Unlock()
			if observed = append(observed, ops); took <= 0 {
				t.Errorf("it took %s", took)
			}
		}
	})
	before := w.Commits()
	errs := w.queued(20, func(i int) error { return w.Devices().Add(w.ctx, registry.DeviceID(fmt.Sprint("d", i)), nil) })
	w.ok(errors.Join(errs...))
	if n := w.Commits() - before; n != 1 {
		t.Errorf("%d commits, want 1", n)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(observed) != 1 || observed[0] != 20 {
		t.Errorf("observed %v, want 20 operations once", observed)
	}
}

func TestRefusalsDoNotHinderOthers(t *testing.T) {
	w := open(t)
	errs := w.queued(10, func(i int) error {
		if i%2 == 0 {
			return w.Devices().Block(w.ctx, "nobody", true)
		}
		return w.Devices().Add(w.ctx, registry.DeviceID(fmt.Sprint("d", i)), nil)
	})
	for i, err := range errs {
		if i%2 == 0 {
			w.is(err, registry.ErrUnknown)
			continue
		}
		w.ok(err)
		_, err := w.Devices().Device(w.ctx, registry.DeviceID(fmt.Sprint("d", i)))
		w.ok(err)
	}
}

// One operation that fails after it has written takes nothing of its own with
// it, and nothing of the others.
func TestUnforeseenFailureIsItsOwn(t *testing.T) {
	w := open(t)
	unforeseen := errors.New("unforeseen")
	errs := w.queued(10, func(i int) error {
		if i == 4 {
			return w.Carry(w.ctx, `INSERT INTO meta VALUES ('half', 'done')`, func() error { return unforeseen })
		}
		return w.Devices().Add(w.ctx, registry.DeviceID(fmt.Sprint("d", i)), nil)
	})
	for i, err := range errs {
		if i == 4 {
			w.is(err, unforeseen)
			continue
		}
		w.ok(err)
		w.wantEvents(registry.DeviceID(fmt.Sprint("d", i)), "device.added")
	}
	if text := must[string](t)(w.Meta(w.ctx, "half")); text != "" {
		t.Error("half of an operation was written")
	}
	w.wantHolds(9)
}

// A read for which SQLite gives the whole transaction up takes nothing of the others
// with it, and nothing that follows it is written by halves.
func TestReadThatEndsTheTransactionIsItsOwn(t *testing.T) {
	w := open(t)
	errs := w.queued(10, func(i int) error {
		if i == 4 {
			return w.ReadThatFails(w.ctx)
		}
		return w.Devices().Add(w.ctx, registry.DeviceID(fmt.Sprint("d", i)), nil)
	})
	for i, err := range errs {
		if i == 4 {
			if err == nil {
				t.Error("the read did not fail")
			}
			continue
		}
		w.ok(err)
		w.wantEvents(registry.DeviceID(fmt.Sprint("d", i)), "device.added")
	}
	w.wantHolds(9)
	w.ok(w.Devices().Add(w.ctx, "later", nil))
}

func TestFailureAloneIsToldOnce(t *testing.T) {
	w := open(t)
	unforeseen := errors.New("unforeseen")
	err := w.Carry(w.ctx, `INSERT INTO meta VALUES ('half', 'done')`, func() error { return unforeseen })
	if err != unforeseen {
		t.Errorf("got %v", err)
	}
}

func TestContextEndsWhileWaiting(t *testing.T) {
	w := open(t)
	release := w.hold()
	ctx, cancel := context.WithCancel(w.ctx)
	var waiting sync.WaitGroup
	waiting.Go(func() { w.is(w.Devices().Add(ctx, "d1", nil), context.Canceled) })
	eventually(t, "it waits", func() bool { return w.Queued() == 1 })
	cancel()
	waiting.Wait()
	release()
	// What was queued is carried out all the same.
	eventually(t, "it is carried out", func() bool {
		_, err := w.Devices().Device(w.ctx, "d1")
		return err == nil
	})
}

func TestCloseCarriesOutWhatIsQueued(t *testing.T) {
	w := open(t)
	release := w.hold()
	var added, closed sync.WaitGroup
	for i := range 5 {
		added.Go(func() { w.ok(w.Devices().Add(w.ctx, registry.DeviceID(fmt.Sprint("d", i)), nil)) })
	}
	eventually(t, "they wait", func() bool { return w.Queued() == 5 })
	closed.Go(func() { w.ok(w.Close()) })
	release()
	added.Wait()
	closed.Wait()
	for name, err := range map[string]error{
		"write": w.Devices().Add(w.ctx, "d9", nil),
		"read":  func() error { _, err := w.Devices().Device(w.ctx, "d1"); return err }(),
	} {
		if !errors.Is(err, store.ErrClosed) {
			t.Errorf("%s after Close: %v", name, err)
		}
	}
	w.ok(w.Close())
	w.open()
	for i := range 5 {
		_, err := w.Devices().Device(w.ctx, registry.DeviceID(fmt.Sprint("d", i)))
		w.ok(err)
	}
}

func TestCloseWhileInUse(t *testing.T) {
	w := open(t)
	c := w.register("d1", "c1")
	var all sync.WaitGroup
	for i := range 30 {
		all.Go(func() {
			for j := range 50 {
				for _, err := range []error{
					w.seen("d1", c.ID, start.Add(time.Duration(j)*time.Second)),
					w.Devices().Add(w.ctx, registry.DeviceID(fmt.Sprintf("d%d-%d", i, j)), nil),
					func() error { _, err := w.Certificates().Held(w.ctx, "d1"); return err }(),
				} {
					if err != nil && !errors.Is(err, store.ErrClosed) {
						t.Error(err)
					}
				}
			}
		})
	}
	w.ok(w.Close())
	all.Wait()
}

func TestCloseLeavesNoFileOpen(t *testing.T) {
	if _, err := os.ReadDir("/proc/self/fd"); err != nil {
		t.Skip("this system does not list open files")
	}
	w := open(t, func(cfg *store.Config) { cfg.AuditDir = filepath.Join(t.TempDir(), "audit") })
	w.device("d1")
	w.many(50, func(int) error { _, err := w.Certificates().Held(w.ctx, "d1"); return err })
	w.listed(certificate.Query{})
	w.ok(w.Close())
	for _, entry := range must[[]os.DirEntry](t)(os.ReadDir("/proc/self/fd")) {
		name, _ := os.Readlink("/proc/self/fd/" + entry.Name())
		if strings.HasPrefix(name, filepath.Dir(w.cfg.Path)) {
			t.Errorf("%s is open", name)
		}
	}
	if _, err := os.Stat(w.cfg.Path + "-wal"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the log is still there: %v", err)
	}
}

func TestReadsSeeTheLastCommit(t *testing.T) {
	w := open(t)
	w.many(100, func(i int) error {
		id := registry.DeviceID(fmt.Sprint("d", i))
		if err := w.Devices().Add(w.ctx, id, nil); err != nil {
			return err
		}
		_, err := w.Devices().Device(w.ctx, id)
		return err
	})
}

func TestReadWithAContextThatEnded(t *testing.T) {
	w := open(t)
	ctx, cancel := context.WithCancel(w.ctx)
	cancel()
	for range 50 { // more than there are readers
		if _, err := w.Journal().Find(ctx, "d1"); err == nil {
			t.Fatal("it was read")
		}
	}
	w.find("d1")
}

func TestLogIsMovedIntoTheFile(t *testing.T) {
	w := open(t)
	for i := range 400 {
		w.ok(w.SetMeta(w.ctx, fmt.Sprint("key", i), fmt.Sprintf("%4000d", i)))
	}
	eventually(t, "the file has grown while the store is open", func() bool {
		info := must[os.FileInfo](t)(os.Stat(w.cfg.Path))
		return info.Size() > 1<<20
	})
}

// A log that has grown long is begun anew in the file that is there, which stays
// as long as it was, so that what is written next makes no file longer.
func TestLogIsBegunAnewWhenItIsLong(t *testing.T) {
	w := open(t)
	large := strings.Repeat("x", 1<<20)
	w.ok(w.SetMeta(w.ctx, "key", "small"))
	first, _ := w.log()
	for i := range 70 {
		w.ok(w.SetMeta(w.ctx, fmt.Sprint("key", i), large))
	}
	eventually(t, "the log is begun anew", func() bool {
		w.ok(w.SetMeta(w.ctx, "key", time.Now().String()))
		begun, size := w.log()
		return begun != first && size > 32<<20 && size <= 64<<20
	})
	if text := must[string](t)(w.Meta(w.ctx, "key69")); text != large {
		t.Error("something is lost")
	}
}

// log returns how often the store's log was begun anew, which is in its header
// (https://www.sqlite.org/fileformat2.html#the_write_ahead_log), and the size of
// its file.
func (w *world) log() (begun uint32, size int64) {
	w.t.Helper()
	f := must[*os.File](w.t)(os.Open(w.cfg.Path + "-wal"))
	defer f.Close()
	var header [32]byte
	must[int](w.t)(f.ReadAt(header[:], 0))
	return binary.BigEndian.Uint32(header[12:]), must[os.FileInfo](w.t)(f.Stat()).Size()
}

func TestFileIsItsOwnersAlone(t *testing.T) {
	w := open(t)
	w.device("d1")
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if mode := must[os.FileInfo](t)(os.Stat(w.cfg.Path + suffix)).Mode(); mode != 0o600 {
			t.Errorf("store%s has mode %s", suffix, mode)
		}
	}
}

func TestSettings(t *testing.T) {
	w := open(t)
	for pragma, want := range map[string]string{
		"journal_mode": "wal", "synchronous": "2", "foreign_keys": "1", "temp_store": "2", "busy_timeout": "10000",
	} {
		if got := must[string](t)(store.Query[string](w.ctx, w.Store, "PRAGMA "+pragma)); got != want {
			t.Errorf("reading: %s is %s, want %s", pragma, got, want)
		}
		if got := must[string](t)(store.Pragma(w.ctx, w.Store, pragma)); got != want {
			t.Errorf("writing: %s is %s, want %s", pragma, got, want)
		}
	}
}

func TestOpenNeedsPathAndInstance(t *testing.T) {
	for _, cfg := range []store.Config{{Path: "x"}, {Instance: "x"}} {
		if _, err := store.Open(t.Context(), cfg); err == nil {
			t.Errorf("%+v was opened", cfg)
		}
	}
}

func BenchmarkVend(b *testing.B) {
	s, err := store.Open(b.Context(), store.Config{Path: b.TempDir() + "/store.db", Instance: "one", AuditDir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	ctx := b.Context()
	var mu sync.Mutex
	n := 0
	b.SetParallelism(64)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			mu.Lock()
			n++
			id := registry.DeviceID(fmt.Sprintf("d%08d", n))
			mu.Unlock()
			r, err := s.Journal().Open(ctx, rotation.Rotation{Device: id, Number: 1, State: rotation.Intended, Opened: time.Now()}, nil)
			if err != nil {
				b.Fatal(err)
			}
			c := fake(string(id))
			r.State, r.Certificate, r.VendedAt = rotation.Vended, c.ID, time.Now()
			if _, err := s.Journal().Advance(ctx, rotation.Change{Rotation: r, Certificate: &c}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.ReportMetric(float64(s.Commits()), "commits")
}
