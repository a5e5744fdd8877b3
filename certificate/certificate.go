// Package certificate holds what certvendor knows of certificates: their
// identity, what a request for one must satisfy, who holds which, and the
// Inventory a back end supplies. It does no I/O.
//
// Read this file, then inventory.go, then request.go. Sub-package issuing
// turns a request and a CA key into a certificate.
package certificate

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"
)

// ID names a certificate: the SHA-256 of its DER, as 64 lower-case hex digits,
// which is also AWS IoT's certificate id.
type ID string

// KeyID names a public key: the SHA-256 of its SubjectPublicKeyInfo in DER, as
// 64 lower-case hex digits.
type KeyID string

var sha256Hex = regexp.MustCompile(`^[0-9a-f]{64}$`)

// ErrID is returned by ParseID.
var ErrID = errors.New("a certificate id is 64 lower-case hex digits")

// ParseID returns the id for its text, or ErrID.
func ParseID(s string) (ID, error) {
	if !sha256Hex.MatchString(s) {
		return "", ErrID
	}
	return ID(s), nil
}

// IDOf returns the id of the certificate with this DER.
func IDOf(der []byte) ID { return ID(hexSum(der)) }

// KeyIDOf returns the id of the key with this SubjectPublicKeyInfo.
func KeyIDOf(spki []byte) KeyID { return KeyID(hexSum(spki)) }

func hexSum(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// Standing says whether the broker takes a certificate.
type Standing string

// The standings of a certificate. A deleted or revoked one stays in the inventory as a
// record: every certificate that ever left the process is there for ever.
const (
	Active   Standing = "ACTIVE"
	Inactive Standing = "INACTIVE"
	Deleted  Standing = "DELETED"
	Revoked  Standing = "REVOKED" // by a person, for good
)

// Kind says how a certificate came into the inventory.
type Kind string

// The kinds of certificates. A birth certificate is never retired.
const (
	First    Kind = "first"    // made by device add
	Birth    Kind = "birth"    // put in at manufacture, for recovery
	Adopted  Kind = "adopted"  // made elsewhere, taken in with its device
	Rotated  Kind = "rotated"  // signed for a CSR over the wire
	Packaged Kind = "packaged" // made with its key, for download
)

// Certificate is one certificate of the inventory.
type Certificate struct {
	ID        ID
	DER       []byte
	Chain     [][]byte // DER, issuer first, without the leaf; may be empty
	Key       KeyID
	KeyType   string // as KeyType returns it
	Serial    string // hex
	Subject   string // RFC 2253
	Issuer    string // RFC 2253
	NotBefore time.Time
	NotAfter  time.Time
	Standing  Standing
	Kind      Kind
	Policies  []string // names; what they mean is the world's
	Created   time.Time
}

// MostPolicies is how many policies AWS IoT attaches to a certificate (AWS IoT
// Core quotas, which do not let it be raised).
const MostPolicies = 10

// New reads a certificate from its DER. Standing, Kind, Policies and Created
// are left to the caller.
func New(der []byte, chain [][]byte) (Certificate, error) {
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return Certificate{}, fmt.Errorf("read certificate: %w", err)
	}
	return Certificate{
		ID:        IDOf(der),
		DER:       der,
		Chain:     chain,
		Key:       KeyIDOf(c.RawSubjectPublicKeyInfo),
		KeyType:   KeyType(c.PublicKey),
		Serial:    c.SerialNumber.Text(16),
		Subject:   c.Subject.String(),
		Issuer:    c.Issuer.String(),
		NotBefore: c.NotBefore.UTC(),
		NotAfter:  c.NotAfter.UTC(),
	}, nil
}

// X509 parses the certificate. It fails only if the inventory was tampered
// with.
func (c Certificate) X509() (*x509.Certificate, error) {
	parsed, err := x509.ParseCertificate(c.DER)
	if err != nil {
		return nil, fmt.Errorf("certificate %s: %w", c.ID, err)
	}
	return parsed, nil
}

// PEM returns the leaf as one PEM block.
func (c Certificate) PEM() string { return encode(c.DER) }

// ChainPEM returns the chain as one PEM text, issuer first, without the leaf.
func (c Certificate) ChainPEM() string {
	var b strings.Builder
	for _, der := range c.Chain {
		b.WriteString(encode(der))
	}
	return b.String()
}

func encode(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// KeyType returns a key's kind and size in the form operators select by:
// "rsa2048", "p256".
func KeyType(public any) string {
	switch key := public.(type) {
	case *rsa.PublicKey:
		return fmt.Sprintf("rsa%d", key.N.BitLen())
	case *ecdsa.PublicKey:
		return fmt.Sprintf("p%d", key.Curve.Params().BitSize)
	}
	return fmt.Sprintf("%T", public)
}
