package system

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

// CA is the one CA of a run: a root, and an issuing CA below it that every
// system signs with.
type CA struct {
	Dir    string // with root.crt, root.key, issuing.crt and issuing.key
	Issuer *x509.Certificate
	Key    crypto.Signer
	root   *x509.Certificate
}

// MakeCA makes a CA and writes it to a new directory.
func MakeCA(dir string, newKey func() (crypto.Signer, error)) (*CA, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	rootKey, err := newKey()
	if err != nil {
		return nil, err
	}
	ca := &CA{Dir: dir}
	if ca.Key, err = newKey(); err != nil {
		return nil, err
	}
	if ca.root, err = sign(authority("bench root CA", 1), nil, rootKey.Public(), rootKey); err != nil {
		return nil, err
	}
	if ca.Issuer, err = sign(authority("bench issuing CA", 0), ca.root, ca.Key.Public(), rootKey); err != nil {
		return nil, err
	}
	return ca, errors.Join(
		writeCertificate(filepath.Join(dir, "root.crt"), ca.root), writeKey(filepath.Join(dir, "root.key"), rootKey),
		writeCertificate(filepath.Join(dir, "issuing.crt"), ca.Issuer), writeKey(filepath.Join(dir, "issuing.key"), ca.Key),
	)
}

// P256 makes a key on P-256.
func P256() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

// RSA2048 makes an RSA key of 2048 bits.
func RSA2048() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, 2048) }

func authority(name string, below int) *x509.Certificate {
	return &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(10, 0, 0),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, BasicConstraintsValid: true, IsCA: true,
		MaxPathLen: below, MaxPathLenZero: below == 0,
	}
}

// leaf is the profile of a device's certificate.
func leaf(name string) *x509.Certificate {
	return &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
		URIs:                  []*url.URL{{Scheme: "urn", Opaque: "certvendor:device:" + name}},
	}
}

// serials are below this: 159 bits are what 20 octets hold (RFC 5280, 4.1.2.2).
var serials = new(big.Int).Lsh(big.NewInt(1), 159)

// sign signs a template; without a parent it signs itself.
func sign(template, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) (*x509.Certificate, error) {
	var err error
	if template.SerialNumber, err = rand.Int(rand.Reader, serials); err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, err
	}
	id := sha1.Sum(der) // an identifier, not a promise (RFC 5280, 4.2.1.2)
	template.SubjectKeyId = id[:]
	if parent == nil {
		parent = template
	}
	made, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		return nil, fmt.Errorf("sign %s: %w", template.Subject.CommonName, err)
	}
	return x509.ParseCertificate(made)
}

// verify returns an error unless the PEM text begins with a certificate of this
// CA for the key.
func (ca *CA) verify(text []byte, key crypto.PublicKey) error {
	c, err := parse(text)
	if err != nil {
		return err
	}
	if err := c.CheckSignatureFrom(ca.Issuer); err != nil {
		return err
	}
	if known, ok := c.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !known.Equal(key) {
		return errors.New("a certificate for another key than was asked for")
	}
	return nil
}

func parse(text []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("no certificate in %.80q", text)
	}
	return x509.ParseCertificate(block.Bytes)
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func writeCertificate(path string, c *x509.Certificate) error {
	return os.WriteFile(path, encode("CERTIFICATE", c.Raw), 0o600)
}

func writeKey(path string, key crypto.Signer) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return os.WriteFile(path, encode("PRIVATE KEY", der), 0o600)
}

// request is a CSR and the key it is for.
type request struct {
	name string
	key  crypto.Signer
	pem  []byte
}

func newRequest(name string) (request, error) {
	key, err := P256()
	if err != nil {
		return request{}, err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}}, key)
	return request{name, key, encode("CERTIFICATE REQUEST", der)}, err
}

// newRequests makes n requests, on all CPUs.
func newRequests(n int, name func(int) string) ([]request, error) {
	made := make([]request, n)
	return made, each(n, func(i int) (err error) {
		made[i], err = newRequest(name(i))
		return err
	})
}
