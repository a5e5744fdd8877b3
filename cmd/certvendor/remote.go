package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/pflag"

	"github.com/certvendor/certvendor/internal/control"
)

// remote is the way to a daemon over TCP.
type remote struct {
	address           string
	certificate, key  string
	serverCertificate string
}

func (r *remote) flags(flags *pflag.FlagSet) {
	flags.StringVar(&r.address, "server", "", "the daemon's control.tls.listen, as host:port, instead of its socket")
	flags.StringVar(&r.certificate, "operator-cert", "", "with --server: the operator's certificate, a PEM file")
	flags.StringVar(&r.key, "operator-key", "", "with --server: its key, a PEM file")
	flags.StringVar(&r.serverCertificate, "server-ca", "", "with --server: what the daemon's certificate is verified by; default: what the system trusts")
}

func (r *remote) dial() (*control.Client, error) {
	if r.certificate == "" || r.key == "" {
		return nil, errors.New("--server: takes --operator-cert and --operator-key, the operator's certificate")
	}
	pair, err := tls.LoadX509KeyPair(r.certificate, r.key)
	if err != nil {
		return nil, fmt.Errorf("--operator-cert and --operator-key: %w", err)
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}}
	if r.serverCertificate != "" {
		text, err := os.ReadFile(r.serverCertificate)
		if err != nil {
			return nil, fmt.Errorf("--server-ca: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("--server-ca: %s holds no certificate", r.serverCertificate)
		}
	}
	return control.DialTLS(r.address, config), nil
}
