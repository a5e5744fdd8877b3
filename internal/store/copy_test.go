package store_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/registry"
)

// TestCopyIsOfOneCommit copies the store while devices are added without end:
// each with its event, in one commit. As many devices are in the copy as events.
func TestCopyIsOfOneCommit(t *testing.T) {
	w := open(t)
	stop := make(chan struct{})
	var adding sync.WaitGroup
	for i := range 4 {
		adding.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				if err := w.Devices().Add(w.ctx, registry.DeviceID(fmt.Sprintf("d%d-%d", i, n)), nil); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	var last int64
	for i := range 5 {
		path := filepath.Join(t.TempDir(), fmt.Sprintf("copy%d.db", i))
		copied, err := w.Copy(w.ctx, path)
		if err != nil {
			t.Fatal(err)
		}
		if copied.Row < last || copied.Row > 0 && copied.Hash == "" {
			t.Errorf("copy %d holds the audit up to row %d (%q), the one before up to %d", i, copied.Row, copied.Hash, last)
		}
		last = copied.Row
		inspectCopy(t, path, copied)
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("the copy has mode %v, %v", info.Mode(), err)
		}
		if _, err := os.Stat(path + "-wal"); err == nil {
			t.Error("something of the copy is in a file beside it")
		}
	}
	close(stop)
	adding.Wait()
	if last == 0 {
		t.Error("nothing was added while copies were made: the test shows nothing")
	}
}

// inspectCopy opens a copy of the copy as a store.
func inspectCopy(t *testing.T, path string, copied store.Copied) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := filepath.Join(t.TempDir(), "store.db")
	if err := os.WriteFile(at, text, 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := store.Open(t.Context(), store.Config{Path: at, Instance: "two"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	rows, err := c.Audit().Verify(t.Context())
	if err != nil || rows != copied.Row {
		t.Errorf("the copy's audit: %d rows, and said to have %d: %v", rows, copied.Row, err)
	}
	devices, err := store.Query[int64](t.Context(), c, `SELECT count(*) FROM devices`)
	if err != nil || devices != rows {
		t.Errorf("the copy holds %d devices and %d events of adding one: %v", devices, rows, err)
	}
}

func TestCopyOfAClosedStore(t *testing.T) {
	w := open(t)
	w.ok(w.Close())
	if _, err := w.Copy(w.ctx, filepath.Join(t.TempDir(), "copy.db")); err == nil {
		t.Error("a closed store was copied")
	}
}

// TestCopyThatFailsLeavesNothing shows that a copy for which there is no room does
// not take what room there is.
func TestCopyThatFailsLeavesNothing(t *testing.T) {
	w := open(t)
	w.device("d1")
	dir := t.TempDir()
	ended, end := context.WithCancel(w.ctx)
	end()
	if _, err := w.Copy(ended, filepath.Join(dir, "copy.db")); err == nil {
		t.Fatal("it was made")
	}
	if left := must[[]os.DirEntry](t)(os.ReadDir(dir)); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestCopyMakesNoStore takes the store's file away while the store is open.
func TestCopyMakesNoStore(t *testing.T) {
	w := open(t)
	w.alone()
	w.device("d1")
	w.ok(os.Rename(w.cfg.Path, w.cfg.Path+".moved"))
	defer func() { w.ok(os.Rename(w.cfg.Path+".moved", w.cfg.Path)) }()
	if _, err := w.Copy(w.ctx, filepath.Join(t.TempDir(), "copy.db")); err == nil {
		t.Error("it was made of nothing")
	}
	if _, err := os.Stat(w.cfg.Path); err == nil {
		t.Error("an empty store was made in its place")
	}
}
