package backup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/certvendor/certvendor/internal/archive"
	"github.com/certvendor/certvendor/internal/durable"
)

// Names in the data directory while, and after, something is restored.
const (
	restoredPrefix = ".restored-" // complete and synced; being moved into place
	asidePrefix    = "replaced-"  // what was in that place
)

// Finish moves what was restored into its place, and what was there
// aside, into a directory of the same time. It does nothing where nothing was
// restored. Interrupted, it is done again: what was moved already is not there
// any more, and nobody opens the store in between.
// The caller holds the lock.
func Finish(data string) error { return finish(data, func(string) {}) }

// finish is Finish that tells before each step what it is.
func finish(data string, at func(what string)) error {
	entries, err := os.ReadDir(data)
	if err != nil {
		return fmt.Errorf("finish the restore: %w", err)
	}
	for _, e := range entries {
		stamp, ok := strings.CutPrefix(e.Name(), restoredPrefix)
		if !ok {
			continue
		}
		if err := finishOne(data, stamp, at); err != nil {
			return fmt.Errorf("finish the restore: %w", err)
		}
	}
	return nil
}

func finishOne(data, stamp string, at func(string)) error {
	restored, aside := filepath.Join(data, restoredPrefix+stamp), filepath.Join(data, asidePrefix+stamp)
	entries, err := os.ReadDir(restored)
	if err != nil {
		return err
	}
	for _, e := range entries {
		for _, name := range givingWay(e.Name()) {
			at("aside " + name)
			if err := moveAside(data, aside, name); err != nil {
				return err
			}
		}
	}
	// What is aside must be durably there before something takes its place.
	if exists(aside) {
		if err := durable.Sync(aside); err != nil {
			return err
		}
	}
	if err := durable.Sync(data); err != nil {
		return err
	}
	for _, e := range entries {
		at("place " + e.Name())
		if err := os.Rename(filepath.Join(restored, e.Name()), filepath.Join(data, e.Name())); err != nil {
			return err
		}
	}
	at("end")
	return errors.Join(durable.Sync(data), os.Remove(restored), durable.Sync(data))
}

// givingWay returns what makes room for an entry. The log of an old store would
// be taken for the new one's.
func givingWay(name string) []string {
	if name == archive.Store {
		return []string{name, name + "-wal", name + "-shm"}
	}
	return []string{name}
}

func moveAside(data, aside, name string) error {
	path := filepath.Join(data, name)
	if !exists(path) {
		return nil
	}
	if err := os.Mkdir(aside, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return os.Rename(path, filepath.Join(aside, name))
}
