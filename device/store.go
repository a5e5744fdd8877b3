package device

import (
	"crypto"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

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
	// By the device's own clock: when the pair in use came into use (zero for
	// the first), and when a renewal of it was last tried in vain.
	Obtained time.Time `json:"obtained,omitzero"`
	Tried    time.Time `json:"tried,omitzero"`
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
	// Renewal is set where the certificate's age began it, not a job or a person.
	Renewal bool `json:"renewal,omitempty"`
}

// store keeps the pairs of one device. Not safe for concurrent use.
type store struct {
	directory string
	keys      Keys
	fixed     crypto.Signer
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
	if _, err := os.Stat(filepath.Join(directory, stateFile)); err == nil {
		return ErrProvisioned
	}
	s := &store{directory: directory, cut: noCut}
	if err := write(s, 1, pair{key: key, chain: chain}); err != nil {
		return err
	}
	return s.save(state{Current: 1})
}

func noCut(string) error { return nil }

func newStore(cfg Config) *store {
	return &store{directory: cfg.Directory, keys: cfg.Keys, fixed: cfg.FixedKey, newKey: cfg.NewKey, cut: noCut}
}

// exclusively calls work with the directory's lock held and its content read
// anew: somebody else may have changed it since. ErrInUse, ErrNotProvisioned.
func (s *store) exclusively(work func() error) error {
	if _, err := os.Stat(filepath.Join(s.directory, stateFile)); errors.Is(err, fs.ErrNotExist) {
		return ErrNotProvisioned
	}
	release, err := lock(s.directory)
	if err != nil {
		return err
	}
	defer release()
	if err := s.load(); err != nil {
		return err
	}
	return work()
}

// load reads what state.json names and removes what it does not.
func (s *store) load() (err error) {
	next, err := readState(s.directory)
	if err != nil {
		return err
	}
	if next.sameMoments(s.state) {
		// In memory they count without the wall clock's jumps.
		next.Obtained, next.Tried = s.state.Obtained, s.state.Tried
	}
	s.state = next
	if s.current, err = s.readPair(s.state.Current, true); err != nil {
		return err
	}
	s.candidate = pair{}
	if c := s.state.Candidate; c != nil {
		if s.candidate, err = s.readPair(c.Pair, c.Issued); err != nil {
			return err
		}
	}
	return s.removeLeftovers()
}

func (s state) sameMoments(other state) bool {
	return s.Obtained.Equal(other.Obtained) && s.Tried.Equal(other.Tried)
}

// create makes a candidate with a key, which is durable on return. c says what
// the candidate is for.
func (s *store) create(c candidate) error {
	c.Pair = s.freePair()
	key, err := s.makeKey(c.Pair)
	if err != nil {
		return err
	}
	return s.enter(c, pair{key: key})
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
	if err := s.writeChain(c.Pair, chain); err != nil {
		return err
	}
	c.Issued = true
	return s.enter(c, pair{key: s.candidate.key, chain: chain})
}

// promote makes the candidate the pair in use and removes the one it follows.
func (s *store) promote(now time.Time) error {
	c := *s.state.Candidate
	if err := s.save(state{Current: c.Pair, Finished: c.Job, Obtained: now}); err != nil {
		return err
	}
	s.current, s.candidate = s.candidate, pair{}
	return s.removeLeftovers()
}

// discard removes the candidate.
func (s *store) discard() error {
	next := s.state
	next.Candidate = nil
	if err := s.save(next); err != nil {
		return err
	}
	s.candidate = pair{}
	return s.removeLeftovers()
}

// attach makes the candidate that of a job.
func (s *store) attach(c candidate) error { return s.enter(c, s.candidate) }

// tried keeps the moment of a renewal that came to nothing.
func (s *store) tried(now time.Time) error {
	next := s.state
	next.Tried = now
	return s.save(next)
}

func (s *store) enter(c candidate, p pair) error {
	next := s.state
	next.Candidate = &c
	if err := s.save(next); err != nil {
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
