package standalone

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"
)

// Why a client certificate is refused.
var (
	errCertificateExpired   = errors.New("the client certificate has expired")
	errCertificateUntrusted = errors.New("no trusted CA signed the client certificate")
)

// alpn are the protocol names that a device may offer, of which AWS IoT's SDKs
// send the first (docs.aws.amazon.com/iot/latest/developerguide/protocols.html).
// A device that offers none is as welcome.
func alpn() []string { return []string{"x-amzn-mqtt-ca", "mqtt"} }

// tlsConfig asks for a client certificate and checks it itself: a standard
// check refuses the expired ones that broker.expired still lets in. The names
// of the CAs are not sent, since devices with small memories choke on them.
func (b *Broker) tlsConfig() *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS12,
		ClientAuth:             tls.RequireAnyClientCert,
		SessionTicketsDisabled: true, // a resumed session would skip the check of its certificate's CA
		NextProtos:             alpn(),
		GetCertificate:         b.config.Certificate,
		VerifyConnection:       b.verify,
	}
}

// verify accepts a certificate for client authentication that leads to an
// anchor and has not expired longer ago than the window.
func (b *Broker) verify(state tls.ConnectionState) error {
	leaf, now := state.PeerCertificates[0], b.config.Now()
	at := now
	if now.Before(leaf.NotBefore) {
		// It was vended while our clock ran ahead. Whether it counts is for
		// the inventory to say; to refuse it here would lock its device out.
		at = leaf.NotBefore
	}
	if now.After(leaf.NotAfter) {
		if now.After(leaf.NotAfter.Add(b.config.Expired)) {
			return fmt.Errorf("%w: %s ago", errCertificateExpired, now.Sub(leaf.NotAfter).Round(time.Second))
		}
		at = leaf.NotAfter
	}
	return b.anchored(state.PeerCertificates, at)
}

// anchored returns nil for a chain, leaf first, that leads to an anchor. What
// else the device sends is looked at only where an anchor has not signed the
// leaf itself: crypto/x509 looks for every path, and would verify each signature
// once more for the issuing CA that comes with most leaves.
func (b *Broker) anchored(chain []*x509.Certificate, at time.Time) error {
	options := x509.VerifyOptions{
		Roots: b.config.ClientCAs(), CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	_, err := chain[0].Verify(options)
	if err != nil && len(chain) > 1 {
		options.Intermediates = x509.NewCertPool()
		for _, c := range chain[1:] {
			options.Intermediates.AddCert(c)
		}
		_, err = chain[0].Verify(options)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errCertificateUntrusted, err)
	}
	return nil
}

// trust is which anchors there are.
func (b *Broker) trust() uint64 {
	if b.config.Trust == nil {
		return 0
	}
	return b.config.Trust()
}

// trusts reports whether the certificate of a connection leads to an anchor
// still. That it may have expired meanwhile ends no connection.
func (b *Broker) trusts(l *mqttLink) bool {
	conn, ok := l.Conn.(*tls.Conn)
	if !ok {
		return false
	}
	at := b.config.Now()
	if at.Before(l.leaf.NotBefore) {
		at = l.leaf.NotBefore
	}
	if at.After(l.leaf.NotAfter) {
		at = l.leaf.NotAfter
	}
	return b.anchored(conn.ConnectionState().PeerCertificates, at) == nil
}
