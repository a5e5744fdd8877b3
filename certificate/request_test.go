package certificate

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/certvendor/certvendor/protocol"
)

var rsaKey = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func ecKey(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// csr returns the PEM of a request made from a template with a key.
func csr(t testing.TB, key crypto.Signer, template x509.CertificateRequest) string {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &template, key)
	if err != nil {
		t.Fatal(err)
	}
	return block("CERTIFICATE REQUEST", der)
}

func block(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func named(name string) x509.CertificateRequest {
	return x509.CertificateRequest{Subject: pkix.Name{CommonName: name}}
}

// hugeRSA returns a request for an RSA key of that many bits, which nobody
// needs the private half of: the signature is noise.
func hugeRSA(t testing.TB, bits int, exponent int) string {
	t.Helper()
	n := new(big.Int).Lsh(big.NewInt(1), uint(bits-1))
	n.SetBit(n, 0, 1)
	spki, err := x509.MarshalPKIXPublicKey(&rsa.PublicKey{N: n, E: exponent})
	if err != nil {
		t.Fatal(err)
	}
	return unsigned(t, spki, []int{1, 2, 840, 113549, 1, 1, 11}) // sha256WithRSAEncryption
}

// unsigned returns a request for any SubjectPublicKeyInfo, with a signature
// that does not verify.
func unsigned(t testing.TB, spki []byte, algorithm asn1.ObjectIdentifier) string {
	t.Helper()
	info := struct {
		Version    int
		Subject    asn1.RawValue
		Key        asn1.RawValue
		Attributes asn1.RawValue
	}{
		Subject:    asn1.RawValue{FullBytes: []byte{0x30, 0}},
		Key:        asn1.RawValue{FullBytes: spki},
		Attributes: asn1.RawValue{FullBytes: []byte{0xa0, 0}},
	}
	der, err := asn1.Marshal(struct {
		Info      any
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}{info, pkix.AlgorithmIdentifier{Algorithm: algorithm, Parameters: asn1.NullRawValue}, asn1.BitString{Bytes: make([]byte, 256), BitLength: 2048}})
	if err != nil {
		t.Fatal(err)
	}
	return block("CERTIFICATE REQUEST", der)
}

func TestRequestThatIsTaken(t *testing.T) {
	rsa3072, rsa4096 := testdata(t, "rsa3072.csr"), testdata(t, "rsa4096.csr")
	p256 := csr(t, ecKey(t, elliptic.P256()), named("a"))
	for name, text := range map[string]string{
		"RSA 2048":                csr(t, rsaKey(), named("a")),
		"RSA 3072 by openssl":     rsa3072,
		"RSA 4096 by openssl":     rsa4096,
		"RSA-PSS signature":       csr(t, rsaKey(), x509.CertificateRequest{SignatureAlgorithm: x509.SHA256WithRSAPSS}),
		"P-256":                   p256,
		"P-384":                   csr(t, ecKey(t, elliptic.P384()), named("a")),
		"P-521":                   csr(t, ecKey(t, elliptic.P521()), named("a")),
		"empty subject":           csr(t, ecKey(t, elliptic.P256()), x509.CertificateRequest{}),
		"type of old tools":       strings.ReplaceAll(p256, "CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"),
		"white space around":      "\n\t " + p256 + "\n\n",
		"lines ended as by DOS":   strings.ReplaceAll(p256, "\n", "\r\n"),
		"no line end at the end":  strings.TrimSpace(p256),
		"all of it on long lines": longLines(p256),
	} {
		t.Run(name, func(t *testing.T) {
			req, err := ParseRequest(text)
			if err != nil {
				t.Fatal(err)
			}
			if err := req.CheckSignature(); err != nil {
				t.Error(err)
			}
			if want := KeyIDOf(req.CSR.RawSubjectPublicKeyInfo); req.Key != want {
				t.Errorf("key %s, want %s", req.Key, want)
			}
		})
	}
}

func TestRequestThatIsRefused(t *testing.T) {
	p256 := csr(t, ecKey(t, elliptic.P256()), named("a"))
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, _ := pem.Decode([]byte(p256))
	for name, test := range map[string]struct{ text, detail string }{
		"empty":                       {"", "PEM block"},
		"noise":                       {"\x00\xff\xfe", "PEM block"},
		"one octet too long":          {p256 + strings.Repeat("\n", protocol.MaxCSR-len(p256)+1), "octets"},
		"two blocks":                  {p256 + p256, "one PEM block"},
		"text before":                 {"Certificate Request:\n" + p256, "one PEM block"},
		"text after":                  {p256 + "more", "follows"},
		"a broken block before":       {"-----BEGIN CERTIFICATE REQUEST-----\n!\n-----END CERTIFICATE REQUEST-----\n" + p256, "one PEM block"},
		"headers":                     {strings.Replace(p256, "-----\n", "-----\nProc-Type: 4,ENCRYPTED\n\n", 1), "headers"},
		"a certificate's type":        {strings.ReplaceAll(p256, "CERTIFICATE REQUEST", "CERTIFICATE"), "type"},
		"ends do not match":           {strings.Replace(p256, "END CERTIFICATE REQUEST", "END CERTIFICATE", 1), "PEM"},
		"something after the DER":     {block("CERTIFICATE REQUEST", append(der.Bytes, 0)), "PKCS #10"},
		"cut short":                   {block("CERTIFICATE REQUEST", der.Bytes[:len(der.Bytes)-1]), "PKCS #10"},
		"RSA 1024":                    {testdata(t, "rsa1024.csr"), "1024 bits"},
		"RSA 2047":                    {hugeRSA(t, 2047, 65537), "2047 bits"},
		"RSA 4097":                    {hugeRSA(t, 4097, 65537), "4097 bits"},
		"RSA 16,000":                  {hugeRSA(t, 16000, 65537), "16000 bits"},
		"RSA 93,000, which just fits": {hugeRSA(t, 93_000, 65537), "93000 bits"},
		"RSA 100,000":                 {hugeRSA(t, 100_000, 65537), "octets"},
		"RSA exponent 3":              {hugeRSA(t, 2048, 3), "exponent"},
		"RSA exponent 65539":          {hugeRSA(t, 2048, 65539), "exponent"},
		"P-224":                       {csr(t, ecKey(t, elliptic.P224()), named("a")), "P-256"},
		"Ed25519":                     {csr(t, edKey, named("a")), "P-256"},
		"signed with SHA-1":           {testdata(t, "sha1.csr"), "SHA-256"},
		"signed with MD5":             {testdata(t, "md5.csr"), "SHA-256"},
	} {
		t.Run(name, func(t *testing.T) {
			req, err := ParseRequest(test.text)
			if err == nil {
				t.Fatalf("taken: %v", req.CSR.Subject)
			}
			if !errors.Is(err, ErrRequest) {
				t.Errorf("not of kind ErrRequest: %v", err)
			}
			if detail := RequestDetail(err); !strings.Contains(detail, test.detail) {
				t.Errorf("detail %q does not say %q", detail, test.detail)
			}
		})
	}
}

// An RSA key of any size must be refused before anything computes with it: to
// verify one signature with 93,000 bits costs some hundred times as much. The
// test counts allocations (22 here, over 800 with a verification) instead of
// time, so that it says the same on a busy machine.
func TestHugeKeyCostsNextToNothing(t *testing.T) {
	text := hugeRSA(t, 93_000, 65537)
	allocated := testing.AllocsPerRun(3, func() {
		if _, err := ParseRequest(text); err == nil {
			t.Error("taken")
		}
	})
	if allocated > 200 {
		t.Errorf("%v allocations: something computed with the key", allocated)
	}
}

func TestBrokenSignature(t *testing.T) {
	der, _ := pem.Decode([]byte(csr(t, ecKey(t, elliptic.P256()), named("a"))))
	der.Bytes[len(der.Bytes)-1] ^= 1
	for name, text := range map[string]string{
		"altered":                  block("CERTIFICATE REQUEST", der.Bytes),
		"by nobody":                hugeRSA(t, 2048, 65537),
		"of another kind than key": mismatched(t),
	} {
		t.Run(name, func(t *testing.T) {
			req, err := ParseRequest(text)
			if err != nil {
				t.Fatal(err)
			}
			if err := req.CheckSignature(); !errors.Is(err, ErrRequest) || RequestDetail(err) == "" {
				t.Errorf("got %v", err)
			}
		})
	}
}

// mismatched is a P-256 key with a signature that calls itself RSA.
func mismatched(t *testing.T) string {
	t.Helper()
	spki, err := x509.MarshalPKIXPublicKey(ecKey(t, elliptic.P256()).Public())
	if err != nil {
		t.Fatal(err)
	}
	return unsigned(t, spki, []int{1, 2, 840, 113549, 1, 1, 11})
}

func TestDetailOfAnotherError(t *testing.T) {
	if detail := RequestDetail(errors.New("connect to 10.0.0.1")); detail != "" {
		t.Errorf("%q would go to a device", detail)
	}
}

func longLines(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[0] + "\n" + strings.Join(lines[1:len(lines)-1], "") + "\n" + lines[len(lines)-1]
}

func testdata(t testing.TB, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func FuzzParseRequest(f *testing.F) {
	f.Add(csr(f, ecKey(f, elliptic.P256()), named("sensor-1")))
	f.Add(csr(f, rsaKey(), x509.CertificateRequest{DNSNames: []string{"sensor-1"}}))
	f.Add(testdata(f, "sha1.csr"))
	f.Add(hugeRSA(f, 16000, 65537))
	f.Add("-----BEGIN CERTIFICATE REQUEST-----\nMAA=\n-----END CERTIFICATE REQUEST-----\n")
	f.Fuzz(func(t *testing.T, text string) {
		req, err := ParseRequest(text)
		if err != nil {
			if !errors.Is(err, ErrRequest) || RequestDetail(err) == "" {
				t.Fatalf("not a refusal: %v", err)
			}
			return
		}
		// What is taken can be checked and named without a panic, and is
		// refused for a name only as a refusal.
		_ = req.CheckSignature()
		for _, mode := range []NameMode{VerifyName, AcceptName} {
			if _, err := (Naming{Mode: mode}).Subject(req, Names{Device: "d"}); err != nil && !errors.Is(err, ErrRequest) {
				t.Fatalf("%s: %v", mode, err)
			}
		}
	})
}
