package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/registry"
)

var _ certificate.Revoker = Certificates{}

// Revoke implements certificate.Revoker. Allowed is asked as that of a removal
// is, see Retire.
func (h Certificates) Revoke(ctx context.Context, r certificate.Revocation) error {
	if r.Allowed == nil {
		return errNoRule
	}
	// The sightings of who holds it wait for what is decided.
	waiting := map[registry.DeviceID]bool{}
	wait := func(device registry.DeviceID) {
		if !waiting[device] {
			waiting[device] = true
			h.s.sightings.hold(device)
		}
	}
	err := h.s.commitThen(ctx, func(t *tx) error { return h.revoke(t, r, wait) }, func(error) {
		for device := range waiting {
			h.s.sightings.release(device)
		}
	})
	if refused := (refusal{}); errors.As(err, &refused) {
		return refused.why
	}
	if err != nil {
		return fmt.Errorf("revoke certificate %s: %w", r.Certificate, err)
	}
	return nil
}

func (h Certificates) revoke(t *tx, r certificate.Revocation, wait func(registry.DeviceID)) error {
	standing, known, err := single(t, value[certificate.Standing], `SELECT standing FROM certificates WHERE id = ?`, r.Certificate)
	switch {
	case err != nil:
		return err
	case !known:
		return certificate.ErrUnknown
	case standing == certificate.Revoked:
		return nil
	}
	holders, err := collect(t, value[registry.DeviceID],
		`SELECT device FROM holdings WHERE certificate = ? AND detached = 0 ORDER BY device`, r.Certificate)
	if err != nil {
		return err
	}
	for _, device := range holders {
		wait(device)
		held, err := heldBy(t, device)
		if err != nil {
			return err
		}
		if why := r.Allowed(device, h.s.alive(held, h.s.sightings.of(device))); why != nil {
			return refusal{why}
		}
	}
	return h.revokeFrom(t, r, holders)
}

func (h Certificates) revokeFrom(t *tx, r certificate.Revocation, holders []registry.DeviceID) error {
	if err := setStanding(t, r.Certificate, certificate.Revoked); err != nil {
		return err
	}
	err := t.change(`INSERT INTO revocations SELECT id, ?, ?, not_after FROM certificates WHERE id = ?`,
		nanos(t.now), int(r.Reason), r.Certificate)
	if err != nil {
		return err
	}
	detail := map[string]string{"reason": r.Reason.String()}
	if len(holders) == 0 {
		return t.audit(Event{Kind: CertificateRevoked, Certificate: r.Certificate, Detail: detail})
	}
	for _, device := range holders {
		if h.s.cfg.Retired != nil {
			t.committed(func() { h.s.cfg.Retired(device, r.Certificate) })
		}
		if err := t.audit(Event{Kind: CertificateRevoked, Device: device, Certificate: r.Certificate, Detail: detail}); err != nil {
			return err
		}
	}
	return nil
}

// Revoked implements certificate.Revoker.
func (h Certificates) Revoked(ctx context.Context, at time.Time, after certificate.ID, most int) ([]certificate.RevokedCertificate, error) {
	var page []certificate.RevokedCertificate
	err := h.s.view(ctx, func(q querier) (err error) {
		page, err = collect(q, scanRevoked, `SELECT `+holdingColumns+`, r.at, r.reason
			FROM revocations r JOIN certificates c ON c.id = r.certificate JOIN chains n ON n.id = c.chain
			LEFT JOIN holdings h ON false
			WHERE r.certificate > ? AND r.not_after > ? ORDER BY r.certificate`+atMost, after, at.Unix(), limit(most))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list what is revoked: %w", err)
	}
	return page, nil
}

func scanRevoked(row scanner) (r certificate.RevokedCertificate, err error) {
	var at int64
	h, err := scanHolding(longer{row, []any{&at, &r.Reason}})
	r.Certificate, r.At = h.Certificate, moment(at)
	return r, err
}

// longer is a row with more columns at its end than its reader knows of.
type longer struct {
	row  scanner
	more []any
}

func (l longer) Scan(into ...any) error { return l.row.Scan(append(into, l.more...)...) }

// crlNumberKey is the key of meta under which the number of the newest CRL is
// kept.
const crlNumberKey = "crl_number"

// NextCRL returns the number of a CRL that is about to be signed. It is greater
// than every number before it, also those that were given after an older copy
// of this store was made: it goes by the clock where that is ahead.
func (s *Store) NextCRL(ctx context.Context) (int64, error) {
	number, err := commitFor(ctx, s, func(t *tx) (int64, error) {
		text, err := meta(t, crlNumberKey)
		if err != nil {
			return 0, err
		}
		var last int64
		if text != "" {
			if _, err := fmt.Sscan(text, &last); err != nil {
				return 0, fmt.Errorf("read %s: %w", crlNumberKey, err)
			}
		}
		number := fmt.Sprint(max(last+1, t.now.Unix()))
		if err := setMeta(t, crlNumberKey, number); err != nil {
			return 0, err
		}
		return max(last+1, t.now.Unix()), t.audit(Event{Kind: CRLNumbered, Detail: map[string]string{"number": number}})
	})
	if err != nil {
		return 0, fmt.Errorf("number of the next CRL: %w", err)
	}
	return number, nil
}
