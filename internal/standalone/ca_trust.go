package standalone

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/certificate/issuing"
	"github.com/certvendor/certvendor/internal/store"
)

// trust is who issues, and whose certificates may connect, at one moment. It is
// never changed: another takes its place.
type trust struct {
	number  uint64 // grows with each
	issuing *issuer
	trusted []*issuer // with the issuing one
	entries []CAEntry
	notes   notes
}

// issuer is an issuing CA that is trusted.
type issuer struct {
	store.Authority
	certificate *x509.Certificate
	above       []*x509.Certificate // up to its root
	authority   *issuing.Authority  // nil where the key is not here
	key         keyFile
	notes       notes
}

// Take makes the CA what the store says of it: who issues, and who is trusted.
// The key of the one that issues must be here; without those of the others their
// CRLs cannot be signed, and nothing else. Whoever asks meanwhile finds the CA as
// it was, or all of it as it is now.
func (ca *CA) Take(all []store.Authority) error {
	t := &trust{}
	for _, a := range all {
		if !a.Retired.IsZero() {
			continue
		}
		i, err := ca.issuerOf(a)
		if err != nil {
			return err
		}
		t.trusted = append(t.trusted, i)
		if a.Issues {
			t.issuing = i
		}
	}
	if t.issuing == nil {
		return errors.New("issuing CA: the store names none of those that it trusts")
	}
	if err := ca.describe(t, all); err != nil {
		return err
	}
	if before := ca.trust.Load(); before != nil {
		t.number = before.number + 1
	}
	ca.trust.Store(t)
	return nil
}

// Trust is a number that changes whenever another CA is trusted, or one is not
// any more.
func (ca *CA) Trust() uint64 { return ca.trust.Load().number }

// issuedBy returns the CA that signed a certificate, of those that are trusted;
// nil if none did.
func (ca *CA) issuedBy(leaf *x509.Certificate) *issuer {
	for _, i := range ca.trust.Load().trusted {
		if bytes.Equal(leaf.RawIssuer, i.certificate.RawSubject) && leaf.CheckSignatureFrom(i.certificate) == nil {
			return i
		}
	}
	return nil
}

// issuerOf returns the CA of an authority, with what was read of it before.
func (ca *CA) issuerOf(a store.Authority) (*issuer, error) {
	if before := ca.trust.Load(); before != nil {
		for _, i := range before.trusted {
			if i.ID == a.ID && (i.authority != nil || !a.Issues) {
				again := *i
				again.Authority = a
				return &again, nil
			}
		}
	}
	chain, err := parseChain(a.Chain)
	if err != nil {
		return nil, fmt.Errorf("issuing CA %.12s: %w", a.ID, err)
	}
	i := &issuer{Authority: a, certificate: chain[0], above: chain[1:]}
	switch i.key, err = ca.keyOf(chain[0], &i.notes); {
	case err == nil:
		i.authority, err = issuing.New(issuing.Config{Chain: chain, Signer: i.key.key, Now: ca.now})
	case a.Issues:
	case errors.Is(err, fs.ErrNotExist):
		return i, nil // it was put elsewhere
	default:
		i.notes.warn("the key of the former issuing CA %q cannot be read, so its CRL cannot be signed: %v", chain[0].Subject, err)
		return i, nil
	}
	if err != nil {
		return nil, fmt.Errorf("issuing CA: %w", err)
	}
	return i, nil
}

func parseChain(ders [][]byte) ([]*x509.Certificate, error) {
	var chain []*x509.Certificate
	for _, der := range ders {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		chain = append(chain, c)
	}
	if len(chain) == 0 {
		return nil, certificate.ErrNoCA
	}
	return chain, nil
}

// keyPath is where the key of an issuing CA is kept that was not there when the
// data directory was made.
func (ca *CA) keyPath(spki []byte) string { return filepath.Join(ca.dir, laterKeyName(spki)) }

func laterKeyName(spki []byte) string {
	return "issuing-" + string(certificate.KeyIDOf(spki))[:16] + ".key"
}

// keyOf reads the key of an issuing CA.
func (ca *CA) keyOf(c *x509.Certificate, n *notes) (keyFile, error) {
	path := ca.keyPath(c.RawSubjectPublicKeyInfo)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) && issuing.SameKey(c.PublicKey, ca.issuer.PublicKey) {
		path = filepath.Join(ca.dir, issuingKey)
	}
	return readKey(path, ca.passphrase, n)
}

// end is when the CA, or one above it, ends.
func (i *issuer) end() time.Time {
	end := i.certificate.NotAfter
	for _, c := range i.above {
		if c.NotAfter.Before(end) {
			end = c.NotAfter
		}
	}
	return end
}

// describe lists the CAs: the roots first, then who issues, then the others.
func (ca *CA) describe(t *trust, all []store.Authority) error {
	listed := map[certificate.ID]bool{}
	for _, i := range t.trusted {
		for _, above := range i.above {
			if id := certificate.IDOf(above.Raw); !listed[id] {
				listed[id] = true
				if err := ca.describeRoot(t, above); err != nil {
					return err
				}
			}
		}
	}
	for _, i := range slices.Backward(t.trusted) {
		role, where := "former", "offline"
		if i == t.issuing {
			role = "issuing"
		}
		if i.key.path != "" {
			where = i.key.path
		}
		t.entries = append(t.entries, entry(role, i.certificate, where, i.key.encrypted))
		t.notes.ends(role, i.certificate, ca.now())
		t.notes.all = append(t.notes.all, i.notes.all...)
	}
	for _, a := range all {
		if a.Retired.IsZero() {
			continue
		}
		chain, err := parseChain(a.Chain)
		if err != nil {
			return err
		}
		e := entry("retired", chain[0], "", false)
		e.Retired = a.Retired
		t.entries = append(t.entries, e)
	}
	return nil
}

// describeRoot lists a CA above the issuing ones. Only the key of the one that
// this CA was made with may be here, and that is not read: what needs it asks.
func (ca *CA) describeRoot(t *trust, c *x509.Certificate) error {
	where, encrypted := "offline", false
	path := filepath.Join(ca.dir, rootKeyFile)
	text, err := os.ReadFile(path)
	switch {
	case !c.Equal(ca.root):
		where = ""
	case err == nil:
		where = path
		if encrypted, err = inspectKey(path, text, &t.notes); err != nil {
			return fmt.Errorf("root CA: %w", err)
		}
	case !os.IsNotExist(err):
		return fmt.Errorf("root CA: %w", err)
	}
	role := "root"
	if string(c.RawIssuer) != string(c.RawSubject) {
		role = "intermediate"
	}
	t.entries = append(t.entries, entry(role, c, where, encrypted))
	t.notes.ends(role, c, ca.now())
	return nil
}
