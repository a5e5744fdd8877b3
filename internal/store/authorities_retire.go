package store

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/registry"
)

// Uses is what would stop working without a CA.
type Uses struct {
	// Certificates are those that are ACTIVE, held by a device of the registry,
	// and not expired for good.
	Certificates int
	Birth        int // of these, birth certificates, which no rotation replaces
	Packages     int // that wait for their devices
}

// All is how many things these are.
func (u Uses) All() int { return u.Certificates + u.Packages }

// InUse is returned where a CA is not retired, because more would stop working
// than the caller allowed.
type InUse struct{ Uses Uses }

func (e InUse) Error() string {
	return fmt.Sprintf("%d certificates and %d packages of it are in use", e.Uses.Certificates, e.Uses.Packages)
}

// Uses counts what would stop working if a CA were retired: nothing where
// another one that is trusted has the same name and key. What expired before
// the moment given, and is not connected, works no more.
func (h Authorities) Uses(ctx context.Context, id certificate.ID, expired time.Time) (Uses, error) {
	var u Uses
	err := h.s.view(ctx, func(q querier) (err error) {
		u, err = h.uses(q, id, expired)
		return err
	})
	if err != nil {
		return Uses{}, fmt.Errorf("count the certificates of CA %.12s: %w", id, err)
	}
	return u, nil
}

// issuedBy is a condition on certificates c, with its arguments.
type issuedBy struct {
	where string
	args  []any
}

// those returns the condition for the certificates that no CA verifies any more
// once the CA with this id is not trusted; false where there are none.
func those(q querier, id certificate.ID) (issuedBy, bool, error) {
	all, err := authorities(q)
	if err != nil {
		return issuedBy{}, false, err
	}
	at := slices.IndexFunc(all, func(a Authority) bool { return a.ID == id })
	if at < 0 {
		return issuedBy{}, false, ErrAuthorityUnknown
	}
	own := all[at]
	if slices.ContainsFunc(all, func(a Authority) bool { return a.ID != id && a.Line == own.Line && a.Retired.IsZero() }) {
		return issuedBy{}, false, nil
	}
	// What the chain shows to be of another CA with the same name stays.
	chains, err := collect(q, scanChain, `SELECT id, ders FROM chains`)
	if err != nil {
		return issuedBy{}, false, err
	}
	by := issuedBy{`c.issuer = ?`, []any{own.Subject}}
	for _, c := range chains {
		for _, a := range all {
			if len(c.ders) > 0 && a.ID == certificate.IDOf(c.ders[0]) && a.Subject == own.Subject && a.Line != own.Line {
				by.where += ` AND c.chain <> ?`
				by.args = append(by.args, c.id)
			}
		}
	}
	return by, true, nil
}

type chainRow struct {
	id   int64
	ders [][]byte
}

func scanChain(row scanner) (c chainRow, err error) {
	var ders []byte
	if err = row.Scan(&c.id, &ders); err != nil {
		return c, err
	}
	c.ders, err = parted(ders)
	return c, err
}

func (h Authorities) uses(q querier, id certificate.ID, expired time.Time) (u Uses, err error) {
	by, some, err := those(q, id)
	if err != nil || !some {
		return u, err
	}
	const held = ` AND EXISTS (SELECT 1 FROM holdings h JOIN devices d ON d.id = h.device WHERE h.certificate = c.id AND h.detached = 0)`
	row := q.row(`SELECT count(*), coalesce(sum(c.kind = 'birth'), 0) FROM certificates c
		WHERE `+by.where+` AND c.standing = 'ACTIVE' AND c.not_after > ?`+held, with(by.args, expired.Unix())...)
	if err := row.Scan(&u.Certificates, &u.Birth); err != nil {
		return u, err
	}
	u.Packages, err = value[int](q.row(`SELECT count(*) FROM packages p JOIN certificates c ON c.id = p.certificate
		JOIN devices d ON d.id = p.device
		WHERE p.spent = 0 AND `+by.where+` AND c.standing = 'INACTIVE' AND c.not_after > ?`, with(by.args, expired.Unix())...))
	if err != nil {
		return u, err
	}
	// An open connection outlives its certificate, and may still rotate.
	old, err := collect(q, scanHeld, `SELECT h.device, c.id FROM certificates c JOIN holdings h ON h.certificate = c.id AND h.detached = 0
		WHERE `+by.where+` AND c.standing = 'ACTIVE' AND c.not_after <= ?`, with(by.args, expired.Unix())...)
	for _, one := range old {
		if h.s.connected(one.device, one.certificate) {
			u.Certificates++
		}
	}
	return u, err
}

func with(args []any, more ...any) []any { return append(slices.Clone(args), more...) }

type heldRow struct {
	device      registry.DeviceID // empty: nobody's
	certificate certificate.ID
}

func scanHeld(row scanner) (h heldRow, err error) {
	err = row.Scan(&h.device, &h.certificate)
	return h, err
}

// Retiring asks to retire a CA.
type Retiring struct {
	ID      certificate.ID
	Lose    int       // at most so many things that are in use may stop working
	Expired time.Time // see Uses
}

// Retire takes a CA out of those that are trusted, for good. Idempotent. It
// returns an InUse, with nothing done, where more would stop working than may,
// and ErrAuthorityIssues for the one that issues. What stops working is left to
// Distrust.
func (h Authorities) Retire(ctx context.Context, r Retiring) error {
	err := h.s.commit(ctx, func(t *tx) error {
		a, known, err := authority(t, r.ID)
		switch {
		case err != nil:
			return err
		case !known:
			return ErrAuthorityUnknown
		case !a.Retired.IsZero():
			return nil
		case a.Issues:
			return ErrAuthorityIssues
		}
		u, err := h.uses(t, r.ID, r.Expired)
		if err != nil {
			return err
		}
		if u.All() > r.Lose {
			return InUse{u}
		}
		if err := t.change(`UPDATE authorities SET retired = ? WHERE id = ?`, nanos(t.now), r.ID); err != nil {
			return err
		}
		return t.audit(Event{Kind: CARetired, Certificate: r.ID, Detail: map[string]string{
			"subject": a.Subject, "certificates": strconv.Itoa(u.Certificates), "packages": strconv.Itoa(u.Packages),
		}})
	})
	if err != nil {
		return fmt.Errorf("retire CA %.12s: %w", r.ID, err)
	}
	return nil
}

// distrustedAtOnce is how many certificates one commit deactivates.
const distrustedAtOnce = 500

// Distrust makes INACTIVE what was ACTIVE of the CAs that are retired, so that
// everything that looks at a standing knows. The broker refuses them without it.
// It is called after Retire and after every start: repeated, it goes on where it
// was interrupted, and does nothing once all is done.
func (h Authorities) Distrust(ctx context.Context) error {
	all, err := h.List(ctx)
	if err != nil {
		return err
	}
	for _, a := range all {
		for more := !a.Retired.IsZero(); more; {
			if more, err = h.distrust(ctx, a.ID); err != nil {
				return fmt.Errorf("deactivate the certificates of CA %.12s: %w", a.ID, err)
			}
		}
	}
	return nil
}

// distrust deactivates some certificates, and reports whether there were any.
func (h Authorities) distrust(ctx context.Context, id certificate.ID) (more bool, err error) {
	var waiting []registry.DeviceID // whose sightings wait for what is decided
	err = h.s.commitThen(ctx, func(t *tx) error {
		by, some, err := those(t, id)
		if err != nil || !some {
			more = false
			return err
		}
		found, err := collect(t, value[certificate.ID], `SELECT c.id FROM certificates c
			WHERE `+by.where+` AND c.standing = 'ACTIVE'`+atMost, with(by.args, distrustedAtOnce)...)
		more = len(found) > 0
		for _, one := range found {
			holders, err := h.deactivate(t, one, id)
			if err != nil {
				return err
			}
			for _, device := range holders {
				h.s.sightings.hold(device)
				waiting = append(waiting, device)
			}
		}
		return err
	}, func(error) {
		for _, device := range waiting {
			h.s.sightings.release(device)
		}
	})
	return more && err == nil, err
}

func (h Authorities) deactivate(t *tx, id, ca certificate.ID) ([]registry.DeviceID, error) {
	if err := setStanding(t, id, certificate.Inactive); err != nil {
		return nil, err
	}
	holders, err := collect(t, value[registry.DeviceID],
		`SELECT device FROM holdings WHERE certificate = ? AND detached = 0 ORDER BY device`, id)
	if err != nil {
		return nil, err
	}
	detail := map[string]string{"ca": string(ca), "why": "its CA was retired"}
	if len(holders) == 0 {
		return nil, t.audit(Event{Kind: CertificateDeactivated, Certificate: id, Detail: detail})
	}
	for _, device := range holders {
		if h.s.cfg.Retired != nil {
			t.committed(func() { h.s.cfg.Retired(device, id) })
		}
		if err := t.audit(Event{Kind: CertificateDeactivated, Device: device, Certificate: id, Detail: detail}); err != nil {
			return nil, err
		}
	}
	return holders, nil
}

// issuerOf finds the CA that issued a certificate with this issuer's name and
// this chain; empty for another's.
func issuerOf(all []Authority, issuer string, chain [][]byte) certificate.ID {
	var named certificate.ID
	for _, a := range all {
		if len(chain) > 0 && a.ID == certificate.IDOf(chain[0]) {
			return a.ID
		}
		if a.Subject == issuer {
			named = a.ID
		}
	}
	return named
}
