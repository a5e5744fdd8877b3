package app_test

import (
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
	"syscall"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"github.com/certvendor/certvendor/internal/loopback"
)

// mosquittoBroker is a broker that nobody here wrote.
type mosquittoBroker struct {
	directory, address string
	command            *exec.Cmd
	key                *ecdsa.PrivateKey
	ca                 *x509.Certificate
}

func startMosquitto(t *testing.T) *mosquittoBroker {
	t.Helper()
	program := required(t, "mosquitto", "apt-get install mosquitto")
	address, err := loopback.Address()
	if err != nil {
		t.Fatal(err)
	}
	b := &mosquittoBroker{directory: t.TempDir(), address: address}
	b.makeCA(t)
	b.writePair(t, "server")
	b.writePair(t, "vendor")
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("listener %s 127.0.0.1\ncafile %s\ncertfile %s\nkeyfile %s\nrequire_certificate true\nuse_identity_as_username true\nlog_type error\n",
		port, b.at("ca.pem"), b.at("server.pem"), b.at("server.key"))
	if os.Getuid() == 0 {
		text += "user root\n" // otherwise it becomes a user that cannot read the files
	}
	if err := os.WriteFile(b.at("conf"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	b.command = exec.Command(program, "-c", b.at("conf"))
	if err := b.command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.stop(t) })
	return b
}

func (b *mosquittoBroker) stop(t *testing.T) {
	t.Helper()
	if b.command == nil {
		return
	}
	if err := b.command.Process.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	_ = b.command.Wait()
	b.command = nil
}

func (b *mosquittoBroker) at(name string) string { return filepath.Join(b.directory, name) }

func (b *mosquittoBroker) makeCA(t *testing.T) {
	t.Helper()
	var err error
	if b.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	b.ca = &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "broker CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	b.write(t, "ca.pem", b.ca, b.key.Public())
}

func (b *mosquittoBroker) write(t *testing.T, file string, template *x509.Certificate, public any) {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, b.ca, public, b.key)
	if err == nil {
		err = os.WriteFile(b.at(file), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (b *mosquittoBroker) writePair(t *testing.T, name string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	b.write(t, name+".pem", &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
	}, key.Public())
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err == nil {
		err = os.WriteFile(b.at(name+".key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (b *mosquittoBroker) connect(t *testing.T, name string) mqtt.Client {
	t.Helper()
	b.writePair(t, name)
	pair, err := tls.LoadX509KeyPair(b.at(name+".pem"), b.at(name+".key"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(b.at("ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(text)
	client := mqtt.NewClient(mqtt.NewClientOptions().AddBroker("tls://" + b.address).SetClientID(name).SetProtocolVersion(4).
		SetAutoReconnect(false).SetTLSConfig(&tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}))
	token := client.Connect()
	if token.Wait(); token.Error() != nil {
		t.Fatal(token.Error())
	}
	t.Cleanup(func() { client.Disconnect(0) })
	return client
}
