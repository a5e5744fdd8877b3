package standalone

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/durable"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/vending"
)

// PackageRow is what the store remembers of a device's package.
type PackageRow struct {
	Certificate certificate.ID
	Spent       time.Time // zero: not yet
}

// PackageRows remember which package is whose; the files are elsewhere.
// Methods are durable when they return, and safe for concurrent use.
type PackageRows interface {
	// Put enters a package, or does nothing if it is there.
	Put(context.Context, registry.DeviceID, certificate.ID) error
	// Find returns the device's package that is not spent, or else the newest
	// that is, or vending.ErrNoPackage.
	Find(context.Context, registry.DeviceID) (PackageRow, error)
	// IsSpent reports whether that package of the device was used or replaced.
	IsSpent(context.Context, registry.DeviceID, certificate.ID) (bool, error)
	// Spend marks a package as used or replaced. Idempotent. It may return
	// vending.ErrNoPackage for one that is not there.
	Spend(context.Context, registry.DeviceID, certificate.ID) error
}

// PackagesConfig says where packages are kept and how they are fetched.
type PackagesConfig struct {
	Data string        // the data directory
	Base string        // of a link, as LinkBase returns it
	TTL  time.Duration // how long a link serves
	Keep bool          // keep the file of a spent package, out of reach of any link
	Now  func() time.Time
}

const (
	packagesDir = "packages"
	linkKeyFile = "link.key"
	liveSuffix  = ".zip"
	spentSuffix = ".spent"
	// MaxPackage is the most octets a package may have: many times what a
	// key and a chain need, and still nothing to fill a disk with.
	MaxPackage = 1 << 20
)

// Packages is the directory of pre-created packages, and the HTTP handler
// that their links lead to. It is a vending.Packages.
type Packages struct {
	dir   string
	keep  bool
	rows  PackageRows
	links links

	putting sync.Mutex // so that two Puts for a device leave one file
}

// OpenPackages returns the packages below a data directory, making what is
// not there yet: the directory and the key that links are signed with.
func OpenPackages(config PackagesConfig, rows PackageRows) (*Packages, error) {
	if config.TTL <= 0 {
		return nil, errors.New("vending.link_ttl: must be more than zero")
	}
	if config.Base == "" {
		return nil, errors.New("open packages: no base for links")
	}
	dir := filepath.Join(config.Data, packagesDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open packages: %w", err)
	}
	if err := removeParts(dir); err != nil {
		return nil, fmt.Errorf("open packages: %w", err)
	}
	key, err := linkKey(filepath.Join(dir, linkKeyFile))
	if err != nil {
		return nil, fmt.Errorf("open packages: %w", err)
	}
	return &Packages{
		dir: dir, keep: config.Keep, rows: rows,
		links: links{key: key, base: config.Base, ttl: config.TTL, now: config.Now},
	}, nil
}

// Find returns the device's newest package, or vending.ErrNoPackage if there
// is none, or only one that waits and whose file is gone.
func (p *Packages) Find(ctx context.Context, id registry.DeviceID) (vending.Package, error) {
	row, err := p.rows.Find(ctx, id)
	if err != nil {
		return vending.Package{}, fmt.Errorf("find package of device %s: %w", id, err)
	}
	if row.Certificate == "" {
		return vending.Package{}, fmt.Errorf("find package of device %s: %w", id, vending.ErrNoCertificateID)
	}
	found := vending.Package{Certificate: row.Certificate, Spent: !row.Spent.IsZero()}
	if found.Spent {
		return found, nil
	}
	// Without its file a package must not get as far as being activated.
	return found, p.stat(id, row.Certificate)
}

// stat returns vending.ErrNoPackage if a package's file is gone.
func (p *Packages) stat(id registry.DeviceID, c certificate.ID) error {
	_, err := os.Stat(p.path(packageName(id, c), liveSuffix))
	if errors.Is(err, fs.ErrNotExist) {
		err = vending.ErrNoPackage // the path is of no use to anybody
	}
	if err != nil {
		return fmt.Errorf("package of device %s: %w", id, err)
	}
	return nil
}

// Link returns a URL that serves the package until its lifetime ends or the
// package is spent.
func (p *Packages) Link(_ context.Context, id registry.DeviceID, c certificate.ID) (string, error) {
	if err := p.stat(id, c); err != nil {
		return "", err
	}
	return p.links.to(packageName(id, c)), nil
}

// Put stores a package, in place of the device's former one, whose file is
// deleted and which never comes back. Idempotent. When it returns nil, the
// package is durable; if it fails, the device may be left without one. A
// package that was used is refused.
func (p *Packages) Put(ctx context.Context, id registry.DeviceID, c certificate.ID, zip []byte) error {
	p.putting.Lock()
	defer p.putting.Unlock()
	spent, err := p.rows.IsSpent(ctx, id, c)
	if err != nil {
		return fmt.Errorf("put package of device %s: %w", id, err)
	}
	former, err := p.rows.Find(ctx, id)
	switch {
	case len(zip) > MaxPackage:
		return fmt.Errorf("put package of device %s: %d octets, more than %d", id, len(zip), MaxPackage)
	case err != nil && !errors.Is(err, vending.ErrNoPackage):
		return fmt.Errorf("put package of device %s: %w", id, err)
	case spent:
		return fmt.Errorf("put package of device %s: that of certificate %s was used or replaced, create a new one", id, c)
	}
	// The file first: a row must never promise what is not there. The former
	// one's end before the new one's beginning: no cut brings it back.
	if err := writeFile(p.path(packageName(id, c), liveSuffix), zip, 0o600); err != nil {
		return fmt.Errorf("put package of device %s: %w", id, err)
	}
	if former.Certificate != "" && former.Certificate != c {
		if err := p.Spend(ctx, id, former.Certificate); err != nil {
			return fmt.Errorf("replace package: %w", err)
		}
	}
	if err := p.rows.Put(ctx, id, c); err != nil {
		return fmt.Errorf("put package of device %s: %w", id, err)
	}
	return nil
}

// Spend remembers that a package was used and takes its file away; links to
// it serve no more. Idempotent, also for a package that is not there.
func (p *Packages) Spend(ctx context.Context, id registry.DeviceID, c certificate.ID) error {
	if err := p.rows.Spend(ctx, id, c); err != nil && !errors.Is(err, vending.ErrNoPackage) {
		return fmt.Errorf("spend package of device %s: %w", id, err)
	}
	if err := p.discard(packageName(id, c)); err != nil {
		return fmt.Errorf("spend package of device %s: %w", id, err)
	}
	return durable.Sync(p.dir)
}

func (p *Packages) path(name, suffix string) string {
	return filepath.Join(p.dir, name+suffix)
}

// packageName is what a package's file and link are called: nothing that
// tells whose it is, and nothing that could mean anything in a path.
func packageName(id registry.DeviceID, c certificate.ID) string {
	sum := sha256.Sum256([]byte(string(id) + "\x00" + string(c)))
	return hex.EncodeToString(sum[:])
}
