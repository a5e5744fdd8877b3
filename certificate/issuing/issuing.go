// Package issuing turns an order and a CA key into a certificate. An
// Authority is a vending.Issuer whose key is any crypto.Signer: a file, a
// card, a KMS.
package issuing

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/url"
	"runtime"
	"time"

	"github.com/certvendor/certvendor/certificate"
)

// Config is what an Authority is made of.
type Config struct {
	Chain  []*x509.Certificate // the issuer first, each signed by the next
	Signer crypto.Signer       // holds the issuer's key; safe for concurrent use
	Now    func() time.Time
}

// Authority issues certificates with a CA's key. It is safe for concurrent
// use.
type Authority struct {
	issuer    *x509.Certificate
	chain     [][]byte
	signer    crypto.Signer
	now       func() time.Time
	notBefore time.Time
	notAfter  time.Time
	turns     chan struct{} // one is held while the key signs
	prepared  *prepared     // nil where the key is not an ECDSA key in this process
}

// New returns an authority, or says why the issuer cannot be one: it must be
// a CA certificate that may sign certificates, its key must be the signer's
// and the chain must hold together. That it has expired is for Issue to say,
// so that a daemon whose CA has expired can still serve everything else.
func New(config Config) (*Authority, error) {
	if len(config.Chain) == 0 {
		return nil, fmt.Errorf("issuing: %w", certificate.ErrNoCA)
	}
	if config.Signer == nil {
		return nil, fmt.Errorf("issuing: %w", certificate.ErrNoCAKey)
	}
	issuer := config.Chain[0]
	if !SameKey(config.Signer.Public(), issuer.PublicKey) {
		return nil, fmt.Errorf("issuing: the key is not that of CA certificate %q", issuer.Subject)
	}
	if !issuer.BasicConstraintsValid || !issuer.IsCA || issuer.KeyUsage&x509.KeyUsageCertSign == 0 {
		return nil, fmt.Errorf("issuing: %q is not a CA certificate that may sign certificates", issuer.Subject)
	}
	if len(issuer.SubjectKeyId) == 0 {
		return nil, fmt.Errorf("issuing: CA certificate %q has no subject key identifier (RFC 5280, 4.2.1.2)", issuer.Subject)
	}
	a := &Authority{
		issuer: issuer, signer: config.Signer, now: config.Now, notBefore: issuer.NotBefore, notAfter: issuer.NotAfter,
		turns: make(chan struct{}, runtime.NumCPU()),
	}
	for i, c := range config.Chain {
		if i > 0 {
			if err := config.Chain[i-1].CheckSignatureFrom(c); err != nil {
				return nil, fmt.Errorf("issuing: %q did not sign %q: %w", c.Subject, config.Chain[i-1].Subject, err)
			}
		}
		a.chain = append(a.chain, c.Raw)
		a.notBefore, a.notAfter = later(a.notBefore, c.NotBefore), earlier(a.notAfter, c.NotAfter)
	}
	var err error
	if a.prepared, err = a.prepare(); err != nil {
		return nil, fmt.Errorf("issuing: %w", err)
	}
	return a, nil
}

// Issue signs what is ordered, as an end-entity certificate for TLS clients,
// for a shorter time where its CA, or one above it, ends earlier. Returns
// certificate.ErrNoCA if the CA is not valid now, certificate.ErrNoCAKey if
// the key could not sign. It is not idempotent: each certificate has a serial
// number of its own.
func (a *Authority) Issue(ctx context.Context, order certificate.Order) (certificate.Certificate, error) {
	if err := ctx.Err(); err != nil {
		return certificate.Certificate{}, err
	}
	if _, err := a.Signs(ctx); err != nil {
		return certificate.Certificate{}, err
	}
	template, err := a.template(order)
	if err != nil {
		return certificate.Certificate{}, fmt.Errorf("issue for device %s: %w", order.Device, err)
	}
	der, err := a.sign(ctx, template, order.Key)
	if err != nil {
		return certificate.Certificate{}, fmt.Errorf("issue for device %s: %w", order.Device, err)
	}
	return certificate.New(der, a.chain)
}

// sign signs when its turn comes: no more at once than there are CPUs, so that
// what else the process does is not kept waiting behind a crowd of signatures.
func (a *Authority) sign(ctx context.Context, template *x509.Certificate, public crypto.PublicKey) ([]byte, error) {
	select {
	case a.turns <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-a.turns }()
	if a.prepared != nil {
		return a.prepared.sign(template, public)
	}
	signer := &observed{Signer: a.signer}
	der, err := x509.CreateCertificate(rand.Reader, template, a.issuer, public, signer)
	if err != nil && signer.err != nil {
		err = errors.Join(certificate.ErrNoCAKey, err)
	}
	return der, err
}

// Signs returns until when a certificate issued now can last at most, or
// certificate.ErrNoCA if the CA is not valid now. It does not try the key.
func (a *Authority) Signs(context.Context) (until time.Time, err error) {
	if now := a.now(); now.Before(a.notBefore) || now.After(a.notAfter) {
		return time.Time{}, fmt.Errorf("%w: %q is valid from %s to %s only",
			certificate.ErrNoCA, a.issuer.Subject, a.notBefore.UTC().Format(time.DateOnly), a.notAfter.UTC().Format(time.DateOnly))
	}
	return a.notAfter, nil
}

// template is the profile of a device's certificate, RFC 5280 section 4.
func (a *Authority) template(order certificate.Order) (*x509.Certificate, error) {
	notBefore, notAfter := later(order.NotBefore, a.notBefore), earlier(order.NotAfter, a.notAfter)
	if !notBefore.Before(notAfter) {
		return nil, fmt.Errorf("ordered from %s to %s, which leaves no time", order.NotBefore.UTC().Format(time.RFC3339), order.NotAfter.UTC().Format(time.RFC3339))
	}
	keyID, err := SubjectKeyID(order.Key)
	if err != nil {
		return nil, err
	}
	serial, err := Serial()
	if err != nil {
		return nil, err
	}
	subject := order.RawSubject
	if len(subject) == 0 {
		subject = emptyName
	}
	return &x509.Certificate{
		SerialNumber:          serial,
		RawSubject:            subject,
		NotBefore:             notBefore.UTC(),
		NotAfter:              notAfter.UTC(),
		KeyUsage:              x509.KeyUsageDigitalSignature, // all that clientAuth allows with any key (4.2.1.12)
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true, // written, critical, and with CA:FALSE
		SubjectKeyId:          keyID,
		URIs:                  []*url.URL{{Scheme: "urn", Opaque: certificate.URNPrefix[len("urn:"):] + string(order.Device)}},
	}, nil
}

// emptyName is the DER of a name without parts; the SAN is critical then.
var emptyName = []byte{0x30, 0x00}

// Serial returns a random positive serial number of at most 159 bits, which
// is what 20 octets hold (RFC 5280, 4.1.2.2).
func Serial() (*big.Int, error) {
	octets := make([]byte, 20)
	for {
		if _, err := rand.Read(octets); err != nil {
			return nil, fmt.Errorf("make a serial number: %w", err)
		}
		octets[0] &= 0x7f
		if n := new(big.Int).SetBytes(octets); n.Sign() > 0 {
			return n, nil
		}
	}
}

// SubjectKeyID returns the key identifier of a public key: the leftmost 160
// bits of the SHA-256 of its bit string (RFC 7093, section 2, method 1).
func SubjectKeyID(public crypto.PublicKey) ([]byte, error) {
	der, err := certificate.SPKI(public)
	if err != nil {
		return nil, fmt.Errorf("encode the key: %w", err)
	}
	var spki struct {
		Algorithm asn1.RawValue
		Key       asn1.BitString
	}
	if _, err := asn1.Unmarshal(der, &spki); err != nil {
		return nil, fmt.Errorf("encode the key: %w", err)
	}
	sum := sha256.Sum256(spki.Key.RightAlign())
	return sum[:20], nil
}

// SameKey reports whether two public keys are one.
func SameKey(a, b crypto.PublicKey) bool {
	key, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && key.Equal(b)
}

// observed remembers that the key, not the template, was at fault.
type observed struct {
	crypto.Signer
	err error
}

func (o *observed) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	signature, err := o.Signer.Sign(random, digest, opts)
	o.err = err
	return signature, err
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
