package device

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
)

// pair is a key with its certificate; chain is empty for a candidate that
// waits for its certificate.
type pair struct {
	key   crypto.Signer
	chain []*x509.Certificate
}

func (p pair) tls() tls.Certificate {
	certificate := tls.Certificate{PrivateKey: p.key}
	for _, c := range p.chain {
		certificate.Certificate = append(certificate.Certificate, c.Raw)
	}
	if len(p.chain) > 0 {
		certificate.Leaf = p.chain[0]
	}
	return certificate
}

func (s *store) pairPath(n int) string { return pairPath(s.directory, n) }

func pairPath(directory string, n int) string {
	return filepath.Join(directory, pairsDirectory, strconv.Itoa(n))
}

// freePair returns a number that no pair has, nor a leftover.
func (s *store) freePair() (int, error) {
	for n := s.state.Current + 1; ; n++ {
		switch _, err := os.Stat(s.pairPath(n)); {
		case errors.Is(err, fs.ErrNotExist):
			return n, nil
		case err != nil:
			return 0, fmt.Errorf("find a place for a pair: %w", err)
		}
	}
}

// makeKey returns the key of a new pair: the fixed one, or a new one, which is
// durable on return.
func (s *store) makeKey(n int) (crypto.Signer, error) {
	if s.fixed == nil && s.keys == nil {
		key, err := s.newKey()
		if err != nil {
			return nil, fmt.Errorf("make a key: %w", err)
		}
		return key, s.writePair(n, pair{key: key})
	}
	if err := makeDirectory(s.pairPath(n)); err != nil {
		return nil, err
	}
	key := s.fixed
	if key == nil {
		var err error
		if key, err = s.keys.Create(keyName(n)); err != nil {
			return nil, fmt.Errorf("create a key: %w", err)
		}
	}
	return key, s.cut("key elsewhere")
}

func keyName(n int) string { return "pair-" + strconv.Itoa(n) }

// writePair writes a pair whose key is a file; its chain may be yet to come.
func (s *store) writePair(n int, p pair) error {
	directory := s.pairPath(n)
	if err := makeDirectory(directory); err != nil {
		return err
	}
	text, err := encodeKey(p.key)
	if err != nil {
		return err
	}
	if err := writeFile(filepath.Join(directory, keyFile), text, s.cut); err != nil {
		return err
	}
	if len(p.chain) == 0 {
		return nil
	}
	return s.writeChain(n, p.chain)
}

func (s *store) writeChain(n int, chain []*x509.Certificate) error {
	return writeFile(filepath.Join(s.pairPath(n), certificateFile), encodeChain(chain), s.cut)
}

func (s *store) readPair(n int, issued bool) (pair, error) {
	key, err := s.readKey(n)
	if err != nil {
		return pair{}, fmt.Errorf("read the key of pair %d: %w", n, err)
	}
	if !issued {
		return pair{key: key}, nil
	}
	text, err := os.ReadFile(filepath.Join(s.pairPath(n), certificateFile))
	if err != nil {
		return pair{}, err
	}
	chain, err := decodeChain(text)
	if err != nil {
		return pair{}, fmt.Errorf("read the certificate of pair %d: %w", n, err)
	}
	if s.fixed != nil && !isFor(chain[0], key) && isFor(chain[0], s.fixed) {
		// The file is of an attempt to provision another key.
		key = s.fixed
		if err := os.Remove(filepath.Join(s.pairPath(n), keyFile)); err != nil {
			s.tell(err)
		}
	}
	if !isFor(chain[0], key) {
		return pair{}, fmt.Errorf("pair %d: the certificate is not for the key", n)
	}
	return pair{key: key, chain: chain}, nil
}

// readKey prefers the file: the keys of packages are always files, and so are
// those made before the key was kept elsewhere.
func (s *store) readKey(n int) (crypto.Signer, error) {
	text, err := os.ReadFile(filepath.Join(s.pairPath(n), keyFile))
	switch {
	case !errors.Is(err, fs.ErrNotExist):
	case s.fixed != nil:
		return s.fixed, nil
	case s.keys != nil:
		return s.keys.Open(keyName(n))
	}
	if err != nil {
		return nil, err
	}
	return ParseKey(text)
}

// removeLeftovers removes every pair that the state does not name. One that
// cannot be removed is told of, and stays until the next time. Only what cut
// says is an error.
func (s *store) removeLeftovers() error {
	entries, err := os.ReadDir(filepath.Join(s.directory, pairsDirectory))
	if err != nil {
		s.tell(err)
	}
	for _, entry := range entries {
		n, err := strconv.Atoi(entry.Name())
		if err != nil || n == s.state.Current || (s.state.Candidate != nil && n == s.state.Candidate.Pair) {
			continue
		}
		s.removePair(n)
		if err := s.cut("pair removed"); err != nil {
			return err
		}
	}
	return nil
}

// removePair keeps the directory of a key that is still elsewhere: by it the
// key is found again.
func (s *store) removePair(n int) {
	if s.keys != nil {
		if err := s.keys.Remove(keyName(n)); err != nil {
			s.tell(fmt.Errorf("remove the key of pair %d: %w", n, err))
			return
		}
	}
	if err := os.RemoveAll(s.pairPath(n)); err != nil {
		s.tell(err)
	}
}

// orRemoved does work on a new pair, and removes what it made if it fails:
// neither a disk nor a secure element may fill up with what was tried.
func (s *store) orRemoved(n int, work func() error) error {
	err := work()
	if err != nil && s.cut("attempt failed") == nil {
		s.removePair(n)
	}
	return err
}
