package standalone

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/archive"
	"github.com/certvendor/certvendor/internal/backup"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
)

func restorable(data string) Config {
	return Config{
		Data: data, Instance: "test", Topics: protocol.DefaultTopics(), Now: time.Now, Log: zerolog.Nop(),
		CA:       CAConfig{Now: time.Now, Names: []string{"localhost"}},
		Broker:   BrokerConfig{Listen: "127.0.0.1:0"},
		Packages: PackageListener{Listen: "127.0.0.1:0", LinkTTL: time.Minute},
		Job:      JobPace{PerMinute: 120, MaxInFlight: 500, InProgressTimeout: time.Hour},
	}
}

// inWorld opens a world, and closes it again.
func inWorld(t *testing.T, data string, do func(*World)) {
	t.Helper()
	w, err := Open(t.Context(), restorable(data))
	if err != nil {
		t.Fatal(err)
	}
	if do != nil {
		do(w)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

func addDevices(t *testing.T, w *World, names ...registry.DeviceID) {
	t.Helper()
	for _, name := range names {
		if err := w.Store().Devices().Add(t.Context(), name, nil); err != nil {
			t.Fatal(err)
		}
	}
}

func devicesOf(t *testing.T, data string) (names []string) {
	t.Helper()
	inWorld(t, data, func(w *World) {
		all, err := w.Store().Devices().List(t.Context(), registry.Query{})
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range all {
			names = append(names, string(d.ID))
		}
		if _, err := w.Store().Audit().Verify(t.Context()); err != nil {
			t.Error(err)
		}
	})
	return names
}

func backedUp(t *testing.T, w *World, keys bool) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "b.tar")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Backup(t.Context(), "test", keys, file), file.Close()); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestRestoreKilledAtEachStep takes a copy of the data directory before each
// thing that a restore does, as a kill would leave it: a start finds the old
// world in it, or all of the new one.
func TestRestoreKilledAtEachStep(t *testing.T) {
	first, second := filepath.Join(t.TempDir(), "first"), filepath.Join(t.TempDir(), "second")
	var file string
	inWorld(t, first, func(w *World) {
		addDevices(t, w, "a")
		file = backedUp(t, w, true)
		addDevices(t, w, "b", "c")
	})
	inWorld(t, second, func(w *World) { addDevices(t, w, "old") })
	steps := map[string]string{}
	var order []string
	into := place(restorable(second))
	into.Step = func(what string) {
		order = append(order, what)
		steps[what] = filepath.Join(t.TempDir(), "killed")
		if err := os.CopyFS(steps[what], os.DirFS(second)); err != nil {
			t.Fatal(err)
		}
	}
	options := backup.Options{File: file, Audit: filepath.Join(first, auditDir), Replace: true}
	if _, err := backup.Restore(t.Context(), into, options); err != nil {
		t.Fatal(err)
	}
	oldWorld, newWorld := []string{"old"}, []string{"a", "b", "c"}
	if diff := cmp.Diff(newWorld, devicesOf(t, second)); diff != "" {
		t.Error(diff)
	}
	counts := slices.Index(order, "complete")
	if counts < 5 || len(order) < counts+6 {
		t.Fatalf("steps %v", order)
	}
	for i, what := range order {
		want := oldWorld
		if i > counts {
			want = newWorld
		}
		if diff := cmp.Diff(want, devicesOf(t, steps[what])); diff != "" {
			t.Errorf("killed before %q: %s", what, diff)
		}
	}
	// What gave way is all there.
	aside, err := filepath.Glob(filepath.Join(second, "replaced-*"))
	if err != nil || len(aside) != 1 || !exists(filepath.Join(aside[0], storeFile)) || !exists(filepath.Join(aside[0], caDir, issuingKey)) {
		t.Errorf("aside: %v, %v", aside, err)
	}
}

func TestFailedRestoreChangesNothing(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	var file string
	inWorld(t, data, func(w *World) {
		addDevices(t, w, "a")
		file = backedUp(t, w, true)
		addDevices(t, w, "b")
	})
	before := tree(t, data)
	damaged := filepath.Join(t.TempDir(), "damaged.tar")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(damaged, append(text[:5000:5000], append([]byte{text[5000] ^ 1}, text[5001:]...)...), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		config Config
		backup.Options
		want string
	}{
		"a store is there":  {restorable(data), backup.Options{File: file}, "--replace moves it aside"},
		"no file":           {restorable(data), backup.Options{File: "none.tar", Replace: true}, "none.tar"},
		"a damaged file":    {restorable(data), backup.Options{File: damaged, Replace: true}, archive.ErrDamaged.Error()},
		"damaged and lossy": {restorable(data), backup.Options{File: damaged, Replace: true, Lossy: true}, archive.ErrDamaged.Error()},
		"no audit":          {restorable(data), backup.Options{File: file, Replace: true, Audit: t.TempDir()}, "--lossy"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Restore(context.Background(), c.config, c.Options)
			if err == nil || !errors.Is(err, backup.ErrRestore) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v", err)
			}
			after := tree(t, data)
			delete(before, LockFile)
			delete(after, LockFile)
			if diff := cmp.Diff(before, after); diff != "" {
				t.Errorf("the data directory was changed: %s", diff)
			}
		})
	}
}

// TestRestorePackages brings back the packages that wait, those that were made
// since where their files are still there, and none that was used.
func TestRestorePackages(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	var file string
	put := func(w *World, device registry.DeviceID, c string) {
		t.Helper()
		if err := w.packages.Put(t.Context(), device, idOfText(c), []byte("zip of "+c)); err != nil {
			t.Fatal(err)
		}
	}
	inWorld(t, data, func(w *World) {
		put(w, "a", "waits")
		put(w, "b", "is used")
		file = backedUp(t, w, true)
		put(w, "c", "is made since")
		if err := w.packages.Spend(t.Context(), "b", idOfText("is used")); err != nil {
			t.Fatal(err)
		}
	})
	if _, err := Restore(t.Context(), restorable(data), backup.Options{File: file, Replace: true}); err != nil {
		t.Fatal(err)
	}
	inWorld(t, data, func(w *World) {
		for device, want := range map[registry.DeviceID]bool{"a": true, "b": false, "c": true} {
			p, err := w.packages.Find(t.Context(), device)
			if err != nil || p.Spent == want {
				t.Errorf("device %s: %+v, %v", device, p, err)
			}
		}
	})
	if exists(filepath.Join(data, packagesDir, packageName("b", idOfText("is used"))+liveSuffix)) {
		t.Error("the file of a package that was used came back")
	}
}

func TestOneBackupAtATime(t *testing.T) {
	inWorld(t, filepath.Join(t.TempDir(), "data"), func(w *World) {
		second := errors.New("none yet")
		err := w.Backup(t.Context(), "test", true, writing(func(p []byte) (int, error) {
			second = w.Backup(t.Context(), "test", true, io.Discard)
			return len(p), nil
		}))
		if err != nil || !errors.Is(second, backup.ErrMaking) {
			t.Errorf("the first: %v; the second: %v", err, second)
		}
	})
}

// writing is a writer.
type writing func([]byte) (int, error)

func (w writing) Write(p []byte) (int, error) { return w(p) }

func idOfText(text string) certificate.ID { return certificate.IDOf([]byte(text)) }

// TestKeysThatAreElsewhere keeps a key of the CA on another disk, with a link to it
// in the data directory: it is in a backup with keys, a restore from one without
// finds it, and the root's key, whose disk is not there now, stops neither.
func TestKeysThatAreElsewhere(t *testing.T) {
	data, disk := filepath.Join(t.TempDir(), "data"), t.TempDir()
	inWorld(t, data, nil)
	for _, name := range []string{issuingKey, rootKeyFile} {
		at := filepath.Join(data, caDir, name)
		if err := errors.Join(os.Rename(at, filepath.Join(disk, name)), os.Symlink(filepath.Join(disk, name), at)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(filepath.Join(disk, rootKeyFile)); err != nil {
		t.Fatal(err)
	}
	var with, without string
	inWorld(t, data, func(w *World) {
		addDevices(t, w, "a")
		with, without = backedUp(t, w, true), backedUp(t, w, false)
	})
	for where, o := range map[string]backup.Options{
		filepath.Join(t.TempDir(), "another machine"): {File: with, Audit: filepath.Join(data, auditDir)},
		data: {File: without, Replace: true},
	} {
		if _, err := Restore(t.Context(), restorable(where), o); err != nil {
			t.Errorf("%s: %v", where, err)
			continue
		}
		if diff := cmp.Diff([]string{"a"}, devicesOf(t, where)); diff != "" {
			t.Error(diff)
		}
	}
}

// TestEmptyStoreIsNoStore leaves a store's file with nothing in it, as a disk that was
// repaired may. With the CA there it is not begun anew: nobody would be on record.
func TestEmptyStoreIsNoStore(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	inWorld(t, data, func(w *World) { addDevices(t, w, "a") })
	if err := os.Truncate(filepath.Join(data, storeFile), 0); err != nil {
		t.Fatal(err)
	}
	w, err := Open(t.Context(), restorable(data))
	if err == nil {
		w.Close()
		t.Fatal("another store was begun")
	}
	if !strings.Contains(err.Error(), "certvendor restore") {
		t.Error(err)
	}
}
