package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

// DeviceInUse is a device with the certificate it was last seen on, or else
// its newest ACTIVE one, or none; and the state of its newest rotation.
type DeviceInUse struct {
	registry.Device
	Certificate certificate.ID
	Standing    certificate.Standing
	NotAfter    time.Time
	LastSeen    time.Time
	Connected   bool
	Rotation    rotation.State
}

// InUse lists devices as List does, each with the certificate it uses.
func (h Devices) InUse(ctx context.Context, query registry.Query) (page []DeviceInUse, err error) {
	err = h.s.view(ctx, func(q querier) (err error) {
		text, args := devicesQuery(`d.id, d.blocked, d.added`, query)
		if page, err = collect(q, scanBare, text, args...); err != nil {
			return err
		}
		return inUse(q, page, query)
	})
	if err != nil {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	for i := range page {
		d := &page[i]
		// A sighting that is not written yet is on the certificate that the
		// device was last seen on: any other is written at once.
		for _, seen := range h.s.sightings.of(d.ID) {
			if seen.Certificate == d.Certificate && seen.At.After(d.LastSeen) {
				d.LastSeen = seen.At.UTC()
			}
		}
		d.Connected = d.Certificate != "" && h.s.connected(d.ID, d.Certificate)
	}
	return page, nil
}

func scanBare(row scanner) (d DeviceInUse, err error) {
	var id string // what database/sql knows by itself is read at half the price
	var added int64
	err = row.Scan(&id, &d.Blocked, &added)
	d.ID, d.Added = registry.DeviceID(id), moment(added)
	return d, err
}

// inUse adds what the devices of a page have and hold. A stretch of devices is
// read table after table, each in its own order, at half the price of looking
// everything up for each of them. Where a page has only few of a stretch, each
// is one for itself.
func inUse(q querier, page []DeviceInUse, query registry.Query) error {
	if len(page) == 0 {
		return nil
	}
	dense, err := isDense(q, page, query)
	if err != nil {
		return err
	}
	if dense {
		return addStretch(q, page)
	}
	for i := range page {
		if err := addStretch(q, page[i:i+1]); err != nil {
			return err
		}
	}
	return nil
}

// isDense reports whether a page has at least a quarter of the devices between
// its first and its last.
func isDense(q querier, page []DeviceInUse, query registry.Query) (bool, error) {
	if len(query.Attributes) == 0 {
		return true, nil
	}
	beyond, is, err := single(q, value[registry.DeviceID], `SELECT id FROM devices WHERE id >= ? ORDER BY id LIMIT 1 OFFSET ?`,
		page[0].ID, 4*len(page))
	return !is || beyond > page[len(page)-1].ID, err
}

// holdingInUse finds the certificate that a device uses by what is greatest:
// when it was seen on it, or below all of these, when it was attached if it is
// ACTIVE. Beside max, a bare column is of the first row that has the maximum.
const holdingInUse = `SELECT device, certificate, seen, standing, not_after,
	max(iif(seen > 0, seen, iif(standing = 'ACTIVE', attached - 9000000000000000000, NULL))) AS best
	FROM holdings WHERE device >= ? AND device <= ? AND detached = 0 GROUP BY device HAVING best IS NOT NULL`

func addStretch(q querier, page []DeviceInUse) error {
	places := make(map[string]*DeviceInUse, len(page))
	for i := range page {
		places[string(page[i].ID)] = &page[i]
	}
	along := func(add func(row scanner) error, text string) error {
		return walk(q, add, text, page[0].ID, page[len(page)-1].ID)
	}
	return errors.Join(
		along(func(row scanner) error {
			var device, name, text string
			err := row.Scan(&device, &name, &text)
			if d := places[device]; err == nil && d != nil {
				if d.Attributes == nil {
					d.Attributes = map[string]string{}
				}
				d.Attributes[name] = text
			}
			return err
		}, `SELECT device, name, value FROM attributes WHERE device >= ? AND device <= ?`),
		along(func(row scanner) error {
			var device, id, standing string
			var seen, notAfter, best int64
			err := row.Scan(&device, &id, &seen, &standing, &notAfter, &best)
			if d := places[device]; err == nil && d != nil {
				d.Certificate, d.Standing = certificate.ID(id), certificate.Standing(standing)
				d.NotAfter, d.LastSeen = time.Unix(notAfter, 0).UTC(), moment(seen)
			}
			return err
		}, holdingInUse),
		along(func(row scanner) error {
			var device, state string
			err := row.Scan(&device, &state)
			if d := places[device]; err == nil && d != nil {
				d.Rotation = rotation.State(state)
			}
			return err
		}, `SELECT device, state FROM rotations WHERE device >= ? AND device <= ? ORDER BY device, number`),
	)
}
