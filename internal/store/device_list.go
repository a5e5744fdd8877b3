package store

import (
	"context"
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

const (
	inUseColumns = deviceColumns + `,
	coalesce(h.certificate, ''), coalesce(c.standing, ''), coalesce(c.not_after, 0), coalesce(h.seen, 0),
	coalesce((SELECT r.state FROM rotations r WHERE r.device = d.id ORDER BY r.number DESC LIMIT 1), '')`
	// Beside max, a bare column is of the row that has the maximum, which
	// spares sorting. The newest ACTIVE one is looked for where none was seen.
	inUseTables = ` LEFT JOIN holdings h ON h.device = d.id AND h.certificate = coalesce(
		(SELECT seen.certificate FROM (SELECT o.certificate, max(o.seen) FROM holdings o
			WHERE o.device = d.id AND o.detached = 0 AND o.seen > 0) seen),
		(SELECT o.certificate FROM holdings o CROSS JOIN certificates s ON s.id = o.certificate
			WHERE o.device = d.id AND o.detached = 0 AND s.standing = 'ACTIVE'
			ORDER BY o.attached DESC, o.certificate LIMIT 1))
	LEFT JOIN certificates c ON c.id = h.certificate`
)

// InUse lists devices as List does, each with the certificate it uses. A page
// is one query.
func (h Devices) InUse(ctx context.Context, query registry.Query) ([]DeviceInUse, error) {
	page, err := listDevices(ctx, h.s, listing[DeviceInUse]{inUseColumns, inUseTables, scanInUse}, query)
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
	return page, err
}

func scanInUse(row scanner) (d DeviceInUse, err error) {
	var added, notAfter, seen int64
	var attributes string
	err = row.Scan(&d.ID, &d.Blocked, &added, &attributes, &d.Certificate, &d.Standing, &notAfter, &seen, &d.Rotation)
	if err != nil {
		return d, err
	}
	if d.Certificate != "" {
		d.NotAfter = time.Unix(notAfter, 0).UTC()
	}
	d.Added, d.LastSeen = moment(added), moment(seen)
	d.Attributes, err = fields(attributes)
	return d, err
}
