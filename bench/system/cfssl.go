package system

import (
	"crypto/tls"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/certvendor/certvendor/bench/load"
)

// CFSSL is `cfssl serve` without a store, over plain HTTP and without
// authentication: signing and nothing else.
type CFSSL struct {
	ca      *CA
	address string
	process *process
}

// StartCFSSL starts cfssl with the given CA.
func StartCFSSL(dir, program string, ca *CA) (*CFSSL, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "config.json")
	profile := `{"signing": {"default": {"expiry": "8760h", "usages": ["digital signature", "client auth"]}}}`
	if err := os.WriteFile(config, []byte(profile), 0o600); err != nil {
		return nil, err
	}
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	p, err := start(dir, "cfssl", program, "serve", "-address", host, "-port", port, "-config", config,
		"-ca", filepath.Join(ca.Dir, "issuing.crt"), "-ca-key", filepath.Join(ca.Dir, "issuing.key"))
	if err != nil {
		return nil, err
	}
	return &CFSSL{ca, address, p}, p.listens("tcp", address)
}

// Name implements System.
func (c *CFSSL) Name() string { return "cfssl sign" }

// PIDs implements System.
func (c *CFSSL) PIDs() []int { return []int{c.process.pid()} }

// Close implements System.
func (c *CFSSL) Close() error { return c.process.Close() }

// Prepare implements System.
func (c *CFSSL) Prepare(workers int, lasts time.Duration) (func() (load.Result, error), func() error, error) {
	requests, err := newRequests(256, func(int) string { return "device" })
	if err != nil {
		return nil, nil, err
	}
	prepared := make([]post, most(8000, lasts))
	for i := range prepared {
		r := requests[i%len(requests)]
		body, err := json.Marshal(map[string]any{"certificate_request": string(r.pem), "hosts": []string{"device"}})
		if err != nil {
			return nil, nil, err
		}
		prepared[i] = post{body: body, key: r.key.Public()}
	}
	p := newPosts(c.address, "/api/v1/cfssl/sign", workers, func(int) *tls.Config { return nil })
	p.next = inTurn(prepared)
	if err := p.connect("/api/v1/cfssl/health"); err != nil {
		return nil, nil, err
	}
	run := func() (load.Result, error) { return p.run(lasts) }
	return run, func() error { return p.check(c.ca, cfsslCertificate) }, nil
}

func cfsslCertificate(reply []byte) (string, error) {
	var body struct{ Result struct{ Certificate string } }
	err := json.Unmarshal(reply, &body)
	return body.Result.Certificate, err
}
