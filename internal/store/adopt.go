package store

import (
	"context"
	"fmt"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/registry"
)

// slack is how far apart the clocks of those who issued and of those who
// restored may be.
const slack = time.Minute

// Adopt takes in a certificate that a device connects with, and that it was
// vended after the last row that the store was restored up to: one that is not
// on record, and was issued in the time that may be missing; or the device's
// package, which waits on record and must have been fetched. It returns false,
// and does nothing, for every other: what was retired stays so. The caller has
// made sure that this CA issued it, for this device. registry.ErrUnknown for a
// device that is not in the registry.
func (h Certificates) Adopt(ctx context.Context, device registry.DeviceID, c certificate.Certificate, r Restoration) (bool, error) {
	adopted, err := h.adopt(ctx, device, c, r)
	if err != nil {
		return false, fmt.Errorf("adopt certificate %s of device %s: %w", c.ID, device, err)
	}
	return adopted, nil
}

func (h Certificates) adopt(ctx context.Context, device registry.DeviceID, c certificate.Certificate, r Restoration) (adopted bool, err error) {
	var worth bool
	err = h.s.look(ctx, func(q querier) error {
		at, onRecord, err := placeOf(q, device, c.ID)
		worth = !onRecord && r.mayLack(c) || waits(at)
		return err
	})
	if err != nil || !worth {
		return false, err
	}
	return commitFor(ctx, h.s, func(t *tx) (bool, error) {
		if err := known(t, device); err != nil {
			return false, err
		}
		at, onRecord, err := placeOf(t, device, c.ID)
		switch {
		case err != nil:
			return false, err
		case !onRecord:
			return true, adopt(t, device, c)
		case waits(at):
			return fetched(t, device, c.ID)
		}
		return false, nil
	})
}

// mayLack reports whether a certificate began in the time of which rows may be
// missing.
func (r Restoration) mayLack(c certificate.Certificate) bool {
	return !c.NotBefore.Before(r.Since.Add(-slack)) && c.NotBefore.Before(r.At.Add(slack))
}

// waits reports whether a certificate may be that of a package which its device
// has not fetched.
func waits(at place) bool {
	return at.held && at.kind == certificate.Packaged && at.standing == certificate.Inactive
}

func adopt(t *tx, device registry.DeviceID, c certificate.Certificate) error {
	c.Standing, c.Kind = certificate.Active, certificate.Adopted
	if err := register(t, device, c); err != nil {
		return err
	}
	return t.audit(Event{Kind: CertificateAdopted, Device: device, Certificate: c.ID, Detail: map[string]string{
		"why": "issued after the last row that the store was restored up to",
	}})
}

// fetched activates the certificate of a package that no rotation has used, as
// far as is on record.
func fetched(t *tx, device registry.DeviceID, id certificate.ID) (bool, error) {
	used, err := value[bool](t.row(`SELECT EXISTS (SELECT 1 FROM rotations WHERE device = ?1 AND certificate = ?2)
		OR NOT EXISTS (SELECT 1 FROM packages WHERE device = ?1 AND certificate = ?2 AND spent = 0)`, device, id))
	if err != nil || used {
		return false, err
	}
	if err := activate(t, device, id); err != nil {
		return false, err
	}
	return true, t.audit(Event{Kind: CertificateAdopted, Device: device, Certificate: id, Detail: map[string]string{
		"why": "fetched after the last row that the store was restored up to",
	}})
}
