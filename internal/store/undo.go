package store

import (
	"errors"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

// undo brings back what a rotation has replaced, and closes the retirements of
// that: see rotation.Change.
func undo(t *tx, of rotation.Rotation) error {
	active := 0
	for _, id := range of.Undone {
		r, known, err := single(t, scanRetirement, `SELECT `+retirementColumns+` FROM retirements
			WHERE device = ? AND certificate = ? AND rotation = ?`, of.Device, id, of.Number)
		if err != nil || !known {
			return errors.Join(err, rotation.ErrChanged)
		}
		back, err := bringBack(t, of.Device, id)
		if err != nil {
			return err
		}
		if err := closeUndone(t, r); err != nil {
			return err
		}
		if !back {
			continue
		}
		active++
		if err := closeOlder(t, of, id); err != nil {
			return err
		}
	}
	if active == 0 {
		return rotation.ErrNothingBack
	}
	return nil
}

// closeOlder closes what older rotations still owe of a certificate that is
// brought back: a retirement of theirs would take it away all the same.
func closeOlder(t *tx, of rotation.Rotation, id certificate.ID) error {
	older, err := collect(t, scanRetirement, `SELECT `+retirementColumns+` FROM retirements
		WHERE device = ? AND certificate = ? AND rotation < ? AND done = 0 ORDER BY rotation`, of.Device, id, of.Number)
	if err != nil {
		return err
	}
	for _, r := range older {
		r.Done, r.Why, r.Reverted = t.now, rotation.WhyUndone, false
		if err := note(t, r); err != nil {
			return err
		}
	}
	return nil
}

func closeUndone(t *tx, r rotation.Retirement) error {
	if r.Done.IsZero() {
		r.Done = t.now
	}
	r.Why = rotation.WhyUndone
	err := t.change(`UPDATE retirements SET reverted = 0, done = ?, why = ?
		WHERE device = ? AND certificate = ? AND rotation = ?`, nanos(r.Done), r.Why, r.Device, r.Certificate, r.Rotation)
	if err != nil {
		return err
	}
	return t.audit(owed(RetirementUndone, r))
}

// bringBack makes a certificate the device's and ACTIVE again, and reports
// whether it is.
func bringBack(t *tx, device registry.DeviceID, id certificate.ID) (bool, error) {
	at, _, err := placeOf(t, device, id)
	switch {
	case err != nil, !at.row:
		return false, err
	case at.standing != certificate.Active && at.standing != certificate.Inactive:
		return false, nil
	case at.standing == certificate.Inactive && !at.held && at.holders > 0:
		return false, nil // the others that share it have given it up
	}
	switch err := mayUseID(t, id); {
	case errors.Is(err, certificate.ErrDistrusted):
		return false, nil
	case err != nil:
		return false, err
	}
	if !at.held {
		if err := reattach(t, device, id, at); err != nil {
			return false, err
		}
	}
	return true, activate(t, device, id)
}

func reattach(t *tx, device registry.DeviceID, id certificate.ID, at place) error {
	if err := hold(t, device, id); err != nil {
		return err
	}
	return t.audit(Event{Kind: CertificateAttached, Device: device, Certificate: id, Detail: map[string]string{
		"standing": string(at.standing),
	}})
}
