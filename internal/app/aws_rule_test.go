package app_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/iot"
	iottypes "github.com/aws/aws-sdk-go-v2/service/iot/types"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	ssmtypes "github.com/aws/aws-sdk-go-v2/service/ssm/types"
	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/rs/zerolog"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/app"
	"github.com/certvendor/certvendor/internal/aws"
	"github.com/certvendor/certvendor/internal/config"
	"github.com/certvendor/certvendor/internal/control"
	"github.com/certvendor/certvendor/internal/loopback"
)

// TestServeAWS sets an account up and runs the daemon on it, with AWS played by
// moto and its broker by mosquitto: a thing that AWS alone knows rotates, over envelopes as
// the topic rule makes them, and its old certificate is INACTIVE at AWS then.
func TestServeAWS(t *testing.T) {
	moto, broker := moto(t), newTLSPair(t)
	address := mosquittoFor(t, broker)
	account := prepareAWS(t, moto)
	dir := t.TempDir()
	file := filepath.Join(dir, "config.yaml")
	text := fmt.Sprintf(`backend: aws
control: {socket: %s}
metrics: {listen: "127.0.0.1:0"}
policy: {mode: inherit}
rotation: {grace: 0s, group: rotate}
aws:
  region: eu-west-1
  endpoint_url: %s
  quota_share: 1
  issuer: {kind: ssm, ca: %q}
  broker: {way: mtls, endpoint: %q, certificate: %s, key: %s, ca: %s, rule_key: "file:rule.key"}
`, filepath.Join(dir, "s"), moto, account.ca, address, broker.file("certvendor.pem"), broker.file("certvendor.key"), broker.file("ca.pem"))
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := config.Load(file, nil)
	if err != nil {
		t.Fatal(err)
	}
	ruleKey := setUpAccount(t, c, filepath.Join(dir, "rule.key"))
	a, err := app.New(t.Context(), c, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	})
	if err := a.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the daemon is ready", func() bool { return a.Ready(t.Context()) == nil })

	rule := speakAsRule(t, broker, address, ruleKey)
	key, csr := thingCSR(t)
	got := rule.ask("get", account.old, map[string]string{"csr": csr})
	parsed := parsePEM(t, got["certificate"])
	if !parsed.PublicKey.(*ecdsa.PublicKey).Equal(key.Public()) {
		t.Error("the certificate is not for the key it was asked for")
	}
	if got := rule.ask("ack", got["certificateId"], map[string]string{}); got["message"] != "OK" {
		t.Errorf("the ack is answered %v", got)
	}
	for id, want := range map[string]iottypes.CertificateStatus{
		got["certificateId"]: iottypes.CertificateStatusActive, account.old: iottypes.CertificateStatusInactive,
	} {
		is, err := account.clients.IoT.DescribeCertificate(t.Context(), &iot.DescribeCertificateInput{CertificateId: &id})
		if err != nil || is.CertificateDescription.Status != want {
			t.Errorf("certificate %.8s is %v, %v; want %s", id, is.CertificateDescription, err, want)
		}
	}
	wantOperator(t, a, c, account)
	wantDropped(t, a, rule, got["certificateId"])
	wantSetUp(t, c)
}

// wantDropped shows that nobody but the rule has a say: an envelope that was
// made with another key, one of ten minutes ago, and one that comes a second
// time are dropped, counted and not answered.
func wantDropped(t *testing.T, a *app.App, rule *ruleSpeaker, over string) {
	t.Helper()
	dropped := func(why string, times int) {
		t.Helper()
		want := fmt.Sprintf("certvendor_bus_dropped_total{why=%q} %d\n", why, times)
		eventually(t, "it says "+want, func() bool { return strings.Contains(scrape(t, "http://"+a.MetricsAddr()+"/metrics"), want) })
	}
	rule.post("ack", rule.envelope("ack", over, map[string]string{}, time.Now(), strings.Repeat("f", 64)))
	dropped("mac", 1)
	rule.post("ack", rule.envelope("ack", over, map[string]string{}, time.Now().Add(-10*time.Minute), rule.key))
	dropped("stale", 1)
	sound := rule.envelope("ack", over, map[string]string{}, time.Now(), rule.key)
	if got := rule.answer("ack", sound); got["message"] != "OK" {
		t.Errorf("an ack again: %v", got)
	}
	rule.post("ack", sound)
	dropped("repeated", 1)
	select {
	case m := <-rule.replies:
		t.Errorf("answered on %s: %s", m.Topic(), m.Payload())
	default:
	}
}

// setUpAccount makes what the daemon needs, and returns the rules' key.
func setUpAccount(t *testing.T, c config.Config, keyFile string) string {
	t.Helper()
	setup, err := app.OpenSetup(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	plan, err := setup.Plan(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := setup.Carry(t.Context(), plan, func(aws.Step) {}); err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(key))
}

// wantSetUp checks that the daemon works with what setup has made, and has made
// nothing of its own.
func wantSetUp(t *testing.T, c config.Config) {
	t.Helper()
	setup, err := app.OpenSetup(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	plan, err := setup.Plan(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range plan {
		if step.Do != aws.DoKeep || step.Why != "" {
			t.Errorf("%s: %s, %s", step.Resource, step.Do, step.Why)
		}
	}
	removal, err := setup.PlanRemoval(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	jobs := 0
	for _, step := range removal {
		if step.Kind == aws.JobKind {
			jobs++
		}
	}
	if jobs != 1 {
		t.Errorf("%d jobs", jobs)
	}
}

// wantOperator asks what an operator would.
func wantOperator(t *testing.T, a *app.App, c config.Config, account awsAccount) {
	t.Helper()
	client := control.Dial(c.Control.Socket)
	defer client.Close()
	device, err := client.Device(t.Context(), "thing-1")
	if err != nil || len(device.Certificates) != 2 {
		t.Errorf("the operator sees %+v, %v", device, err)
	}
	answer, err := http.Get("http://" + a.MetricsAddr() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil || !bytes.Contains(text, []byte(`certvendor_aws_calls_total{api="RegisterCertificate"} 1`)) {
		t.Errorf("the calls are not counted: %v", err)
	}
	job, err := client.Job(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := account.clients.IoT.DescribeJob(t.Context(), &iot.DescribeJobInput{JobId: &job.ID}); err != nil {
		t.Errorf("the job at AWS: %v", err)
	}
}

func mosquittoFor(t *testing.T, pair *tlsPair) string {
	t.Helper()
	program := required(t, "mosquitto", "apt-get install mosquitto")
	address, err := loopback.Address()
	if err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("listener %s 127.0.0.1\ncafile %s\ncertfile %s\nkeyfile %s\nrequire_certificate true\n"+
		"use_identity_as_username true\nallow_anonymous false\n", port, pair.file("ca.pem"), pair.file("server.pem"), pair.file("server.key"))
	if os.Getuid() == 0 {
		text += "user root\n" // otherwise it becomes a user that cannot read the files
	}
	if err := os.WriteFile(pair.file("mosquitto.conf"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "-c", pair.file("mosquitto.conf"))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return address
}

// tlsPair is a directory with a CA and what it has signed.
type tlsPair struct {
	t    *testing.T
	dir  string
	ca   *x509.Certificate
	key  crypto.Signer
	next int64
}

func newTLSPair(t *testing.T) *tlsPair {
	t.Helper()
	p := &tlsPair{t: t, dir: t.TempDir()}
	p.ca, p.key = p.sign("a CA of this test", true)
	p.write("ca.pem", "CERTIFICATE", p.ca.Raw)
	for _, name := range []string{"server", "certvendor", "rule"} {
		c, key := p.sign(name, false)
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		p.write(name+".pem", "CERTIFICATE", c.Raw)
		p.write(name+".key", "PRIVATE KEY", der)
	}
	return p
}

func (p *tlsPair) sign(name string, isCA bool) (*x509.Certificate, crypto.Signer) {
	p.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		p.t.Fatal(err)
	}
	p.next++
	id := sha256.Sum256([]byte(name))
	template := &x509.Certificate{
		SerialNumber: big.NewInt(p.next), Subject: pkix.Name{CommonName: name}, IsCA: isCA, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(10000 * time.Hour), SubjectKeyId: id[:20],
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	parent, signer := p.ca, p.key
	if isCA {
		template.KeyUsage, parent, signer = x509.KeyUsageCertSign, template, crypto.Signer(key)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		p.t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		p.t.Fatal(err)
	}
	return c, key
}

func (p *tlsPair) file(name string) string { return filepath.Join(p.dir, name) }

func (p *tlsPair) write(name, kind string, der []byte) {
	p.t.Helper()
	if err := os.WriteFile(p.file(name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		p.t.Fatal(err)
	}
}

// awsAccount is an account with a thing and a CA.
type awsAccount struct {
	clients *aws.Clients
	ca, old string
}

func prepareAWS(t *testing.T, moto string) awsAccount {
	t.Helper()
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	quotas, err := aws.NewQuotas(1, nil, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	clients, err := aws.Dial(t.Context(), aws.Account{Region: "eu-west-1", Endpoint: moto, Quotas: quotas})
	if err != nil {
		t.Fatal(err)
	}
	pki := newTLSPair(t)
	der, err := x509.MarshalPKCS8PrivateKey(pki.key)
	if err != nil {
		t.Fatal(err)
	}
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	a := awsAccount{clients: clients}
	ca, err := clients.IoT.RegisterCACertificate(t.Context(), &iot.RegisterCACertificateInput{
		CaCertificate: pemText(pki.ca.Raw), SetAsActive: true, CertificateMode: iottypes.CertificateModeSniOnly,
	})
	check(err)
	a.ca = *ca.CertificateId
	_, err = clients.SSM.PutParameter(t.Context(), &ssm.PutParameterInput{
		Name: new("cdf-ca-key-" + a.ca), Type: ssmtypes.ParameterTypeSecureString,
		Value: new(string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))),
	})
	check(err)
	first, _ := pki.sign("thing-1", false)
	a.old = string(certificate.IDOf(first.Raw))
	_, err = clients.IoT.CreateThing(t.Context(), &iot.CreateThingInput{ThingName: new("thing-1")})
	check(err)
	registered, err := clients.IoT.RegisterCertificateWithoutCA(t.Context(), &iot.RegisterCertificateWithoutCAInput{
		CertificatePem: pemText(first.Raw), Status: iottypes.CertificateStatusActive,
	})
	check(err)
	_, err = clients.IoT.CreatePolicy(t.Context(), &iot.CreatePolicyInput{PolicyName: new("device"), PolicyDocument: new("{}")})
	check(err)
	_, err = clients.IoT.AttachPolicy(t.Context(), &iot.AttachPolicyInput{PolicyName: new("device"), Target: registered.CertificateArn})
	check(err)
	_, err = clients.IoT.AttachThingPrincipal(t.Context(), &iot.AttachThingPrincipalInput{
		ThingName: new("thing-1"), Principal: registered.CertificateArn,
	})
	check(err)
	return a
}

func pemText(der []byte) *string {
	return new(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
}

func parsePEM(t *testing.T, text string) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		t.Fatalf("not PEM: %q", text)
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func thingCSR(t *testing.T) (crypto.Signer, string) {
	t.Helper()
	return csrOf(t, "thing-1")
}

// csrOf returns a new key, and the request for a certificate of a name.
func csrOf(t *testing.T, name string) (crypto.Signer, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return key, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

// ruleSpeaker republishes as the topic rule of AWS IoT does, and hears what the
// thing hears.
type ruleSpeaker struct {
	t       *testing.T
	key     string
	client  mqtt.Client
	replies chan mqtt.Message
	trace   int
}

func speakAsRule(t *testing.T, pair *tlsPair, address, key string) *ruleSpeaker {
	t.Helper()
	own, err := tls.LoadX509KeyPair(pair.file("rule.pem"), pair.file("rule.key"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(pair.ca)
	s := &ruleSpeaker{t: t, key: key, replies: make(chan mqtt.Message, 10)}
	s.client = mqtt.NewClient(mqtt.NewClientOptions().AddBroker("tls://" + address).SetClientID("rule").
		SetTLSConfig(&tls.Config{Certificates: []tls.Certificate{own}, RootCAs: roots, ServerName: "localhost"}))
	if token := s.client.Connect(); token.WaitTimeout(patience) && token.Error() != nil {
		t.Fatal(token.Error())
	}
	t.Cleanup(func() { s.client.Disconnect(100) })
	token := s.client.Subscribe("cdf/certificates/thing-1/+/+", 1, func(_ mqtt.Client, m mqtt.Message) { s.replies <- m })
	if !token.WaitTimeout(patience) || token.Error() != nil {
		t.Fatal(token.Error())
	}
	return s
}

// envelope is what the rule makes of a request at a time, with this key.
func (s *ruleSpeaker) envelope(action, over string, body any, at time.Time, key string) []byte {
	s.t.Helper()
	payload, err := json.Marshal(body)
	if err != nil {
		s.t.Fatal(err)
	}
	s.trace++
	encode := func(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }
	hash := func(text string) string {
		sum := sha256.Sum256([]byte(text))
		return hex.EncodeToString(sum[:])
	}
	members := []string{
		key, encode(string(payload)), over, encode("thing-1"), encode("cdf/certificates/thing-1/" + action),
		fmt.Sprintf("trace-%d", s.trace), fmt.Sprint(at.UnixMilli()),
	}
	envelope, err := json.Marshal(map[string]any{
		"payloadB64": members[1], "certId": over, "clientId": "thing-1", "thing": "thing-1", "action": action,
		"traceId": members[5], "ts": json.Number(members[6]), "mac": hash(key + "|" + hash(strings.Join(members, "|"))),
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return envelope
}

// ask publishes a request that came over a certificate, and returns the members
// of its accepting reply.
func (s *ruleSpeaker) ask(action, over string, body any) map[string]string {
	s.t.Helper()
	return s.answer(action, s.envelope(action, over, body, time.Now(), s.key))
}

// post publishes an envelope.
func (s *ruleSpeaker) post(action string, envelope []byte) {
	s.t.Helper()
	if token := s.client.Publish("certvendor/in/thing-1/"+action, 1, false, envelope); !token.WaitTimeout(patience) || token.Error() != nil {
		s.t.Fatal(token.Error())
	}
}

func (s *ruleSpeaker) answer(action string, envelope []byte) map[string]string {
	s.t.Helper()
	s.post(action, envelope)
	select {
	case m := <-s.replies:
		reply := map[string]string{}
		if err := json.Unmarshal(m.Payload(), &reply); err != nil || !strings.HasSuffix(m.Topic(), action+"/accepted") {
			s.t.Fatalf("%s: %s, %v", m.Topic(), m.Payload(), err)
		}
		return reply
	case <-time.After(patience):
		s.t.Fatalf("no answer to the %s", action)
	}
	return nil
}
