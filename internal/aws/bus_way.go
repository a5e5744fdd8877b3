package aws

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/rs/zerolog"
)

// Way is a way into the broker.
type Way interface {
	// Open returns a connection on which MQTT can be spoken at once. It is
	// called for every attempt to connect, and shows whoever we are now.
	Open(context.Context) (net.Conn, error)
	// Stale reports whether a connection that was opened then should give way
	// to a new one, because we are somebody else by now or the broker is
	// about to end it.
	Stale(opened time.Time) bool
}

// alpnMQTT is how AWS IoT tells MQTT with a client certificate from everything
// else on port 443.
const alpnMQTT = "x-amzn-mqtt-ca"

// MutualTLS is the Way of a client certificate from files, which are read
// again when they change.
type MutualTLS struct {
	Address string         // host:port, 8883 or 443 on AWS IoT
	ALPN    bool           // for port 443
	Roots   *x509.CertPool // nil: the system's
	// CertificateFile holds the chain, leaf first, and KeyFile its key, PEM.
	CertificateFile, KeyFile string
	Log                      zerolog.Logger

	mu     sync.Mutex
	loaded *tls.Certificate
	stamps [2]time.Time // of the files, when they were loaded
	since  time.Time    // when what is loaded took the place of another
}

var _ Way = (*MutualTLS)(nil)

// Check reads the files, so that a daemon that could never connect does not
// start.
func (w *MutualTLS) Check() error {
	if _, _, err := net.SplitHostPort(w.Address); err != nil {
		return fmt.Errorf("broker address: %w", err)
	}
	_, err := w.current()
	return err
}

// Open shows the certificate that is in the files now.
func (w *MutualTLS) Open(ctx context.Context) (net.Conn, error) {
	host, _, err := net.SplitHostPort(w.Address)
	if err != nil {
		return nil, fmt.Errorf("broker address: %w", err)
	}
	certificate, err := w.current()
	if err != nil {
		return nil, err
	}
	config := &tls.Config{
		MinVersion: tls.VersionTLS12, RootCAs: w.Roots,
		ServerName: host, // AWS IoT needs the SNI for certificates without a registered CA
		// Whatever CAs the broker names: to send nothing is never better.
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return certificate, nil },
	}
	if w.ALPN {
		config.NextProtos = []string{alpnMQTT}
	}
	return (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", w.Address)
}

// Stale reports whether another certificate has been put into the files since.
func (w *MutualTLS) Stale(opened time.Time) bool {
	_, _ = w.current() // what was loaded before serves on
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.since.After(opened)
}

// NotAfter returns when the certificate that is shown ends.
func (w *MutualTLS) NotAfter() (time.Time, error) {
	c, err := w.current()
	if err != nil {
		return time.Time{}, err
	}
	return c.Leaf.NotAfter, nil
}

// current loads the files when they have changed. Files that do not belong
// together, as in the middle of being replaced, are left for the next look
// while what was loaded before serves on.
func (w *MutualTLS) current() (*tls.Certificate, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	stamps, err := stampsOf(w.CertificateFile, w.KeyFile)
	if err == nil && (w.loaded == nil || stamps != w.stamps) {
		err = w.load(stamps)
	}
	switch {
	case w.loaded == nil:
		return nil, fmt.Errorf("the daemon's own certificate: %w", err)
	case err != nil:
		w.Log.Warn().Err(err).Str("file", w.CertificateFile).Msg("the daemon's certificate cannot be read again; the one read before is shown")
	}
	return w.loaded, nil
}

func (w *MutualTLS) load(stamps [2]time.Time) error {
	pair, err := tls.LoadX509KeyPair(w.CertificateFile, w.KeyFile)
	if err != nil {
		return err
	}
	if w.loaded != nil && !pair.Leaf.Equal(w.loaded.Leaf) {
		w.since = time.Now()
		w.Log.Info().Time("not_after", pair.Leaf.NotAfter).Msg("the daemon's certificate was replaced")
	}
	w.loaded, w.stamps = &pair, stamps
	return nil
}

func stampsOf(files ...string) (stamps [2]time.Time, err error) {
	for i, file := range files {
		info, statErr := os.Stat(file)
		if statErr != nil {
			err = errors.Join(err, statErr)
			continue
		}
		stamps[i] = info.ModTime()
	}
	return stamps, err
}

// WhileLeading returns a way that is open only while leads returns true: whoever
// has led until now would take the connection from the one that does, again and
// again.
func WhileLeading(way Way, leads func() bool) Way { return leadingWay{way, leads} }

type leadingWay struct {
	Way
	leads func() bool
}

// Open implements Way.
func (w leadingWay) Open(ctx context.Context) (net.Conn, error) {
	if !w.leads() {
		return nil, errLease
	}
	return w.Way.Open(ctx)
}
