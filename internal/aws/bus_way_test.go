package aws

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/certvendor/certvendor/protocol"
)

// The daemon's own certificate is replaced while it runs: it connects with the
// new one without being told, and loses nothing.
func TestOwnCertificateIsReplaced(t *testing.T) {
	b := startBroker(t, "connection_messages true")
	r := &rig{t: t, broker: b, way: &cutter{Way: b.way("vendor")}, ends: &receiver{}}
	r.config = MQTTConfig{Way: r.way, ClientID: "vendor", Topics: protocol.DefaultTopics(), Identity: Direct, Backoff: quickBackoff(), Now: time.Now}
	bus, err := NewMQTTBus(r.config)
	if err != nil {
		t.Fatal(err)
	}
	bus.look = time.Millisecond
	bus.Subscribe(r.ends)
	r.bus, r.ends.bus = bus, bus
	if err := bus.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = bus.Close(canceled()) }()
	soon(t, "the bus is ready", func() bool { return bus.Ready() == nil })
	pump := b.client("pump-7", "cdf/certificates/pump-7/+/+")

	other := t.TempDir()
	b.authority.writePair(other, "vendor-renewed")
	for _, kind := range []string{".pem", ".key"} {
		if err := os.Rename(filepath.Join(other, "vendor-renewed"+kind), b.path("vendor"+kind)); err != nil {
			t.Fatal(err)
		}
	}
	for _, clientID := range []string{"vendor", "vendor-out"} {
		soon(t, clientID+" shows the new certificate", func() bool {
			for line := range strings.SplitSeq(b.log.String(), "\n") {
				if strings.Contains(line, "as "+clientID+" ") && strings.Contains(line, "u'vendor-renewed'") {
					return true
				}
			}
			return false
		})
	}
	soon(t, "the bus is ready", func() bool { return bus.Ready() == nil })
	pump.say(getTopic("pump-7"), "one")
	soon(t, "the reply", func() bool { return slices.Equal(pump.heard(""), []string{"one"}) })
	if n := bus.Stats().Lost; n != 0 {
		t.Errorf("%d connections were lost", n)
	}
}

// Files in the middle of being replaced change nothing.
func TestOwnCertificateInTheMiddle(t *testing.T) {
	authority, directory := newTestAuthority(t), t.TempDir()
	first := authority.writePair(directory, "vendor")
	log := &brokerLog{}
	w := &MutualTLS{
		Address: "127.0.0.1:1", CertificateFile: filepath.Join(directory, "vendor.pem"), KeyFile: filepath.Join(directory, "vendor.key"),
		Log: zerolog.New(log),
	}
	if err := w.Check(); err != nil {
		t.Fatal(err)
	}
	opened := time.Now()
	later := opened.Add(time.Minute)
	for _, spoil := range []func() error{
		func() error { return os.WriteFile(w.KeyFile, []byte("half"), 0o600) },
		func() error { return os.Remove(w.CertificateFile) },
	} {
		if err := errors.Join(spoil(), os.Chtimes(w.KeyFile, later, later)); err != nil {
			t.Fatal(err)
		}
		if notAfter, err := w.NotAfter(); err != nil || !notAfter.Equal(first.NotAfter) || w.Stale(opened) {
			t.Errorf("until %s, stale %t: %v", notAfter, w.Stale(opened), err)
		}
	}
	if !strings.Contains(log.String(), "the one read before is shown") {
		t.Errorf("nobody is told: %s", log)
	}
	second := authority.writePair(directory, "vendor")
	if notAfter, err := w.NotAfter(); err != nil || !notAfter.Equal(second.NotAfter) || !w.Stale(opened) || w.Stale(time.Now()) {
		t.Errorf("until %s, stale %t: %v", notAfter, w.Stale(opened), err)
	}
	if err := (&MutualTLS{Address: "127.0.0.1:1", CertificateFile: "none", KeyFile: "none"}).Check(); err == nil {
		t.Error("no files are no reason")
	}
	if err := (&MutualTLS{Address: "nowhere"}).Check(); err == nil {
		t.Error("no port is no reason")
	}
}

// Port 443 of AWS IoT goes by the ALPN name.
func TestApplicationProtocol(t *testing.T) {
	authority, directory := newTestAuthority(t), t.TempDir()
	authority.writePair(directory, "server")
	pair, err := tls.LoadX509KeyPair(filepath.Join(directory, "server.pem"), filepath.Join(directory, "server.key"))
	if err != nil {
		t.Fatal(err)
	}
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		Certificates: []tls.Certificate{pair}, ClientCAs: authority.pool(), ClientAuth: tls.RequireAndVerifyClientCert,
		NextProtos: []string{"http/1.1", "x-amzn-mqtt-ca"},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	states := make(chan tls.ConnectionState, 2)
	go func() {
		for range 2 {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			c := conn.(*tls.Conn)
			_ = c.Handshake()
			states <- c.ConnectionState()
			_ = c.Close()
		}
	}()
	_, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	for alpn, want := range map[bool]string{true: "x-amzn-mqtt-ca", false: ""} {
		w := &MutualTLS{
			Address: net.JoinHostPort("localhost", port), ALPN: alpn, Roots: authority.pool(),
			CertificateFile: filepath.Join(directory, "server.pem"), KeyFile: filepath.Join(directory, "server.key"),
		}
		conn, err := w.Open(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		state := <-states
		if state.NegotiatedProtocol != want || state.ServerName != "localhost" || len(state.PeerCertificates) != 1 {
			t.Errorf("negotiated %q for %q with %d certificates", state.NegotiatedProtocol, state.ServerName, len(state.PeerCertificates))
		}
		_ = conn.Close()
	}
}
