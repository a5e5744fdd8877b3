package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os/user"

	"github.com/certvendor/certvendor/internal/app"
	"github.com/certvendor/certvendor/internal/config"
)

// maxPEM bounds a file of certificates, in octets.
const maxPEM = 1 << 20

// surroundings are what `serve` would not find: files, secrets and groups that
// the configuration names. Untold is what cannot be told here, as only systemd
// gives it to the daemon.
type surroundings struct{ problems, untold []error }

func checkSurroundings(cfg config.Config) surroundings {
	var s surroundings
	s.secret("ca.passphrase", cfg.CA.Passphrase)
	s.secret("webhook.secret", cfg.Webhook.Secret)
	s.secret("approval.token", cfg.Approval.Token)
	s.roots("webhook.ca", cfg.Webhook.CA)
	s.roots("approval.ca", cfg.Approval.CA)
	if name := cfg.Control.Group; name != "" {
		_, err := user.LookupGroup(name)
		s.note("control.group", err)
	}
	if t := cfg.Control.TLS; t.Listen != "" {
		s.pair("control.tls.certificate, control.tls.key", t.Certificate, t.Key)
		for _, path := range t.ClientCA {
			s.roots("control.tls.client_ca", path)
		}
	}
	if cfg.Backend == config.AWSBackend {
		s.aws(cfg.AWS.Broker)
	} else {
		s.standalone(cfg.Standalone)
	}
	return s
}

func (s *surroundings) standalone(c config.Standalone) {
	for _, path := range c.ClientCA {
		s.note("standalone.client_ca", checkCAs(path))
	}
	s.roots("standalone.server_ca", c.ServerCA)
	s.pair("standalone.server_certificate, standalone.server_key", c.ServerCertificate, c.ServerKey)
}

func (s *surroundings) aws(c config.AWSBroker) {
	if c.RuleKey.IsSet() {
		_, err := app.RuleKey(c.RuleKey)
		s.note("aws.broker.rule_key", err)
	}
	s.pair("aws.broker.certificate, aws.broker.key", c.Certificate, c.Key)
	s.roots("aws.broker.ca", c.CA)
}

func (s *surroundings) note(key string, err error) {
	switch {
	case errors.Is(err, config.ErrNoCredentials):
		s.untold = append(s.untold, fmt.Errorf("%s: %w", key, err))
	case err != nil:
		s.problems = append(s.problems, fmt.Errorf("%s: %w", key, err))
	}
}

func (s *surroundings) secret(key string, secret config.Secret) {
	_, err := secret.Value()
	s.note(key, err)
}

func (s *surroundings) roots(key, path string) {
	if path != "" {
		_, err := readCertificates(path)
		s.note(key, err)
	}
}

func (s *surroundings) pair(keys, certificate, key string) {
	if certificate != "" {
		_, err := tls.LoadX509KeyPair(certificate, key)
		s.note(keys, err)
	}
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
