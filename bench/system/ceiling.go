package system

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"runtime"
	"time"

	"github.com/certvendor/certvendor/bench/load"
)

// Ceiling is what this machine's CPUs make of certificates with Go's own
// crypto/x509 and nothing else: no network, no store, no rule. Each worker
// reads a request as JSON, parses the CSR, verifies its signature, signs a
// certificate, hashes it and writes the reply.
type Ceiling struct {
	ca       *CA
	requests []request
	bodies   [][]byte
}

// NewCeiling makes the requests.
func NewCeiling(ca *CA) (*Ceiling, error) {
	requests, err := newRequests(256, func(int) string { return "device" })
	c := &Ceiling{ca: ca, requests: requests}
	for _, r := range requests {
		body, _ := json.Marshal(map[string]string{"csr": string(r.pem)}) // strings always can
		c.bodies = append(c.bodies, body)
	}
	return c, err
}

// Name implements System.
func (c *Ceiling) Name() string { return "crypto alone" }

// PIDs implements System: it works in this process.
func (c *Ceiling) PIDs() []int { return nil }

// Close implements System.
func (c *Ceiling) Close() error { return nil }

// Prepare implements System. There are as many workers as CPUs.
func (c *Ceiling) Prepare(_ int, lasts time.Duration) (func() (load.Result, error), func() error, error) {
	workers := runtime.NumCPU()
	last := make([][]byte, workers)
	turn := make([]int, workers)
	run := func() (load.Result, error) {
		return load.Loop(workers, lasts, func(w int) (err error) {
			turn[w]++
			last[w], err = c.vend(c.bodies[turn[w]%len(c.bodies)])
			return err
		})
	}
	check := func() error {
		for w, reply := range last {
			var body struct{ Certificate string }
			if err := json.Unmarshal(reply, &body); err != nil {
				return err
			}
			if err := c.ca.verify([]byte(body.Certificate), c.requests[turn[w]%len(c.requests)].key.Public()); err != nil {
				return err
			}
		}
		return nil
	}
	return run, check, nil
}

func (c *Ceiling) vend(body []byte) ([]byte, error) {
	var asked struct{ CSR string }
	if err := json.Unmarshal(body, &asked); err != nil {
		return nil, err
	}
	block, _ := pem.Decode([]byte(asked.CSR))
	if block == nil {
		return nil, errors.New("no CSR")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, err
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, err
	}
	template := leaf(csr.Subject.CommonName)
	id := sha256.Sum256(csr.RawSubjectPublicKeyInfo)
	template.SubjectKeyId = id[:20]
	template.SerialNumber, err = rand.Int(rand.Reader, serials)
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, c.ca.Issuer, csr.PublicKey, c.ca.Key)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(der)
	return json.Marshal(map[string]string{
		"certificateId": hex.EncodeToString(sum[:]), "certificate": string(encode("CERTIFICATE", der)),
	})
}
