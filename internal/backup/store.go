package backup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/certvendor/certvendor/internal/archive"
	"github.com/certvendor/certvendor/internal/store"
)

// AuditDir is where the files of the audit are, in a data directory.
const AuditDir = "audit"

// bringUp opens the store of the backup and does again what the audit says was
// done since.
func (r *restore) bringUp(ctx context.Context) (err error) {
	path := filepath.Join(r.staged, archive.Store)
	s, err := store.Open(ctx, store.Config{Path: path, Instance: r.Instance, Now: r.Now})
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, s.Close(), removeCopies(path))
	}()
	if err := r.isBackedUp(ctx, s); err != nil {
		return err
	}
	if err := r.World.Opened(ctx, r.staged, s); err != nil {
		return err
	}
	r.at("replay")
	if err := r.replay(ctx, s); err != nil {
		return err
	}
	r.at("replayed")
	if err := r.World.Replayed(ctx, r.staged, s); err != nil {
		return err
	}
	r.at("note")
	return r.note(ctx, s)
}

// isBackedUp holds the store against the manifest.
func (r *restore) isBackedUp(ctx context.Context, s *store.Store) error {
	m := r.report.Backup
	row, hash, err := s.Audit().End(ctx)
	if err != nil {
		return err
	}
	ca, err := s.Meta(ctx, store.CACertificate)
	if err != nil {
		return err
	}
	if row != m.AuditRow || hash != m.AuditHash || ca != string(m.CA) {
		return fmt.Errorf("%w: its store is not the one that its manifest names", archive.ErrDamaged)
	}
	return nil
}

// replay carries out the rows since the backup, as far as they hold.
func (r *restore) replay(ctx context.Context, s *store.Store) error {
	dir := r.options.Audit
	if dir == "" {
		dir = filepath.Join(r.Data, AuditDir)
	}
	done, err := s.Replay(ctx, dir)
	r.report.Row, r.report.Replayed, r.report.Until = done.Row, done.Rows, done.At
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return ctx.Err()
	case !r.options.Lossy:
		return fmt.Errorf("%w. Without those rows a restore would bring back what was retired since row %d, and refuse what was vended since: "+
			"name the directory that the audit's files were copied to with --audit, or give those rows up with --lossy", err, done.Row)
	default:
		r.report.Lossy, r.report.Why = true, err.Error()
	}
	// The daemon writes the files anew from the store where those in place are
	// not the ones that were followed to their end.
	if inPlace := filepath.Join(r.Data, AuditDir); exists(inPlace) && (r.report.Lossy || dir != inPlace) {
		return os.Mkdir(filepath.Join(r.staged, AuditDir), 0o700)
	}
	return nil
}

// note writes what was done into the store.
func (r *restore) note(ctx context.Context, s *store.Store) error {
	why := fmt.Sprintf("restored up to row %d of the audit", r.report.Row)
	if r.report.Lossy {
		why += ", and rows after it are lost: what was retired since may be active again, " +
			"and nobody knows on which certificates devices were seen. Thaw when the fleet has been seen"
	}
	since := r.report.Until
	if since.IsZero() {
		since = r.report.Backup.At
	}
	return s.SetRestored(ctx, store.Restoration{
		At: r.Now(), Since: since.Add(-r.options.Backdate), Lossy: r.report.Lossy, Elsewhere: r.Elsewhere,
	}, why, map[string]string{
		"who": r.options.Who, "backup": r.report.Backup.At.Format(time.RFC3339), "backupRow": strconv.FormatInt(r.report.Backup.AuditRow, 10),
		"row": strconv.FormatInt(r.report.Row, 10), "lossy": strconv.FormatBool(r.report.Lossy), "cause": r.report.Why,
	})
}

// removeCopies removes what a migration has left beside the store.
func removeCopies(path string) error {
	copies, err := filepath.Glob(path + ".v*.bak")
	for _, name := range copies {
		err = errors.Join(err, os.Remove(name))
	}
	return err
}
