package app_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"github.com/certvendor/certvendor/protocol"
)

// patience is how long anything is waited for. It only says when to give up.
const patience = 30 * time.Second

// refused is what a SUBACK says of a filter that was not granted (MQTT 3.1.1,
// 3.9.3).
const refused = 0x80

// peer speaks MQTT 3.1.1 packet by packet, so that it can send what no client
// library would. It does one thing after the other, and acknowledges what it is
// sent.
type peer struct {
	t    *testing.T
	conn net.Conn
	name string // of the device it connects as
	id   uint16 // the latest packet id

	resumed bool // the broker had kept its session
}

// in returns the peer for use in a part of the test.
func (p peer) in(t *testing.T) *peer {
	p.t = t
	return &p
}

// knock connects with a certificate and says CONNECT. It returns the code of
// the CONNACK, or the error by which the broker ended it without one.
func (w *world) knock(t *testing.T, certificate *tls.Certificate, clientID string, edits ...func(*packets.ConnectPacket)) (*peer, byte, error) {
	host, _, err := net.SplitHostPort(w.target.Broker)
	if err != nil {
		return nil, 0, err
	}
	config := &tls.Config{
		MinVersion: tls.VersionTLS12, RootCAs: w.target.Roots, ServerName: host,
		CurvePreferences: []tls.CurveID{tls.CurveP256}, // the cheapest, for there are thousands
	}
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return certificate, nil }
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", w.target.Broker)
	if err != nil {
		return nil, 0, err
	}
	t.Cleanup(func() { _ = conn.Close() })
	connect := packets.NewControlPacket(packets.Connect).(*packets.ConnectPacket)
	connect.ProtocolName, connect.ProtocolVersion, connect.CleanSession = "MQTT", 4, true
	connect.Keepalive, connect.ClientIdentifier = 1200, clientID
	for _, edit := range edits {
		edit(connect)
	}
	p := &peer{t: t, conn: conn}
	if err := p.send(connect); err != nil {
		return nil, 0, err
	}
	answer, err := p.read()
	if err != nil {
		return nil, 0, err
	}
	connack, ok := answer.(*packets.ConnackPacket)
	if !ok {
		return nil, 0, fmt.Errorf("%T instead of a CONNACK", answer)
	}
	p.resumed = connack.SessionPresent
	return p, connack.ReturnCode, nil
}

// open connects as a device and hears its replies.
func (w *world) open(t *testing.T, name, clientID string, certificate tls.Certificate) *peer {
	t.Helper()
	p, code, err := w.knock(t, &certificate, clientID)
	if err != nil || code != packets.Accepted {
		t.Fatalf("connect as %s: code %d, %v", clientID, code, err)
	}
	p.name = name
	replies := protocol.DefaultTopics()
	for _, action := range []protocol.Action{protocol.Get, protocol.Ack} {
		if code, ok := p.subscribe(replies.Request(name, action) + "/+"); !ok || code == refused {
			t.Fatalf("%s may not hear its own replies: %#x", name, code)
		}
	}
	return p
}

func (p *peer) send(packet packets.ControlPacket) error {
	var b bytes.Buffer
	if err := packet.Write(&b); err != nil {
		return err
	}
	return p.write(b.Bytes())
}

func (p *peer) write(b []byte) error {
	_ = p.conn.SetWriteDeadline(time.Now().Add(patience))
	_, err := p.conn.Write(b)
	return err
}

// read returns the next packet, or the error by which the connection ended. A
// broker that says nothing at all fails the test.
func (p *peer) read() (packets.ControlPacket, error) {
	_ = p.conn.SetReadDeadline(time.Now().Add(patience))
	packet, err := packets.ReadPacket(p.conn)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		p.t.Errorf("%s: neither an answer nor an end", p.name)
	}
	if m, ok := packet.(*packets.PublishPacket); ok && m.Qos > 0 {
		puback := packets.NewControlPacket(packets.Puback).(*packets.PubackPacket)
		puback.MessageID = m.MessageID
		err = p.send(puback)
	}
	return packet, err
}

// message returns a PUBLISH as it goes over the wire.
func message(t *testing.T, qos byte, id uint16, topic string, payload []byte) []byte {
	t.Helper()
	publish := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	publish.Qos, publish.MessageID, publish.TopicName, publish.Payload = qos, id, topic, payload
	var b bytes.Buffer
	if err := publish.Write(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// subscribe returns what the broker says of a filter, and false if it ended the
// connection instead.
func (p *peer) subscribe(filter string) (code byte, ok bool) {
	p.t.Helper()
	p.id++
	subscribe := packets.NewControlPacket(packets.Subscribe).(*packets.SubscribePacket)
	subscribe.MessageID, subscribe.Topics, subscribe.Qoss = p.id, []string{filter}, []byte{1}
	if p.send(subscribe) != nil {
		return refused, false
	}
	for {
		packet, err := p.read()
		if err != nil {
			return refused, false
		}
		if suback, is := packet.(*packets.SubackPacket); is && len(suback.ReturnCodes) == 1 {
			return suback.ReturnCodes[0], true
		}
	}
}

// heard asks whether the broker is there, and returns what it sent before it
// said so.
func (p *peer) heard() (before []*packets.PublishPacket) {
	p.t.Helper()
	if err := p.send(packets.NewControlPacket(packets.Pingreq)); err != nil {
		p.t.Fatalf("%s: %v", p.name, err)
	}
	for {
		packet, err := p.read()
		if err != nil {
			p.t.Fatalf("%s: the connection has ended: %v", p.name, err)
		}
		switch packet := packet.(type) {
		case *packets.PublishPacket:
			before = append(before, packet)
		case *packets.PingrespPacket:
			return before
		}
	}
}

// quiet fails the test unless the connection is there and nothing was sent
// over it.
func (p *peer) quiet() {
	p.t.Helper()
	for _, m := range p.heard() {
		p.t.Errorf("%s was sent %s on %s", p.name, m.Payload, m.TopicName)
	}
}

// ends fails the test unless the broker ends the connection without another
// word.
func (p *peer) ends() {
	p.t.Helper()
	if packet, err := p.read(); err == nil {
		p.t.Errorf("%s was answered: %s", p.name, packet)
	}
}

// ended waits until the broker ends the connection, whatever it says before: a
// device's replies go to all its connections.
func (p *peer) ended() {
	p.t.Helper()
	for {
		if _, err := p.read(); err != nil {
			return
		}
	}
}

// ask publishes a request and returns its reply; it fails the test unless there
// is exactly one.
func (p *peer) ask(action protocol.Action, payload string) (accepted bool, reply []byte) {
	p.t.Helper()
	p.id++
	return p.replay(action, message(p.t, 1, p.id, protocol.DefaultTopics().Request(p.name, action), []byte(payload)))
}

// replay writes a request as it once went over the wire.
func (p *peer) replay(action protocol.Action, request []byte) (accepted bool, reply []byte) {
	p.t.Helper()
	if err := p.write(request); err != nil {
		p.t.Fatalf("%s: %v", p.name, err)
	}
	var got *packets.PublishPacket
	for acknowledged := false; got == nil || !acknowledged; {
		packet, err := p.read()
		if err != nil {
			p.t.Fatalf("%s: no reply: %v", p.name, err)
		}
		switch packet := packet.(type) {
		case *packets.PublishPacket:
			got = packet
		case *packets.PubackPacket:
			acknowledged = true
		}
	}
	p.quiet()
	topics := protocol.DefaultTopics()
	switch got.TopicName {
	case topics.Accepted(p.name, action):
		return true, got.Payload
	case topics.Rejected(p.name, action):
		return false, got.Payload
	}
	p.t.Fatalf("%s: a reply on %s", p.name, got.TopicName)
	return false, nil
}

// refusedAs asks, and fails the test unless it is refused for this reason.
func (p *peer) refusedAs(reason protocol.Reason, action protocol.Action, payload string) {
	p.t.Helper()
	accepted, reply := p.ask(action, payload)
	var rejected protocol.Rejected
	if err := protocol.Decode(reply, &rejected); err != nil {
		p.t.Fatal(err)
	}
	want := protocol.Rejected{DeviceID: p.name, Action: action, Message: reason, Detail: rejected.Detail, RetryAfter: rejected.RetryAfter}
	if accepted || rejected != want {
		p.t.Errorf("%s of %s: accepted %t, %+v; want %s", action, p.name, accepted, rejected, reason)
	}
}
