package store

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/certvendor/certvendor/certificate"
)

// The kinds of errors about CAs that callers may test for.
var (
	// ErrAuthorityRetired says that a CA was retired, which nothing undoes.
	ErrAuthorityRetired = errors.New("the CA is retired")
	// ErrAuthorityIssues says that a CA is the one that issues.
	ErrAuthorityIssues = errors.New("the CA is the one that issues")
	// ErrAuthorityUnknown says that there is no such CA.
	ErrAuthorityUnknown = errors.New("unknown CA")
)

// Authority is an issuing CA of this world, as long as there is a store.
type Authority struct {
	ID      certificate.ID
	Subject string   // as certificates of it name their issuer
	Line    string   // its name and key: two CAs of one line verify each other's certificates
	Chain   [][]byte // DER, its own certificate first, up to its root
	Issues  bool     // it signs what is issued now; one of all does
	Added   time.Time
	Retired time.Time // zero: it is trusted
}

// Authorities are the issuing CAs. They are never forgotten.
type Authorities struct{ s *Store }

// Authorities returns the issuing CAs.
func (s *Store) Authorities() Authorities { return Authorities{s} }

// NewAuthority describes the CA at the head of a chain.
func NewAuthority(chain [][]byte) (Authority, error) {
	if len(chain) == 0 {
		return Authority{}, certificate.ErrNoCA
	}
	c, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return Authority{}, fmt.Errorf("read the CA's certificate: %w", err)
	}
	return Authority{
		ID: certificate.IDOf(c.Raw), Subject: c.Subject.String(), Chain: chain,
		Line: string(certificate.KeyIDOf(append(slices.Clone(c.RawSubject), c.RawSubjectPublicKeyInfo...))),
	}, nil
}

const authorityColumns = `a.id, a.subject, a.line, a.ders, a.added, a.retired,
	a.id = coalesce((SELECT value FROM meta WHERE key = '` + CACertificate + `'), '')`

func scanAuthority(row scanner) (a Authority, err error) {
	var ders []byte
	var added, retired int64
	if err = row.Scan(&a.ID, &a.Subject, &a.Line, &ders, &added, &retired, &a.Issues); err != nil {
		return a, err
	}
	a.Added, a.Retired = moment(added), moment(retired)
	a.Chain, err = parted(ders)
	return a, err
}

// List returns every CA there ever was, oldest first.
func (h Authorities) List(ctx context.Context) ([]Authority, error) {
	var all []Authority
	err := h.s.look(ctx, func(q querier) (err error) {
		all, err = authorities(q)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list the CAs: %w", err)
	}
	return all, nil
}

func authorities(q querier) ([]Authority, error) {
	return collect(q, scanAuthority, `SELECT `+authorityColumns+` FROM authorities a ORDER BY a.added, a.id`)
}

// Enter notes the CA that a store was made with, which the audit names as made.
// Idempotent.
func (h Authorities) Enter(ctx context.Context, a Authority) error {
	err := h.s.commit(ctx, func(t *tx) error {
		known, err := meta(t, CACertificate)
		if err != nil {
			return err
		}
		if err := enterAuthority(t, a); err != nil || known != "" {
			return err
		}
		if err := setMeta(t, CACertificate, string(a.ID)); err != nil {
			return err
		}
		return t.audit(Event{Kind: CAMade, Certificate: a.ID})
	})
	if err != nil {
		return fmt.Errorf("enter CA %.12s: %w", a.ID, err)
	}
	return nil
}

func enterAuthority(t *tx, a Authority) error {
	return t.change(`INSERT INTO authorities VALUES (?, ?, ?, ?, ?, 0) ON CONFLICT (id) DO NOTHING`,
		a.ID, a.Subject, a.Line, joined(a.Chain), nanos(t.now))
}

// TakeOver makes a CA the one that issues, in one commit with its audit. The one
// before it stays trusted. Idempotent. Returns ErrAuthorityRetired for one that
// was retired.
func (h Authorities) TakeOver(ctx context.Context, a Authority) error {
	if err := h.s.commit(ctx, func(t *tx) error { return takeOver(t, a) }); err != nil {
		return fmt.Errorf("let CA %.12s take over: %w", a.ID, err)
	}
	return nil
}

func takeOver(t *tx, a Authority) error {
	known, there, err := authority(t, a.ID)
	switch {
	case err != nil:
		return err
	case there && !known.Retired.IsZero():
		return ErrAuthorityRetired
	case there && known.Issues:
		return nil
	}
	before, err := meta(t, CACertificate)
	if err != nil {
		return err
	}
	if err := errors.Join(enterAuthority(t, a), setMeta(t, CACertificate, string(a.ID))); err != nil {
		return err
	}
	return t.audit(Event{Kind: CATookOver, Certificate: a.ID, Detail: map[string]string{
		"subject": a.Subject, "before": before, "ders": base64.StdEncoding.EncodeToString(joined(a.Chain)),
	}})
}

func authority(q querier, id certificate.ID) (Authority, bool, error) {
	return single(q, scanAuthority, `SELECT `+authorityColumns+` FROM authorities a WHERE a.id = ?`, id)
}

// againAuthority does what an event about a CA records.
func (t *tx) againAuthority(e Event) error {
	if e.Kind == CARetired {
		return t.change(`UPDATE authorities SET retired = ? WHERE id = ?`, nanos(e.At), e.Certificate)
	}
	ders, err := base64.StdEncoding.DecodeString(e.Detail["ders"])
	if err != nil {
		return err
	}
	chain, err := parted(ders)
	if err != nil {
		return err
	}
	a, err := NewAuthority(chain)
	if err != nil {
		return err
	}
	if a.ID != e.Certificate {
		return errUnrecorded
	}
	return takeOver(t, a)
}

// distrusted reports whether no CA that is trusted verifies the certificates
// with this issuer's name and this chain, because the one that did was retired.
func distrusted(q querier, issuer string, chain [][]byte) (bool, error) {
	_, some, err := single(q, value[int], `SELECT 1 FROM authorities WHERE subject = ? AND retired <> 0 LIMIT 1`, issuer)
	if err != nil || !some {
		return false, err
	}
	all, err := authorities(q)
	if err != nil {
		return false, err
	}
	return lostWith(all, issuer, chain), nil
}

// lostWith says the same of CAs that are at hand. Where two CAs of one name have
// other keys, or the same name in other octets, the chain tells whose a
// certificate is; one without a chain is not lost while any of them is trusted.
func lostWith(all []Authority, issuer string, chain [][]byte) bool {
	line, trusted := "", false
	for _, a := range all {
		trusted = trusted || a.Subject == issuer && a.Retired.IsZero()
		if len(chain) > 0 && a.ID == certificate.IDOf(chain[0]) {
			line = a.Line
		}
	}
	if line == "" {
		return !trusted && slices.ContainsFunc(all, func(a Authority) bool { return a.Subject == issuer })
	}
	return !slices.ContainsFunc(all, func(a Authority) bool { return a.Line == line && a.Retired.IsZero() })
}

// mayUse returns certificate.ErrDistrusted for a certificate whose CA is retired.
func mayUse(q querier, issuer string, chain [][]byte) error {
	gone, err := distrusted(q, issuer, chain)
	if err == nil && gone {
		err = certificate.ErrDistrusted
	}
	return err
}

// mayUseID is mayUse for a certificate of the inventory.
func mayUseID(q querier, id certificate.ID) error {
	type issued struct {
		issuer string
		ders   []byte
	}
	c, some, err := single(q, func(row scanner) (c issued, err error) {
		err = row.Scan(&c.issuer, &c.ders)
		return c, err
	}, `SELECT c.issuer, n.ders FROM certificates c JOIN chains n ON n.id = c.chain
		WHERE c.id = ? AND EXISTS (SELECT 1 FROM authorities a WHERE a.subject = c.issuer AND a.retired <> 0)`, id)
	if err != nil || !some {
		return err
	}
	chain, err := parted(c.ders)
	if err != nil {
		return err
	}
	return mayUse(q, c.issuer, chain)
}
