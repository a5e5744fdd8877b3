package standalone

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"

	"github.com/youmark/pkcs8"
)

// Types of PEM blocks.
const (
	certificateBlock  = "CERTIFICATE"
	plainKeyBlock     = "PRIVATE KEY"           // PKCS #8
	encryptedKeyBlock = "ENCRYPTED PRIVATE KEY" // PKCS #8 with PBES2
	publicKeyBlock    = "PUBLIC KEY"
)

// How key files are encrypted: what OpenSSL 3 reads, with the iterations that
// OWASP's Password Storage Cheat Sheet asks of PBKDF2 with HMAC-SHA256.
const (
	keyIterations = 600_000
	keySaltSize   = 16
)

// encodeKey returns a private key as PEM, encrypted if there is a passphrase.
func encodeKey(key crypto.Signer, passphrase []byte) ([]byte, error) {
	if len(passphrase) == 0 {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return nil, fmt.Errorf("encode a private key: %w", err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: plainKeyBlock, Bytes: der}), nil
	}
	der, err := pkcs8.MarshalPrivateKey(key, passphrase, &pkcs8.Opts{
		Cipher: pkcs8.AES256CBC,
		KDFOpts: pkcs8.PBKDF2Opts{
			SaltSize: keySaltSize, IterationCount: keyIterations, HMACHash: crypto.SHA256,
		},
	})
	if err != nil {
		return nil, fmt.Errorf("encrypt a private key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: encryptedKeyBlock, Bytes: der}), nil
}

// readKey reads a CA's key, and warns of one that anybody could read.
func readKey(path string, passphrase []byte, n *notes) (keyFile, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return keyFile{}, err
	}
	encrypted, err := inspectKey(path, text, n)
	if err != nil {
		return keyFile{}, err
	}
	key, err := decodeKey(text, passphrase)
	if err != nil {
		return keyFile{}, fmt.Errorf("%s: %w", path, err)
	}
	return keyFile{path: path, key: key, encrypted: encrypted}, nil
}

// inspectKey says whether a key file is encrypted, without decrypting it.
func inspectKey(path string, text []byte, n *notes) (encrypted bool, err error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return false, fmt.Errorf("%s: not a PEM file", path)
	}
	info, err := os.Stat(path)
	if err != nil {
		return false, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		n.warn("%s can be read by others: chmod 600 it", path)
	}
	if encrypted = block.Type == encryptedKeyBlock; !encrypted {
		n.warn("%s is not encrypted: set ca.passphrase before the CA is made, or encrypt it with openssl pkcs8 -topk8", path)
	}
	return encrypted, nil
}

func decodeKey(text, passphrase []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("not a PEM file")
	}
	var key any
	var err error
	switch {
	case block.Type == plainKeyBlock:
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case block.Type != encryptedKeyBlock:
		return nil, fmt.Errorf("a PEM block of type %q instead of a PKCS #8 key", block.Type)
	case len(passphrase) == 0:
		return nil, errors.New("the key is encrypted and ca.passphrase is not set")
	default:
		// A wrong passphrase shows as bad padding or as a key that cannot be
		// parsed; the library does not tell which.
		if key, _, err = pkcs8.ParsePrivateKey(block.Bytes, passphrase); err != nil {
			return nil, fmt.Errorf("wrong passphrase (ca.passphrase), or a damaged file: %w", err)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("read the private key: %w", err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("a key of type %T cannot sign", key)
	}
	return signer, nil
}

// readCertificates reads all certificates of a PEM file, at least one.
func readCertificates(path string) ([]*x509.Certificate, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var found []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != certificateBlock {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		found = append(found, c)
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%s: no certificate in it", path)
	}
	return found, nil
}

// readCertificate reads a file with exactly one certificate.
func readCertificate(path string) (*x509.Certificate, error) {
	found, err := readCertificates(path)
	if err != nil {
		return nil, err
	}
	if len(found) > 1 {
		return nil, fmt.Errorf("%s: %d certificates instead of one", path, len(found))
	}
	return found[0], nil
}

func encodeCertificates(chain []*x509.Certificate) []byte {
	var text []byte
	for _, c := range chain {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: certificateBlock, Bytes: c.Raw})...)
	}
	return text
}
