package standalone

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/certvendor/certvendor/certificate/issuing"
)

// How long the certificates of the hierarchies last, in years, and by how much
// their beginning is back-dated for devices whose clock is behind.
const (
	rootYears    = 20
	issuingYears = 10
	caBackdate   = 24 * time.Hour
)

// issuingName is what the names of issuing CAs begin with.
const issuingName = "certvendor issuing CA "

// authority is a CA certificate with its key, at the moment it is made.
type authority struct {
	certificate *x509.Certificate
	key         crypto.Signer
}

// MakeCA makes both hierarchies and writes them below dir, which stands for
// the data directory. It needs Passphrase and Now of the configuration. It
// never overwrites a CA: it fails if there is one.
func MakeCA(dir string, config CAConfig) error {
	dir = filepath.Join(dir, caDir)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("make CA: %w", err)
	}
	// The names of two installations must differ, or a device that knows
	// both builds a wrong chain.
	tag := make([]byte, 4)
	if _, err := rand.Read(tag); err != nil {
		return fmt.Errorf("make CA: %w", err)
	}
	suffix := " " + hex.EncodeToString(tag)
	now := config.Now()
	root, err := makeAuthority(caTemplate("certvendor root CA"+suffix, rootYears, now), nil)
	if err != nil {
		return err
	}
	issuer, err := makeAuthority(leavesOnly(caTemplate(issuingName+hex.EncodeToString(tag), issuingYears, now)), root)
	if err != nil {
		return err
	}
	server, err := makeAuthority(leavesOnly(caTemplate("certvendor server CA"+suffix, rootYears, now)), nil)
	if err != nil {
		return err
	}
	for _, made := range []struct {
		*authority
		file, keyFile string
	}{
		{root, rootFile, rootKeyFile},
		{issuer, issuingFile, issuingKey},
		{server, serverCAFile, serverKeyFile},
	} {
		if err := made.write(filepath.Join(dir, made.file), filepath.Join(dir, made.keyFile), config.Passphrase); err != nil {
			return fmt.Errorf("make CA: %w", err)
		}
	}
	return nil
}

func caTemplate(name string, years int, now time.Time) *x509.Certificate {
	return &x509.Certificate{
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             now.Add(-caBackdate).UTC(),
		NotAfter:              now.AddDate(years, 0, 0).UTC(),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
}

// leavesOnly forbids a further CA below (pathLenConstraint 0).
func leavesOnly(template *x509.Certificate) *x509.Certificate {
	template.MaxPathLenZero = true
	return template
}

// makeAuthority makes a CA with a P-256 key; without a parent it signs itself.
func makeAuthority(template *x509.Certificate, parent *authority) (*authority, error) {
	name := template.Subject.CommonName
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make %s: %w", name, err)
	}
	if template.SerialNumber, err = issuing.Serial(); err != nil {
		return nil, fmt.Errorf("make %s: %w", name, err)
	}
	if template.SubjectKeyId, err = issuing.SubjectKeyID(key.Public()); err != nil {
		return nil, fmt.Errorf("make %s: %w", name, err)
	}
	signedBy, signer := template, crypto.Signer(key)
	if parent != nil {
		signedBy, signer = parent.certificate, parent.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, signedBy, key.Public(), signer)
	if err != nil {
		return nil, fmt.Errorf("make %s: %w", name, err)
	}
	made, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make %s: %w", name, err)
	}
	return &authority{made, key}, nil
}

func (a *authority) write(file, keyFile string, passphrase []byte) error {
	key, err := encodeKey(a.key, passphrase)
	if err != nil {
		return err
	}
	if err := writeFile(keyFile, key, 0o600); err != nil {
		return err
	}
	return writeFile(file, encodeCertificates([]*x509.Certificate{a.certificate}), 0o644)
}
