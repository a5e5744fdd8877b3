package main

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"github.com/certvendor/certvendor/protocol"
)

// Mosquitto is a broker that nobody here wrote and that cannot say which
// certificate a message came over: the vendor beside it wants a proof.
func TestRotatesOnMosquitto(t *testing.T) {
	program := mosquitto(t)
	v := newAuthorityOnly(t)
	b := box{t: t, directory: t.TempDir()}
	v.firstPair(b.directory)
	first := b.read("first.pem")
	broker := startMosquitto(t, b, v, program)
	answerer := v.answerOn(broker.address)
	b.write("agent.yaml", "device: pump-7\nbroker: "+v.address+"\nca: roots.pem\ndirectory: store\nproof: true\n")
	b.enrol("first.pem", "first.key")
	before := b.status()
	c := b.command("run")
	log, ended := b.start(c)
	eventually(t, "it is connected", func() bool { return strings.Contains(log.String(), "msg=connected") })
	v.script(func() { v.setJob("rotate-1") })
	answerer.Publish("$aws/things/"+pump+"/jobs/notify-next", 1, false, protocol.Encode(protocol.JobExecutionReply{})).Wait()
	eventually(t, "it has rotated", func() bool { return strings.Contains(log.String(), "msg=promoted") })
	after := b.status()
	if after.CertificateID == before.CertificateID || !v.onlyAccepts(after.CertificateID) {
		t.Errorf("in use %s; to be accepted %v", after.CertificateID, v.accepted)
	}
	if len(v.updates) != 1 || v.updates[0].Status != protocol.JobSucceeded || v.acks != 1 {
		t.Errorf("%d acks, job updates %+v", v.acks, v.updates)
	}
	if out := broker.log.String(); !strings.Contains(out, "as "+pump+"/candidate ") || !strings.Contains(out, "u'"+pump+"'") {
		t.Errorf("the broker never saw the candidate: %s", out)
	}

	// From now on the broker refuses the old certificate; the program stays.
	connections := func() int {
		return strings.Count(log.String(), "msg=connected certificate="+after.CertificateID)
	}
	eventually(t, "it has connected", func() bool { return connections() == 1 })
	broker.stop()
	v.revoke(b, first)
	startMosquitto(t, b, v, program)
	eventually(t, "it has connected again", func() bool { return connections() == 2 })
	if err := v.connect(b.path("first.pem"), b.path("first.key")); err == nil {
		t.Error("the old certificate still connects")
	}
	if err := v.connect(after.Certificate, after.Key); err != nil {
		t.Error("the new certificate:", err)
	}
	terminate(t, c, ended)
}

// mosquitto returns the program's path.
func mosquitto(t *testing.T) string {
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

// newAuthorityOnly returns a vendor whose broker is another one.
func newAuthorityOnly(t *testing.T) *vendor {
	v := newCA(t)
	v.address = freeAddress(t)
	return v
}

type mosquittoBroker struct {
	address string
	log     *transcript
	stop    func()
}

// startMosquitto starts the broker at the vendor's address; it asks for a
// certificate of the vendor's CA, and heeds its revocation list once there is one.
func startMosquitto(t *testing.T, b box, v *vendor, program string) mosquittoBroker {
	t.Helper()
	_, port, err := net.SplitHostPort(v.address)
	if err != nil {
		t.Fatal(err)
	}
	v.writePair(b.directory, "server", "server")
	text := fmt.Sprintf("listener %s 127.0.0.1\ncafile %s\ncertfile %s\nkeyfile %s\n", port, b.path("roots.pem"), b.path("server.pem"), b.path("server.key"))
	text += "require_certificate true\nuse_identity_as_username true\nallow_anonymous false\nconnection_messages true\nlog_type all\nlog_dest stderr\n"
	if _, err := os.Stat(b.path("revoked.pem")); err == nil {
		text += "crlfile " + b.path("revoked.pem") + "\n"
	}
	if os.Getuid() == 0 {
		text += "user root\n" // otherwise it becomes a user that cannot read the files
	}
	b.write("mosquitto.conf", text)
	c := exec.Command(program, "-c", b.path("mosquitto.conf"))
	log, ended := b.start(c)
	v.writePair(b.directory, "probe", "probe")
	eventually(t, "mosquitto serves: "+log.String(), func() bool {
		return v.connect(b.path("probe.pem"), b.path("probe.key")) == nil
	})
	stop := func() {
		if err := c.Process.Kill(); err != nil {
			t.Error(err)
		}
		<-ended
	}
	return mosquittoBroker{address: v.address, log: log, stop: stop}
}

// connect reports whether the broker takes a pair.
func (v *vendor) connect(certificate, key string) error {
	pair, err := tls.LoadX509KeyPair(certificate, key)
	if err != nil {
		return err
	}
	client, err := v.dial("try", pair)
	if err == nil {
		client.Disconnect(0)
	}
	return err
}

func (v *vendor) dial(clientID string, pair tls.Certificate) (mqtt.Client, error) {
	roots := x509.NewCertPool()
	roots.AddCert(v.ca)
	client := mqtt.NewClient(mqtt.NewClientOptions().AddBroker("tls://" + v.address).SetClientID(clientID).
		SetProtocolVersion(4).SetOrderMatters(false).SetAutoReconnect(false).SetConnectTimeout(10 * time.Second).
		SetTLSConfig(&tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}))
	token := client.Connect()
	token.Wait()
	return client, token.Error()
}

// answerOn answers the device over a broker of its own.
func (v *vendor) answerOn(address string) mqtt.Client {
	v.t.Helper()
	directory := v.t.TempDir()
	v.writePair(directory, "answerer", "answerer")
	pair, err := tls.LoadX509KeyPair(filepath.Join(directory, "answerer.pem"), filepath.Join(directory, "answerer.key"))
	if err != nil {
		v.t.Fatal(err)
	}
	client, err := v.dial("answerer", pair)
	if err != nil {
		v.t.Fatalf("connect to %s: %v", address, err)
	}
	v.t.Cleanup(func() { client.Disconnect(0) })
	jobs := "$aws/things/" + pump + "/jobs/"
	topics := map[string]byte{jobs + "start-next": 1, jobs + "+/get": 1, jobs + "+/update": 1}
	for _, action := range []string{"get", "ack"} {
		topics["cdf/certificates/"+pump+"/"+action] = 1
	}
	token := client.SubscribeMultiple(topics, func(c mqtt.Client, m mqtt.Message) {
		var reply any
		v.script(func() { reply = v.answer(v.prover(m), m.Topic(), m.Payload()) })
		c.Publish(m.Topic()+verdict(reply), 1, false, protocol.Encode(reply))
	})
	if token.Wait(); token.Error() != nil {
		v.t.Fatal(token.Error())
	}
	return client
}

// prover returns the ID of the open rotation's certificate if the message
// proves that its key sent it.
func (v *vendor) prover(m mqtt.Message) string {
	if !strings.HasSuffix(m.Topic(), "/ack") {
		return ""
	}
	ack, err := protocol.DecodeAck(m.Payload(), protocol.Address{Device: pump, Action: protocol.Ack})
	if err != nil {
		v.t.Error(err)
		return ""
	}
	for _, certificate := range v.vended {
		if id := idOf(certificate); id == v.open && ack.CertificateID == id &&
			protocol.VerifyProof(certificate.PublicKey, pump, id, nonce, ack.Proof) == nil {
			return id
		}
	}
	return ""
}

// revoke writes the list that holds a certificate.
func (v *vendor) revoke(b box, certificate string) {
	v.t.Helper()
	revoked := parse(v.t, certificate)
	list, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number: big.NewInt(1), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(time.Hour),
		RevokedCertificateEntries: []x509.RevocationListEntry{{SerialNumber: revoked.SerialNumber, RevocationTime: time.Now().Add(-time.Minute)}},
	}, v.ca, v.key)
	if err != nil {
		v.t.Fatal(err)
	}
	b.write("revoked.pem", string(pemOf("X509 CRL", list)))
}
