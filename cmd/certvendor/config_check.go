package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os/user"

	"github.com/certvendor/certvendor/internal/config"
)

// maxPEM bounds a file of certificates, in octets.
const maxPEM = 1 << 20

// checkSurroundings says what `serve` would not find: files, secrets and
// groups that the configuration names. The second list is of what cannot be
// told here, as only systemd gives it to the daemon.
func checkSurroundings(cfg config.Config) (problems, untold []error) {
	for _, named := range []struct {
		key    string
		secret config.Secret
	}{{"ca.passphrase", cfg.CA.Passphrase}, {"webhook.secret", cfg.Webhook.Secret}} {
		switch _, err := named.secret.Value(); {
		case errors.Is(err, config.ErrNoCredentials):
			untold = append(untold, fmt.Errorf("%s: %w", named.key, err))
		case err != nil:
			problems = append(problems, fmt.Errorf("%s: %w", named.key, err))
		}
	}
	if cfg.Webhook.CA != "" {
		if _, err := readCertificates(cfg.Webhook.CA); err != nil {
			problems = append(problems, fmt.Errorf("webhook.ca: %w", err))
		}
	}
	if name := cfg.Control.Group; name != "" {
		if _, err := user.LookupGroup(name); err != nil {
			problems = append(problems, fmt.Errorf("control.group: %w", err))
		}
	}
	s := cfg.Standalone
	for _, path := range s.ClientCA {
		if err := checkCAs(path); err != nil {
			problems = append(problems, fmt.Errorf("standalone.client_ca: %w", err))
		}
	}
	if s.ServerCA != "" {
		if _, err := readCertificates(s.ServerCA); err != nil {
			problems = append(problems, fmt.Errorf("standalone.server_ca: %w", err))
		}
	}
	if s.ServerCertificate != "" {
		if _, err := tls.LoadX509KeyPair(s.ServerCertificate, s.ServerKey); err != nil {
			problems = append(problems, fmt.Errorf("standalone.server_certificate, standalone.server_key: %w", err))
		}
	}
	return problems, untold
}

func checkCAs(path string) error {
	found, err := readCertificates(path)
	if err != nil {
		return err
	}
	for _, c := range found {
		if !c.IsCA {
			return fmt.Errorf("%s: %q is not a CA certificate", path, c.Subject)
		}
	}
	return nil
}

// readCertificates reads all certificates of a PEM file, at least one.
func readCertificates(path string) ([]*x509.Certificate, error) {
	text, err := readBounded(path, maxPEM)
	if err != nil {
		return nil, err
	}
	var found []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		found = append(found, c)
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%s: no certificate in it", path)
	}
	return found, nil
}
