package app_test

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	awssdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/acmpca"
	"github.com/aws/aws-sdk-go-v2/service/acmpca/types"
	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/rs/zerolog"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/app"
	"github.com/certvendor/certvendor/internal/config"
	"github.com/certvendor/certvendor/internal/control"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/vending"
)

// The whole program in the world of AWS: things and ACM Private CA at moto, the
// broker a mosquitto that the daemon reaches with a certificate of its own.
func TestServeOnAWS(t *testing.T) {
	for key, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "eu-west-1",
		"AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
	} {
		t.Setenv(key, value)
	}
	endpoint := moto(t)
	b := startMosquitto(t)
	dir := t.TempDir()
	c := config.Default()
	c.Backend = config.AWSBackend
	c.Control.Socket, c.Metrics.Listen = filepath.Join(dir, "s"), "127.0.0.1:0"
	c.Policy.Mode = vending.PolicyNone
	c.AWS.Data, c.AWS.EndpointURL = filepath.Join(dir, "data"), endpoint
	c.AWS.Issuer.Kind, c.AWS.Issuer.PCA.CAs = "pca", []string{"mill=" + privateCA(t, endpoint)}
	c.AWS.Broker.Way, c.AWS.Broker.Endpoint, c.AWS.Broker.Identity = "mtls", b.address, "direct"
	c.AWS.Broker.Certificate, c.AWS.Broker.Key, c.AWS.Broker.CA = b.at("vendor.pem"), b.at("vendor.key"), b.at("ca.pem")
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	log := &lines{}
	a, err := app.New(t.Context(), c, zerolog.New(log))
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	stopped := false
	stop := func() {
		if !stopped {
			stopped = true
			if err := a.Stop(context.Background()); err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(stop)
	eventually(t, "it is ready: "+log.String(), func() bool { return a.Ready(t.Context()) == nil })

	client := control.Dial(c.Control.Socket)
	t.Cleanup(client.Close)
	if _, err := client.AddDevice(t.Context(), control.AddRequest{Name: "pump-7", CSR: newCSR(t, newKey(t), "pump-7")}); err != nil {
		t.Fatal(err)
	}
	replies := make(chan protocol.GetAccepted, 1)
	pump := b.connect(t, "pump-7")
	topics := protocol.DefaultTopics()
	token := pump.Subscribe(topics.Accepted("pump-7", protocol.Get), 1, func(_ mqtt.Client, m mqtt.Message) {
		var got protocol.GetAccepted
		if err := protocol.Decode(m.Payload(), &got); err != nil {
			t.Error(err)
		}
		replies <- got
	})
	if token.Wait(); token.Error() != nil {
		t.Fatal(token.Error())
	}
	pump.Publish(topics.Request("pump-7", protocol.Get), 1, false, protocol.Encode(map[string]string{"csr": newCSR(t, newKey(t), "pump-7")}))
	select {
	case got := <-replies:
		if got.CertificateID == "" || got.Chain == "" {
			t.Errorf("got %+v", got)
		}
	case <-time.After(time.Minute):
		t.Fatalf("no reply: %s", log)
	}
	// Firmware of the original's time that has lost its ack: nobody knows which
	// of the two it has kept, and neither is taken from it.
	if _, err := client.Sweep(t.Context(), true); err != nil {
		t.Error(err)
	}
	d, err := client.Device(t.Context(), "pump-7")
	if err != nil || len(d.Certificates) != 2 {
		t.Errorf("%d certificates: %v", len(d.Certificates), err)
	}
	for _, one := range d.Certificates {
		if one.Standing != certificate.Active {
			t.Errorf("certificate %.8s is %s", one.ID, one.Standing)
		}
	}
	text := scrape(t, "http://"+a.MetricsAddr()+"/metrics")
	for _, want := range []string{`certvendor_bus_dropped_total{why="mac"} 0`, "certvendor_bus_left_total 0", `certvendor_aws_calls_total{api="IssueCertificate"} 2`, "certvendor_ready 1"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in the metrics", want)
		}
	}
	b.stop(t)
	eventually(t, "it says that the broker is gone", func() bool {
		err := a.Ready(t.Context())
		return err != nil && strings.Contains(err.Error(), "broker")
	})
	stop()
}

func scrape(t *testing.T, url string) string {
	t.Helper()
	answer, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// required returns a program's path; without it the test is skipped, and fails
// where CI is set.
func required(t *testing.T, program, get string) string {
	t.Helper()
	for _, name := range []string{program, "/usr/sbin/" + program} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("needs %s: %s", program, get)
	}
	t.Skipf("needs %s: %s", program, get)
	return ""
}

// moto starts the double of AWS and returns its URL.
func moto(t *testing.T) string {
	t.Helper()
	required(t, "moto_server", "pip install 'moto[server]==5.2.1'")
	c := exec.Command("python3", "../aws/testdata/launch.py", "-H", "127.0.0.1", "-p", "0")
	said, err := c.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	text := bufio.NewScanner(said)
	listens := regexp.MustCompile(`Running on (http://127\.0\.0\.1:\d+)`)
	for text.Scan() {
		if found := listens.FindStringSubmatch(text.Text()); found != nil {
			go func() {
				for text.Scan() { // its log, until it ends
					continue
				}
			}()
			return found[1]
		}
	}
	t.Fatal("moto has ended without listening")
	return ""
}

// privateCA makes a root CA in ACM Private CA and returns its ARN.
func privateCA(t *testing.T, endpoint string) string {
	t.Helper()
	client := acmpca.NewFromConfig(awssdk.Config{
		Region: "eu-west-1", BaseEndpoint: &endpoint, Credentials: credentials.NewStaticCredentialsProvider("AKIA", "secret", ""),
	})
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	made, err := client.CreateCertificateAuthority(t.Context(), &acmpca.CreateCertificateAuthorityInput{
		CertificateAuthorityType: types.CertificateAuthorityTypeRoot,
		CertificateAuthorityConfiguration: &types.CertificateAuthorityConfiguration{
			KeyAlgorithm: types.KeyAlgorithmRsa2048, SigningAlgorithm: types.SigningAlgorithmSha256withrsa,
			Subject: &types.ASN1Subject{CommonName: new("mill")},
		},
	})
	must(err)
	ca := made.CertificateAuthorityArn
	csr, err := client.GetCertificateAuthorityCsr(t.Context(), &acmpca.GetCertificateAuthorityCsrInput{CertificateAuthorityArn: ca})
	must(err)
	self, err := client.IssueCertificate(t.Context(), &acmpca.IssueCertificateInput{
		CertificateAuthorityArn: ca, Csr: []byte(*csr.Csr), SigningAlgorithm: types.SigningAlgorithmSha256withrsa,
		TemplateArn: new("arn:aws:acm-pca:::template/RootCACertificate/V1"),
		Validity:    &types.Validity{Type: types.ValidityPeriodTypeDays, Value: new(int64(365))},
	})
	must(err)
	got, err := client.GetCertificate(t.Context(), &acmpca.GetCertificateInput{CertificateAuthorityArn: ca, CertificateArn: self.CertificateArn})
	must(err)
	_, err = client.ImportCertificateAuthorityCertificate(t.Context(), &acmpca.ImportCertificateAuthorityCertificateInput{
		CertificateAuthorityArn: ca, Certificate: []byte(*got.Certificate),
	})
	must(err)
	return *ca
}
