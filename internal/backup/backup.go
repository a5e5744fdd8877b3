// Package backup makes a backup of a data directory while it is used, and makes
// a data directory anew from one.
//
// Read this file for the first, restore.go and store.go for the second, and
// finish.go for what a start has to finish that was interrupted. Package archive
// says what the file is, docs/decisions/0013 what a restore brings back.
package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/archive"
	"github.com/certvendor/certvendor/internal/store"
)

// copyDir is where the store's copy lies while a backup is made. What an
// interrupted one left is removed by the next, and by Discard.
const copyDir = ".backup"

// ErrMaking says that another backup is being made.
var ErrMaking = errors.New("a backup is being made already")

// Source is what a backup is made of.
type Source struct {
	Data     string // the directory
	Backend  string // see archive.Manifest
	Version  string // of the program
	Instance string
	Store    *store.Store
	Keys     bool // that the backup is one with keys
	Dirs     []Dir
	Now      time.Time
}

// Dir is a directory of files that belong to the backup.
type Dir struct {
	Name   string                 // in the backup and in the data directory
	Wanted func(file string) bool // which files
}

// Maker makes backups, one at a time.
type Maker struct{ turn sync.Mutex }

// Write writes a backup, while all goes on: the store as of one commit, and the
// files as they are on disk then. ErrMaking while another one is made.
func (m *Maker) Write(ctx context.Context, from Source, out io.Writer) error {
	if !m.turn.TryLock() {
		return ErrMaking
	}
	defer m.turn.Unlock()
	if err := from.write(ctx, out); err != nil {
		return fmt.Errorf("back up: %w", err)
	}
	return nil
}

func (s Source) write(ctx context.Context, out io.Writer) (err error) {
	dir := filepath.Join(s.Data, copyDir)
	if err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o700)); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	copied, err := s.Store.Copy(ctx, filepath.Join(dir, archive.Store))
	if err != nil {
		return err
	}
	to := archive.NewWriter(out, s.Now)
	if err := addFile(ctx, to, archive.Store, filepath.Join(dir, archive.Store)); err != nil {
		return err
	}
	// The files after the store: a row of it never promises a file that came too
	// late. One that is gone since is missing, and the audit says why.
	for _, d := range s.Dirs {
		if err := addDir(ctx, to, s.Data, d); err != nil {
			return err
		}
	}
	return to.Close(archive.Manifest{
		Version: s.Version, Backend: s.Backend, Instance: s.Instance, At: s.Now.UTC(), Schema: copied.Schema,
		AuditRow: copied.Row, AuditHash: copied.Hash, Audited: copied.Audited,
		Log: copied.Log, Entry: copied.Entry, CA: certificate.ID(copied.CA), Keys: s.Keys,
	})
}

// Discard removes what an interrupted backup has left in a data directory.
func Discard(data string) error {
	if err := os.RemoveAll(filepath.Join(data, copyDir)); err != nil {
		return fmt.Errorf("discard what an interrupted backup left: %w", err)
	}
	return nil
}

func addDir(ctx context.Context, to *archive.Writer, data string, d Dir) error {
	entries, err := os.ReadDir(filepath.Join(data, d.Name))
	if err != nil {
		return err
	}
	for _, e := range entries {
		file, err := isFile(filepath.Join(data, d.Name), e)
		if err != nil {
			return err
		}
		if !file || !d.Wanted(e.Name()) {
			continue
		}
		err = addFile(ctx, to, d.Name+"/"+e.Name(), filepath.Join(data, d.Name, e.Name()))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// isFile reports whether an entry of a directory is a file, or a link to one, as to a
// key that is kept on another disk. One that leads nowhere is none: that disk is away.
func isFile(dir string, e fs.DirEntry) (bool, error) {
	if e.Type()&fs.ModeSymlink == 0 {
		return e.Type().IsRegular(), nil
	}
	info, err := os.Stat(filepath.Join(dir, e.Name()))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && info.Mode().IsRegular(), err
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
