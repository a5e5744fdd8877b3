package main

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/certvendor/certvendor/device"
)

// standing is what the directory holds. It is read without the lock, beside a
// certagent at work.
type standing struct {
	Device        string      `json:"device"`
	CertificateID string      `json:"certificateId"`
	Subject       string      `json:"subject"`
	NotBefore     time.Time   `json:"notBefore"`
	NotAfter      time.Time   `json:"notAfter"`
	Expired       bool        `json:"expired"`
	Certificate   string      `json:"certificate"` // paths
	Key           string      `json:"key"`
	Unfinished    *unfinished `json:"unfinished,omitempty"`
}

// unfinished is a rotation that the next run or once goes on with.
type unfinished struct {
	Stage         string `json:"stage"`
	CertificateID string `json:"certificateId,omitempty"`
	Job           string `json:"job,omitempty"`
}

func (p *program) status(s settings) error {
	now, err := inspect(s.device.Directory)
	if err != nil {
		return fmt.Errorf("read %s: %w", s.device.Directory, err)
	}
	now.Device = s.device.Device
	now.Expired = !time.Now().Before(now.NotAfter)
	if p.json {
		return p.writeJSON(now)
	}
	expiry := "expires"
	if now.Expired {
		expiry = "EXPIRED"
	}
	fmt.Fprintf(p.out, "device       %s\ncertificate  %s\nsubject      %s\n%s      %s\nfile         %s\nkey          %s\n",
		now.Device, now.CertificateID, now.Subject, expiry, now.NotAfter.Format(time.RFC3339), now.Certificate, now.Key)
	if u := now.Unfinished; u != nil {
		fmt.Fprintf(p.out, "unfinished   %s %s %s\n", u.Stage, u.CertificateID, u.Job)
	}
	return nil
}

// inspect reads the directory. A rotation that ends meanwhile removes files
// between two reads; then it is read again.
func inspect(directory string) (standing, error) {
	for range 10 {
		found, err := inspectOnce(directory)
		if !errors.Is(err, os.ErrNotExist) {
			return found, err
		}
	}
	return inspectOnce(directory)
}

// inspectOnce reads the files of package device, whose layout is described in
// its store.go.
func inspectOnce(directory string) (standing, error) {
	var state struct {
		Current   int `json:"current"`
		Candidate *struct {
			Issued        bool   `json:"issued"`
			CertificateID string `json:"certificateId"`
			Job           struct {
				ID string `json:"id"`
			} `json:"job"`
		} `json:"candidate"`
	}
	text, err := os.ReadFile(filepath.Join(directory, "state.json"))
	if errors.Is(err, os.ErrNotExist) {
		return standing{}, device.ErrNotProvisioned
	}
	if err != nil {
		return standing{}, err
	}
	if err := json.Unmarshal(text, &state); err != nil {
		return standing{}, fmt.Errorf("read state.json: %w", err)
	}
	pair := filepath.Join(directory, "pairs", strconv.Itoa(state.Current))
	s := standing{Certificate: filepath.Join(pair, "certificate.pem"), Key: filepath.Join(pair, "private.key")}
	if c := state.Candidate; c != nil {
		s.Unfinished = &unfinished{Stage: "key made, waiting for its certificate", CertificateID: c.CertificateID, Job: c.Job.ID}
		if c.Issued {
			s.Unfinished.Stage = "certificate stored, not yet in use"
		}
	}
	return s, s.readCertificate()
}

func (s *standing) readCertificate() error {
	text, err := os.ReadFile(s.Certificate)
	if err != nil {
		return err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return fmt.Errorf("%s holds no certificate", s.Certificate)
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return fmt.Errorf("parse %s: %w", s.Certificate, err)
	}
	id := sha256.Sum256(leaf.Raw)
	s.CertificateID, s.Subject = hex.EncodeToString(id[:]), leaf.Subject.String()
	s.NotBefore, s.NotAfter = leaf.NotBefore, leaf.NotAfter
	return nil
}
