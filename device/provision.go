package device

import (
	"crypto"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// Provision puts a device's first certificate (PEM, the leaf first) and its
// private key (PEM) into directory, which it makes. A power cut leaves either
// a directory that New takes or one that may be provisioned again.
func Provision(directory string, certificate, key []byte) error {
	signer, err := ParseKey(key)
	if err != nil {
		return err
	}
	return provision(directory, certificate, signer, (*store).writePair)
}

// ProvisionFixed does the same for a device whose key stays elsewhere
// (Config.FixedKey): only the certificate is written.
func ProvisionFixed(directory string, certificate []byte, key crypto.Signer) error {
	return provision(directory, certificate, key, func(s *store, n int, p pair) error {
		if err := makeDirectory(s.pairPath(n)); err != nil {
			return err
		}
		return s.writeChain(n, p.chain)
	})
}

func provision(directory string, certificate []byte, key crypto.Signer, write func(*store, int, pair) error) error {
	chain, err := decodeChain(certificate)
	if err != nil {
		return err
	}
	if !isFor(chain[0], key) {
		return errors.New("the certificate is not for the key")
	}
	if err := makeDirectory(directory); err != nil {
		return err
	}
	release, err := lock(directory)
	if err != nil {
		return err
	}
	defer release()
	// Only where there surely is none: what it names would be removed.
	switch _, err := os.Lstat(filepath.Join(directory, stateFile)); {
	case err == nil:
		return ErrProvisioned
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	s := &store{directory: directory, cut: noCut}
	// What a power cut left behind: it may be the key of another attempt.
	if err := os.RemoveAll(s.pairPath(1)); err != nil {
		return err
	}
	if err := write(s, 1, pair{key: key, chain: chain}); err != nil {
		return err
	}
	return s.save(state{Current: 1})
}
