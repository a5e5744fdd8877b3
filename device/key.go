package device

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
)

// Keys keeps private keys where they cannot be read, such as a secure element.
// Every method may be repeated, in particular after a power cut.
type Keys interface {
	// Create makes a new key and keeps it durably under name, in place of any
	// that was there.
	Create(name string) (crypto.Signer, error)
	// Open returns the key kept under name.
	Open(name string) (crypto.Signer, error)
	// Remove forgets the key kept under name; nil if there is none.
	Remove(name string) error
}

// NewP256 makes an ECDSA key on the curve P-256.
func NewP256() (crypto.Signer, error) {
	return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
}

func encodeKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, errors.New("encode the private key: neither RSA, ECDSA nor Ed25519")
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// ParseKey reads a PEM private key: PKCS #8, SEC 1 or PKCS #1, unencrypted. Its
// errors never repeat the key.
func ParseKey(text []byte) (crypto.Signer, error) {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		switch block.Type {
		case "PRIVATE KEY":
			key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			if signer, ok := key.(crypto.Signer); ok && err == nil {
				return signer, nil
			}
		case "EC PRIVATE KEY":
			if key, err := x509.ParseECPrivateKey(block.Bytes); err == nil {
				return key, nil
			}
		case "RSA PRIVATE KEY":
			if key, err := x509.ParsePKCS1PrivateKey(block.Bytes); err == nil {
				return key, nil
			}
		}
	}
	return nil, errors.New("no private key in the PEM text")
}

// decodeChain reads the certificates of a PEM text, the leaf first.
func decodeChain(text []byte) ([]*x509.Certificate, error) {
	var chain []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("parse certificate %d of the chain: %w", len(chain)+1, err)
		}
		chain = append(chain, certificate)
	}
	if len(chain) == 0 {
		return nil, errors.New("no certificate in the PEM text")
	}
	return chain, nil
}

func encodeChain(chain []*x509.Certificate) []byte {
	var text []byte
	for _, certificate := range chain {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw})...)
	}
	return text
}

// isFor reports whether the certificate holds the public half of key.
func isFor(certificate *x509.Certificate, key crypto.Signer) bool {
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && public.Equal(certificate.PublicKey)
}
