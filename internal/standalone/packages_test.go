package standalone

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/vending"
)

var _ vending.Packages = (*Packages)(nil)

// rows is the store's part, in memory.
type rows struct {
	mu     sync.Mutex
	order  []certificate.ID
	spent  map[certificate.ID]time.Time
	broken error
}

func (r *rows) Put(_ context.Context, _ registry.DeviceID, c certificate.ID) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, there := r.spent[c]; !there && r.broken == nil {
		r.order, r.spent[c] = append(r.order, c), time.Time{}
	}
	return r.broken
}

func (r *rows) Find(context.Context, registry.DeviceID) (PackageRow, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	found, err := PackageRow{}, vending.ErrNoPackage
	for _, c := range r.order {
		if row := (PackageRow{Certificate: c, Spent: r.spent[c]}); err != nil || row.Spent.IsZero() || !found.Spent.IsZero() {
			found, err = row, nil
		}
	}
	return found, errors.Join(err, r.broken)
}

func (r *rows) IsSpent(_ context.Context, _ registry.DeviceID, c certificate.ID) (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.spent[c].IsZero(), r.broken
}

func (r *rows) Spend(_ context.Context, _ registry.DeviceID, c certificate.ID) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, there := r.spent[c]; !there {
		return vending.ErrNoPackage
	}
	r.spent[c] = time.Unix(1, 0)
	return r.broken
}

const packaged registry.DeviceID = "Sensor_1:a"

var (
	oneID = certificate.IDOf([]byte("one"))
	twoID = certificate.IDOf([]byte("two"))
)

// depot is a package store under test.
type depot struct {
	*Packages
	t      *testing.T
	data   string
	rows   *rows
	clock  *testClock
	config PackagesConfig
}

func openDepot(t *testing.T, edit ...func(*PackagesConfig)) *depot {
	t.Helper()
	d := &depot{t: t, data: t.TempDir(), rows: &rows{spent: map[certificate.ID]time.Time{}}, clock: newClock()}
	d.config = PackagesConfig{Data: d.data, Base: "https://gate.example:8443", TTL: 300 * time.Second, Now: d.clock.now}
	for _, e := range edit {
		e(&d.config)
	}
	d.reopen()
	return d
}

func (d *depot) reopen() {
	d.t.Helper()
	opened, err := OpenPackages(d.config, d.rows)
	if err != nil {
		d.t.Fatal(err)
	}
	d.Packages = opened
}

func (d *depot) put(c certificate.ID, content string) {
	d.t.Helper()
	if err := d.Put(context.Background(), packaged, c, []byte(content)); err != nil {
		d.t.Fatal(err)
	}
}

func (d *depot) spend(c certificate.ID) {
	d.t.Helper()
	if err := d.Spend(context.Background(), packaged, c); err != nil {
		d.t.Fatal(err)
	}
}

// files lists the directory, without the key of the links.
func (d *depot) files() map[string]string {
	d.t.Helper()
	files := tree(d.t, filepath.Join(d.data, packagesDir))
	delete(files, linkKeyFile)
	return files
}

func (d *depot) checkFiles(want map[string]string) {
	d.t.Helper()
	if got := d.files(); !maps.Equal(got, want) {
		d.t.Errorf("files %v, want %v", got, want)
	}
}

func (d *depot) checkFound(want vending.Package, kind error) {
	d.t.Helper()
	got, err := d.Find(context.Background(), packaged)
	if !errors.Is(err, kind) || (kind == nil && got != want) {
		d.t.Errorf("found %+v, %v, want %+v, %v", got, err, want, kind)
	}
}

func file(c certificate.ID) string { return packageName(packaged, c) + liveSuffix }

func TestPackageFromPutToSpend(t *testing.T) {
	d := openDepot(t)
	d.checkFound(vending.Package{}, vending.ErrNoPackage)
	if _, err := d.Link(context.Background(), packaged, oneID); !errors.Is(err, vending.ErrNoPackage) {
		t.Errorf("a link to nothing: %v", err)
	}
	for range 2 { // idempotent
		d.put(oneID, "zip one")
		d.checkFound(vending.Package{Certificate: oneID}, nil)
		d.checkFiles(map[string]string{file(oneID): "zip one"})
	}
	info, err := os.Stat(filepath.Join(d.data, packagesDir, file(oneID)))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	for range 2 {
		d.spend(oneID)
		d.checkFound(vending.Package{Certificate: oneID, Spent: true}, nil)
		d.checkFiles(map[string]string{})
	}
	if _, err := d.Link(context.Background(), packaged, oneID); !errors.Is(err, vending.ErrNoPackage) {
		t.Errorf("a link to a spent package: %v", err)
	}
	if err := d.Put(context.Background(), packaged, oneID, []byte("zip one")); err == nil {
		t.Error("a used package was put again")
	}
	d.checkFiles(map[string]string{})
}

func TestSpendWhatIsNotThere(t *testing.T) {
	d := openDepot(t)
	d.spend(oneID)
	d.checkFound(vending.Package{}, vending.ErrNoPackage)
}

func TestNewPackageReplacesTheFormer(t *testing.T) {
	d := openDepot(t)
	d.put(oneID, "zip one")
	d.put(twoID, "zip two")
	d.checkFound(vending.Package{Certificate: twoID}, nil)
	d.checkFiles(map[string]string{file(twoID): "zip two"})
	d.spend(twoID)
	d.checkFound(vending.Package{Certificate: twoID, Spent: true}, nil) // and not one again
}

func TestKeptPackageIsOutOfReach(t *testing.T) {
	d := openDepot(t, func(c *PackagesConfig) { c.Keep = true })
	d.put(oneID, "zip one")
	for range 2 {
		d.spend(oneID)
		d.checkFiles(map[string]string{packageName(packaged, oneID) + spentSuffix: "zip one"})
	}
	if _, err := d.Link(context.Background(), packaged, oneID); !errors.Is(err, vending.ErrNoPackage) {
		t.Errorf("a link to a kept package: %v", err)
	}
}

func TestPackageWhoseFileIsLost(t *testing.T) {
	d := openDepot(t)
	d.put(oneID, "zip one")
	if err := os.Remove(filepath.Join(d.data, packagesDir, file(oneID))); err != nil {
		t.Fatal(err)
	}
	d.checkFound(vending.Package{}, vending.ErrNoPackage)
}

func TestPackageRowWithoutCertificate(t *testing.T) {
	d := openDepot(t)
	d.rows.order = []certificate.ID{""}
	d.checkFound(vending.Package{}, vending.ErrNoCertificateID)
}

func TestPackageTooLarge(t *testing.T) {
	d := openDepot(t)
	if err := d.Put(context.Background(), packaged, oneID, make([]byte, MaxPackage+1)); err == nil {
		t.Error("taken")
	}
	d.checkFiles(map[string]string{})
	d.checkFound(vending.Package{}, vending.ErrNoPackage)
}

func TestStoreThatFails(t *testing.T) {
	d := openDepot(t)
	d.put(oneID, "zip one")
	d.rows.broken = errors.New("disk full")
	_, findErr := d.Find(context.Background(), packaged)
	for what, err := range map[string]error{
		"find": findErr, "put": d.Put(context.Background(), packaged, twoID, nil), "spend": d.Spend(context.Background(), packaged, oneID),
	} {
		if !errors.Is(err, d.rows.broken) {
			t.Errorf("%s: %v", what, err)
		}
	}
	d.checkFiles(map[string]string{file(oneID): "zip one"})
}

func TestPackagesAfterARestart(t *testing.T) {
	d := openDepot(t)
	d.put(oneID, "zip one")
	writeText(t, filepath.Join(d.data, packagesDir, tmpPrefix+"123"), "half a zip")
	key := d.links.key
	d.reopen()
	if string(d.links.key) != string(key) {
		t.Error("links of before the restart are void")
	}
	d.checkFiles(map[string]string{file(oneID): "zip one"})
	info, err := os.Stat(filepath.Join(d.data, packagesDir, linkKeyFile))
	if err != nil || info.Mode().Perm() != 0o600 || info.Size() != 32 {
		t.Errorf("key file %v, %v", info, err)
	}
}

func TestPackagesThatCannotBeOpened(t *testing.T) {
	d := openDepot(t)
	for name, spoil := range map[string]func(*PackagesConfig){
		"no lifetime": func(c *PackagesConfig) { c.TTL = 0 },
		"no base":     func(c *PackagesConfig) { c.Base = "" },
		"short key":   func(*PackagesConfig) { writeText(t, filepath.Join(d.data, packagesDir, linkKeyFile), "short") },
	} {
		t.Run(name, func(t *testing.T) {
			config := d.config
			spoil(&config)
			if _, err := OpenPackages(config, d.rows); err == nil {
				t.Error("opened")
			}
		})
	}
}

func TestPackageNamesTellNothing(t *testing.T) {
	names := map[string]bool{}
	for _, id := range []registry.DeviceID{"a", "A", "ab", "..", "a:b"} {
		for _, c := range []certificate.ID{oneID, twoID, ""} {
			name := packageName(id, c)
			if len(name) != 64 || strings.Trim(name, "0123456789abcdef") != "" || names[name] {
				t.Errorf("%q %q: %s", id, c, name)
			}
			names[name] = true
		}
	}
}

// TestReplacedPackageStaysAway puts a package again after another took its
// place: it is refused, and the one that waits is not lost to it.
func TestReplacedPackageStaysAway(t *testing.T) {
	d := openDepot(t)
	d.put(oneID, "zip one")
	d.put(twoID, "zip two")
	if err := d.Put(context.Background(), packaged, oneID, []byte("zip one")); err == nil {
		t.Error("a replaced package was put again")
	}
	d.checkFound(vending.Package{Certificate: twoID}, nil)
	d.checkFiles(map[string]string{file(twoID): "zip two"})
}
