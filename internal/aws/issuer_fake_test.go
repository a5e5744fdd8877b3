package aws

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	awssdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/acmpca"
	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/certificate/issuing"
)

// double answers KMS, ACM PCA and AWS IoT's certificates on the wire, as AWS
// documents them, for what moto answers differently or not at all. It signs
// with one CA for all three.
type double struct {
	t    testing.TB
	url  string
	key  crypto.Signer
	root *x509.Certificate
	ca   *x509.Certificate

	mu        sync.Mutex
	calls     map[string]int
	fail      map[string]string // by call: the error to answer with
	polls     int               // how often a certificate of ACM PCA is not ready
	shortLife bool
	status    string
	asked     []*pcaAsked
	pollsLeft map[string]int
	arns      map[string]*x509.Certificate
	requests  []map[string]any // of IssueCertificate
	usage     string           // of the KMS key
	iotStatus string           // of the CA in AWS IoT; empty: it is not registered there
	iotMode   string
}

type pcaAsked struct {
	token, request, arn string
	at                  time.Time
}

const fakeCA = "arn:aws-eu:acm-pca:eu-west-1:123456789012:certificate-authority/11111111-2222-3333-4444-555555555555"

func startDouble(t testing.TB, key crypto.Signer) *double {
	t.Helper()
	d := &double{
		t: t, key: key, calls: map[string]int{}, fail: map[string]string{}, status: "ACTIVE", usage: "SIGN_VERIFY",
		iotStatus: "ACTIVE", pollsLeft: map[string]int{}, arns: map[string]*x509.Certificate{},
	}
	rootKey := ecKey(t)
	d.root = caOf(t, "root", rootKey.Public(), nil, rootKey, 20)
	d.ca = caOf(t, "issuing", key.Public(), d.root, rootKey, 10)
	server := httptest.NewServer(d)
	t.Cleanup(server.Close)
	d.url = server.URL
	return d
}

// caOf makes a CA certificate; without a parent it signs itself.
func caOf(t testing.TB, name string, public crypto.PublicKey, parent *x509.Certificate, signer crypto.Signer, years int) *x509.Certificate {
	t.Helper()
	id, err := issuing.SubjectKeyID(public)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, SubjectKeyId: id, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().AddDate(-10, 0, 0), NotAfter: time.Now().AddDate(years, 0, 0), KeyUsage: x509.KeyUsageCertSign,
	}
	if parent == nil {
		parent = template
	}
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

func (d *double) config() awssdk.Config {
	return awssdk.Config{
		Region: "eu-west-1", BaseEndpoint: &d.url, Credentials: credentials.NewStaticCredentialsProvider("AKIA", "secret", ""), RetryMaxAttempts: 1,
	}
}

func (d *double) kms() *kms.Client    { return kms.NewFromConfig(d.config()) }
func (d *double) iot() *iot.Client    { return iot.NewFromConfig(d.config()) }
func (d *double) pca() *acmpca.Client { return acmpca.NewFromConfig(d.config()) }

func (d *double) script(do func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	do()
}

func (d *double) count(call string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.calls[call]
}

func (d *double) caID() certificate.ID { return certificate.IDOf(d.ca.Raw) }

// wireError is an error in the form of the JSON protocols.
type wireError struct{ kind, message string }

func (d *double) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	call := r.Header.Get("X-Amz-Target")
	if call == "" {
		call = r.Method + " " + strings.SplitN(strings.TrimPrefix(r.URL.Path, "/"), "/", 2)[0]
	}
	d.calls[call]++
	var in map[string]any
	_ = json.NewDecoder(r.Body).Decode(&in) // no body is no members
	out, failed := d.answer(call, r, in)
	if kind := d.fail[call]; kind != "" {
		out, failed = nil, &wireError{kind, "as the test says"}
	}
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	if failed != nil {
		w.Header().Set("X-Amzn-ErrorType", failed.kind)
		w.WriteHeader(http.StatusBadRequest)
		out = map[string]any{"__type": failed.kind, "message": failed.message}
	}
	_ = json.NewEncoder(w).Encode(out)
}

func (d *double) answer(call string, r *http.Request, in map[string]any) (any, *wireError) {
	switch call {
	case "GET registrationcode":
		return map[string]any{"registrationCode": fakeCode}, nil
	case "POST cacertificate":
		return d.registerCA(r, in)
	case "PUT cacertificate":
		d.iotStatus = r.URL.Query().Get("newStatus")
		return map[string]any{}, nil
	case "GET cacertificate":
		if d.iotStatus == "" || !strings.HasSuffix(r.URL.Path, string(d.caID())) {
			return nil, &wireError{notFound, "no such CA"}
		}
		return map[string]any{"certificateDescription": map[string]any{
			"certificateId": string(d.caID()), "certificatePem": pemText(d.ca), "status": d.iotStatus,
			"certificateMode": d.iotMode,
		}}, nil
	case "POST certificates":
		return d.createFromCSR(r, in)
	case "TrentService.GetPublicKey":
		der, err := x509.MarshalPKIXPublicKey(d.key.Public())
		if err != nil {
			d.t.Error(err)
		}
		return map[string]any{"KeyId": in["KeyId"], "PublicKey": der, "KeyUsage": d.usage}, nil
	case "TrentService.Sign":
		return d.sign(in)
	case "ACMPrivateCA.DescribeCertificateAuthority":
		return d.describeCA(), nil
	case "ACMPrivateCA.GetCertificateAuthorityCertificate":
		return map[string]any{"Certificate": pemText(d.ca), "CertificateChain": pemText(d.root)}, nil
	case "ACMPrivateCA.IssueCertificate":
		return d.issue(in)
	case "ACMPrivateCA.GetCertificate":
		return d.get(in)
	}
	d.t.Errorf("nobody expected %s", call)
	return nil, &wireError{"InvalidAction", call}
}

func pemText(c *x509.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
}

func octets(v any) []byte {
	text, _ := v.(string)
	b, _ := base64.StdEncoding.DecodeString(text)
	return b
}

// fakeCode is the registration code of the account.
const fakeCode = "c0de5e0f0123456789abcdef0123456789abcdef0123456789abcdef01234567"

// registerCA registers a CA as AWS IoT does: in mode DEFAULT it proves its key,
// in SNI_ONLY it must not.
func (d *double) registerCA(r *http.Request, in map[string]any) (any, *wireError) {
	proof, proven := in["verificationCertificate"].(string)
	d.iotMode, _ = in["certificateMode"].(string)
	switch {
	case d.iotStatus != "":
		return nil, &wireError{alreadyExists, "it is there"}
	case in["caCertificate"] != pemText(d.ca), proven != (d.iotMode == "DEFAULT"):
		return nil, &wireError{invalidRequest, "not that CA, or not that mode"}
	case proven:
		signed, err := readChain(proof)
		if err != nil || signed[0].CheckSignatureFrom(d.ca) != nil || signed[0].Subject.CommonName != fakeCode {
			return nil, &wireError{"CertificateValidationException", "it proves nothing"}
		}
	}
	d.iotStatus = "INACTIVE"
	if r.URL.Query().Get("setAsActive") == "true" {
		d.iotStatus = "ACTIVE"
	}
	return map[string]any{"certificateId": string(d.caID()), "certificateArn": "arn:aws:iot:::cacert/x"}, nil
}

// sign signs a digest as KMS does, which takes none of the wrong length.
func (d *double) sign(in map[string]any) (any, *wireError) {
	algorithm := in["SigningAlgorithm"].(string)
	hashes := map[string]crypto.Hash{"256": crypto.SHA256, "384": crypto.SHA384, "512": crypto.SHA512}
	hashed := hashes[algorithm[len(algorithm)-3:]]
	digest := octets(in["Message"])
	_, isRSA := d.key.(*rsa.PrivateKey)
	if in["MessageType"] != "DIGEST" || len(digest) != hashed.Size() || isRSA == strings.HasPrefix(algorithm, "ECDSA") {
		return nil, &wireError{"ValidationException", "message or algorithm do not fit"}
	}
	var opts crypto.SignerOpts = hashed
	if strings.HasPrefix(algorithm, "RSASSA_PSS") {
		opts = &rsa.PSSOptions{Hash: hashed, SaltLength: rsa.PSSSaltLengthEqualsHash}
	}
	signature, err := d.key.Sign(rand.Reader, digest, opts)
	if err != nil {
		d.t.Error(err)
	}
	return map[string]any{"KeyId": in["KeyId"], "Signature": signature, "SigningAlgorithm": algorithm}, nil
}

func (d *double) createFromCSR(r *http.Request, in map[string]any) (any, *wireError) {
	csr := readCSR(d.t, []byte(in["certificateSigningRequest"].(string)))
	c := d.signed(&x509.Certificate{
		RawSubject: csr.RawSubject, NotBefore: time.Now().Add(-2 * time.Minute), NotAfter: time.Date(2049, 12, 31, 23, 59, 59, 0, time.UTC),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
	}, csr.PublicKey)
	if r.URL.Query().Get("setAsActive") == "true" {
		d.t.Error("made ACTIVE before anybody has it")
	}
	return map[string]any{"certificateArn": "arn:aws:iot:::cert/x", "certificateId": string(certificate.IDOf(c.Raw)), "certificatePem": pemText(c)}, nil
}

func readCSR(t testing.TB, text []byte) *x509.CertificateRequest {
	t.Helper()
	block, rest := pem.Decode(text)
	if block == nil || len(rest) > 0 {
		t.Errorf("not one CSR: %q", text)
		return new(x509.CertificateRequest)
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		t.Error(err)
	}
	return csr
}

func (d *double) signed(template *x509.Certificate, public any) *x509.Certificate {
	serial, err := issuing.Serial()
	if err != nil {
		d.t.Error(err)
	}
	template.SerialNumber = serial
	der, err := x509.CreateCertificate(rand.Reader, template, d.ca, public, d.key)
	if err != nil {
		d.t.Error(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		d.t.Error(err)
	}
	return c
}

func (d *double) describeCA() any {
	algorithm := "EC_prime256v1"
	if _, isRSA := d.key.(*rsa.PrivateKey); isRSA {
		algorithm = "RSA_2048"
	}
	mode := "GENERAL_PURPOSE"
	if d.shortLife {
		mode = "SHORT_LIVED_CERTIFICATE"
	}
	return map[string]any{"CertificateAuthority": map[string]any{
		"Arn": fakeCA, "Status": d.status, "UsageMode": mode,
		"NotBefore": float64(d.ca.NotBefore.Unix()), "NotAfter": float64(d.ca.NotAfter.Unix()),
		"CertificateAuthorityConfiguration": map[string]any{"KeyAlgorithm": algorithm, "SigningAlgorithm": "SHA256WITHECDSA"},
	}}
}

// issue takes an order as ACM PCA does: one token stands for one request, and
// the template decides what of the request counts.
func (d *double) issue(in map[string]any) (any, *wireError) {
	token, _ := in["IdempotencyToken"].(string)
	text, _ := json.Marshal(in)
	if token == "" || len(token) > 36 {
		return nil, &wireError{"ValidationException", "token"}
	}
	for _, was := range d.asked {
		if was.token == token && time.Since(was.at) < 5*time.Minute {
			if was.request != string(text) {
				return nil, &wireError{"InvalidArgsException", "another request with the same token"}
			}
			return map[string]any{"CertificateArn": was.arn}, nil
		}
	}
	_, isRSA := d.key.(*rsa.PrivateKey)
	if algorithm := in["SigningAlgorithm"].(string); strings.HasSuffix(algorithm, "RSA") != isRSA {
		return nil, &wireError{"InvalidArgsException", algorithm}
	}
	c, failed := d.fromTemplate(in)
	if failed != nil {
		return nil, failed
	}
	arn := fmt.Sprintf("%s/certificate/%d", fakeCA, len(d.arns))
	d.arns[arn], d.pollsLeft[arn] = c, d.polls
	d.asked = append(d.asked, &pcaAsked{token: token, request: string(text), arn: arn, at: time.Now()})
	d.requests = append(d.requests, in)
	return map[string]any{"CertificateArn": arn}, nil
}

func (d *double) fromTemplate(in map[string]any) (*x509.Certificate, *wireError) {
	csr := readCSR(d.t, octets(in["Csr"]))
	at := func(member string) time.Time {
		v := in[member].(map[string]any)
		if v["Type"] != "ABSOLUTE" {
			d.t.Errorf("%s of type %v", member, v["Type"])
		}
		return time.Unix(int64(v["Value"].(float64)), 0)
	}
	template := &x509.Certificate{
		RawSubject: csr.RawSubject, URIs: csr.URIs, NotBefore: at("ValidityNotBefore"), NotAfter: at("Validity"), BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if template.NotAfter.After(d.ca.NotAfter) || d.shortLife && time.Until(template.NotAfter) > 7*24*time.Hour {
		return nil, &wireError{"InvalidArgsException", "longer than the CA"}
	}
	passed, _ := in["ApiPassthrough"].(map[string]any)
	switch in["TemplateArn"] {
	case "arn:aws-eu:acm-pca:::template/EndEntityClientAuthCertificate_APIPassthrough/V1":
		d.pass(template, passed)
	case "arn:aws-eu:acm-pca:::template/EndEntityClientAuthCertificate/V1":
	default:
		return nil, &wireError{"InvalidArgsException", fmt.Sprint("template ", in["TemplateArn"])}
	}
	return d.signed(template, csr.PublicKey), nil
}

func (d *double) pass(template *x509.Certificate, passed map[string]any) {
	if subject, ok := passed["Subject"].(map[string]any); ok {
		template.RawSubject = nil
		list := func(name string) []string {
			if v, ok := subject[name].(string); ok {
				return []string{v}
			}
			return nil
		}
		template.Subject = pkix.Name{
			Organization: list("Organization"), OrganizationalUnit: list("OrganizationalUnit"), Locality: list("Locality"),
			Province: list("State"), Country: list("Country"),
		}
		if cn := list("CommonName"); cn != nil {
			template.Subject.CommonName = cn[0]
		}
	}
	extensions, _ := passed["Extensions"].(map[string]any)
	names, _ := extensions["SubjectAlternativeNames"].([]any)
	if len(names) > 0 {
		template.URIs = nil
	}
	for _, n := range names {
		name := n.(map[string]any)
		if uri, ok := name["UniformResourceIdentifier"].(string); ok {
			scheme, rest, _ := strings.Cut(uri, ":")
			template.URIs = append(template.URIs, &url.URL{Scheme: scheme, Opaque: rest})
		}
		if address, ok := name["Rfc822Name"].(string); ok {
			template.EmailAddresses = append(template.EmailAddresses, address)
		}
	}
}

func (d *double) get(in map[string]any) (any, *wireError) {
	arn := in["CertificateArn"].(string)
	c := d.arns[arn]
	switch {
	case c == nil:
		return nil, &wireError{"ResourceNotFoundException", arn}
	case d.pollsLeft[arn] > 0:
		d.pollsLeft[arn]--
		return nil, &wireError{"RequestInProgressException", arn}
	}
	return map[string]any{"Certificate": strings.TrimSpace(pemText(c)), "CertificateChain": pemText(d.ca) + pemText(d.root)}, nil
}

// notes keep texts in memory, and stop when a test says so.
type notes struct {
	mu     sync.Mutex
	all    map[string]string
	broken error
}

func (n *notes) Meta(_ context.Context, key string) (string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.all[key], n.broken
}

func (n *notes) SetMeta(_ context.Context, key, text string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.broken == nil {
		if n.all == nil {
			n.all = map[string]string{}
		}
		n.all[key] = text
	}
	return n.broken
}
