package system

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"time"

	"github.com/certvendor/certvendor/bench/load"
)

// StepCA is step-ca as `step ca init` configures it: badgerv2, one JWK
// provisioner, TLS.
type StepCA struct {
	dir, address string
	ca           *CA
	process      *process
	provisioner  *ecdsa.PrivateKey
	roots        *x509.CertPool
}

// StartStepCA starts step-ca with the given CA.
func StartStepCA(dir, program string, ca *CA) (*StepCA, error) {
	s := &StepCA{dir: dir, ca: ca, roots: x509.NewCertPool()}
	s.roots.AddCert(ca.root)
	key, err := P256()
	if err != nil {
		return nil, err
	}
	s.provisioner = key.(*ecdsa.PrivateKey)
	if s.address, err = freeAddress(); err != nil {
		return nil, err
	}
	if err := s.configure(); err != nil {
		return nil, err
	}
	if s.process, err = start(dir, "step-ca", program, "ca.json"); err != nil {
		return nil, err
	}
	return s, s.process.listens("tcp", s.address)
}

func (s *StepCA) configure() error {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	public, err := s.provisioner.PublicKey.Bytes()
	if err != nil {
		return err
	}
	config := map[string]any{
		"root": filepath.Join(s.ca.Dir, "root.crt"), "crt": filepath.Join(s.ca.Dir, "issuing.crt"), "key": filepath.Join(s.ca.Dir, "issuing.key"),
		"address": s.address, "dnsNames": []string{"localhost", "127.0.0.1"},
		"logger": map[string]string{"format": "text"},
		"db":     map[string]string{"type": "badgerv2", "dataSource": filepath.Join(s.dir, "db")},
		"authority": map[string]any{"provisioners": []any{map[string]any{
			"type": "JWK", "name": provisionerName, "key": map[string]string{
				"use": "sig", "kty": "EC", "crv": "P-256", "alg": "ES256", "kid": provisionerName,
				"x": raw(public[1:33]), "y": raw(public[33:65]),
			},
		}}},
	}
	text, err := json.MarshalIndent(config, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(s.dir, "ca.json"), text, 0o600)
}

const provisionerName = "bench"

func raw(octets []byte) string { return base64.RawURLEncoding.EncodeToString(octets) }

// token makes the one-time token for a certificate (a JWT, RFC 7519).
func (s *StepCA) token(name string) (string, error) {
	now := time.Now()
	claims, err := json.Marshal(map[string]any{
		"iss": provisionerName, "aud": "https://" + s.address + "/1.0/sign", "sub": name, "sans": []string{name}, "jti": rand.Text(),
		"iat": now.Unix(), "nbf": now.Add(-time.Minute).Unix(), "exp": now.Add(10 * time.Minute).Unix(),
	})
	if err != nil {
		return "", err
	}
	text := raw([]byte(`{"alg":"ES256","typ":"JWT","kid":"`+provisionerName+`"}`)) + "." + raw(claims)
	sum := sha256.Sum256([]byte(text))
	r, v, err := ecdsa.Sign(rand.Reader, s.provisioner, sum[:])
	if err != nil {
		return "", err
	}
	signature := make([]byte, 64)
	r.FillBytes(signature[:32])
	v.FillBytes(signature[32:])
	return text + "." + raw(signature), nil
}

func (s *StepCA) trust(int) *tls.Config { return &tls.Config{RootCAs: s.roots} }

// PIDs implements System.
func (s *StepCA) PIDs() []int { return []int{s.process.pid()} }

// Close implements System.
func (s *StepCA) Close() error { return s.process.Close() }

// Name implements System.
func (s *StepCA) Name() string { return "step-ca sign" }

// Prepare implements System: POST /1.0/sign with a token each.
func (s *StepCA) Prepare(workers int, lasts time.Duration) (func() (load.Result, error), func() error, error) {
	const name = "device"
	requests, err := newRequests(256, func(int) string { return name })
	if err != nil {
		return nil, nil, err
	}
	prepared := make([]post, most(2000, lasts))
	err = each(len(prepared), func(i int) error {
		r := requests[i%len(requests)]
		token, err := s.token(name)
		if err != nil {
			return err
		}
		body, err := json.Marshal(map[string]string{"csr": string(r.pem), "ott": token})
		prepared[i] = post{body: body, key: r.key.Public()}
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	p := newPosts(s.address, "/1.0/sign", workers, s.trust)
	p.next = inTurn(prepared)
	return s.loop(p, lasts)
}

// loop opens the connections, and returns a loop over them.
func (s *StepCA) loop(p *posts, lasts time.Duration) (func() (load.Result, error), func() error, error) {
	if err := p.connect("/health"); err != nil {
		return nil, nil, err
	}
	run := func() (load.Result, error) { return p.run(lasts) }
	return run, func() error { return p.check(s.ca, stepCertificate) }, nil
}

func stepCertificate(reply []byte) (string, error) {
	var body struct{ Crt string }
	err := json.Unmarshal(reply, &body)
	return body.Crt, err
}

// StepRenew is the renewal of the same step-ca over mTLS: what a device does
// there in place of a get.
type StepRenew struct{ *StepCA }

// Name implements System.
func (s StepRenew) Name() string { return "step-ca renew" }

// Prepare implements System: each worker has a certificate that step-ca has
// signed, and renews it over a connection with it.
func (s StepRenew) Prepare(workers int, lasts time.Duration) (func() (load.Result, error), func() error, error) {
	pairs := make([]tls.Certificate, workers)
	sign := newPosts(s.address, "/1.0/sign", workers, s.trust)
	if err := sign.connect("/health"); err != nil {
		return nil, nil, err
	}
	if err := each(workers, func(w int) (err error) { pairs[w], err = s.enrol(sign, w); return err }); err != nil {
		return nil, nil, err
	}
	sign.close()
	p := newPosts(s.address, "/1.0/renew", workers, func(w int) *tls.Config {
		return &tls.Config{RootCAs: s.roots, Certificates: pairs[w : w+1]}
	})
	p.next = func(w int) (post, bool) { return post{key: pairs[w].PrivateKey.(crypto.Signer).Public()}, true }
	return s.loop(p, lasts)
}

// enrol has step-ca sign a worker's first certificate.
func (s StepRenew) enrol(sign *posts, worker int) (pair tls.Certificate, err error) {
	r, err := newRequest("device")
	if err != nil {
		return pair, err
	}
	token, err := s.token(r.name)
	if err != nil {
		return pair, err
	}
	body, err := json.Marshal(map[string]string{"csr": string(r.pem), "ott": token})
	if err != nil {
		return pair, err
	}
	reply, err := sign.post(worker, body)
	if err != nil {
		return pair, err
	}
	text, err := stepCertificate(reply)
	if err != nil {
		return pair, err
	}
	c, err := parse([]byte(text))
	if err != nil {
		return pair, err
	}
	return tls.Certificate{Certificate: [][]byte{c.Raw, s.ca.Issuer.Raw}, PrivateKey: r.key}, nil
}
