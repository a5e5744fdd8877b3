package standalone

import (
	"context"
	"io"
	"slices"
	"strings"

	"github.com/certvendor/certvendor/internal/archive"
	"github.com/certvendor/certvendor/internal/backup"
)

// Backup writes a copy of the whole world, as internal/archive has it, while
// it goes on: the store as of one commit, the CA's files as they are on disk,
// and the packages. Without keys nothing is in it that is private: no key of
// the CA, no package, no link key. One backup is made at a time:
// backup.ErrMaking.
func (w *World) Backup(ctx context.Context, version string, keys bool, out io.Writer) error {
	var dirs []backup.Dir
	for _, name := range []string{archive.CADir, archive.PackagesDir} {
		dirs = append(dirs, backup.Dir{Name: name, Wanted: func(file string) bool {
			return !strings.HasPrefix(file, tmpPrefix) && (keys || !private(name, file)) // none that is half-written
		}})
	}
	return w.backing.Write(ctx, backup.Source{
		Data: w.config.Data, Version: version, Instance: w.config.Instance, Store: w.store, Keys: keys, Dirs: dirs, Now: w.config.Now(),
	}, out)
}

// private reports whether a file holds a key. Only what is known to hold none
// is public.
func private(dir, file string) bool {
	public := []string{rootFile, issuingFile, serverCAFile} // of later issuing CAs the store has the certificates
	return dir != archive.CADir || !slices.Contains(public, file)
}
