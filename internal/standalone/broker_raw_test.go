package standalone

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
)

// rawClient speaks MQTT packet by packet, so that a test can misbehave.
type rawClient struct {
	t       *testing.T
	conn    net.Conn
	reader  *bufio.Reader
	version byte
}

// handshake connects with TLS and says nothing yet.
func (w *brokerWorld) handshake(c tls.Certificate) *rawClient {
	w.t.Helper()
	r, err := w.tryHandshake(w.trust(c))
	if err != nil {
		w.t.Fatalf("handshake: %v", err)
	}
	return r
}

func (w *brokerWorld) tryHandshake(config *tls.Config) (*rawClient, error) {
	w.t.Helper()
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: patience}, "tcp", w.Addr().String(), config)
	if err != nil {
		return nil, err
	}
	w.t.Cleanup(func() { _ = conn.Close() })
	return &rawClient{t: w.t, conn: conn, reader: bufio.NewReader(conn), version: 4}, nil
}

// raw connects a client that can misbehave later.
func (w *brokerWorld) raw(c tls.Certificate, clientID string, edits ...func(*packets.Packet)) *rawClient {
	w.t.Helper()
	r := w.handshake(c)
	if code := r.connect(clientID, edits...); code != 0 {
		w.t.Fatalf("connect %s: refused with %#x", clientID, code)
	}
	return r
}

// connect sends CONNECT and returns the code of the CONNACK.
func (r *rawClient) connect(clientID string, edits ...func(*packets.Packet)) byte {
	r.t.Helper()
	ack, err := r.tryConnect(clientID, edits...)
	if err != nil {
		r.t.Fatalf("connect %s: %v", clientID, err)
	}
	return ack.ReasonCode
}

func (r *rawClient) tryConnect(clientID string, edits ...func(*packets.Packet)) (packets.Packet, error) {
	r.t.Helper()
	pk := packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Connect}, ProtocolVersion: 4,
		Connect: packets.ConnectParams{ProtocolName: []byte("MQTT"), Clean: true, Keepalive: 60, ClientIdentifier: clientID},
	}
	for _, edit := range edits {
		edit(&pk)
	}
	r.version = pk.ProtocolVersion
	var b bytes.Buffer
	if err := pk.ConnectEncode(&b); err != nil {
		r.t.Fatal(err)
	}
	r.send(b.Bytes())
	return r.read()
}

func (r *rawClient) send(b []byte) {
	r.t.Helper()
	_ = r.conn.SetWriteDeadline(time.Now().Add(patience))
	if _, err := r.conn.Write(b); err != nil {
		r.t.Logf("write: %v", err)
	}
}

// publish sends a PUBLISH; id 0 is QoS 0.
func (r *rawClient) publish(id uint16, topic, payload string, edits ...func(*packets.Packet)) {
	r.t.Helper()
	pk := packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Publish}, ProtocolVersion: r.version,
		TopicName: topic, Payload: []byte(payload), PacketID: id,
	}
	if id != 0 {
		pk.FixedHeader.Qos = 1
	}
	for _, edit := range edits {
		edit(&pk)
	}
	var b bytes.Buffer
	if err := pk.PublishEncode(&b); err != nil {
		r.t.Fatal(err)
	}
	r.send(b.Bytes())
}

// subscribe sends a SUBSCRIBE and returns the codes of the SUBACK.
func (r *rawClient) subscribe(id uint16, filters ...string) []byte {
	r.t.Helper()
	return r.subscribeAt(1, id, filters...)
}

func (r *rawClient) subscribeAt(qos byte, id uint16, filters ...string) []byte {
	r.t.Helper()
	pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Subscribe, Qos: 1}, ProtocolVersion: r.version, PacketID: id}
	for _, f := range filters {
		pk.Filters = append(pk.Filters, packets.Subscription{Filter: f, Qos: qos})
	}
	var b bytes.Buffer
	if err := pk.SubscribeEncode(&b); err != nil {
		r.t.Fatal(err)
	}
	r.send(b.Bytes())
	ack := r.expect(packets.Suback)
	if ack.PacketID != id {
		r.t.Fatalf("SUBACK for %d, not %d", ack.PacketID, id)
	}
	return ack.ReasonCodes
}

// ack acknowledges a message.
func (r *rawClient) ack(kind byte, id uint16) {
	r.t.Helper()
	var b bytes.Buffer
	pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: kind}, ProtocolVersion: r.version, PacketID: id}
	if kind == packets.Pubrel {
		pk.FixedHeader.Qos = 1
	}
	if err := pk.PubackEncode(&b); err != nil {
		r.t.Fatal(err)
	}
	r.send(b.Bytes())
}

// expect reads until a packet of that type comes.
func (r *rawClient) expect(kind byte) packets.Packet {
	r.t.Helper()
	for {
		pk, err := r.read()
		if err != nil {
			r.t.Fatalf("expected %s: %v", packets.PacketNames[kind], err)
		}
		if pk.FixedHeader.Type == kind {
			return pk
		}
	}
}

// read reads one packet.
func (r *rawClient) read() (packets.Packet, error) {
	_ = r.conn.SetReadDeadline(time.Now().Add(patience))
	first, err := r.reader.ReadByte()
	if err != nil {
		return packets.Packet{}, err
	}
	pk := packets.Packet{ProtocolVersion: r.version}
	if err := pk.FixedHeader.Decode(first); err != nil {
		return pk, err
	}
	if pk.FixedHeader.Remaining, _, err = packets.DecodeLength(r.reader); err != nil {
		return pk, err
	}
	body := make([]byte, pk.FixedHeader.Remaining)
	if _, err := io.ReadFull(r.reader, body); err != nil {
		return pk, err
	}
	switch pk.FixedHeader.Type {
	case packets.Connack:
		err = pk.ConnackDecode(body)
	case packets.Publish:
		err = pk.PublishDecode(body)
	case packets.Puback:
		err = pk.PubackDecode(body)
	case packets.Suback:
		err = pk.SubackDecode(body)
	case packets.Unsuback:
		err = pk.UnsubackDecode(body)
	case packets.Disconnect:
		err = pk.DisconnectDecode(body)
	}
	return pk, err
}

// expectEnd fails the test unless the broker ends the connection; it returns
// what came before.
func (r *rawClient) expectEnd() []packets.Packet {
	r.t.Helper()
	var before []packets.Packet
	for {
		pk, err := r.read()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			r.t.Fatal("the broker did not end the connection")
		}
		if err != nil {
			return before
		}
		before = append(before, pk)
	}
}

// alive fails the test unless the connection still answers.
func (r *rawClient) alive() {
	r.t.Helper()
	r.send([]byte{packets.Pingreq << 4, 0})
	r.expect(packets.Pingresp)
}

func v5(pk *packets.Packet) { pk.ProtocolVersion = 5 }

func keepSession(pk *packets.Packet) { pk.Connect.Clean = false }
