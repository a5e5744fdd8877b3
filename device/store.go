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

// candidate is the pair that follows the current one. Until Issued it is a key
// that waits for its certificate. Once Switched it is the pair in use, and the
// current one is what to go back to.
type candidate struct {
	Pair          int             `json:"pair"`
	Issued        bool            `json:"issued"`
	CertificateID string          `json:"certificateId,omitempty"`
	Nonce         string          `json:"nonce,omitempty"`
	Job           jobReference    `json:"job"`
	Topics        protocol.Topics `json:"topics"` // those of the job
	// Renewal is set where the certificate's age began it, not a job or a person.
	Renewal bool `json:"renewal,omitempty"`
	// By the device's own clock, when the broker first took it. Unacked is how
	// many connections ended without an ack since.
	Switched time.Time `json:"switched,omitzero"`
	Unacked  int       `json:"unacked,omitempty"`
}

// inUse returns the number of the pair in use, and since when it is.
func (s state) inUse() (pair int, obtained time.Time) {
	if c := s.Candidate; c != nil && !c.Switched.IsZero() {
		return c.Pair, c.Switched
	}
	return s.Current, s.Obtained
}

// store keeps the pairs of one device. Not safe for concurrent use.
type store struct {
	directory string
	keys      Keys
	fixed     crypto.Signer
	newKey    func() (crypto.Signer, error)
	cut       func(step string) error // called after each durable step; ends the work with its error
	tell      func(error)             // told what goes wrong and stops nothing
	state     state
	current   pair
	candidate pair // empty while state.Candidate is nil, or cannot be read
}

func noCut(string) error { return nil }

func newStore(cfg Config) *store {
	return &store{directory: cfg.Directory, keys: cfg.Keys, fixed: cfg.FixedKey, newKey: cfg.NewKey, cut: noCut, tell: func(error) {}}
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
	if s.state, err = readState(s.directory); err != nil {
		return err
	}
	s.loadCandidate()
	if s.current, err = s.readPair(s.state.Current, true); err != nil {
		if !s.switched() {
			return err
		}
		s.tell(fmt.Errorf("the pair before the one in use is given up: %w", err))
		if err := s.promote(); err != nil {
			s.tell(err)
			s.current = s.candidate
		}
		return nil
	}
	return s.removeLeftovers()
}

// loadCandidate drops a candidate that is of no use: the current pair is what
// the device connects with, and another one can be asked for. Only a candidate
// that is in use stays, for it may be the only one that the broker takes.
func (s *store) loadCandidate() {
	s.candidate = pair{}
	err := s.readAgain()
	if c := s.state.Candidate; err == nil && c != nil && !c.Issued && c.Topics == (protocol.Topics{}) {
		err = errNoTopics
	}
	if err == nil {
		return
	}
	if c := s.state.Candidate; !c.Switched.IsZero() {
		s.tell(fmt.Errorf("the pair in use cannot be read, the one before it is used: %w", err))
		return
	}
	s.tell(fmt.Errorf("a pair that was not yet in use is dropped: %w", err))
	next := s.state
	next.Candidate = nil
	if err := s.save(next); err != nil {
		s.tell(err)
	}
	s.state, s.candidate = next, pair{}
}

// readAgain reads the candidate where that did not succeed before.
func (s *store) readAgain() (err error) {
	if c := s.state.Candidate; c != nil && s.candidate.key == nil {
		s.candidate, err = s.readPair(c.Pair, c.Issued)
	}
	return err
}

// switched reports whether the candidate is in use, and can be used.
func (s *store) switched() bool {
	c := s.state.Candidate
	return c != nil && !c.Switched.IsZero() && s.candidate.key != nil
}

// inUse returns the pair that applications use.
func (s *store) inUse() pair {
	if s.switched() {
		return s.candidate
	}
	return s.current
}

// create makes a candidate with a key, which is durable on return. c says what
// the candidate is for.
func (s *store) create(c candidate) (err error) {
	if c.Pair, err = s.freePair(); err != nil {
		return err
	}
	return s.orRemoved(c.Pair, func() error {
		key, err := s.makeKey(c.Pair)
		if err != nil {
			return err
		}
		return s.enter(c, pair{key: key})
	})
}

// adopt makes a candidate of a pair that came from elsewhere.
func (s *store) adopt(c candidate, p pair) (err error) {
	if c.Pair, err = s.freePair(); err != nil {
		return err
	}
	c.Issued = true
	return s.orRemoved(c.Pair, func() error {
		if err := s.writePair(c.Pair, p); err != nil {
			return err
		}
		return s.enter(c, p)
	})
}

// issue gives the candidate its certificate, durably.
func (s *store) issue(c candidate, chain []*x509.Certificate) error {
	if err := s.writeChain(c.Pair, chain); err != nil {
		return err
	}
	c.Issued = true
	return s.enter(c, pair{key: s.candidate.key, chain: chain})
}

// switchTo makes the candidate the pair in use.
func (s *store) switchTo(now time.Time) error {
	c := *s.state.Candidate
	c.Switched = now
	return s.enter(c, s.candidate)
}

// unacked counts a connection that ended without an ack.
func (s *store) unacked() error {
	c := *s.state.Candidate
	c.Unacked++
	return s.enter(c, s.candidate)
}

// promote makes the candidate, which is in use, the current pair and removes
// the one it follows.
func (s *store) promote() error {
	c := *s.state.Candidate
	if err := s.save(state{Current: c.Pair, Finished: c.Job, Obtained: c.Switched}); err != nil {
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

// tried keeps the moment of a renewal that came to nothing, also where it
// cannot be written.
func (s *store) tried(now time.Time) error {
	s.state.Tried = now
	return s.save(s.state)
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
