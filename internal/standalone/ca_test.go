package standalone

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/certificate/issuing"
)

// testClock is a time that tests move.
type testClock struct {
	mu sync.Mutex
	at time.Time
}

func newClock() *testClock { return &testClock{at: time.Now()} }

func (c *testClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *testClock) forward(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

func caConfig(c *testClock) CAConfig {
	return CAConfig{Now: c.now, Names: []string{"localhost", "127.0.0.1", "::1", "gate_way.mill.example"}}
}

// madeCA returns a data directory with a CA in it, and the CA.
func madeCA(t testing.TB, config CAConfig) (string, *CA) {
	t.Helper()
	data := t.TempDir()
	if err := MakeCA(data, config); err != nil {
		t.Fatal(err)
	}
	ca, err := LoadCA(data, config)
	if err != nil {
		t.Fatal(err)
	}
	return data, ca
}

func deviceKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func issueTo(t testing.TB, ca *CA, key crypto.Signer, now time.Time) certificate.Certificate {
	t.Helper()
	subject, err := asn1.Marshal(pkix.Name{CommonName: "sensor-1"}.ToRDNSequence())
	if err != nil {
		t.Fatal(err)
	}
	c, err := ca.Authority().Issue(context.Background(), certificate.Order{
		Device: "sensor-1", Key: key.Public(), RawSubject: subject,
		NotBefore: now.Add(-time.Minute), NotAfter: now.AddDate(3, 0, 0),
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestHierarchy(t *testing.T) {
	c := newClock()
	data, ca := madeCA(t, caConfig(c))
	if ca.root.MaxPathLen != -1 || ca.issuer.MaxPathLen != 0 || !ca.issuer.MaxPathLenZero {
		t.Errorf("path lengths %d and %d", ca.root.MaxPathLen, ca.issuer.MaxPathLen)
	}
	for cert, years := range map[*x509.Certificate]int{ca.root: 20, ca.issuer: 10} {
		if got := cert.NotAfter.Sub(c.now().AddDate(years, 0, 0)).Abs(); got > time.Second {
			t.Errorf("%s until %s", cert.Subject, cert.NotAfter)
		}
		if key, ok := cert.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P256() {
			t.Errorf("%s: key %T", cert.Subject, cert.PublicKey)
		}
	}
	for file, perm := range map[string]os.FileMode{
		rootFile: 0o644, rootKeyFile: 0o600, issuingFile: 0o644, issuingKey: 0o600, serverCAFile: 0o644, serverKeyFile: 0o600,
	} {
		info, err := os.Stat(filepath.Join(data, caDir, file))
		if err != nil || info.Mode().Perm() != perm {
			t.Errorf("%s: %v %v", file, info, err)
		}
	}
	if err := MakeCA(data, caConfig(c)); err == nil {
		t.Error("made a second CA over the first")
	}
}

func TestTwoInstallationsHaveNamesOfTheirOwn(t *testing.T) {
	_, one := madeCA(t, caConfig(newClock()))
	_, two := madeCA(t, caConfig(newClock()))
	if bytes.Equal(one.issuer.RawSubject, two.issuer.RawSubject) || bytes.Equal(one.root.RawSubject, two.root.RawSubject) {
		t.Error("the same names")
	}
}

func TestOpenSSLAcceptsTheHierarchy(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("openssl is not there")
	}
	c := newClock()
	data, ca := madeCA(t, caConfig(c))
	leaf := issueTo(t, ca, deviceKey(t), c.now())
	server, err := ca.GetCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	at := func(name string) string { return filepath.Join(data, name) }
	writeText(t, at("leaf"), leaf.PEM())
	writeText(t, at("chain"), leaf.ChainPEM())
	writeText(t, at("server"), string(encodeCertificates([]*x509.Certificate{server.Leaf})))
	writeText(t, at("ca.crt"), string(ca.ServerRoots()))
	for name, args := range map[string][]string{
		"device below the root":   {"-purpose", "sslclient", "-CAfile", at("ca/root.crt"), "-untrusted", at("ca/issuing.crt"), at("leaf")},
		"device below its chain":  {"-purpose", "sslclient", "-CAfile", at("chain"), at("leaf")},
		"device below the issuer": {"-purpose", "sslclient", "-partial_chain", "-CAfile", at("ca/issuing.crt"), at("leaf")},
		"server by name":          {"-purpose", "sslserver", "-verify_hostname", "localhost", "-CAfile", at("ca.crt"), at("server")},
		"server by address":       {"-purpose", "sslserver", "-verify_ip", "::1", "-CAfile", at("ca.crt"), at("server")},
	} {
		if out, err := exec.Command(openssl, append([]string{"verify", "-x509_strict"}, args...)...).CombinedOutput(); err != nil {
			t.Errorf("%s: %s", name, out)
		}
	}
}

func TestRootKeyOffline(t *testing.T) {
	c := newClock()
	data, ca := madeCA(t, caConfig(c))
	if got := entryOf(t, ca, "root").Key; got != filepath.Join(data, caDir, rootKeyFile) {
		t.Errorf("root key at %q", got)
	}
	if err := os.Remove(filepath.Join(data, caDir, rootKeyFile)); err != nil {
		t.Fatal(err)
	}
	ca, err := LoadCA(data, caConfig(c))
	if err != nil {
		t.Fatal(err)
	}
	issueTo(t, ca, deviceKey(t), c.now())
	if got := entryOf(t, ca, "root").Key; got != "offline" {
		t.Errorf("root key at %q", got)
	}
	for _, w := range ca.Warnings() {
		if strings.Contains(w, rootKeyFile) {
			t.Errorf("warns of a key that is not there: %s", w)
		}
	}
}

func entryOf(t *testing.T, ca *CA, role string) CAEntry {
	t.Helper()
	i := slices.IndexFunc(ca.Entries(), func(e CAEntry) bool { return e.Role == role })
	if i < 0 {
		t.Fatalf("no %s among %v", role, ca.Entries())
	}
	return ca.Entries()[i]
}

func TestEntries(t *testing.T) {
	_, ca := madeCA(t, caConfig(newClock()))
	var roles []string
	for _, e := range ca.Entries() {
		roles = append(roles, e.Role)
		if _, err := certificate.ParseID(string(e.ID)); err != nil || e.Subject == "" || e.NotAfter.IsZero() || e.Key == "" {
			t.Errorf("%+v", e)
		}
	}
	if want := []string{"root", "issuing", "server-ca", "server"}; !slices.Equal(roles, want) {
		t.Errorf("got %v, want %v", roles, want)
	}
}

// A CA that does not hold together must not start.
func TestCAThatIsRefused(t *testing.T) {
	_, other := madeCA(t, caConfig(newClock()))
	otherKey, err := encodeKey(deviceKey(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]struct{ file, content, want string }{
		"issuing key of another":         {issuingKey, string(otherKey), "not that of CA"},
		"server key of another":          {serverKeyFile, string(otherKey), "not the key of"},
		"issuer of another root":         {rootFile, string(encodeCertificates([]*x509.Certificate{other.root})), "did not sign"},
		"issuing certificate of another": {issuingFile, string(encodeCertificates([]*x509.Certificate{other.issuer})), "not that of CA"},
		"no PEM in a key":                {issuingKey, "key", "not a PEM file"},
		"a key of the old form":          {issuingKey, "-----BEGIN EC PRIVATE KEY-----\nMAA=\n-----END EC PRIVATE KEY-----\n", "EC PRIVATE KEY"},
		"a damaged key":                  {issuingKey, "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n", "read the private key"},
		"no certificate":                 {rootFile, "", "no certificate"},
		"two certificates":               {rootFile, string(encodeCertificates([]*x509.Certificate{other.root, other.root})), "instead of one"},
		"root key file of noise":         {rootKeyFile, "noise", "not a PEM file"},
	} {
		t.Run(name, func(t *testing.T) {
			data, _ := madeCA(t, caConfig(newClock()))
			writeText(t, filepath.Join(data, caDir, spoil.file), spoil.content)
			if _, err := LoadCA(data, caConfig(newClock())); err == nil || !strings.Contains(err.Error(), spoil.want) {
				t.Errorf("got %v, want %q", err, spoil.want)
			}
		})
	}
	if _, err := LoadCA(t.TempDir(), caConfig(newClock())); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an empty directory: %v", err)
	}
}

func TestClientCAThatIsNone(t *testing.T) {
	c := newClock()
	data, ca := madeCA(t, caConfig(c))
	leaf := filepath.Join(data, "leaf.crt")
	writeText(t, leaf, issueTo(t, ca, deviceKey(t), c.now()).PEM())
	for _, file := range []string{leaf, filepath.Join(data, "missing.crt")} {
		config := caConfig(c)
		config.ClientCA = []string{file}
		if _, err := LoadCA(data, config); err == nil || !strings.Contains(err.Error(), "standalone.client_ca") {
			t.Errorf("%s: %v", file, err)
		}
	}
}

func TestEndOfTheCA(t *testing.T) {
	c := newClock()
	data, ca := madeCA(t, caConfig(c))
	if left, server := ca.DaysLeft(); left < 3650 || left > 3654 || server < 89.9 || server > 90.1 {
		t.Errorf("%v days, server %v", left, server)
	}
	for years, want := range map[int]string{9: "", 10: "has expired on"} {
		later := &testClock{at: c.now().AddDate(years, 0, 1)}
		ca, err := LoadCA(data, caConfig(later))
		if err != nil {
			t.Fatal("the daemon must start all the same:", err)
		}
		warned := slices.ContainsFunc(ca.Warnings(), func(w string) bool {
			return strings.Contains(w, "issuing certificate") && strings.Contains(w, "expire")
		})
		if warned != (want != "") {
			t.Errorf("after %d years: %q", years, ca.Warnings())
		}
	}
	soonOver := &testClock{at: c.now().AddDate(9, 10, 0)}
	ca, err := LoadCA(data, caConfig(soonOver))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(ca.Warnings(), func(w string) bool {
		return strings.Contains(w, "issuing certificate") && strings.Contains(w, "expires on")
	}) {
		t.Errorf("warnings %q", ca.Warnings())
	}
}

func TestIssuingKeepsThePoolsApart(t *testing.T) {
	_, ca := madeCA(t, caConfig(newClock()))
	one, two := ca.ClientPool(), ca.ClientPool()
	one.AddCert(ca.root)
	if one.Equal(two) {
		t.Error("a caller can add to what another trusts")
	}
	if issuing.SameKey(ca.issuer.PublicKey, ca.root.PublicKey) {
		t.Error("root and issuing CA share a key")
	}
}
