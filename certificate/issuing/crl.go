package issuing

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"time"

	"github.com/certvendor/certvendor/certificate"
)

// List is a CRL to be signed.
type List struct {
	Number  int64
	Entries []certificate.RevokedCertificate // those of this issuer, see Authority.Issued
	Until   time.Time                        // when the next one is there at the latest
}

// RevocationList signs a CRL (RFC 5280, 5), and returns its DER. Returns
// certificate.ErrNoCAKey if the key could not sign.
func (a *Authority) RevocationList(list List) ([]byte, error) {
	now := a.now().UTC().Truncate(time.Second)
	if !list.Until.After(now) {
		return nil, fmt.Errorf("sign a CRL: the next one is due at %s, which is past", list.Until.UTC().Format(time.RFC3339))
	}
	template := &x509.RevocationList{Number: big.NewInt(list.Number), ThisUpdate: now, NextUpdate: list.Until.UTC()}
	for _, r := range list.Entries {
		c, err := r.X509()
		if err != nil {
			return nil, fmt.Errorf("sign a CRL: %w", err)
		}
		template.RevokedCertificateEntries = append(template.RevokedCertificateEntries, x509.RevocationListEntry{
			SerialNumber: c.SerialNumber, RevocationTime: r.At.UTC().Truncate(time.Second), ReasonCode: int(r.Reason),
		})
	}
	signer := &observed{Signer: a.signer}
	der, err := x509.CreateRevocationList(rand.Reader, template, a.issuer, signer)
	if err != nil {
		if signer.err != nil {
			err = errors.Join(certificate.ErrNoCAKey, err)
		}
		return nil, fmt.Errorf("sign a CRL: %w", err)
	}
	return der, nil
}

// Issued reports whether a certificate names this authority's CA, and its key,
// as its issuer.
func (a *Authority) Issued(c certificate.Certificate) bool {
	parsed, err := c.X509()
	if err != nil || !bytes.Equal(parsed.RawIssuer, a.issuer.RawSubject) {
		return false
	}
	// The CA's certificate may have been made anew, with another identifier of
	// the same key.
	return bytes.Equal(parsed.AuthorityKeyId, a.issuer.SubjectKeyId) || parsed.CheckSignatureFrom(a.issuer) == nil
}
