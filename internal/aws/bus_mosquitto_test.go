package aws

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"github.com/certvendor/certvendor/internal/loopback"
)

// broker is a mosquitto that asks for a certificate of the test's CA.
type broker struct {
	t         *testing.T
	directory string
	address   string
	extra     string // lines of its configuration
	authority *testAuthority
	command   *exec.Cmd
	ended     chan error
	log       *brokerLog
}

// startBroker starts mosquitto, with these lines in its configuration.
func startBroker(t *testing.T, extra ...string) *broker {
	t.Helper()
	address, err := loopback.Address()
	if err != nil {
		t.Fatal(err)
	}
	b := &broker{t: t, directory: t.TempDir(), address: address, extra: strings.Join(extra, "\n"), authority: newTestAuthority(t), log: &brokerLog{}}
	b.authority.writePair(b.directory, "server")
	b.authority.writePair(b.directory, "probe")
	b.start()
	t.Cleanup(func() { b.stop() })
	return b
}

func mosquitto(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"mosquitto", "/usr/sbin/mosquitto"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("mosquitto is required: apt-get install mosquitto")
	}
	t.Skip("mosquitto is not installed: apt-get install mosquitto")
	return ""
}

func (b *broker) start() {
	b.t.Helper()
	program := mosquitto(b.t)
	_, port, err := net.SplitHostPort(b.address)
	if err != nil {
		b.t.Fatal(err)
	}
	text := fmt.Sprintf("listener %s 127.0.0.1\ncafile %s\ncertfile %s\nkeyfile %s\n", port, b.path("ca.pem"), b.path("server.pem"), b.path("server.key"))
	text += "require_certificate true\nuse_identity_as_username true\nallow_anonymous false\nlog_type all\nlog_dest stderr\n"
	text += fmt.Sprintf("persistence true\npersistence_location %s/\n%s\n", b.directory, b.extra)
	if os.Getuid() == 0 {
		text += "user root\n" // otherwise it becomes a user that cannot read the files
	}
	b.write("mosquitto.conf", text)
	b.command = exec.Command(program, "-c", b.path("mosquitto.conf"))
	b.command.Stderr = b.log
	if err := b.command.Start(); err != nil {
		b.t.Fatal(err)
	}
	b.ended = make(chan error, 1)
	go func(c *exec.Cmd, ended chan<- error) { ended <- c.Wait() }(b.command, b.ended)
	soon(b.t, "mosquitto serves: "+b.log.String(), func() bool {
		conn, err := b.way("probe").Open(context.Background())
		if err != nil {
			return false
		}
		return conn.Close() == nil
	})
}

// stop ends it as an operator would; it writes down what it has queued.
func (b *broker) stop() {
	if b.command == nil {
		return
	}
	if err := b.command.Process.Signal(syscall.SIGTERM); err != nil {
		b.t.Error(err)
	}
	<-b.ended
	b.command = nil
}

func (b *broker) path(name string) string { return filepath.Join(b.directory, name) }

func (b *broker) write(name, text string) {
	b.t.Helper()
	if err := os.WriteFile(b.path(name), []byte(text), 0o600); err != nil {
		b.t.Fatal(err)
	}
}

// way is a way in with a certificate of that name.
func (b *broker) way(name string) *MutualTLS {
	b.t.Helper()
	if _, err := os.Stat(b.path(name + ".pem")); err != nil {
		b.authority.writePair(b.directory, name)
	}
	return &MutualTLS{
		Address: b.address, Roots: b.authority.pool(),
		CertificateFile: b.path(name + ".pem"), KeyFile: b.path(name + ".key"),
	}
}

// client is another program on the broker: a device, or whoever speaks there.
type client struct {
	t *testing.T
	mqtt.Client
	mu   sync.Mutex
	got  []mqtt.Message
	each func(mqtt.Message)
}

func (b *broker) client(name string, filters ...string) *client {
	b.t.Helper()
	c := &client{t: b.t}
	way := b.way(name)
	c.Client = mqtt.NewClient(mqtt.NewClientOptions().AddBroker("tls://" + b.address).SetClientID(name).
		SetProtocolVersion(4).SetOrderMatters(false).SetCleanSession(false).SetConnectRetryInterval(20 * time.Millisecond).SetMaxReconnectInterval(50 * time.Millisecond).
		SetOnConnectHandler(func(m mqtt.Client) {
			for _, filter := range filters {
				m.Subscribe(filter, 1, nil)
			}
		}).
		SetDefaultPublishHandler(func(_ mqtt.Client, m mqtt.Message) { c.receive(m) }).
		SetTLSConfig(b.clientTLS(way)))
	c.must(c.Connect())
	for _, filter := range filters { // again, so that it is known to be granted
		c.must(c.Subscribe(filter, 1, nil))
	}
	b.t.Cleanup(func() { c.Disconnect(0) })
	return c
}

func (b *broker) clientTLS(way *MutualTLS) *tls.Config {
	pair, err := tls.LoadX509KeyPair(way.CertificateFile, way.KeyFile)
	if err != nil {
		b.t.Fatal(err)
	}
	return &tls.Config{RootCAs: way.Roots, Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
}

func (c *client) must(token mqtt.Token) {
	c.t.Helper()
	if !token.WaitTimeout(30*time.Second) || token.Error() != nil {
		c.t.Fatal("the test's own client: ", token.Error())
	}
}

func (c *client) receive(m mqtt.Message) {
	c.mu.Lock()
	c.got = append(c.got, m)
	c.mu.Unlock()
	if c.each != nil {
		c.each(m)
	}
}

// say publishes and returns when the broker has it.
func (c *client) say(topic, payload string) {
	c.t.Helper()
	c.must(c.Publish(topic, 1, false, payload))
}

// heard returns what came on a topic, "" for all.
func (c *client) heard(topic string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []string
	for _, m := range c.got {
		if topic == "" || m.Topic() == topic {
			all = append(all, string(m.Payload()))
		}
	}
	return all
}

type brokerLog struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *brokerLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *brokerLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// soon waits for a condition.
func soon(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

// testAuthority signs for the broker and its clients.
type testAuthority struct {
	t      testing.TB
	key    *ecdsa.PrivateKey
	issuer *x509.Certificate
	serial int64
}

func newTestAuthority(t testing.TB) *testAuthority {
	t.Helper()
	a := &testAuthority{t: t, key: ecKey(t)}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "broker CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	a.issuer = a.sign(template, template, a.key.Public())
	return a
}

func ecKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (a *testAuthority) sign(template, parent *x509.Certificate, public any) *x509.Certificate {
	a.t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return c
}

func (a *testAuthority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.issuer)
	return pool
}

// writePair writes a new key and a certificate for the name and for the
// loopback, and the CA beside them.
func (a *testAuthority) writePair(directory, name string) *x509.Certificate {
	a.t.Helper()
	key := ecKey(a.t)
	a.serial++
	c := a.sign(&x509.Certificate{
		SerialNumber: big.NewInt(100 + a.serial), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}, a.issuer, key.Public())
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{
		name + ".pem": {Type: "CERTIFICATE", Bytes: c.Raw}, name + ".key": {Type: "PRIVATE KEY", Bytes: der},
		"ca.pem": {Type: "CERTIFICATE", Bytes: a.issuer.Raw},
	} {
		if err := os.WriteFile(filepath.Join(directory, file), pem.EncodeToMemory(block), 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	return c
}
