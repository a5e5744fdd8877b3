package app

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"slices"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/config"
	"github.com/certvendor/certvendor/internal/control"
)

// remote is the operator's API over TCP, where the configuration wants it.
func (a *App) remote() (control.Remote, error) {
	c := a.config.Control.TLS
	if c.Listen == "" {
		return control.Remote{}, nil
	}
	r := control.Remote{
		Listen: c.Listen, Certificate: a.serverCertificate,
		Operators: x509.NewCertPool(), ForDevices: a.signsForDevices, Role: roleOf(c),
	}
	if c.Certificate != "" {
		r.Certificate = fromFiles(c.Certificate, c.Key)
		if _, err := r.Certificate(nil); err != nil {
			return r, err
		}
	}
	for _, file := range c.ClientCA {
		if err := a.trustOperators(r.Operators, file); err != nil {
			return r, fmt.Errorf("control.tls.client_ca: %w", err)
		}
	}
	return r, nil
}

// fromFiles reads a certificate for every connection: operators make few, and
// one that was replaced is in use at once.
func fromFiles(certificate, key string) func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(certificate, key)
		if err != nil {
			return nil, fmt.Errorf("control.tls.certificate: %w", err)
		}
		return &pair, nil
	}
}

func (a *App) trustOperators(pool *x509.CertPool, file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	found := false
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		if a.signsForDevices(c) {
			return fmt.Errorf("%s: %q signs for devices: operators need a CA of their own", file, c.Subject)
		}
		pool.AddCert(c)
		found = true
	}
	if !found {
		return fmt.Errorf("%s: holds no certificate", file)
	}
	return nil
}

// signsForDevices reports whether devices connect with certificates of a CA. A
// CA above it may stand above operators too.
func (a *App) signsForDevices(ca *x509.Certificate) bool {
	id := certificate.IDOf(ca.Raw)
	if a.alone == nil {
		return string(id) == a.config.AWS.Issuer.CA
	}
	for _, entry := range a.alone.CA().Entries() {
		switch entry.Role {
		case "root", "intermediate", "server", "server-ca":
		default:
			if entry.ID == id {
				return true
			}
		}
	}
	return false
}

func roleOf(c config.ControlTLS) func(string) control.Role {
	return func(commonName string) control.Role {
		switch {
		case slices.Contains(c.Admins, commonName):
			return control.Admin
		case slices.Contains(c.Operators, commonName):
			return control.Operator
		case slices.Contains(c.Viewers, commonName):
			return control.Viewer
		}
		return ""
	}
}
