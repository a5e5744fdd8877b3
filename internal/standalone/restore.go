package standalone

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

// RestoreOptions say what to restore from, and what may be given up.
type RestoreOptions struct {
	File     string        // the backup
	Audit    string        // the directory of the audit's files; empty: the data directory's
	Replace  bool          // a store that is there is moved aside
	Lossy    bool          // go on also where the audit's files do not
	Who      string        // for the audit
	Backdate time.Duration // of certificates, before the moment they are issued
}

// RestoreReport says what was restored.
type RestoreReport struct {
	Backup   archive.Manifest `json:"backup"`
	Row      int64            `json:"row"`             // of the audit, up to which it is restored
	Replayed int64            `json:"replayed"`        // rows since the backup
	Until    time.Time        `json:"until,omitzero"`  // when the last of them was written
	Lossy    bool             `json:"lossy,omitempty"` // rows are known to be missing
	Why      string           `json:"why,omitempty"`   // they are
	Aside    string           `json:"aside,omitempty"` // where what was there before is now
}

// ErrRestore says that nothing was changed, and why.
var ErrRestore = errors.New("nothing was restored")

// Restore makes a data directory anew from a backup and the audit's files. No
// daemon may use it. Nothing that is there is deleted: what has to give way is
// moved into a directory beside it. However it ends, the directory holds either
// what was there before or all that was restored; the second also if the next
// start has to finish it.
func Restore(ctx context.Context, config Config, o RestoreOptions) (RestoreReport, error) {
	lock, err := TakeLock(config.Data, config.Now())
	if err != nil {
		return RestoreReport{}, err
	}
	r := &restore{config: config, options: o, staged: filepath.Join(config.Data, newDir)}
	err = r.run(ctx)
	return r.report, errors.Join(err, lock.Release())
}

// restore is one restore at work. What it makes lies in staged until all of it
// is there.
type restore struct {
	config  Config
	options RestoreOptions
	staged  string
	report  RestoreReport
	// step is called before each thing that is done; tests look at the
	// directory then.
	step func(what string)
}

func (r *restore) run(ctx context.Context) error {
	data := r.config.Data
	if err := finishRestore(data, r.at); err != nil {
		return err
	}
	if err := r.mayBegin(); err != nil {
		return err
	}
	if err := errors.Join(os.RemoveAll(r.staged), os.Mkdir(r.staged, 0o700)); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	if err := r.stage(ctx); err != nil {
		return errors.Join(fmt.Errorf("%w: %w", ErrRestore, err), os.RemoveAll(r.staged))
	}
	if err := syncTree(r.staged); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	r.at("complete")
	stamp := r.config.Now().UTC().Format("20060102T150405.000Z")
	// From this rename on what was restored counts.
	if err := os.Rename(r.staged, filepath.Join(data, restoredPrefix+stamp)); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	if err := syncPath(data); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	if err := finishRestore(data, r.at); err != nil {
		return err
	}
	if aside := filepath.Join(data, asidePrefix+stamp); exists(aside) {
		r.report.Aside = aside
	}
	return nil
}

func (r *restore) at(what string) {
	if r.step != nil {
		r.step(what)
	}
}

func (r *restore) mayBegin() error {
	if exists(filepath.Join(r.config.Data, madeDir)) {
		return fmt.Errorf("%w: %s was never finished: start `certvendor serve` once, or remove %s",
			ErrRestore, r.config.Data, filepath.Join(r.config.Data, madeDir))
	}
	path := filepath.Join(r.config.Data, storeFile)
	if exists(path) && !r.options.Replace {
		return fmt.Errorf("%w: %s is there; --replace moves it aside, with the CA's files and the packages", ErrRestore, path)
	}
	return nil
}

// stage makes all that is to be.
func (r *restore) stage(ctx context.Context) error {
	r.at("unpack")
	if err := r.unpack(); err != nil {
		return err
	}
	r.at("keys")
	if err := r.keys(); err != nil {
		return err
	}
	r.at("store")
	wanted, err := r.bringUp(ctx)
	if err != nil {
		return err
	}
	r.at("packages")
	return r.packages(wanted)
}

// bringUp opens the store of the backup and does again what the audit says was
// done since. It returns the names of the packages that wait for their devices.
func (r *restore) bringUp(ctx context.Context) (wanted map[string]bool, err error) {
	path := filepath.Join(r.staged, storeFile)
	s, err := store.Open(ctx, store.Config{Path: path, Instance: r.config.Instance, Now: r.config.Now})
	if err != nil {
		return nil, err
	}
	defer func() {
		err = errors.Join(err, s.Close(), removeCopies(path))
	}()
	if err := r.isBackedUp(ctx, s); err != nil {
		return nil, err
	}
	if err := r.enterFirst(ctx, s); err != nil {
		return nil, err
	}
	r.at("replay")
	if err := r.replay(ctx, s); err != nil {
		return nil, err
	}
	if err := r.authorities(ctx, s); err != nil {
		return nil, err
	}
	if wanted, err = packagesOf(ctx, s); err != nil {
		return nil, err
	}
	r.at("note")
	return wanted, r.note(ctx, s)
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

// enterFirst enters the CA of the backup, where a version wrote it that had no
// list of them: what follows may be about another one.
func (r *restore) enterFirst(ctx context.Context, s *store.Store) error {
	ca, err := readCA(r.staged, r.config.CA)
	if err != nil {
		return fmt.Errorf("the CA of the backup: %w", err)
	}
	first, err := ca.first()
	if err != nil {
		return err
	}
	return enterFirst(ctx, s, first, "the backup")
}

// replay carries out the rows since the backup, as far as they hold.
func (r *restore) replay(ctx context.Context, s *store.Store) error {
	dir := r.options.Audit
	if dir == "" {
		dir = filepath.Join(r.config.Data, auditDir)
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
	if inPlace := filepath.Join(r.config.Data, auditDir); exists(inPlace) && (r.report.Lossy || dir != inPlace) {
		return os.Mkdir(filepath.Join(r.staged, auditDir), 0o700)
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
	at := r.config.Now()
	since := r.report.Until
	if since.IsZero() {
		since = r.report.Backup.At
	}
	return s.SetRestored(ctx, store.Restoration{
		At: at, Since: since.Add(-r.options.Backdate), Lossy: r.report.Lossy,
	}, why, map[string]string{
		"who": r.options.Who, "backup": r.report.Backup.At.Format(time.RFC3339), "backupRow": strconv.FormatInt(r.report.Backup.AuditRow, 10),
		"row": strconv.FormatInt(r.report.Row, 10), "lossy": strconv.FormatBool(r.report.Lossy), "cause": r.report.Why,
	})
}
