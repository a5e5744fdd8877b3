package device

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Inspection is what a directory holds. It names no secret, and is comparable.
type Inspection struct {
	// CertificateID, Subject, NotBefore and NotAfter are those of the
	// certificate in use: Agent.Current.
	CertificateID string    `json:"certificateId"`
	Subject       string    `json:"subject"`
	NotBefore     time.Time `json:"notBefore"`
	NotAfter      time.Time `json:"notAfter"`
	// Obtained is when the device's own clock said that it came into use; zero
	// for the first one, which was provisioned.
	Obtained time.Time `json:"obtained,omitzero"`
	// Certificate and Key are the paths of the files in use. Key is empty where
	// the key is kept elsewhere.
	Certificate string `json:"certificate"`
	Key         string `json:"key,omitempty"`
	// Unfinished is the rotation that was begun; nil if there is none.
	Unfinished *Unfinished `json:"unfinished,omitempty"`
}

// Unfinished is a rotation that the next Run, RunOnce or Rotate goes on with.
type Unfinished struct {
	Stage         string `json:"stage"` // StageKey, StageCertificate or StageSwitched
	CertificateID string `json:"certificateId,omitempty"`
	Job           string `json:"job,omitempty"`
}

// The stages of an unfinished rotation, as people read them.
const (
	StageKey         = "key made, waiting for its certificate"
	StageCertificate = "certificate stored, not yet in use"
	StageSwitched    = "certificate in use, not yet acknowledged"
)

// Inspect reads what directory holds. It changes nothing, takes no lock and
// may be called beside an Agent at work; it then tells how things stood at one
// moment. ErrNotProvisioned if the directory holds no certificate.
func Inspect(directory string) (Inspection, error) {
	var found Inspection
	var err error
	// A rotation that ends meanwhile removes files between two reads.
	for range 10 {
		if found, err = inspect(directory); !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	if err != nil {
		return Inspection{}, fmt.Errorf("inspect %s: %w", directory, err)
	}
	return found, nil
}

func inspect(directory string) (Inspection, error) {
	state, err := readState(directory)
	if err != nil {
		return Inspection{}, err
	}
	number, obtained := state.inUse()
	place := pairPath(directory, number)
	i := Inspection{Certificate: filepath.Join(place, certificateFile), Key: filepath.Join(place, keyFile), Obtained: obtained}
	if _, err := os.Stat(i.Key); errors.Is(err, fs.ErrNotExist) {
		i.Key = ""
	}
	text, err := os.ReadFile(i.Certificate)
	if err != nil {
		return i, err
	}
	chain, err := decodeChain(text)
	if err != nil {
		return i, fmt.Errorf("read the certificate of pair %d: %w", number, err)
	}
	leaf := chain[0]
	i.CertificateID, i.Subject = idOf(pair{chain: chain}), leaf.Subject.String()
	i.NotBefore, i.NotAfter = leaf.NotBefore, leaf.NotAfter
	if c := state.Candidate; c != nil {
		i.Unfinished = &Unfinished{Stage: c.stage(), CertificateID: c.CertificateID, Job: c.Job.ID}
	}
	now, err := readState(directory)
	if again, _ := now.inUse(); err != nil || again != number {
		return i, errors.Join(fs.ErrNotExist, err) // it changed while it was read
	}
	return i, nil
}

func (c candidate) stage() string {
	switch {
	case !c.Switched.IsZero():
		return StageSwitched
	case c.Issued:
		return StageCertificate
	}
	return StageKey
}

// readState returns ErrNotProvisioned where there is none.
func readState(directory string) (s state, err error) {
	text, err := os.ReadFile(filepath.Join(directory, stateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return s, ErrNotProvisioned
	}
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(text, &s); err != nil {
		return s, fmt.Errorf("read %s: %w", stateFile, err)
	}
	return s, nil
}
