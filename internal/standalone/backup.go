package standalone

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/archive"
)

// backupDir is where the store's copy lies while a backup is made. What an
// interrupted one left is removed by the next, and by a start.
const backupDir = ".backup"

// ErrBackup says that another backup is being made.
var ErrBackup = errors.New("a backup is being made already")

// Backup writes a copy of the whole world, as internal/archive has it, while
// it goes on: the store as of one commit, the CA's files as they are on disk,
// and the packages. Without keys nothing is in it that is private: no key of
// the CA, no package, no link key. One backup is made at a time.
func (w *World) Backup(ctx context.Context, version string, keys bool, out io.Writer) error {
	if !w.backing.TryLock() {
		return ErrBackup
	}
	defer w.backing.Unlock()
	if err := w.backup(ctx, version, keys, out); err != nil {
		return fmt.Errorf("back up: %w", err)
	}
	return nil
}

func (w *World) backup(ctx context.Context, version string, keys bool, out io.Writer) (err error) {
	dir := filepath.Join(w.config.Data, backupDir)
	if err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o700)); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	copied, err := w.store.Copy(ctx, filepath.Join(dir, storeFile))
	if err != nil {
		return err
	}
	now := w.config.Now().UTC()
	to := archive.NewWriter(out, now)
	if err := addFile(ctx, to, archive.Store, filepath.Join(dir, storeFile)); err != nil {
		return err
	}
	// The packages after the store: a row of it never promises a file that came
	// too late. One that was spent since is missing, and the audit says why.
	for _, part := range []struct{ name, dir string }{{archive.CADir, caDir}, {archive.PackagesDir, packagesDir}} {
		if err := addDir(ctx, to, part.name, filepath.Join(w.config.Data, part.dir), keys); err != nil {
			return err
		}
	}
	return to.Close(archive.Manifest{
		Version: version, Instance: w.config.Instance, At: now, Schema: copied.Schema,
		AuditRow: copied.Row, AuditHash: copied.Hash, Audited: copied.Audited,
		CA: certificate.ID(copied.CA), Keys: keys,
	})
}

// addDir adds the files of a directory, without those that are half-written.
func addDir(ctx context.Context, to *archive.Writer, name, dir string, keys bool) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.Type().IsRegular() || strings.HasPrefix(e.Name(), tmpPrefix) || !keys && private(name, e.Name()) {
			continue
		}
		err := addFile(ctx, to, name+"/"+e.Name(), filepath.Join(dir, e.Name()))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// private reports whether a file holds a key. Only what is known to hold none
// is public.
func private(dir, file string) bool {
	public := []string{rootFile, issuingFile, serverCAFile} // of later issuing CAs the store has the certificates
	return dir != archive.CADir || !slices.Contains(public, file)
}

func addFile(ctx context.Context, to *archive.Writer, name, path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close() //nolint:errcheck // it was only read
	info, err := file.Stat()
	if err != nil {
		return err
	}
	return to.Add(name, info.Size(), readUntil{ctx, file})
}

// readUntil ends a copy when nobody waits for it any more.
type readUntil struct {
	ctx  context.Context
	from io.Reader
}

func (r readUntil) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.from.Read(p)
}
