package standalone

import (
	"archive/zip"
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io/fs"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/certificate/issuing"
)

// BuildPackage returns the zip that a device fetches: certificate.pem (the
// leaf), private.key (PKCS #8), public.key and ca.pem (what it verifies the
// listeners by). The same input gives the same octets. The key is written
// nowhere else; the zip is as secret as the key.
func BuildPackage(key crypto.Signer, c certificate.Certificate, roots []byte) ([]byte, error) {
	leaf, err := c.X509()
	if err != nil {
		return nil, fmt.Errorf("build package: %w", err)
	}
	if !issuing.SameKey(key.Public(), leaf.PublicKey) {
		return nil, fmt.Errorf("build package: the key is not that of certificate %s", c.ID)
	}
	private, err := encodeKey(key, nil)
	if err != nil {
		return nil, fmt.Errorf("build package: %w", err)
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("build package: %w", err)
	}
	var buffer bytes.Buffer
	w := zip.NewWriter(&buffer)
	for _, file := range []struct {
		name    string
		mode    fs.FileMode
		content []byte
	}{
		{"certificate.pem", 0o644, []byte(c.PEM())},
		{"private.key", 0o600, private},
		{"public.key", 0o644, pem.EncodeToMemory(&pem.Block{Type: publicKeyBlock, Bytes: public})},
		{"ca.pem", 0o644, roots},
	} {
		header := &zip.FileHeader{Name: file.name, Method: zip.Deflate}
		header.SetMode(file.mode)
		entry, err := w.CreateHeader(header)
		if err != nil {
			return nil, fmt.Errorf("build package: %w", err)
		}
		if _, err := entry.Write(file.content); err != nil {
			return nil, fmt.Errorf("build package: %w", err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("build package: %w", err)
	}
	return buffer.Bytes(), nil
}
