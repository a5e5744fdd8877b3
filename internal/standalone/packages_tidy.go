package standalone

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/certvendor/certvendor/internal/durable"
	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/registry"
)

// discardOrphans takes away the files that no waiting package has: a file is
// written before its row and goes after it, so a process that was killed in
// between leaves one behind, with a private key in it that nobody would ever
// fetch. It runs before anybody can put a package.
func (p *Packages) discardOrphans(ctx context.Context, rows store.Packages) error {
	waiting := map[string]bool{}
	for after := registry.DeviceID(""); ; {
		page, err := rows.List(ctx, after, 0)
		if err != nil {
			return fmt.Errorf("look for files without a package: %w", err)
		}
		if len(page) == 0 {
			break
		}
		for _, row := range page {
			if row.Spent.IsZero() {
				waiting[packageName(row.Device, row.Certificate)] = true
			}
			after = row.Device
		}
	}
	entries, err := os.ReadDir(p.dir)
	if err != nil {
		return fmt.Errorf("look for files without a package: %w", err)
	}
	for _, e := range entries {
		name, live := strings.CutSuffix(e.Name(), liveSuffix)
		if !live || waiting[name] {
			continue
		}
		if err := p.discard(name); err != nil {
			return fmt.Errorf("discard a file without a package: %w", err)
		}
	}
	return durable.Sync(p.dir)
}

// discard takes a package's file out of the reach of any link. Idempotent.
func (p *Packages) discard(name string) error {
	var err error
	if p.keep {
		err = os.Rename(p.path(name, liveSuffix), p.path(name, spentSuffix))
	} else {
		err = os.Remove(p.path(name, liveSuffix))
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
