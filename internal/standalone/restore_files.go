package standalone

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/certvendor/certvendor/internal/archive"
	"github.com/certvendor/certvendor/internal/backup"
	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/registry"
)

// Unpacked implements backup.World: it takes the CA's keys from the data directory if the backup has none.
func (r *restoring) Unpacked(_ context.Context, staged string, m archive.Manifest) error {
	r.keys = m.Keys
	if m.Keys {
		return nil
	}
	return backup.CopyMissing(filepath.Join(r.config.Data, caDir), filepath.Join(staged, caDir), isKey)
}

// authorities makes sure that the daemon will find a CA that holds together:
// the one of the backup, or the one that took over since, whose key no older
// backup has.
func (r *restoring) authorities(ctx context.Context, staged string, s *store.Store) error {
	ca, err := readCA(staged, r.config.CA)
	if err != nil {
		return fmt.Errorf("the CA of the backup: %w", err)
	}
	all, err := s.Authorities().List(ctx)
	if err != nil {
		return err
	}
	servers, err := s.Anchors().List(ctx)
	if err != nil {
		return err
	}
	from := filepath.Join(r.config.Data, caDir)
	err = backup.CopyMissing(from, ca.dir, func(name string) bool { return keyOfOne(all, servers, name) })
	if err != nil {
		return err
	}
	if err = ca.Take(all); err == nil {
		err = ca.loadOthers(r.config.CA, serverTurns{later: servers})
	}
	if err == nil {
		return nil
	}
	var missing *fs.PathError
	if errors.As(err, &missing) && errors.Is(err, fs.ErrNotExist) {
		why, lost := "the CA has changed since the backup was made", "; if they are lost, --lossy with --audit of an empty directory "+
			"goes back to the CA of the backup, and whoever has a certificate of the newer one needs another by hand"
		if !r.keys {
			why, lost = "the backup was made --without-keys", ""
		}
		return fmt.Errorf("%s, and %s is not there: put the CA's keys into %s first%s", why, filepath.Join(from, filepath.Base(missing.Path)), from, lost)
	}
	return fmt.Errorf("the CA of the backup: %w", err)
}

// keyOfOne reports whether a file is named as the key of one of these CAs is
// that came after the first.
func keyOfOne(all []store.Authority, servers []store.ServerAuthority, name string) bool {
	named := func(der []byte, file func(spki []byte) string) bool {
		c, err := x509.ParseCertificate(der)
		return err == nil && name == file(c.RawSubjectPublicKeyInfo)
	}
	return slices.ContainsFunc(all, func(a store.Authority) bool { return named(a.Chain[0], laterKeyName) }) ||
		slices.ContainsFunc(servers, func(a store.ServerAuthority) bool { return named(a.DER, laterServerKeyName) })
}

func isKey(name string) bool { return strings.HasSuffix(name, ".key") }

// packagesOf returns the names of the packages that were not used.
func packagesOf(ctx context.Context, s *store.Store) (map[string]bool, error) {
	wanted := map[string]bool{}
	for after := registry.DeviceID(""); ; {
		page, err := s.Packages().List(ctx, after, 0)
		if err != nil || len(page) == 0 {
			return wanted, err
		}
		for _, p := range page {
			if p.Spent.IsZero() {
				wanted[packageName(p.Device, p.Certificate)+liveSuffix] = true
			}
			after = p.Device
		}
	}
}

// packages takes over those that were made since the backup, where their files
// are still there, and leaves out those that were used since.
func (r *restoring) packages(staged string, wanted map[string]bool) error {
	dir := filepath.Join(staged, packagesDir)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), liveSuffix) && !wanted[e.Name()] {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return backup.CopyMissing(filepath.Join(r.config.Data, packagesDir), dir, func(name string) bool {
		return wanted[name] || name == linkKeyFile || strings.HasSuffix(name, spentSuffix)
	})
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
