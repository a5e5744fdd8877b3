package device

import (
	"crypto"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/certvendor/certvendor/protocol"
)

// ErrProvisioned is returned by Provision for a directory that already holds a
// certificate.
var ErrProvisioned = errors.New("the directory already holds a certificate")

// ErrNotProvisioned is returned by New for a directory without a certificate.
var ErrNotProvisioned = errors.New("the directory holds no certificate: provision it first")

// On disk:
//
//	state.json               which pair is in use, and the candidate
//	pairs/<n>/private.key    unless the key is kept elsewhere
//	pairs/<n>/certificate.pem
//
// state.json alone decides. A pair it does not name is a leftover and removed
// at the next start; so every change is one rename.
const (
	stateFile       = "state.json"
	pairsDirectory  = "pairs"
	keyFile         = "private.key"
	certificateFile = "certificate.pem"
)

// state is the content of state.json.
type state struct {
	Current   int          `json:"current"`
	Candidate *candidate   `json:"candidate,omitempty"`
	Finished  jobReference `json:"finished"` // the last job carried out
}

// candidate is the pair that may follow the one in use. Until Issued it is a
// key that waits for its certificate.
type candidate struct {
	Pair          int             `json:"pair"`
	Issued        bool            `json:"issued"`
	CertificateID string          `json:"certificateId,omitempty"`
	Nonce         string          `json:"nonce,omitempty"`
	Job           jobReference    `json:"job"`
	Topics        protocol.Topics `json:"topics"`
}

// store keeps the pairs of one device. Not safe for concurrent use.
type store struct {
	directory string
	keys      Keys
	newKey    func() (crypto.Signer, error)
	cut       func(step string) error // called after each durable step; ends the work with its error
	state     state
	current   pair
	candidate pair // meaningless while state.Candidate is nil
}

// Provision puts a device's first certificate (PEM, the leaf first) and its
// private key (PEM) into directory, which it makes. A power cut leaves either
// a directory that New takes or one that may be provisioned again.
func Provision(directory string, certificate, key []byte) error {
	signer, err := decodeKey(key)
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(directory, stateFile)); err == nil {
		return ErrProvisioned
	}
	chain, err := decodeChain(certificate)
	if err != nil {
		return err
	}
	if !isFor(chain[0], signer) {
		return errors.New("the certificate is not for the key")
	}
	s := &store{directory: directory, cut: noCut}
	if err := s.writePair(1, pair{key: signer, chain: chain}); err != nil {
		return err
	}
	return s.save(state{Current: 1})
}

func noCut(string) error { return nil }

// openStore reads what state.json names and removes what it does not.
func openStore(cfg Config) (*store, error) {
	s := &store{directory: cfg.Directory, keys: cfg.Keys, newKey: cfg.NewKey, cut: noCut}
	text, err := os.ReadFile(filepath.Join(s.directory, stateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNotProvisioned
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, &s.state); err != nil {
		return nil, fmt.Errorf("read %s: %w", stateFile, err)
	}
	if s.current, err = s.readPair(s.state.Current, true); err != nil {
		return nil, err
	}
	if c := s.state.Candidate; c != nil {
		if s.candidate, err = s.readPair(c.Pair, c.Issued); err != nil {
			return nil, err
		}
	}
	return s, s.removeLeftovers()
}

// create makes a candidate with a new key, which is durable on return.
func (s *store) create(job jobReference, topics protocol.Topics) error {
	n := s.freePair()
	key, err := s.makeKey(n)
	if err != nil {
		return err
	}
	return s.enter(candidate{Pair: n, Job: job, Topics: topics}, pair{key: key})
}

// adopt makes a candidate of a pair that came from elsewhere.
func (s *store) adopt(c candidate, p pair) error {
	c.Pair, c.Issued = s.freePair(), true
	if err := s.writePair(c.Pair, p); err != nil {
		return err
	}
	return s.enter(c, p)
}

// issue gives the candidate its certificate, durably.
func (s *store) issue(c candidate, chain []*x509.Certificate) error {
	path := filepath.Join(s.pairPath(c.Pair), certificateFile)
	if err := writeFile(path, encodeChain(chain), s.cut); err != nil {
		return err
	}
	c.Issued = true
	return s.enter(c, pair{key: s.candidate.key, chain: chain})
}

// promote makes the candidate the pair in use and removes the one it follows.
func (s *store) promote() error {
	c := *s.state.Candidate
	if err := s.save(state{Current: c.Pair, Finished: c.Job}); err != nil {
		return err
	}
	s.current, s.candidate = s.candidate, pair{}
	return s.removeLeftovers()
}

// discard removes the candidate.
func (s *store) discard() error {
	if err := s.save(state{Current: s.state.Current, Finished: s.state.Finished}); err != nil {
		return err
	}
	s.candidate = pair{}
	return s.removeLeftovers()
}

func (s *store) enter(c candidate, p pair) error {
	if err := s.save(state{Current: s.state.Current, Candidate: &c, Finished: s.state.Finished}); err != nil {
		return err
	}
	s.candidate = p
	return nil
}

func (s *store) save(next state) error {
	text, err := json.MarshalIndent(next, "", "  ")
	if err != nil {
		return err
	}
	if err := writeFile(filepath.Join(s.directory, stateFile), append(text, '\n'), s.cut); err != nil {
		return err
	}
	s.state = next
	return nil
}
