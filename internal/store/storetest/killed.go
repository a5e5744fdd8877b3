package storetest

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/certvendor/certvendor/internal/store"
)

// Killed returns a data directory as kill -9 would leave this one at this
// moment: a copy of its files, made while the world is still open, so that
// nothing is in it that only an orderly end would have written. The log of the
// store is copied before its file: a checkpoint in between does no harm then.
// What SQLite keeps in shared memory and the lock die with a process.
func Killed(t *testing.T, data, storeFile string) string {
	t.Helper()
	to := t.TempDir()
	copyFile(t, data, to, storeFile+"-wal")
	err := filepath.WalkDir(data, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(data, path)
		switch {
		case err != nil:
			return err
		case entry.IsDir():
			return os.MkdirAll(filepath.Join(to, name), 0o700)
		case name == store.LockFile || strings.HasPrefix(name, storeFile+"-"):
			return nil
		}
		copyFile(t, data, to, name)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return to
}

func copyFile(t *testing.T, from, to, name string) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(from, name))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(to, name), content, 0o600); err != nil {
		t.Fatal(err)
	}
}
