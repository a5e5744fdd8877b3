package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/rotation"
)

var errNoRule = errors.New("a removal needs to be asked for its leave")

// Retire implements certificate.Inventory. Allowed is asked on the goroutine
// that writes, within the transaction of the removal, with the sightings that
// are not written yet; it must not ask the store to write, and may be asked
// again if that transaction has to be repeated.
func (h Certificates) Retire(ctx context.Context, r certificate.Removal) error {
	if r.Allowed == nil {
		return errNoRule
	}
	if r.Mode != certificate.Deactivate && r.Mode != certificate.Delete {
		return fmt.Errorf("retire certificate %s: %q is not a way to do it", r.Certificate, r.Mode)
	}
	// A sighting that is reported from here on waits for what is decided.
	h.s.sightings.hold(r.Device)
	err := h.s.commitThen(ctx, func(t *tx) error { return h.retire(t, r) },
		func(error) { h.s.sightings.release(r.Device) })
	if refused := (refusal{}); errors.As(err, &refused) {
		return refused.why
	}
	if err == nil {
		return nil
	}
	return fmt.Errorf("retire certificate %s of device %s: %w", r.Certificate, r.Device, err)
}

// refusal carries what Allowed said, as it is, to the caller.
type refusal struct{ why error }

func (r refusal) Error() string { return r.why.Error() }

func (h Certificates) retire(t *tx, r certificate.Removal) error {
	if err := stillDue(t, r); err != nil {
		return err
	}
	if own, err := h.s.isOpenWith(t, r); err != nil {
		return err
	} else if own {
		return refusal{rotation.Kept{Why: "it is the open rotation's own"}}
	}
	held, err := heldBy(t, r.Device)
	if err != nil {
		return err
	}
	// What waits is written by now, unless that failed.
	held = h.s.alive(held, h.s.sightings.of(r.Device))
	if why := r.Allowed(held); why != nil {
		return refusal{why}
	}
	at, known, err := placeOf(t, r.Device, r.Certificate)
	switch {
	case err != nil:
		return err
	case !known:
		return certificate.ErrUnknown
	case !at.usable(), at.standing == certificate.Revoked:
		return nil // it is gone already
	case at.holders > 1:
		return h.detach(t, r, CertificateDetached)
	case r.Mode == certificate.Delete:
		return h.remove(t, r)
	case at.standing == certificate.Active, at.elsewhere: // from now on it is so because of us
		return h.deactivate(t, r)
	}
	return nil
}

// isOpenWith reports whether the device's open rotation has the certificate,
// also one that was opened since the caller looked.
func (s *Store) isOpenWith(t *tx, r certificate.Removal) (bool, error) {
	if d := s.drafts.find(r.Device); d != nil && d.rotation.Certificate == r.Certificate {
		return true, nil
	}
	_, open, err := single(t, value[int], `SELECT 1 FROM rotations INDEXED BY rotations_open WHERE device = ? AND certificate = ?
		AND `+openStates, r.Device, r.Certificate)
	return open, err
}

// stillDue returns rotation.ErrChanged if the retirement that the removal is
// about was closed.
func stillDue(q querier, r certificate.Removal) error {
	if r.Rotation == 0 {
		return nil
	}
	_, open, err := single(q, value[int], `SELECT 1 FROM retirements
		WHERE device = ? AND certificate = ? AND rotation = ? AND done = 0`, r.Device, r.Certificate, r.Rotation)
	if err == nil && !open {
		err = rotation.ErrChanged
	}
	return err
}

func (h Certificates) deactivate(t *tx, r certificate.Removal) error {
	if err := setStanding(t, r.Certificate, certificate.Inactive); err != nil {
		return err
	}
	return h.gone(t, r, CertificateDeactivated)
}

func (h Certificates) remove(t *tx, r certificate.Removal) error {
	if err := setStanding(t, r.Certificate, certificate.Deleted); err != nil {
		return err
	}
	return h.detach(t, r, CertificateDeleted)
}

func (h Certificates) detach(t *tx, r certificate.Removal, kind string) error {
	err := t.changeOfHolders(r.Certificate, r.Device, `UPDATE holdings SET detached = ? WHERE device = ? AND certificate = ?`,
		nanos(t.now), r.Device, r.Certificate)
	if err != nil {
		return err
	}
	return h.gone(t, r, kind)
}

func (h Certificates) gone(t *tx, r certificate.Removal, kind string) error {
	if h.s.cfg.Retired != nil {
		t.committed(func() { h.s.cfg.Retired(r.Device, r.Certificate) })
	}
	return t.audit(Event{Kind: kind, Device: r.Device, Certificate: r.Certificate})
}
