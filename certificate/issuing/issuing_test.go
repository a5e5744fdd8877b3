package issuing

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	zx509 "github.com/zmap/zcrypto/x509"
	"github.com/zmap/zlint/v3"
	"github.com/zmap/zlint/v3/lint"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/registry"
)

// now is real time, because openssl verify and the TLS stack use it too.
var now = time.Now().Truncate(time.Second)

// keys holds one key of every kind that a device or a CA may have.
var keys = sync.OnceValue(func() map[string]crypto.Signer {
	made := map[string]crypto.Signer{}
	for name, curve := range map[string]elliptic.Curve{"p256": elliptic.P256(), "p384": elliptic.P384(), "p521": elliptic.P521()} {
		made[name] = must(ecdsa.GenerateKey(curve, rand.Reader))
	}
	for _, bits := range []int{2048, 3072} {
		made[fmt.Sprintf("rsa%d", bits)] = must(rsa.GenerateKey(rand.Reader, bits))
	}
	return made
})

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

// caTemplate is a sound issuer; tests spoil one thing about it.
func caTemplate(t testing.TB, name string, key crypto.Signer) *x509.Certificate {
	t.Helper()
	id, err := SubjectKeyID(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, SubjectKeyId: id,
		NotBefore: now.Add(-24 * time.Hour), NotAfter: now.AddDate(10, 0, 0),
		KeyUsage: x509.KeyUsageCertSign, IsCA: true, BasicConstraintsValid: true,
	}
}

func sign(t testing.TB, template, parent *x509.Certificate, public any, signer crypto.Signer) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, signer)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// hierarchy returns an issuer with that key below a root.
func hierarchy(t testing.TB, key crypto.Signer) []*x509.Certificate {
	t.Helper()
	rootKey := keys()["p256"]
	rootTemplate := caTemplate(t, "root", rootKey)
	rootTemplate.NotAfter = now.AddDate(20, 0, 0)
	root := sign(t, rootTemplate, rootTemplate, rootKey.Public(), rootKey)
	return []*x509.Certificate{sign(t, caTemplate(t, "issuing", key), root, key.Public(), rootKey), root}
}

func authority(t testing.TB, key crypto.Signer) *Authority {
	t.Helper()
	a, err := New(Config{Chain: hierarchy(t, key), Signer: key, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func order(key crypto.Signer) certificate.Order {
	return certificate.Order{
		Device: "sensor_1:a", Key: key.Public(), RawSubject: rawName(pkix.Name{CommonName: "sensor_1:a"}),
		NotBefore: now.Add(-5 * time.Minute), NotAfter: now.AddDate(3, 0, 0),
	}
}

func rawName(name pkix.Name) []byte { return must(asn1.Marshal(name.ToRDNSequence())) }

func issue(t testing.TB, a *Authority, o certificate.Order) (certificate.Certificate, *x509.Certificate) {
	t.Helper()
	c, err := a.Issue(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := c.X509()
	if err != nil {
		t.Fatal(err)
	}
	return c, parsed
}

// Every kind of CA key with every kind of device key and of subject.
func TestIssuedCertificatesAreCorrect(t *testing.T) {
	subjects := map[string][]byte{
		"common name":         rawName(pkix.Name{CommonName: "sensor-1"}),
		"no printable string": rawName(pkix.Name{CommonName: "sensor_1@ø"}),
		"nothing":             nil,
		"accepted":            rawName(pkix.Name{CommonName: "x", Organization: []string{"Mill"}, Country: []string{"NO"}}),
	}
	for caKind, caKey := range keys() {
		a := authority(t, caKey)
		for kind, key := range keys() {
			for subjectKind, subject := range subjects {
				t.Run(caKind+" signs "+kind+", "+subjectKind, func(t *testing.T) {
					o := order(key)
					o.RawSubject = subject
					c, parsed := issue(t, a, o)
					checkProfile(t, parsed, o, a.issuer)
					checkLints(t, c.DER)
					checkOpenSSL(t, c, a)
				})
			}
		}
	}
}

func checkProfile(t *testing.T, c *x509.Certificate, o certificate.Order, issuer *x509.Certificate) {
	t.Helper()
	if c.Version != 3 || c.IsCA || !c.BasicConstraintsValid || c.KeyUsage != x509.KeyUsageDigitalSignature {
		t.Errorf("version %d, CA %v, basic constraints %v, key usage %b", c.Version, c.IsCA, c.BasicConstraintsValid, c.KeyUsage)
	}
	if !slices.Equal(c.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}) || len(c.UnknownExtKeyUsage) > 0 {
		t.Errorf("extended key usage %v", c.ExtKeyUsage)
	}
	if want := "urn:certvendor:device:" + string(o.Device); len(c.URIs) != 1 || c.URIs[0].String() != want || len(c.DNSNames)+len(c.EmailAddresses)+len(c.IPAddresses) > 0 {
		t.Errorf("alternative names %v %v, want %s alone", c.URIs, c.DNSNames, want)
	}
	critical := map[string]bool{}
	for _, e := range c.Extensions {
		critical[e.Id.String()] = e.Critical
	}
	for id, want := range map[string]bool{"2.5.29.15": true, "2.5.29.19": true, "2.5.29.37": false, "2.5.29.14": false, "2.5.29.35": false, "2.5.29.17": len(o.RawSubject) == 0} {
		if got, ok := critical[id]; !ok || got != want {
			t.Errorf("extension %s: there %v, critical %v, want %v", id, ok, got, want)
		}
	}
	if len(critical) != 6 {
		t.Errorf("%d extensions, want 6", len(critical))
	}
	if len(c.SubjectKeyId) != 20 || !bytes.Equal(c.AuthorityKeyId, issuer.SubjectKeyId) {
		t.Errorf("key identifiers %x, %x", c.SubjectKeyId, c.AuthorityKeyId)
	}
	if !c.NotBefore.Equal(o.NotBefore) || !c.NotAfter.Equal(o.NotAfter) {
		t.Errorf("valid from %s to %s", c.NotBefore, c.NotAfter)
	}
	if !SameKey(c.PublicKey, o.Key) {
		t.Error("another key")
	}
}

// checkLints runs zlint's rules of RFC 5280; those of the web's CAs have no
// say over a private one.
func checkLints(t *testing.T, der []byte) {
	t.Helper()
	rules, err := lint.GlobalRegistry().Filter(lint.FilterOptions{IncludeSources: lint.SourceList{lint.RFC5280}})
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := zx509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	results := zlint.LintCertificateEx(parsed, rules)
	if len(results.Results) < 50 {
		t.Fatalf("only %d lints ran", len(results.Results))
	}
	for name, result := range results.Results {
		if result.Status >= lint.Warn {
			t.Errorf("%s: %s %s", name, result.Status, result.Details)
		}
	}
}

func checkOpenSSL(t *testing.T, c certificate.Certificate, a *Authority) {
	t.Helper()
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Log("openssl is not there: not asked")
		return
	}
	dir := t.TempDir()
	var args []string
	for name, ders := range map[string][][]byte{"leaf": {c.DER}, "issuing": a.chain[:1], "root": a.chain[1:]} {
		var text []byte
		for _, der := range ders {
			text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
		}
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	args = []string{"verify", "-x509_strict", "-purpose", "sslclient", "-CAfile", filepath.Join(dir, "root"), "-untrusted", filepath.Join(dir, "issuing"), filepath.Join(dir, "leaf")}
	if out, err := exec.Command(openssl, args...).CombinedOutput(); err != nil {
		t.Errorf("openssl verify: %s", out)
	}
}

func TestChainIsReturnedIssuerFirst(t *testing.T) {
	a := authority(t, keys()["p256"])
	c, _ := issue(t, a, order(keys()["p384"]))
	if len(c.Chain) != 2 || !bytes.Equal(c.Chain[0], a.issuer.Raw) {
		t.Errorf("chain of %d", len(c.Chain))
	}
}

func TestValidityStaysWithinTheCA(t *testing.T) {
	key := keys()["p256"]
	a := authority(t, key)
	o := order(key)
	o.NotBefore, o.NotAfter = now.AddDate(-1, 0, 0), now.AddDate(30, 0, 0)
	_, c := issue(t, a, o)
	if !c.NotBefore.Equal(a.issuer.NotBefore) || !c.NotAfter.Equal(a.issuer.NotAfter) {
		t.Errorf("from %s to %s, the CA from %s to %s", c.NotBefore, c.NotAfter, a.issuer.NotBefore, a.issuer.NotAfter)
	}
}

// A root that ends before its issuer ends everything below it.
func TestValidityStaysWithinTheRoot(t *testing.T) {
	key := keys()["p256"]
	rootTemplate := caTemplate(t, "root", key)
	rootTemplate.NotAfter = now.AddDate(0, 1, 0)
	root := sign(t, rootTemplate, rootTemplate, key.Public(), key)
	issuer := sign(t, caTemplate(t, "issuing", key), root, key.Public(), key)
	a, err := New(Config{Chain: []*x509.Certificate{issuer, root}, Signer: key, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	if _, c := issue(t, a, order(key)); !c.NotAfter.Equal(root.NotAfter) {
		t.Errorf("until %s, the root until %s", c.NotAfter, root.NotAfter)
	}
}

func TestTimesOnBothSidesOf2050(t *testing.T) {
	key := keys()["p256"]
	template := caTemplate(t, "issuing", key)
	template.NotAfter = time.Date(2120, 1, 1, 0, 0, 0, 0, time.UTC)
	ca := sign(t, template, template, key.Public(), key)
	a, err := New(Config{Chain: []*x509.Certificate{ca}, Signer: key, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	for _, year := range []int{2049, 2050} {
		o := order(key)
		o.NotAfter = time.Date(year, 12, 31, 23, 59, 59, 999, time.FixedZone("east", 3600))
		c, parsed := issue(t, a, o)
		checkLints(t, c.DER)
		if want := o.NotAfter.UTC().Truncate(time.Second); !parsed.NotAfter.Equal(want) {
			t.Errorf("%s, want %s", parsed.NotAfter, want)
		}
	}
}

func TestCAThatIsNotValidNow(t *testing.T) {
	key := keys()["p256"]
	for name, at := range map[string]time.Time{"expired": now.AddDate(10, 0, 1), "not yet": now.AddDate(0, 0, -2)} {
		t.Run(name, func(t *testing.T) {
			a, err := New(Config{Chain: hierarchy(t, key), Signer: key, Now: func() time.Time { return at }})
			if err != nil {
				t.Fatal("the daemon must start all the same:", err)
			}
			_, err = a.Issue(context.Background(), order(key))
			if !errors.Is(err, certificate.ErrNoCA) || !strings.Contains(err.Error(), now.AddDate(10, 0, 0).UTC().Format(time.DateOnly)) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestOrderThatLeavesNoTime(t *testing.T) {
	o := order(keys()["p256"])
	o.NotAfter = o.NotBefore
	if _, err := authority(t, keys()["p256"]).Issue(context.Background(), o); err == nil {
		t.Error("issued")
	}
}

func TestOrderAfterItsContextEnded(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := authority(t, keys()["p256"]).Issue(ctx, order(keys()["p256"])); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// failing is a KMS that cannot be reached, or signs with the wrong key.
type failing struct {
	crypto.Signer
	sign func() ([]byte, error)
}

func (f failing) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) { return f.sign() }

func TestSignerThatFails(t *testing.T) {
	key := keys()["p256"]
	broken := errors.New("no route to the KMS")
	signer := &failing{key, func() ([]byte, error) { return nil, broken }}
	a, err := New(Config{Chain: hierarchy(t, key), Signer: signer, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Issue(context.Background(), order(key)); !errors.Is(err, certificate.ErrNoCAKey) || !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	signer.sign = func() ([]byte, error) { return ecdsa.SignASN1(rand.Reader, key.(*ecdsa.PrivateKey), make([]byte, 32)) }
	if c, err := a.Issue(context.Background(), order(key)); err == nil {
		t.Errorf("a certificate whose signature is wrong left: %s", c.ID)
	}
}

func TestIssuerThatCannotBeOne(t *testing.T) {
	key, other := keys()["p256"], keys()["p384"]
	chain, below := hierarchy(t, key), hierarchy(t, other) // both below the root that key signed
	spoilt := func(spoil func(*x509.Certificate)) []*x509.Certificate {
		template := caTemplate(t, "issuing", key)
		spoil(template)
		return []*x509.Certificate{sign(t, template, template, key.Public(), key)}
	}
	withoutKeyID := *chain[0]
	withoutKeyID.SubjectKeyId = nil
	for name, test := range map[string]struct {
		config Config
		kind   error
	}{
		"no certificate":         {Config{Signer: key}, certificate.ErrNoCA},
		"no key":                 {Config{Chain: chain}, certificate.ErrNoCAKey},
		"key of another":         {Config{Chain: chain, Signer: other}, nil},
		"no CA":                  {Config{Chain: spoilt(func(c *x509.Certificate) { c.IsCA, c.KeyUsage = false, x509.KeyUsageDigitalSignature }), Signer: key}, nil},
		"may not sign":           {Config{Chain: spoilt(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign }), Signer: key}, nil},
		"no key identifier":      {Config{Chain: []*x509.Certificate{&withoutKeyID}, Signer: key}, nil},
		"root first":             {Config{Chain: []*x509.Certificate{below[1], below[0]}, Signer: key}, nil},
		"chain of two strangers": {Config{Chain: []*x509.Certificate{chain[0], hierarchy(t, other)[0]}, Signer: key}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			test.config.Now = func() time.Time { return now }
			_, err := New(test.config)
			if err == nil || (test.kind != nil && !errors.Is(err, test.kind)) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestSerialNumbers(t *testing.T) {
	seen := map[string]bool{}
	longest := 0
	for range 2000 {
		n, err := Serial()
		if err != nil {
			t.Fatal(err)
		}
		if n.Sign() <= 0 || n.BitLen() > 159 || seen[n.String()] {
			t.Fatalf("serial number %x", n)
		}
		seen[n.String()], longest = true, max(longest, n.BitLen())
	}
	if longest != 159 {
		t.Errorf("at most %d bits are used", longest)
	}
}

func TestConcurrentOrders(t *testing.T) {
	a := authority(t, keys()["p256"])
	var group sync.WaitGroup
	ids := make([]certificate.ID, 16)
	for i := range ids {
		group.Go(func() {
			o := order(keys()["p256"])
			o.Device = registry.DeviceID(fmt.Sprintf("sensor-%d", i))
			if c, err := a.Issue(context.Background(), o); err == nil {
				ids[i] = c.ID
			}
		})
	}
	group.Wait()
	slices.Sort(ids)
	if ids[0] == "" || len(slices.Compact(ids)) != 16 {
		t.Errorf("ids %v", ids)
	}
}

func BenchmarkIssue(b *testing.B) {
	for _, kind := range []string{"p256", "rsa2048"} {
		b.Run(kind, func(b *testing.B) {
			a := authority(b, keys()[kind])
			o := order(keys()["p256"])
			for b.Loop() {
				if _, err := a.Issue(context.Background(), o); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
