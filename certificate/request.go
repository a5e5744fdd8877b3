package certificate

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/certvendor/certvendor/protocol"
)

// ErrRequest is the kind of every error that says a certificate signing
// request is refused for what it is or for the name it asks for.
// RequestDetail returns the part of such an error that a device may see.
var ErrRequest = errors.New("certificate request refused")

// refusal is an error of kind ErrRequest. Its detail never repeats the
// request, so that it can go into a reply and into a log.
type refusal struct{ detail string }

func (r *refusal) Error() string { return ErrRequest.Error() + ": " + r.detail }
func (r *refusal) Unwrap() error { return ErrRequest }

func refuse(format string, args ...any) error {
	return &refusal{fmt.Sprintf(format, args...)}
}

// RequestDetail returns why a request was refused, in words that are fit for
// a device, or the empty string for an error of another kind.
func RequestDetail(err error) string {
	var r *refusal
	if errors.As(err, &r) {
		return r.detail
	}
	return ""
}

// Sizes of RSA keys that are signed, in bits: less is too weak, more costs the
// broker more than it protects.
const (
	MinRSA = 2048
	MaxRSA = 4096
)

// The exponent every RSA key must have (FIPS 186-5, 5.1, allows larger ones
// too; nobody's firmware makes them).
const rsaExponent = 65537

// ParseRequest reads a certificate signing request from its PEM: at most
// protocol.MaxCSR octets, one block and nothing else, a key and a signature
// algorithm of a kind that is signed. Its self-signature is not checked. The
// checks go from cheap to dear, so that nothing a device sends costs more
// than a few microseconds here. Every error is of kind ErrRequest.
func ParseRequest(text string) (*Request, error) {
	if len(text) > protocol.MaxCSR {
		return nil, refuse("more than %d octets", protocol.MaxCSR)
	}
	der, err := onlyBlock(text)
	if err != nil {
		return nil, err
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, refuse("not a PKCS #10 certificate request")
	}
	if err := checkKey(csr.PublicKey); err != nil {
		return nil, err
	}
	if err := checkAlgorithm(csr.SignatureAlgorithm); err != nil {
		return nil, err
	}
	// The id is that of the key as the certificate will carry it, whichever
	// way the request encodes it.
	spki, err := SPKI(csr.PublicKey)
	if err != nil {
		return nil, refuse("the key cannot be encoded")
	}
	return &Request{CSR: csr, Key: KeyIDOf(spki)}, nil
}

// CheckSignature verifies that whoever made the request holds its key. It is
// the dear part of reading a request: some 0.1 ms. Its error is of kind
// ErrRequest.
func (r *Request) CheckSignature() error {
	if err := r.CSR.CheckSignature(); err != nil {
		return refuse("the signature does not verify")
	}
	return nil
}

// onlyBlock returns the DER of the one PEM block that a text consists of.
// pem.Decode skips what it cannot read, which would let a text carry a second
// request that another reader sees first; so nothing may be there to skip.
func onlyBlock(text string) ([]byte, error) {
	text = strings.TrimSpace(text)
	if strings.Count(text, "-----BEGIN") != 1 || !strings.HasPrefix(text, "-----BEGIN") {
		return nil, refuse("not exactly one PEM block")
	}
	block, rest := pem.Decode([]byte(text))
	switch {
	case block == nil:
		return nil, refuse("not readable as PEM")
	case len(strings.TrimSpace(string(rest))) > 0:
		return nil, refuse("something follows the PEM block")
	case block.Type != "CERTIFICATE REQUEST" && block.Type != "NEW CERTIFICATE REQUEST":
		return nil, refuse("the PEM block is not of type CERTIFICATE REQUEST")
	case len(block.Headers) > 0:
		return nil, refuse("the PEM block has headers")
	}
	return block.Bytes, nil
}

func checkKey(public any) error {
	switch key := public.(type) {
	case *rsa.PublicKey:
		if bits := key.N.BitLen(); bits < MinRSA || bits > MaxRSA {
			return refuse("an RSA key of %d bits, instead of %d to %d", bits, MinRSA, MaxRSA)
		}
		if key.E != rsaExponent {
			return refuse("an RSA key whose exponent is not %d", rsaExponent)
		}
		if key.N.Bit(0) == 0 {
			return refuse("an RSA key with an even modulus")
		}
		return nil
	case *ecdsa.PublicKey:
		switch key.Curve {
		case elliptic.P256(), elliptic.P384(), elliptic.P521():
			return nil
		}
	}
	return refuse("the key is neither RSA nor on P-256, P-384 or P-521")
}

// MayBeKey reports whether a request may be for a key of this kind and size, as
// KeyType writes it.
func MayBeKey(keyType string) bool {
	if size, isRSA := strings.CutPrefix(keyType, "rsa"); isRSA {
		bits, err := strconv.Atoi(size)
		return err == nil && bits >= MinRSA && bits <= MaxRSA
	}
	return keyType == "p256" || keyType == "p384" || keyType == "p521"
}

func checkAlgorithm(algorithm x509.SignatureAlgorithm) error {
	switch algorithm {
	case x509.SHA256WithRSA, x509.SHA384WithRSA, x509.SHA512WithRSA,
		x509.SHA256WithRSAPSS, x509.SHA384WithRSAPSS, x509.SHA512WithRSAPSS,
		x509.ECDSAWithSHA256, x509.ECDSAWithSHA384, x509.ECDSAWithSHA512:
		return nil
	}
	return refuse("not signed with SHA-256, SHA-384 or SHA-512")
}
