package standalone

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"path/filepath"
	"testing"
	"time"
)

// handshake makes one over loopback and returns what each side says.
func handshake(t *testing.T, server, client *tls.Config) (serverErr, clientErr error) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	done := make(chan error, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			done <- err
			return
		}
		defer conn.Close()
		done <- errors.Join(conn.SetDeadline(time.Now().Add(30*time.Second)), tls.Server(conn, server).Handshake())
	}()
	dialer := &net.Dialer{Timeout: 30 * time.Second}
	conn, clientErr := tls.DialWithDialer(dialer, "tcp", listener.Addr().String(), client)
	if clientErr == nil {
		defer conn.Close()
	}
	return <-done, clientErr
}

func TestWhoMayConnect(t *testing.T) {
	c := newClock()
	data, ca := madeCA(t, caConfig(c))
	foreignData, foreign := madeCA(t, caConfig(c))
	adopting := caConfig(c)
	adopting.ClientCA = []string{filepath.Join(foreignData, caDir, issuingFile)}
	adopted, err := LoadCA(data, adopting)
	if err != nil {
		t.Fatal(err)
	}
	key := deviceKey(t)
	own, theirs := issueTo(t, ca, key, c.now()), issueTo(t, foreign, key, c.now())
	serverLeaf, err := ca.GetCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		ca    *CA
		chain [][]byte
		key   crypto.PrivateKey
		ok    bool
	}{
		"leaf alone":                     {ca, [][]byte{own.DER}, key, true},
		"leaf with its chain":            {ca, append([][]byte{own.DER}, own.Chain...), key, true},
		"foreign CA":                     {ca, [][]byte{theirs.DER}, key, false},
		"foreign CA, chain sent":         {ca, append([][]byte{theirs.DER}, theirs.Chain...), key, false},
		"adopted CA":                     {adopted, [][]byte{theirs.DER}, key, true},
		"own, where another was adopted": {adopted, [][]byte{own.DER}, key, true},
		"server certificate as client":   {ca, serverLeaf.Certificate, serverLeaf.PrivateKey, false},
	} {
		t.Run(name, func(t *testing.T) {
			roots := x509.NewCertPool()
			roots.AppendCertsFromPEM(test.ca.ServerRoots())
			serverErr, _ := handshake(t,
				&tls.Config{GetCertificate: test.ca.GetCertificate, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: test.ca.ClientPool()},
				&tls.Config{ServerName: "localhost", RootCAs: roots, Certificates: []tls.Certificate{{Certificate: test.chain, PrivateKey: test.key}}})
			if (serverErr == nil) != test.ok {
				t.Errorf("the server says %v", serverErr)
			}
		})
	}
}
