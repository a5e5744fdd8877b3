package aws

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/ssm/types"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/certificate/issuing"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/vending"
)

// candidate is an issuer with what it can be held to.
type candidate struct {
	vending.Issuer
	root     *x509.Certificate // what its chains end in; nil: it returns none
	notAfter time.Time         // of the CA
	// What it cannot be held to, because it is a double's or AWS's own choice.
	anyLife, anyProfile bool
}

var rsaKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

// orderFor is an order for a device, as vending makes one.
func orderFor(t testing.TB, device registry.DeviceID, key crypto.Signer) certificate.Order {
	t.Helper()
	subject, err := asn1.Marshal(pkix.Name{CommonName: string(device)}.ToRDNSequence())
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().Truncate(time.Second)
	return certificate.Order{
		Device: device, Key: key.Public(), RawSubject: subject, Request: csrWith(t, subject, key), Rotation: 1,
		NotBefore: now.Add(-5 * time.Minute), NotAfter: now.AddDate(3, 0, 0),
	}
}

func csrWith(t testing.TB, subject []byte, key crypto.Signer) *x509.CertificateRequest {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{RawSubject: subject}, key)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		t.Fatal(err)
	}
	return csr
}

// testIssuer is the examination that every issuer sits.
func testIssuer(t *testing.T, e candidate) {
	for name, key := range map[string]crypto.Signer{"p256": ecKey(t), "rsa2048": rsaKey()} {
		t.Run("a key "+name, func(t *testing.T) {
			order := orderFor(t, registry.DeviceID("pump-"+name), key)
			c, err := e.Issue(t.Context(), order)
			if err != nil {
				t.Fatal(err)
			}
			e.checkProfile(t, c, order)
			e.checkChain(t, c)
			if c.Standing != "" || c.Kind != "" || len(c.Policies) != 0 {
				t.Errorf("decided what is not its business: %s %s %v", c.Standing, c.Kind, c.Policies)
			}
		})
	}
	t.Run("longer than the CA", func(t *testing.T) {
		if e.anyLife {
			t.Skip("it decides by itself")
		}
		order := orderFor(t, "pump-long", ecKey(t))
		order.NotAfter = order.NotAfter.AddDate(30, 0, 0)
		c, err := e.Issue(t.Context(), order)
		if err != nil {
			t.Fatal(err)
		}
		if !c.NotAfter.Equal(e.notAfter) {
			t.Errorf("until %s, the CA until %s", c.NotAfter, e.notAfter)
		}
	})
	t.Run("no time", func(t *testing.T) {
		if e.anyLife {
			t.Skip("it decides by itself")
		}
		order := orderFor(t, "pump-none", ecKey(t))
		order.NotAfter = order.NotBefore
		if _, err := e.Issue(t.Context(), order); err == nil {
			t.Error("issued")
		}
	})
	t.Run("nobody waits any more", func(t *testing.T) {
		if _, err := e.Issue(canceled(), orderFor(t, "pump-gone", ecKey(t))); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("many at once", func(t *testing.T) { e.testMany(t) })
}

func (e candidate) testMany(t *testing.T) {
	const many = 8
	ids := make([]certificate.ID, many)
	var all sync.WaitGroup
	for i := range many {
		order := orderFor(t, registry.DeviceID(fmt.Sprint("pump-of-many-", i)), ecKey(t))
		all.Go(func() {
			c, err := e.Issue(t.Context(), order)
			if err != nil {
				t.Error(err)
				return
			}
			if parsed, err := c.X509(); err != nil || !issuing.SameKey(parsed.PublicKey, order.Key) {
				t.Errorf("certificate of another device: %v", err)
			}
			ids[i] = c.ID
		})
	}
	all.Wait()
	slices.Sort(ids)
	if len(slices.Compact(ids)) != many {
		t.Errorf("one certificate for several devices: %v", ids)
	}
}

func (e candidate) checkProfile(t *testing.T, c certificate.Certificate, order certificate.Order) {
	t.Helper()
	parsed, err := c.X509()
	if err != nil {
		t.Fatal(err)
	}
	if c.ID != certificate.IDOf(c.DER) || !issuing.SameKey(parsed.PublicKey, order.Key) || parsed.Subject.CommonName != string(order.Device) || parsed.IsCA {
		t.Errorf("certificate %s for %q, CA %t", c.ID, parsed.Subject, parsed.IsCA)
	}
	if !e.anyLife && (!c.NotBefore.Equal(order.NotBefore) || !c.NotAfter.Equal(order.NotAfter)) {
		t.Errorf("valid from %s to %s, ordered from %s to %s", c.NotBefore, c.NotAfter, order.NotBefore, order.NotAfter)
	}
	if e.anyProfile {
		return
	}
	if !slices.Equal(parsed.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}) || parsed.KeyUsage&x509.KeyUsageDigitalSignature == 0 || !parsed.BasicConstraintsValid {
		t.Errorf("for %v, key usage %b", parsed.ExtKeyUsage, parsed.KeyUsage)
	}
	if want := certificate.URNPrefix + string(order.Device); len(parsed.URIs) != 1 || parsed.URIs[0].String() != want || len(parsed.DNSNames)+len(parsed.EmailAddresses) > 0 {
		t.Errorf("alternative names %v %v %v", parsed.URIs, parsed.DNSNames, parsed.EmailAddresses)
	}
}

func (e candidate) checkChain(t *testing.T, c certificate.Certificate) {
	t.Helper()
	if e.root == nil {
		if len(c.Chain) != 0 {
			t.Errorf("a chain of %d", len(c.Chain))
		}
		return
	}
	parsed, err := c.X509()
	if err != nil {
		t.Fatal(err)
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(e.root)
	for i, der := range c.Chain {
		above, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 && !bytes.Equal(above.RawSubject, parsed.RawIssuer) {
			t.Errorf("the chain begins with %q", above.Subject)
		}
		between.AddCert(above)
	}
	usages := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if e.anyProfile {
		usages = []x509.ExtKeyUsage{x509.ExtKeyUsageAny}
	}
	if _, err := parsed.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: usages}); err != nil || len(c.Chain) == 0 {
		t.Errorf("a chain of %d: %v", len(c.Chain), err)
	}
}

// caKeys are one of each kind that a CA may have.
func caKeys(t testing.TB) map[string]crypto.Signer {
	return map[string]crypto.Signer{"ec": ecKey(t), "rsa": rsaKey()}
}

// The standalone world's own issuer sits the same examination.
func TestSoftwareIssuer(t *testing.T) {
	d := startDouble(t, ecKey(t))
	authority, err := issuing.New(issuing.Config{Chain: []*x509.Certificate{d.ca, d.root}, Signer: d.key, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	testIssuer(t, candidate{Issuer: authority, root: d.root, notAfter: d.ca.NotAfter})
}

func TestKMSIssuer(t *testing.T) {
	for kind, key := range caKeys(t) {
		t.Run(kind, func(t *testing.T) {
			d := startDouble(t, key)
			testIssuer(t, candidate{Issuer: d.keyIssuer(KMSKey{KMS: d.kms(), ID: "alias/ca"}, time.Now), root: d.root, notAfter: d.ca.NotAfter})
			if d.count("TrentService.GetPublicKey") != 1 || d.count("GET cacertificate") != 1 {
				t.Errorf("fetched again and again: %v", d.calls)
			}
		})
	}
}

func (d *double) keyIssuer(key KeySource, now func() time.Time) *KeyIssuer {
	i, err := NewKeyIssuer(KeyIssuerConfig{CA: d.iot(), ID: d.caID(), Above: []*x509.Certificate{d.root}, Key: key, Now: now})
	if err != nil {
		d.t.Fatal(err)
	}
	return i
}

// parameter is SSM with one parameter, or none.
type parameter struct {
	mu    sync.Mutex
	name  string
	value string
	asked int
}

func (p *parameter) GetParameter(ctx context.Context, in *ssm.GetParameterInput, _ ...func(*ssm.Options)) (*ssm.GetParameterOutput, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked++
	if *in.Name != p.name || !*in.WithDecryption {
		return nil, &types.ParameterNotFound{}
	}
	return &ssm.GetParameterOutput{Parameter: &types.Parameter{Value: &p.value}}, ctx.Err()
}

func keyPEM(t testing.TB, key crypto.Signer) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// Certificate and key are asked for once in their lifetime, and again as soon
// as something is wrong with them.
func TestCachedCA(t *testing.T) {
	d := startDouble(t, ecKey(t))
	clock := time.Now()
	now := func() time.Time { return clock }
	p := &parameter{name: KeyParameter(d.caID()), value: keyPEM(t, d.key)}
	i := d.keyIssuer(ParameterKey{SSM: p, Name: p.name}, now)
	issue := func() error {
		_, err := i.Issue(t.Context(), orderFor(t, "pump-7", ecKey(t)))
		return err
	}
	for range 3 {
		if err := issue(); err != nil {
			t.Fatal(err)
		}
	}
	if p.asked != 1 || d.count("GET cacertificate") != 1 {
		t.Errorf("key asked for %d times, certificate %d", p.asked, d.count("GET cacertificate"))
	}
	clock = clock.Add(11 * time.Minute)
	if err := issue(); err != nil || p.asked != 2 || d.count("GET cacertificate") != 2 {
		t.Errorf("after its lifetime: key %d times: %v", p.asked, err)
	}

	clock = clock.Add(11 * time.Minute)
	d.script(func() { d.iotStatus = "INACTIVE" })
	if err := issue(); !errors.Is(err, certificate.ErrNoCA) || !strings.Contains(err.Error(), "INACTIVE") {
		t.Errorf("got %v", err)
	}
	d.script(func() { d.iotStatus = "ACTIVE" })
	p.name = "renamed"
	if err := issue(); !errors.Is(err, certificate.ErrNoCAKey) {
		t.Errorf("got %v", err)
	}
	p.name, p.value = KeyParameter(d.caID()), keyPEM(t, ecKey(t))
	if err := issue(); !errors.Is(err, certificate.ErrNoCAKey) || !strings.Contains(err.Error(), "not that of") {
		t.Errorf("got %v", err)
	}
	p.value = keyPEM(t, d.key)
	if err := issue(); err != nil {
		t.Error("what is mended is not found:", err)
	}
	if until, err := i.Signs(t.Context()); err != nil || !until.Equal(d.root.NotAfter) && !until.Equal(d.ca.NotAfter) {
		t.Errorf("until %s: %v", until, err)
	}
}

// A key that fails is fetched anew, because it may have been replaced.
func TestKeyThatFails(t *testing.T) {
	d := startDouble(t, ecKey(t))
	i := d.keyIssuer(KMSKey{KMS: d.kms(), ID: "alias/ca"}, time.Now)
	order := orderFor(t, "pump-7", ecKey(t))
	if _, err := i.Issue(t.Context(), order); err != nil {
		t.Fatal(err)
	}
	d.script(func() { d.fail["TrentService.Sign"] = "DisabledException" })
	if _, err := i.Issue(t.Context(), order); !errors.Is(err, certificate.ErrNoCAKey) || !strings.Contains(err.Error(), "alias/ca") {
		t.Errorf("got %v", err)
	}
	d.script(func() { delete(d.fail, "TrentService.Sign") })
	if _, err := i.Issue(t.Context(), order); err != nil || d.count("TrentService.GetPublicKey") != 2 {
		t.Errorf("public key fetched %d times: %v", d.count("TrentService.GetPublicKey"), err)
	}
	d.script(func() { d.usage = "ENCRYPT_DECRYPT" })
	if _, err := d.keyIssuer(KMSKey{KMS: d.kms(), ID: "k"}, time.Now).Issue(t.Context(), order); !errors.Is(err, certificate.ErrNoCAKey) {
		t.Errorf("got %v", err)
	}
}

// A KMS signature is one that everybody can verify, in each family.
func TestKMSSignatures(t *testing.T) {
	d := startDouble(t, rsaKey())
	key, err := KMSKey{KMS: d.kms(), ID: "k"}.Key(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	digest := bytes.Repeat([]byte{7}, 48)
	signer := key.During(t.Context())
	signature, err := signer.Sign(rand.Reader, digest, &rsa.PSSOptions{Hash: crypto.SHA384})
	if err == nil {
		err = rsa.VerifyPSS(rsaKey().Public().(*rsa.PublicKey), crypto.SHA384, digest, signature, nil)
	}
	if err != nil {
		t.Error("PSS:", err)
	}
	if _, err := signer.Sign(rand.Reader, digest, crypto.MD5); err == nil {
		t.Error("signed with MD5")
	}
}

func TestKeysAsOpenSSLWritesThem(t *testing.T) {
	key := ecKey(t)
	ec, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	for name, c := range map[string]struct {
		text string
		want crypto.Signer
	}{
		"PKCS #8":         {keyPEM(t, key), key},
		"SEC 1":           {block("EC PRIVATE KEY", ec), key},
		"with parameters": {block("EC PARAMETERS", []byte{6, 1, 1}) + block("EC PRIVATE KEY", ec), key},
		"PKCS #1":         {block("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(rsaKey())), rsaKey()},
		"a passphrase":    {block("ENCRYPTED PRIVATE KEY", ec), nil},
		"a certificate":   {block("CERTIFICATE", ec), nil},
		"noise":           {"noise secret", nil},
		"a damaged one":   {block("PRIVATE KEY", []byte("secret")), nil},
		"nothing":         {"", nil},
	} {
		got, err := readKey([]byte(c.text))
		switch {
		case c.want == nil && (err == nil || strings.Contains(err.Error(), "secret")):
			t.Errorf("%s: %v", name, err)
		case c.want != nil && (err != nil || !issuing.SameKey(got.Public(), c.want.Public())):
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestIoTIssuer(t *testing.T) {
	d := startDouble(t, ecKey(t))
	i := IoTIssuer{IoT: d.iot()}
	testIssuer(t, candidate{Issuer: i, anyLife: true, anyProfile: true})
	other := orderFor(t, "pump-7", ecKey(t))
	other.RawSubject = orderFor(t, "pump-8", ecKey(t)).RawSubject
	var refusal *vending.Error
	if _, err := i.Issue(t.Context(), other); !errors.As(err, &refusal) || refusal.Reason != "CSR_REJECTED" {
		t.Errorf("got %v", err)
	}
}
