package standalone

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/certvendor/certvendor/registry"
)

// A process that was killed between a package's file and its row, or between
// its row's end and its file's, leaves a file with a key. The next start takes
// it away, and no other.
func TestFilesWithoutAPackageGo(t *testing.T) {
	for name, keep := range map[string]bool{"deleted": false, "kept": true} {
		t.Run(name, func(t *testing.T) {
			data := filepath.Join(t.TempDir(), "data")
			path := func(device registry.DeviceID, c, suffix string) string {
				return filepath.Join(data, packagesDir, packageName(device, idOfText(c))+suffix)
			}
			inWorld(t, data, func(w *World) {
				for _, device := range []registry.DeviceID{"waits", "used"} {
					if err := w.packages.Put(t.Context(), device, idOfText("c"), []byte("zip")); err != nil {
						t.Fatal(err)
					}
				}
				if err := w.Store().Packages().Spend(t.Context(), "used", idOfText("c")); err != nil {
					t.Fatal(err) // the row alone, as a kill behind it leaves it
				}
			})
			if err := os.WriteFile(path("never", "entered", liveSuffix), []byte("zip"), 0o600); err != nil {
				t.Fatal(err)
			}
			config := restorable(data)
			config.Packages.Keep = keep
			w, err := Open(t.Context(), config)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = w.Close() }()
			if !exists(path("waits", "c", liveSuffix)) {
				t.Error("the file of a package that waits is gone")
			}
			for _, orphan := range []string{path("used", "c", ""), path("never", "entered", "")} {
				if exists(orphan+liveSuffix) || exists(orphan+spentSuffix) != keep {
					t.Errorf("%s: there %t, kept %t", orphan, exists(orphan+liveSuffix), exists(orphan+spentSuffix))
				}
			}
			if found, err := w.packages.Find(t.Context(), "waits"); err != nil || found.Spent {
				t.Errorf("the package that waits: %+v, %v", found, err)
			}
		})
	}
}

func TestManyPackagesWaitOverARestart(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	inWorld(t, data, func(w *World) {
		for i := range 1100 { // more than a page of the list
			device := registry.DeviceID("device-" + time.Duration(i).String())
			if err := w.packages.rows.Put(t.Context(), device, idOfText("c")); err != nil {
				t.Fatal(err)
			}
			if i == 0 || i == 1099 {
				if err := w.packages.Put(t.Context(), device, idOfText("c"), []byte("zip")); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
	inWorld(t, data, func(w *World) {
		for _, i := range []int{0, 1099} {
			if _, err := w.packages.Find(t.Context(), registry.DeviceID("device-"+time.Duration(i).String())); err != nil {
				t.Error(err)
			}
		}
	})
}
