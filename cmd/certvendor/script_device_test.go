package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/control"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
)

// session is a device's connection, over real TLS.
type session struct {
	ts     *testscript.TestScript
	name   string
	client mqtt.Client
	lost   chan error
}

// connectAs connects a device with out/<pair>.crt and .key.
func connectAs(ts *testscript.TestScript, name, pair string) *session {
	own, err := tls.LoadX509KeyPair(ts.MkAbs("out/"+pair+".crt"), ts.MkAbs("out/"+pair+".key"))
	ts.Check(err)
	text, err := os.ReadFile(ts.MkAbs("out/ca.crt"))
	ts.Check(err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(text)
	s := &session{ts: ts, name: name, lost: make(chan error, 1)}
	s.client = mqtt.NewClient(mqtt.NewClientOptions().
		AddBroker("ssl://" + ts.Getenv("CERTVENDOR_STANDALONE_BROKER_LISTEN")).SetClientID(name + "/script").
		SetAutoReconnect(false).SetConnectTimeout(patience).SetCleanSession(true).
		SetTLSConfig(&tls.Config{Certificates: []tls.Certificate{own}, RootCAs: roots, MinVersion: tls.VersionTLS12}).
		SetConnectionLostHandler(func(_ mqtt.Client, err error) { s.lost <- err }))
	s.wait(s.client.Connect())
	return s
}

func (s *session) wait(token mqtt.Token) {
	if !token.WaitTimeout(patience) {
		s.ts.Fatalf("%s: the broker does not answer", s.name)
	}
	s.ts.Check(token.Error())
}

func (s *session) close() { s.client.Disconnect(0) }

// ask sends a request, and returns its answer.
func (s *session) ask(action protocol.Action, body any) (accepted bool, reply []byte) {
	topics := protocol.DefaultTopics()
	answers := make(chan mqtt.Message, 4)
	s.wait(s.client.Subscribe(topics.Request(s.name, action)+"/+", 1, func(_ mqtt.Client, m mqtt.Message) { answers <- m }))
	s.wait(s.client.Publish(topics.Request(s.name, action), 1, false, protocol.Encode(body)))
	select {
	case m := <-answers:
		return strings.HasSuffix(m.Topic(), "/accepted"), m.Payload()
	case <-time.After(patience):
		s.ts.Fatalf("%s: no answer to its %s", s.name, action)
		return false, nil
	}
}

// gets NAME PAIR NEW has a certificate vended to a device over out/PAIR.crt,
// for the new key out/NEW.key, or for the one that is there already, as
// out/NEW.crt; with ! it must be refused.
func gets(ts *testscript.TestScript, neg bool, args []string) {
	name, next := args[0], args[2]
	key := scriptKey(ts, "out/"+next+".key")
	csr, err := control.NewRequest(key, registry.DeviceID(name))
	ts.Check(err)
	s := connectAs(ts, name, args[1])
	defer s.close()
	accepted, reply := s.ask(protocol.Get, map[string]string{"csr": csr})
	ts.Logf("%s", reply)
	if accepted == neg {
		ts.Fatalf("get of %s: %s", name, reply)
	}
	if neg {
		return
	}
	var vended protocol.GetAccepted
	ts.Check(protocol.Decode(reply, &vended))
	ts.Check(os.WriteFile(ts.MkAbs("out/"+next+".crt"), []byte(vended.Certificate), 0o600))
}

// scriptKey reads a key, or makes it.
func scriptKey(ts *testscript.TestScript, path string) *ecdsa.PrivateKey {
	if text, err := os.ReadFile(ts.MkAbs(path)); err == nil {
		key, err := parseKey(text)
		ts.Check(err)
		return key
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ts.Check(err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	ts.Check(err)
	writePEM(ts, path, "PRIVATE KEY", der)
	return key
}

func parseKey(text []byte) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("not PEM")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	own, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, errors.New("not an EC key")
	}
	return own, nil
}

// acks NAME PAIR acks over out/PAIR.crt; with ! it must be refused.
func acks(ts *testscript.TestScript, neg bool, args []string) {
	s := connectAs(ts, args[0], args[1])
	defer s.close()
	accepted, reply := s.ask(protocol.Ack, struct{}{})
	ts.Logf("%s", reply)
	if accepted == neg {
		ts.Fatalf("ack of %s: %s", args[0], reply)
	}
}

// id NAME FILE sets the variable NAME to the id of a certificate.
func certificateID(ts *testscript.TestScript, _ bool, args []string) {
	ts.Setenv(args[0], string(certificate.IDOf(scriptCertificate(ts, args[1]).Raw)))
}

func scriptCertificate(ts *testscript.TestScript, path string) *x509.Certificate {
	text, err := os.ReadFile(ts.MkAbs(path))
	ts.Check(err)
	block, _ := pem.Decode(text)
	if block == nil {
		ts.Fatalf("%s is not PEM", path)
	}
	c, err := x509.ParseCertificate(block.Bytes)
	ts.Check(err)
	return c
}

// listed CRL ISSUER FILE REASON checks that a CRL is signed by the issuer and
// lists a certificate with a reason, or with ! and no reason that it does not.
func listed(ts *testscript.TestScript, neg bool, args []string) {
	list := scriptCRL(ts, args[0])
	ts.Check(list.CheckSignatureFrom(scriptCertificate(ts, args[1])))
	if list.Number == nil || !list.NextUpdate.After(list.ThisUpdate) {
		ts.Fatalf("the CRL has number %v, and is good from %s to %s", list.Number, list.ThisUpdate, list.NextUpdate)
	}
	serial := scriptCertificate(ts, args[2]).SerialNumber
	at := slices.IndexFunc(list.RevokedCertificateEntries, func(e x509.RevocationListEntry) bool { return e.SerialNumber.Cmp(serial) == 0 })
	if (at < 0) != neg {
		ts.Fatalf("%s lists %v", args[0], list.RevokedCertificateEntries)
	}
	if neg {
		return
	}
	want, err := certificate.ParseReason(args[3])
	ts.Check(err)
	if got := list.RevokedCertificateEntries[at].ReasonCode; got != int(want) {
		ts.Fatalf("reason %d, want %d", got, want)
	}
}

func scriptCRL(ts *testscript.TestScript, path string) *x509.RevocationList {
	text, err := os.ReadFile(ts.MkAbs(path))
	ts.Check(err)
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "X509 CRL" || len(rest) > 0 {
		ts.Fatalf("%s is not a CRL in PEM", path)
	}
	list, err := x509.ParseRevocationList(block.Bytes)
	ts.Check(err)
	return list
}

// newer OLD NEW checks that a CRL comes after another.
func newer(ts *testscript.TestScript, _ bool, args []string) {
	if was, is := scriptCRL(ts, args[0]).Number, scriptCRL(ts, args[1]).Number; is.Cmp(was) <= 0 {
		ts.Fatalf("CRL %d comes after %d", is, was)
	}
}

// kept are the connections that scripts keep open, by script and pair.
var kept sync.Map

// open NAME PAIR keeps a connection over out/PAIR.crt.
func keepOpen(ts *testscript.TestScript, _ bool, args []string) {
	s := connectAs(ts, args[0], args[1])
	kept.Store(ts.MkAbs(args[1]), s)
	ts.Defer(s.close)
}

// closed PAIR waits until the broker has closed the connection that open made.
func waitClosed(ts *testscript.TestScript, neg bool, args []string) {
	s, ok := kept.Load(ts.MkAbs(args[0]))
	if !ok {
		ts.Fatalf("%s was not opened", args[0])
	}
	if neg {
		if !s.(*session).client.IsConnectionOpen() {
			ts.Fatalf("%s was closed", args[0])
		}
		return
	}
	select {
	case <-s.(*session).lost:
	case <-time.After(patience):
		ts.Fatalf("%s is open still", args[0])
	}
}
