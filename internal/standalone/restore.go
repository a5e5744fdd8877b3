package standalone

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/certvendor/certvendor/internal/backup"
	"github.com/certvendor/certvendor/internal/store"
)

// Restore makes a data directory anew from a backup and the audit's files, with
// the CA and the packages, see backup.Restore.
func Restore(ctx context.Context, config Config, o backup.Options) (backup.Report, error) {
	return backup.Restore(ctx, place(config), o)
}

func place(config Config) backup.Place {
	return backup.Place{
		Data: config.Data, Key: dataKey, Instance: config.Instance, Now: config.Now,
		Dirs: []string{caDir, packagesDir}, World: &restoring{config: config},
	}
}

// restoring is what this world adds to a restore.
type restoring struct {
	config Config
	keys   bool // the backup has them
}

// MayRestore implements backup.World.
func (r *restoring) MayRestore(context.Context) error {
	if made := filepath.Join(r.config.Data, madeDir); exists(made) {
		return fmt.Errorf("%s was never finished: start `certvendor serve` once, or remove %s", r.config.Data, made)
	}
	return nil
}

// Opened implements backup.World: it enters the CA of the backup, where a version
// wrote it that had no list of them: what follows may be about another one.
func (r *restoring) Opened(ctx context.Context, staged string, s *store.Store) error {
	ca, err := readCA(staged, r.config.CA)
	if err != nil {
		return fmt.Errorf("the CA of the backup: %w", err)
	}
	first, err := ca.first()
	if err != nil {
		return err
	}
	return enterFirst(ctx, s, first, "the backup")
}

// Replayed implements backup.World.
func (r *restoring) Replayed(ctx context.Context, staged string, s *store.Store) error {
	if err := r.authorities(ctx, staged, s); err != nil {
		return err
	}
	wanted, err := packagesOf(ctx, s)
	if err != nil {
		return err
	}
	return r.packages(staged, wanted)
}

var _ backup.World = (*restoring)(nil)
