package store

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/rotation"
)

// errUnrecorded says that a row was written by a version that did not record
// enough to do the same again.
var errUnrecorded = errors.New("a version of certvendor wrote it that did not record enough to do it again")

// notes are the beginnings of kinds that other parts of the program write: what
// they are about has rows of the store's own.
var notes = [...]string{"operator."}

// again does what an event records, at the time it was done. Every kind of the
// store's own events has its line here; one that has none stops a replay.
func (t *tx) again(e Event) error {
	switch e.Kind {
	case DeviceAdded, DeviceAttributes, DeviceRemoved, DeviceBlocked, DeviceUnblocked:
		return t.againDevice(e)
	case CertificateChain, CertificateRegistered, CertificateAttached, CertificateAdopted:
		return t.againRegister(e)
	case CertificateBirth:
		return t.birth(e.Certificate)
	case CertificateFound:
		return foundSo(t, e.Certificate, certificate.Standing(e.Detail["standing"]), e.Detail["policies"])
	case CertificateActivated:
		return setStanding(t, e.Certificate, certificate.Active)
	case CertificateDeactivated:
		return setStanding(t, e.Certificate, certificate.Inactive)
	case CertificateDeleted:
		return errors.Join(setStanding(t, e.Certificate, certificate.Deleted), detached(t, e))
	case CertificateDetached:
		return detached(t, e)
	case CertificateRevoked:
		return t.againRevoke(e)
	case RotationState:
		return t.againRotation(e)
	case RetirementUndone:
		return t.againUndo(e)
	case CampaignState:
		return t.againCampaign(e)
	case RetirementWritten, RetirementDue, RetirementRevert, RetirementReturn, RetirementHalf, RetirementDone:
		return t.againRetirement(e)
	case GroupAdded:
		return errors.Join(t.againLetIn(e), join(t, e.Device))
	case GroupRemoved:
		return errors.Join(leave(t, e.Device, time.Time{}), t.againLeft(e))
	case PackagePut:
		return putPackage(t, e.Device, e.Certificate)
	case PackageSpent:
		return t.change(`UPDATE packages SET spent = ? WHERE device = ? AND certificate = ?`, nanos(e.At), e.Device, e.Certificate)
	case CATookOver, CARetired:
		return t.againAuthority(e)
	case ServerCAPrepared, ServerCAUsed, ServerCAAbandoned, DeviceAnchors:
		return t.againAnchors(e)
	case Frozen, Thawed, CAMade, CRLNumbered, StoreRestored:
		return t.againMeta(e)
	case StoreTakenOver:
		return nil // whoever restores it leads
	}
	for _, note := range notes {
		if strings.HasPrefix(e.Kind, note) {
			return nil
		}
	}
	return errors.New("this version of certvendor does not know such rows: restore with the one that wrote it")
}

func (t *tx) againDevice(e Event) error {
	attributes := map[string]string{}
	if text := e.Detail["attributes"]; text != "" {
		var err error
		if attributes, err = fields(text); err != nil {
			return err
		}
	}
	switch e.Kind {
	case DeviceAdded:
		return addDevice(t, e.Device, attributes)
	case DeviceAttributes:
		_, err := setAttributes(t, e.Device, attributes)
		return err
	case DeviceRemoved:
		return removeDevice(t, e.Device)
	}
	return t.change(`UPDATE devices SET blocked = ? WHERE id = ?`, e.Kind == DeviceBlocked, e.Device)
}

func detached(t *tx, e Event) error {
	return t.change(`UPDATE holdings SET detached = ? WHERE device = ? AND certificate = ?`, nanos(e.At), e.Device, e.Certificate)
}

func (t *tx) againRevoke(e Event) error {
	reason, err := certificate.ParseReason(e.Detail["reason"])
	if err != nil {
		return err
	}
	if err := setStanding(t, e.Certificate, certificate.Revoked); err != nil {
		return err
	}
	return t.change(`INSERT OR IGNORE INTO revocations SELECT id, ?, ?, not_after FROM certificates WHERE id = ?`,
		nanos(e.At), int(reason), e.Certificate)
}

// againUndo closes a retirement that a person has undone; what came back by it
// has rows of its own.
func (t *tx) againUndo(e Event) error {
	number, err := strconv.ParseInt(e.Detail["rotation"], 10, 64)
	if err != nil {
		return err
	}
	r, known, err := numbered(t, e.Device, number)
	if err != nil || !known {
		return errors.Join(err, errUnrecorded)
	}
	r.Undone, r.UndoneAt = append(r.Undone, e.Certificate), e.At
	if err := write(t, r, r.State); err != nil {
		return err
	}
	return t.change(`UPDATE retirements SET reverted = 0, why = ?, done = iif(done = 0, ?, done)
		WHERE device = ? AND certificate = ? AND rotation = ?`, rotation.WhyUndone, nanos(e.At), e.Device, e.Certificate, number)
}

func (t *tx) againRegister(e Event) error {
	switch e.Kind {
	case CertificateAdopted:
		return nil // its registration is a row of its own
	case CertificateChain:
		id, ders, err := chainOf(e)
		if err != nil {
			return err
		}
		return t.change(`INSERT INTO chains (id, ders) VALUES (?, ?)`, id, ders)
	case CertificateAttached:
		if err := setStanding(t, e.Certificate, certificate.Standing(e.Detail["standing"])); err != nil {
			return err
		}
		return hold(t, e.Device, e.Certificate)
	}
	c, err := t.registered(e)
	if err != nil {
		return err
	}
	if e.Device == "" { // found in another place, and nobody's
		return insert(t, "", c)
	}
	return register(t, e.Device, c)
}

func chainOf(e Event) (id int64, ders []byte, err error) {
	id, err = strconv.ParseInt(e.Detail["chain"], 10, 64)
	if err == nil {
		ders, err = base64.StdEncoding.DecodeString(e.Detail["ders"])
	}
	if err == nil {
		_, err = parted(ders)
	}
	return id, ders, err
}

// registered returns the certificate that a row registers.
func (t *tx) registered(e Event) (certificate.Certificate, error) {
	var c certificate.Certificate
	if e.Detail["der"] == "" {
		return c, errUnrecorded
	}
	der, err := base64.StdEncoding.DecodeString(e.Detail["der"])
	if err != nil {
		return c, err
	}
	ders, there, err := single(t, value[[]byte], `SELECT ders FROM chains WHERE id = ?`, e.Detail["chain"])
	if err != nil {
		return c, err
	}
	if !there {
		return c, fmt.Errorf("there is no chain %q", e.Detail["chain"])
	}
	chain, err := parted(ders)
	if err != nil {
		return c, err
	}
	if c, err = certificate.New(der, chain); err != nil {
		return c, err
	}
	if c.ID != e.Certificate {
		return c, errors.New("its certificate is another")
	}
	c.Standing, c.Kind = certificate.Standing(e.Detail["standing"]), certificate.Kind(e.Detail["kind"])
	c.Policies, err = names[string](e.Detail["policies"])
	return c, err
}

func (t *tx) againRetirement(e Event) error {
	number, err := strconv.ParseInt(e.Detail["rotation"], 10, 64)
	if err != nil {
		return err
	}
	due, err := readStamp(e.Detail["due"])
	if err != nil {
		return err
	}
	if e.Kind == RetirementWritten {
		proven, err := readStamp(e.Detail["proven"])
		if err != nil {
			return err
		}
		return owe(t, rotation.Retirement{
			Device: e.Device, Certificate: e.Certificate, Rotation: number, Mode: certificate.Mode(e.Detail["mode"]),
			Evidence: certificate.Evidence(e.Detail["evidence"]), ProvenAt: proven, Due: due,
		})
	}
	r, known, err := single(t, scanRetirement, `SELECT `+retirementColumns+` FROM retirements
		WHERE device = ? AND certificate = ? AND rotation = ?`, e.Device, e.Certificate, number)
	if err != nil || !known {
		return errors.Join(err, errUnrecorded)
	}
	r.Due, r.Why = due, ""
	switch e.Kind {
	case RetirementRevert, RetirementReturn:
		r.Reverted = e.Kind == RetirementRevert
	case RetirementHalf:
		r.Deactivated = e.At
	case RetirementDone:
		r.Done = e.At
	}
	return note(t, r)
}

func (t *tx) againMeta(e Event) error {
	switch e.Kind {
	case CAMade:
		return setMeta(t, CACertificate, string(e.Certificate))
	case CRLNumbered:
		return setMeta(t, crlNumberKey, e.Detail["number"])
	case StoreRestored:
		return t.againRestored(e.Detail["restored"])
	}
	f, err := frozenIn(e)
	if err != nil {
		return err
	}
	return setMeta(t, frozenKey, f)
}

// ended are the states after which a device has done its job.
func ended(s rotation.State) bool { return s == rotation.Finished || s == rotation.Acknowledged }

func (t *tx) againRotation(e Event) error {
	number, err := strconv.ParseInt(e.Detail["rotation"], 10, 64)
	if err != nil {
		return err
	}
	r, known, err := numbered(t, e.Device, number)
	if err != nil {
		return err
	}
	was := r.State
	if !known {
		if e.Detail["opened"] == "" {
			return errUnrecorded
		}
		r = rotation.Rotation{Device: e.Device, Number: number}
	}
	if err := recorded(&r, e, !known); err != nil {
		return err
	}
	if err := write(t, r, was); err != nil {
		return err
	}
	if err := t.shown(r); err != nil || !ended(r.State) {
		return err
	}
	// What the device told the job is in no row; that it has rotated is.
	pending, err := collect(t, scanExecution, `SELECT `+executionColumns+` FROM executions
		WHERE device = ? AND status IN ('QUEUED', 'IN_PROGRESS') AND queued <= ?`, r.Device, nanos(r.Opened))
	if err != nil {
		return err
	}
	return endAll(t, pending, protocol.JobSucceeded)
}

// shown enters the sighting that proved a rotation.
func (t *tx) shown(r rotation.Rotation) error {
	if r.ProvenAt.IsZero() || r.Certificate == "" {
		return nil
	}
	return writeSighting(t, certificate.Sighting{
		Device: r.Device, Certificate: r.Certificate, At: r.ProvenAt, Evidence: r.Evidence,
	})
}
