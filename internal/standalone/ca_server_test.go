package standalone

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func serverLeaf(t *testing.T, ca *CA) *x509.Certificate {
	t.Helper()
	c, err := ca.GetCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	return c.Leaf
}

func TestServerCertificate(t *testing.T) {
	c := newClock()
	data, ca := madeCA(t, caConfig(c))
	leaf := serverLeaf(t, ca)
	for _, name := range []string{"localhost", "127.0.0.1", "::1", "gate_way.mill.example"} {
		if err := leaf.VerifyHostname(name); err != nil {
			t.Error(err)
		}
	}
	if err := leaf.VerifyHostname("elsewhere.example"); err == nil {
		t.Error("good for any name")
	}
	if got := leaf.NotAfter.Sub(c.now()); got > serverValidity || got < serverValidity-time.Second {
		t.Errorf("for %s", got)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca.ServerRoots())
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: "localhost"}); err != nil {
		t.Error(err)
	}
	// It must not be good for signing in with, nor be below the devices' CA.
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: ca.ClientPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err == nil {
		t.Error("the devices' CA signed the server's certificate")
	}
	if files := tree(t, data); len(files) != 7 {
		t.Errorf("the server's key is on disk: %d names", len(files))
	}
}

func TestServerCertificateIsReplacedAtTwoThirds(t *testing.T) {
	c := newClock()
	_, ca := madeCA(t, caConfig(c))
	first := serverLeaf(t, ca)
	c.forward(59 * 24 * time.Hour)
	if !serverLeaf(t, ca).Equal(first) {
		t.Error("replaced after 59 days")
	}
	c.forward(25 * time.Hour)
	second := serverLeaf(t, ca)
	if second.Equal(first) || !serverLeaf(t, ca).Equal(second) {
		t.Error("not replaced once after 60 days")
	}
	if key, ok := second.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || key.Equal(first.PublicKey) {
		t.Error("the key was not replaced")
	}
	if got := second.NotAfter.Sub(c.now()); got < serverValidity-time.Second {
		t.Errorf("for %s", got)
	}
}

// A clock that was far ahead at start must not leave a certificate from the
// future behind.
func TestServerCertificateFromTheFuture(t *testing.T) {
	c := newClock()
	data, _ := madeCA(t, caConfig(c))
	c.forward(48 * time.Hour)
	ca, err := LoadCA(data, caConfig(c))
	if err != nil {
		t.Fatal(err)
	}
	c.forward(-47 * time.Hour)
	if leaf := serverLeaf(t, ca); leaf.NotBefore.After(c.now()) {
		t.Errorf("from %s on, and it is %s", leaf.NotBefore, c.now())
	}
}

func TestServerCertificateEndsWithItsCA(t *testing.T) {
	c := newClock()
	data, ca := madeCA(t, caConfig(c))
	end := ca.root.NotAfter // that of the server CA too
	c.forward(end.Sub(c.now()) - 24*time.Hour)
	ca, err := LoadCA(data, caConfig(c))
	if err != nil {
		t.Fatal(err)
	}
	if leaf := serverLeaf(t, ca); leaf.NotAfter.After(end) {
		t.Errorf("until %s, the CA until %s", leaf.NotAfter, end)
	}
	c.forward(48 * time.Hour)
	if _, err := LoadCA(data, caConfig(c)); err == nil || !strings.Contains(err.Error(), "server CA has expired") {
		t.Errorf("got %v", err)
	}
}

func TestServerNamesThatAreNone(t *testing.T) {
	data, _ := madeCA(t, caConfig(newClock()))
	for name, names := range map[string][]string{
		"none at all": nil, "empty": {""}, "with a port": {"localhost:8883"}, "a URL": {"https://localhost"},
		"a wildcard": {"*.example"}, "a space": {"local host"}, "empty label": {"a..b"}, "hyphen first": {"-a"},
		"not ASCII": {"müller.example"}, "label of 64": {strings.Repeat("a", 64)}, "name of 254": {strings.Repeat("a.", 127) + "aa"},
	} {
		t.Run(name, func(t *testing.T) {
			config := caConfig(newClock())
			config.Names = names
			if _, err := LoadCA(data, config); err == nil || !strings.Contains(err.Error(), "standalone.names") {
				t.Errorf("got %v", err)
			}
		})
	}
}

// bought writes a server certificate as if bought elsewhere.
func bought(t *testing.T, ca *CA, dir string) CAConfig {
	t.Helper()
	config := caConfig(newClock())
	config.ServerCertificate, config.ServerKey = filepath.Join(dir, "server.crt"), filepath.Join(dir, "server.key")
	replaceBought(t, ca, config)
	return config
}

func replaceBought(t *testing.T, ca *CA, config CAConfig) {
	t.Helper()
	made, ok := ca.served.Load().server.(*madeServer)
	if !ok {
		t.Fatalf("a %T", ca.served.Load().server)
	}
	pair, err := made.sign(made.now())
	if err != nil {
		t.Fatal(err)
	}
	key, err := encodeKey(pair.PrivateKey.(crypto.Signer), nil)
	if err != nil {
		t.Fatal(err)
	}
	writeText(t, config.ServerKey, string(key))
	writeText(t, config.ServerCertificate, string(encodeCertificates([]*x509.Certificate{pair.Leaf, made.parent})))
}

func TestServerCertificateFromFiles(t *testing.T) {
	data, _ := madeCA(t, caConfig(newClock()))
	_, seller := madeCA(t, caConfig(newClock()))
	dir := t.TempDir()
	config := bought(t, seller, dir)
	ca, err := LoadCA(data, config)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(ca.ServerRoots(), seller.ServerRoots()) {
		t.Error("what follows the leaf is not what devices verify it by")
	}
	if e := entryOf(t, ca, "server"); e.Key != config.ServerKey {
		t.Errorf("%+v", e)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca.ServerRoots())
	if _, err := handshake(t, &tls.Config{GetCertificate: ca.GetCertificate}, &tls.Config{ServerName: "localhost", RootCAs: roots}); err != nil {
		t.Error(err)
	}
	config.ServerCA = filepath.Join(data, caDir, serverCAFile)
	if ca, err = LoadCA(data, config); err != nil || bytes.Equal(ca.ServerRoots(), seller.ServerRoots()) {
		t.Errorf("the file that says what devices verify by was not read: %v", err)
	}
}

func TestServerFilesThatChange(t *testing.T) {
	data, _ := madeCA(t, caConfig(newClock()))
	_, seller := madeCA(t, caConfig(newClock()))
	config := bought(t, seller, t.TempDir())
	c := newClock()
	config.Now = c.now
	ca, err := LoadCA(data, config)
	if err != nil {
		t.Fatal(err)
	}
	first := serverLeaf(t, ca)
	touch := func(at time.Time) {
		if err := os.Chtimes(config.ServerCertificate, at, at); err != nil {
			t.Fatal(err)
		}
	}

	key, err := os.ReadFile(config.ServerKey)
	if err != nil {
		t.Fatal(err)
	}
	replaceBought(t, seller, config)
	newKey, err := os.ReadFile(config.ServerKey)
	if err != nil {
		t.Fatal(err)
	}
	writeText(t, config.ServerKey, string(key)) // half replaced
	touch(c.now().Add(time.Hour))
	c.forward(lookEvery)
	if !serverLeaf(t, ca).Equal(first) {
		t.Error("serves a certificate without its key")
	}
	writeText(t, config.ServerKey, string(newKey))
	c.forward(lookEvery)
	second := serverLeaf(t, ca)
	if second.Equal(first) {
		t.Error("the new certificate was not taken up")
	}
	if err := os.Remove(config.ServerCertificate); err != nil {
		t.Fatal(err)
	}
	c.forward(lookEvery)
	if !serverLeaf(t, ca).Equal(second) {
		t.Error("does not outlive its file")
	}
}

func TestServerFilesThatAreRefused(t *testing.T) {
	data, _ := madeCA(t, caConfig(newClock()))
	_, seller := madeCA(t, caConfig(newClock()))
	config := bought(t, seller, t.TempDir())
	for name, spoil := range map[string]func(*CAConfig){
		"no key":         func(c *CAConfig) { c.ServerKey = "" },
		"no certificate": func(c *CAConfig) { c.ServerCertificate = "" },
		"not there":      func(c *CAConfig) { c.ServerKey += "x" },
		"another's key":  func(c *CAConfig) { c.ServerKey = filepath.Join(data, caDir, issuingKey) },
		"roots missing":  func(c *CAConfig) { c.ServerCA = filepath.Join(data, "missing") },
	} {
		t.Run(name, func(t *testing.T) {
			config := config
			spoil(&config)
			if _, err := LoadCA(data, config); err == nil || !strings.Contains(err.Error(), "server certificate") {
				t.Errorf("got %v", err)
			}
		})
	}
}
