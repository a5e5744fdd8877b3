package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/registry"
)

// Found is what became of what another place says of a certificate.
type Found string

// What may become of it.
const (
	FoundAlike Found = ""        // nothing: the inventory says so too
	FoundNew   Found = "new"     // it is in the inventory now, and nobody's yet
	FoundOff   Found = "off"     // it was ACTIVE here, and is INACTIVE now
	FoundOn    Found = "on"      // it was INACTIVE because the other place had said so, and is ACTIVE now
	FoundOther Found = "changed" // it has other policies now
	FoundLeft  Found = "left"    // they differ, and what is here stays: we made it so, or are about to
)

// madeLately is how long a certificate may be on its way from its CA to its
// device.
const madeLately = time.Hour

// newerBy is how far the clock of another instance may be behind.
const newerBy = time.Minute

// Found compares a certificate with what another place was read to say of it at
// a moment, and brings the inventory down to that: it is never to promise more.
// It is brought up again only where what it says came from there. What changed
// here since, what is being changed, and the certificate of an open rotation
// are left alone. Nothing is retired: what is made INACTIVE stays with who
// holds it. gone is asked in the commit, and must return at once: one that was
// deleted there since it was read is left alone too.
func (h Certificates) Found(ctx context.Context, c certificate.Certificate, read time.Time, gone func() bool) (Found, error) {
	is, err := h.Certificate(ctx, c.ID)
	if err == nil && is.Standing == c.Standing && array(is.Policies) == array(c.Policies) {
		return FoundAlike, nil
	}
	if err != nil && !errors.Is(err, certificate.ErrUnknown) {
		return FoundAlike, err
	}
	found, err := commitFor(ctx, h.s, func(t *tx) (Found, error) {
		if gone() {
			return FoundLeft, nil
		}
		return h.found(t, c, read)
	})
	if err != nil {
		return FoundAlike, fmt.Errorf("take in certificate %s: %w", c.ID, err)
	}
	return found, nil
}

// TakeIn is Register of a certificate as another place was read to have it. It
// does nothing while that place is being told about it, nor where gone says that
// it was deleted there since, which is asked in the commit and must return at
// once.
func (h Certificates) TakeIn(ctx context.Context, device registry.DeviceID, c certificate.Certificate, gone func() bool) error {
	err := h.s.commit(ctx, func(t *tx) error {
		begun, err := isBegun(t, c.ID)
		if err != nil || begun || gone() {
			return err
		}
		return register(t, device, c)
	})
	if err != nil {
		return fmt.Errorf("take in certificate %s of device %s: %w", c.ID, device, err)
	}
	return nil
}

// isBegun reports whether another place is being told about a certificate.
func isBegun(q querier, id certificate.ID) (bool, error) {
	return value[bool](q.row(`SELECT EXISTS (SELECT 1 FROM unsettled WHERE certificate = ?)`, id))
}

func (h Certificates) found(t *tx, c certificate.Certificate, read time.Time) (Found, error) {
	is, known, err := single(t, func(row scanner) (f foundRow, err error) {
		return f, row.Scan(&f.standing, &f.policies, &f.elsewhere)
	}, `SELECT standing, policies, elsewhere FROM certificates WHERE id = ?`, c.ID)
	if err != nil {
		return FoundAlike, err
	}
	ours, err := h.isOurs(t, c.ID, read)
	switch {
	case err != nil:
		return FoundAlike, err
	case ours:
		return FoundLeft, nil
	case !known && c.Standing != certificate.Active && read.Sub(c.Created).Abs() < madeLately:
		return FoundLeft, nil // whoever had it made may be about to use it
	case !known:
		c.Kind = certificate.Adopted
		err := mayUse(t, c.Issuer, c.Chain)
		if errors.Is(err, certificate.ErrDistrusted) {
			return FoundLeft, nil // of a CA that was retired here: it is to stay out
		}
		if err != nil {
			return FoundLeft, err
		}
		return FoundNew, insert(t, "", c)
	}
	return h.bring(t, c, is)
}

// Gone brings a certificate that is ACTIVE down to INACTIVE which another place
// was read, at a moment, not to have any more. What is being done with it, or was
// since that moment, is left alone, and so is one that a rotation has which has not
// come as far as its device: the other place may never have heard of it, and is
// about to. A later rotation that has it keeps it from nothing: there is nothing
// left to connect with.
func (h Certificates) Gone(ctx context.Context, id certificate.ID, read time.Time) (Found, error) {
	found, err := commitFor(ctx, h.s, func(t *tx) (Found, error) {
		is, _, err := single(t, func(row scanner) (f foundRow, err error) {
			return f, row.Scan(&f.standing, &f.policies, &f.elsewhere)
		}, `SELECT standing, policies, elsewhere FROM certificates WHERE id = ?`, id)
		if err != nil || is.standing != certificate.Active {
			return FoundAlike, err
		}
		if touched, err := h.isTouched(t, id, read); err != nil || touched {
			return FoundLeft, err
		}
		if due, err := isDue(t, id); err != nil || due {
			return FoundLeft, err
		}
		policies, err := names[string](is.policies)
		if err != nil {
			return FoundAlike, err
		}
		return h.bring(t, certificate.Certificate{ID: id, Standing: certificate.Inactive, Policies: policies}, is)
	})
	if err != nil {
		return FoundAlike, fmt.Errorf("certificate %s, which is gone: %w", id, err)
	}
	return found, nil
}

// isDue reports whether a rotation is about to vend a certificate.
func isDue(q querier, id certificate.ID) (bool, error) {
	return value[bool](q.row(`SELECT EXISTS (SELECT 1 FROM holdings h CROSS JOIN rotations r INDEXED BY rotations_open ON r.device = h.device
		WHERE h.certificate = ?1 AND h.detached = 0 AND r.certificate = ?1 AND r.by_package = 0
		AND `+openStates+` AND (r.state = 'intended' OR r.state = 'issued'))`, id))
}

// bring is tx.bring, after which nothing waits to be written of who held what is
// INACTIVE now.
func (h Certificates) bring(t *tx, c certificate.Certificate, is foundRow) (Found, error) {
	found, err := t.bring(c, is)
	if err != nil || found != FoundOff {
		return found, err
	}
	holders, err := collect(t, value[registry.DeviceID], `SELECT device FROM holdings WHERE certificate = ?`, c.ID)
	t.committed(func() { h.s.sightings.drop(holders) })
	return found, err
}

// foundRow is what the inventory says of a certificate.
type foundRow struct {
	standing  certificate.Standing
	policies  string
	elsewhere bool
}

// bring makes the inventory say of a certificate what another place says.
func (t *tx) bring(c certificate.Certificate, is foundRow) (Found, error) {
	found, standing := FoundAlike, is.standing
	switch {
	case is.standing == certificate.Active && c.Standing != certificate.Active:
		found, standing = FoundOff, certificate.Inactive
	case is.standing == certificate.Inactive && is.elsewhere && c.Standing == certificate.Active:
		if mayUseID(t, c.ID) != nil {
			return FoundLeft, nil
		}
		found, standing = FoundOn, certificate.Active
	case is.standing != c.Standing:
		return FoundLeft, nil
	case is.policies != array(c.Policies):
		found = FoundOther
	default:
		return FoundAlike, nil
	}
	if err := foundSo(t, c.ID, standing, array(c.Policies)); err != nil {
		return found, err
	}
	// By a holder it is in that device's timeline; there may be none.
	device, _, err := single(t, value[registry.DeviceID], `SELECT device FROM holdings WHERE certificate = ? AND detached = 0 ORDER BY device LIMIT 1`, c.ID)
	if err != nil {
		return found, err
	}
	return found, t.audit(Event{Kind: CertificateFound, Device: device, Certificate: c.ID, Detail: map[string]string{
		"standing": string(standing), "policies": array(c.Policies),
	}})
}

func foundSo(t *tx, id certificate.ID, standing certificate.Standing, policies string) error {
	if policies != "" && !json.Valid([]byte(policies)) {
		return errUnrecorded
	}
	return t.changeOfHolders(id, nobody, `UPDATE certificates SET standing = ?, policies = ?, elsewhere = ? WHERE id = ?`,
		standing, policies, standing == certificate.Inactive, id)
}

// isTouched reports whether something is being done with a certificate, or was
// since a moment, by this instance, which alone writes.
func (h Certificates) isTouched(t *tx, id certificate.ID, since time.Time) (bool, error) {
	return h.isAtWork(t, id, func(holder registry.DeviceID) scanner {
		return t.row(`SELECT EXISTS (SELECT 1 FROM audit
			WHERE device = ?1 AND device <> '' AND certificate = ?2 AND at > ?3 AND kind LIKE 'certificate.%')`, holder, id, nanos(since))
	})
}

// isOurs reports whether a certificate is, or was since a moment, in the hands
// of this program: what was read of it then may be out of date.
func (h Certificates) isOurs(t *tx, id certificate.ID, read time.Time) (bool, error) {
	return h.isAtWork(t, id, func(holder registry.DeviceID) scanner {
		return t.row(`SELECT EXISTS (SELECT 1 FROM rotations INDEXED BY rotations_open
			WHERE device = ?1 AND certificate = ?2 AND `+openStates+`)
			OR EXISTS (SELECT 1 FROM audit WHERE device = ?1 AND device <> '' AND certificate = ?2 AND at >= ?3 AND kind LIKE 'certificate.%')`,
			holder, id, nanos(read.Add(-newerBy)))
	})
}

// isAtWork reports whether a certificate is being changed elsewhere, is in a
// draft of one of its holders, or whatever else is asked of a holder says so.
func (h Certificates) isAtWork(t *tx, id certificate.ID, ask func(holder registry.DeviceID) scanner) (bool, error) {
	begun, err := isBegun(t, id)
	if err != nil || begun {
		return begun, err
	}
	holders, err := collect(t, value[registry.DeviceID], `SELECT device FROM holdings WHERE certificate = ?`, id)
	if err != nil {
		return false, err
	}
	for _, holder := range holders {
		if d := h.s.drafts.find(holder); d != nil && d.carries(id) {
			return true, nil
		}
		if is, err := value[bool](ask(holder)); err != nil || is {
			return is, err
		}
	}
	return false, nil
}

// IsElsewhere reports whether a certificate is INACTIVE because another place
// has said so, and might say otherwise now.
func (h Certificates) IsElsewhere(ctx context.Context, id certificate.ID) (bool, error) {
	var is bool
	err := h.s.look(ctx, func(q querier) (err error) {
		is, _, err = single(q, value[bool], `SELECT elsewhere FROM certificates WHERE id = ? AND standing = 'INACTIVE'`, id)
		return err
	})
	if err != nil {
		return false, fmt.Errorf("certificate %s: %w", id, err)
	}
	return is, nil
}

// TakenSince reports whether a certificate was given to a device since a
// moment.
func (h Certificates) TakenSince(ctx context.Context, id certificate.ID, since time.Time) (bool, error) {
	var taken bool
	err := h.s.look(ctx, func(q querier) (err error) {
		taken, err = value[bool](q.row(`SELECT EXISTS (SELECT 1 FROM holdings WHERE certificate = ? AND detached = 0 AND attached >= ?)`,
			id, nanos(since)))
		return err
	})
	if err != nil {
		return false, fmt.Errorf("certificate %s: %w", id, err)
	}
	return taken, nil
}

// RegisteredWith returns the policies with which a certificate was registered for a
// device, whatever has become of them since.
func (h Certificates) RegisteredWith(ctx context.Context, device registry.DeviceID, id certificate.ID) (policies []string, err error) {
	err = h.s.look(ctx, func(q querier) error {
		text, known, err := single(q, value[string], `SELECT detail FROM audit
			WHERE device = ? AND device <> '' AND certificate = ? AND kind = ? ORDER BY seq LIMIT 1`, device, id, CertificateRegistered)
		if err != nil || !known {
			return err
		}
		detail, err := fields(text)
		if err != nil {
			return err
		}
		policies, err = names[string](detail["policies"])
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("policies of certificate %s: %w", id, err)
	}
	return policies, nil
}
