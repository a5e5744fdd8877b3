package standalone

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/certvendor/certvendor/internal/durable"
	"github.com/certvendor/certvendor/internal/store"
)

// Names in the data directory. LockFile is the one thing that may be there
// before anything else is.
const (
	LockFile  = store.LockFile
	newDir    = ".new"   // being made; worth nothing
	madeDir   = ".made"  // complete and synced; being moved into place
	tmpPrefix = ".part-" // a file that was not completed
)

// Initialise has make fill a data directory that holds nothing but the lock,
// and does nothing to any other. make gets a directory to write into as if it
// were the data directory; whatever it opened there must be closed when it
// returns. The caller holds the lock.
//
// It can be interrupted at any moment: what was not complete is discarded by
// the next call, what was complete is moved into place by it.
func Initialise(data string, make func(dir string) error) error {
	made := filepath.Join(data, madeDir)
	if _, err := os.Stat(made); err == nil {
		return moveInto(data, made)
	}
	fresh := filepath.Join(data, newDir)
	if err := os.RemoveAll(fresh); err != nil {
		return fmt.Errorf("discard what an interrupted start left: %w", err)
	}
	entries, err := os.ReadDir(data)
	if err != nil {
		return fmt.Errorf("initialise: %w", err)
	}
	for _, e := range entries {
		if e.Name() != LockFile {
			return nil
		}
	}
	if err := os.Mkdir(fresh, 0o700); err != nil {
		return fmt.Errorf("initialise: %w", err)
	}
	if err := make(fresh); err != nil {
		return errors.Join(fmt.Errorf("initialise %s: %w", data, err), os.RemoveAll(fresh))
	}
	if err := durable.SyncTree(fresh); err != nil {
		return fmt.Errorf("initialise: %w", err)
	}
	// From this rename on the new world counts.
	if err := os.Rename(fresh, made); err != nil {
		return fmt.Errorf("initialise: %w", err)
	}
	if err := durable.Sync(data); err != nil {
		return fmt.Errorf("initialise: %w", err)
	}
	return moveInto(data, made)
}

// moveInto moves all that is in made one level up. Interrupted, it is done
// again: what was moved already is not there any more.
func moveInto(data, made string) error {
	entries, err := os.ReadDir(made)
	if err != nil {
		return fmt.Errorf("finish initialising: %w", err)
	}
	for _, e := range entries {
		into := filepath.Join(data, e.Name())
		if _, err := os.Lstat(into); err == nil {
			return fmt.Errorf("finish initialising: %s is there already; remove it, or remove %s to keep it", into, made)
		}
		if err := os.Rename(filepath.Join(made, e.Name()), into); err != nil {
			return fmt.Errorf("finish initialising: %w", err)
		}
	}
	// All names must be durable in data before the directory that says what
	// is missing goes.
	if err := errors.Join(durable.Sync(data), os.Remove(made), durable.Sync(data)); err != nil {
		return fmt.Errorf("finish initialising: %w", err)
	}
	return nil
}

// writeFile replaces a file in one step: when it returns nil, the new content
// survives a power cut; before, the old one does.
func writeFile(path string, data []byte, perm fs.FileMode) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, tmpPrefix+"*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(perm), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, errors.Join(err, os.Remove(f.Name())))
	}
	return durable.Sync(dir)
}

// removeParts deletes the files that an interrupted writeFile left.
func removeParts(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), tmpPrefix) {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}
