package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/certvendor/certvendor/internal/archive"
	"github.com/certvendor/certvendor/internal/durable"
	"github.com/certvendor/certvendor/internal/store"
)

// newDir is what a restore makes before it counts, as a first start does.
const newDir = ".new"

// Options say what to restore from, and what may be given up.
type Options struct {
	File     string        // the backup
	Audit    string        // the directory of the audit's files; empty: the data directory's
	Replace  bool          // a store that is there is moved aside
	Lossy    bool          // go on also where the audit's files do not
	Who      string        // for the audit
	Backdate time.Duration // of certificates, before the moment they are issued
}

// Report says what was restored.
type Report struct {
	Backup   archive.Manifest `json:"backup"`
	Row      int64            `json:"row"`             // of the audit, up to which it is restored
	Replayed int64            `json:"replayed"`        // rows since the backup
	Until    time.Time        `json:"until,omitzero"`  // when the last of them was written
	Lossy    bool             `json:"lossy,omitempty"` // rows are known to be missing
	Why      string           `json:"why,omitempty"`   // they are
	Aside    string           `json:"aside,omitempty"` // where what was there before is now
	Data     string           `json:"data"`
}

// ErrRestore says that nothing was changed, and why.
var ErrRestore = errors.New("nothing was restored")

// Place is a data directory that is to be made anew.
type Place struct {
	Data     string
	Key      string // of the configuration that names it
	Backend  string // which the backup must be of
	Instance string
	Now      func() time.Time
	Dirs     []string // of a backup, besides the store
	// Elsewhere says that another place keeps the certificates too, see
	// store.Restoration.
	Elsewhere bool
	World     World
	// Step is called before each thing that is done; tests look at the directory
	// then. Optional.
	Step func(what string)
}

// World is what a world adds to a restore. Its methods are called in this order;
// with an error of any of them nothing is restored.
type World interface {
	// MayRestore says why nothing can be restored now.
	MayRestore(ctx context.Context) error
	// Unpacked is given the directory that the backup was unpacked into.
	Unpacked(ctx context.Context, staged string, m archive.Manifest) error
	// Opened is given the store as it was backed up.
	Opened(ctx context.Context, staged string, s *store.Store) error
	// Replayed is given the store when what was done since is done again.
	Replayed(ctx context.Context, staged string, s *store.Store) error
}

// Restore makes a data directory anew from a backup and the audit's files. No
// daemon may use it. Nothing that is there is deleted: what has to give way is
// moved into a directory beside it. However it ends, the directory holds either
// what was there before or all that was restored; the second also if the next
// start has to finish it.
func Restore(ctx context.Context, place Place, o Options) (Report, error) {
	lock, err := store.TakeLock(place.Data, place.Key, place.Now())
	if err != nil {
		return Report{}, err
	}
	r := &restore{Place: place, options: o, staged: filepath.Join(place.Data, newDir)}
	r.report.Data = place.Data
	err = r.run(ctx)
	return r.report, errors.Join(err, lock.Release())
}

// restore is one restore at work. What it makes lies in staged until all of it
// is there.
type restore struct {
	Place
	options Options
	staged  string
	report  Report
}

func (r *restore) run(ctx context.Context) error {
	if err := finish(r.Data, r.at); err != nil {
		return err
	}
	if err := r.mayBegin(ctx); err != nil {
		return fmt.Errorf("%w: %w", ErrRestore, err)
	}
	if err := errors.Join(os.RemoveAll(r.staged), os.Mkdir(r.staged, 0o700)); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	if err := r.stage(ctx); err != nil {
		return errors.Join(fmt.Errorf("%w: %w", ErrRestore, err), os.RemoveAll(r.staged))
	}
	if err := durable.SyncTree(r.staged); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	r.at("complete")
	stamp := r.Now().UTC().Format("20060102T150405.000Z")
	// From this rename on what was restored counts.
	if err := os.Rename(r.staged, filepath.Join(r.Data, restoredPrefix+stamp)); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	if err := durable.Sync(r.Data); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	if err := finish(r.Data, r.at); err != nil {
		return err
	}
	if aside := filepath.Join(r.Data, asidePrefix+stamp); exists(aside) {
		r.report.Aside = aside
	}
	return nil
}

func (r *restore) at(what string) {
	if r.Step != nil {
		r.Step(what)
	}
}

func (r *restore) mayBegin(ctx context.Context) error {
	path := filepath.Join(r.Data, archive.Store)
	if exists(path) && !r.options.Replace {
		return fmt.Errorf("%s is there; --replace moves it aside, with what belongs to it", path)
	}
	return r.World.MayRestore(ctx)
}

// stage makes all that is to be.
func (r *restore) stage(ctx context.Context) error {
	r.at("unpack")
	if err := r.unpack(); err != nil {
		return err
	}
	r.at("keys")
	if err := r.World.Unpacked(ctx, r.staged, r.report.Backup); err != nil {
		return err
	}
	r.at("store")
	return r.bringUp(ctx)
}

// unpack writes the members of the backup.
func (r *restore) unpack() error {
	file, err := os.Open(r.options.File)
	if err != nil {
		return err
	}
	defer file.Close() //nolint:errcheck // it was only read
	for _, dir := range r.Dirs {
		if err := os.Mkdir(filepath.Join(r.staged, dir), 0o700); err != nil {
			return err
		}
	}
	r.report.Backup, err = archive.Read(file, r.take)
	r.report.Backup.Members = nil
	if err != nil {
		return fmt.Errorf("%s: %w", r.options.File, err)
	}
	if is := r.report.Backup.Backend; is != r.Backend {
		return r.otherBackend(is)
	}
	return nil
}

// take writes one member. A directory that this world does not have is another
// world's.
func (r *restore) take(name string, content io.Reader) error {
	err := writeNew(filepath.Join(r.staged, filepath.FromSlash(name)), content)
	if errors.Is(err, fs.ErrNotExist) {
		return r.otherBackend("")
	}
	return err
}

func (r *restore) otherBackend(is string) error {
	named := func(backend string) string {
		if backend == "" {
			return "standalone"
		}
		return backend
	}
	return fmt.Errorf("it is a backup of backend %s, and the configuration says %s", named(is), named(r.Backend))
}

// writeNew writes a file that must not be there.
func writeNew(path string, content io.Reader) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, content)
	return errors.Join(err, file.Close())
}

// CopyMissing copies the files of a directory that the other does not have. A
// directory that is not there has none.
func CopyMissing(from, to string, wanted func(name string) bool) error {
	entries, err := os.ReadDir(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		file, err := isFile(from, e)
		if err != nil {
			return err
		}
		target := filepath.Join(to, e.Name())
		if !file || !wanted(e.Name()) || exists(target) {
			continue
		}
		if err := copyOver(filepath.Join(from, e.Name()), target); err != nil {
			return err
		}
	}
	return nil
}

func copyOver(from, to string) error {
	file, err := os.Open(from)
	if err != nil {
		return err
	}
	defer file.Close() //nolint:errcheck // it was only read
	return writeNew(to, file)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
