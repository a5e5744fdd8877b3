package store

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/certvendor/certvendor/internal/durable"
)

// snapshotLeast is how many bytes of entries at least are between two snapshots,
// and otherwise as many as the last snapshot has: so snapshots cost no more than
// the entries do, and a new copy reads no more entries than it reads snapshot.
const snapshotLeast = 8 << 20

// SnapshotDue reports whether the log has grown enough for another snapshot.
func (s *Store) SnapshotDue() bool {
	return s.leads.Load() && s.sinceSnapshot.Load() >= max(s.cfg.SnapshotAfter, s.snapshotSize.Load())
}

// Snapshot has the log keep a copy of this store, as of one commit, for new
// copies to begin with. It can be called while the store is used. ErrTaken: the
// log has one as late.
func (s *Store) Snapshot(ctx context.Context) error {
	if err := s.snapshot(ctx); err != nil {
		return fmt.Errorf("make a snapshot of the store: %w", err)
	}
	return nil
}

func (s *Store) snapshot(ctx context.Context) error {
	path, before := s.cfg.Path+".snapshot", s.sinceSnapshot.Load()
	defer os.Remove(path) //nolint:errcheck // the next one replaces it
	if _, err := s.Copy(ctx, path); err != nil {
		return err
	}
	at, err := readShared(ctx, path)
	if err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // it was only read
	r, w := io.Pipe()
	packed := make(chan struct{})
	go func() {
		defer close(packed)
		z := gzip.NewWriter(w)
		_, err := io.Copy(z, f)
		w.CloseWithError(errors.Join(err, z.Close()))
	}()
	err = s.cfg.Log.Save(ctx, Snapshot{Log: at.log, Seq: at.seq}, r)
	r.CloseWithError(err) // ends the packing, if it has not ended
	<-packed
	if err != nil {
		return err
	}
	s.sinceSnapshot.Add(-before)
	latest, err := s.cfg.Log.Latest(ctx)
	s.snapshotSize.Store(latest.Size)
	return err
}

// fetch makes the file from a snapshot.
func fetch(ctx context.Context, cfg Config, from Snapshot) error {
	partial := cfg.Path + ".fetched"
	if err := download(ctx, cfg.Log, from, partial); err != nil {
		return fmt.Errorf("fetch the snapshot of %s: %w", from.Log, err)
	}
	at, err := readShared(ctx, partial)
	switch {
	case err != nil:
		return err
	case at.log != from.Log || at.seq != from.Seq:
		return fmt.Errorf("the snapshot of %s is one of %q, up to entry %d instead of %d", from.Log, at.log, at.seq, from.Seq)
	case at.schema > len(migrations()):
		return fmt.Errorf("%w: it has schema version %d, this one knows versions up to %d", ErrNewer, at.schema, len(migrations()))
	}
	// First the file, then the log beside it: a file without its log may be torn,
	// and where there is no file it is fetched again.
	replaced := cfg.Path + ".replaced"
	if err := os.Rename(cfg.Path, replaced); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, beside := range []string{"-wal", "-shm"} {
		if err := os.RemoveAll(cfg.Path + beside); err != nil {
			return err
		}
	}
	if err := os.Rename(partial, cfg.Path); err != nil {
		return err
	}
	return errors.Join(os.RemoveAll(replaced), durable.Sync(filepath.Dir(cfg.Path)))
}

func download(ctx context.Context, log Log, from Snapshot, path string) error {
	if err := os.RemoveAll(path); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	r, w := io.Pipe()
	loaded := make(chan struct{})
	go func() {
		defer close(loaded)
		w.CloseWithError(log.Load(ctx, from, w))
	}()
	err = unpack(f, r)
	r.CloseWithError(err)
	<-loaded
	return errors.Join(err, f.Sync(), f.Close())
}

func unpack(to io.Writer, r io.Reader) error {
	z, err := gzip.NewReader(r)
	if err != nil {
		return err
	}
	if _, err := io.Copy(to, z); err != nil {
		return err
	}
	return z.Close()
}
