package store

import (
	"context"
	"fmt"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/registry"
)

// Package is what is known of a pre-created package. Its certificate is in the
// inventory and its file with the world.
type Package struct {
	Device      registry.DeviceID
	Certificate certificate.ID
	Created     time.Time
	Spent       time.Time // zero: it is not
}

// Packages are the rows about package files.
type Packages struct{ s *Store }

const packageColumns = `device, certificate, created, spent`

func scanPackage(row scanner) (Package, error) {
	var (
		p              Package
		created, spent int64
	)
	err := row.Scan(&p.Device, &p.Certificate, &created, &spent)
	p.Created, p.Spent = moment(created), moment(spent)
	return p, err
}

// Put enters a package, or does nothing if it is there.
func (h Packages) Put(ctx context.Context, device registry.DeviceID, id certificate.ID) error {
	if err := h.s.commit(ctx, func(t *tx) error { return putPackage(t, device, id) }); err != nil {
		return fmt.Errorf("enter package of device %s: %w", device, err)
	}
	return nil
}

func putPackage(t *tx, device registry.DeviceID, id certificate.ID) error {
	n, err := t.exec(`INSERT INTO packages VALUES (?, ?, ?, 0) ON CONFLICT (device, certificate) DO NOTHING`,
		device, id, nanos(t.now))
	if err != nil || n == 0 {
		return err
	}
	return t.audit(Event{Kind: PackagePut, Device: device, Certificate: id})
}

// IsSpent reports whether a package was used, or replaced; false for one that
// was never entered.
func (h Packages) IsSpent(ctx context.Context, device registry.DeviceID, id certificate.ID) (bool, error) {
	var spent bool
	err := h.s.look(ctx, func(q querier) error {
		at, _, err := single(q, value[int64], `SELECT spent FROM packages WHERE device = ? AND certificate = ?`, device, id)
		spent = at != 0
		return err
	})
	if err != nil {
		return false, fmt.Errorf("find package of device %s: %w", device, err)
	}
	return spent, nil
}

// Find returns the newest package of a device that is not spent, or else the
// newest that is. ErrNoPackage if it never had one.
func (h Packages) Find(ctx context.Context, device registry.DeviceID) (Package, error) {
	var p Package
	err := h.s.look(ctx, func(q querier) error {
		var some bool
		var err error
		p, some, err = single(q, scanPackage, `SELECT `+packageColumns+` FROM packages
			WHERE device = ? ORDER BY spent <> 0, created DESC, certificate LIMIT 1`, device)
		if err == nil && !some {
			err = ErrNoPackage
		}
		return err
	})
	if err != nil {
		return Package{}, fmt.Errorf("find package of device %s: %w", device, err)
	}
	return p, nil
}

// Spend marks a package as spent; the first time counts. Idempotent.
// ErrNoPackage if it was never entered.
func (h Packages) Spend(ctx context.Context, device registry.DeviceID, id certificate.ID) error {
	err := h.s.commit(ctx, func(t *tx) error {
		spent, there, err := single(t, value[int64], `SELECT spent FROM packages WHERE device = ? AND certificate = ?`, device, id)
		switch {
		case err != nil:
			return err
		case !there:
			return ErrNoPackage
		case spent != 0:
			return nil
		}
		if err := t.change(`UPDATE packages SET spent = ? WHERE device = ? AND certificate = ?`, nanos(t.now), device, id); err != nil {
			return err
		}
		return t.audit(Event{Kind: PackageSpent, Device: device, Certificate: id})
	})
	if err != nil {
		return fmt.Errorf("spend package of device %s: %w", device, err)
	}
	return nil
}

// List lists packages by device, at most limit of them (0: 1,000) and then the
// rest of the last device's. Ask again after the last device until a page comes
// back empty.
func (h Packages) List(ctx context.Context, after registry.DeviceID, most int) ([]Package, error) {
	where := func(device string, of registry.DeviceID) *filter {
		f := &filter{}
		f.add(true, device, of)
		return f
	}
	var page []Package
	err := h.s.view(ctx, func(q querier) (err error) {
		page, err = byDevice(q, scanPackage,
			paged{`SELECT ` + packageColumns + ` FROM packages`, `created DESC, certificate`, after, limit(most)},
			where, func(p Package) registry.DeviceID { return p.Device })
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list packages: %w", err)
	}
	return page, nil
}
