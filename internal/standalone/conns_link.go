package standalone

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"sync"
	"sync/atomic"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
	"golang.org/x/time/rate"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/vending"
)

// mqttLink is one connection, with all the broker knows of it. It is the
// net.Conn that the MQTT library holds, so every hook finds it there. A peer
// that does not read costs a writer at most the write deadline, and then ends.
type mqttLink struct {
	net.Conn // over TLS once the handshake is done
	raw      net.Conn
	limits   BrokerLimits

	slots    *slots // of its address; nil: it needs none
	release  func() // gives the slot back
	finished sync.Once
	deadline time.Time // by when the CONNECT must be accepted
	done     chan struct{}

	// Set by the handshake.
	certificate certificate.ID
	commonName  string
	leaf        *x509.Certificate
	expired     bool   // may use get, ack and jobs only
	trust       uint64 // of the CAs, when the handshake began

	client *mqtt.Client // the library's half, after the handshake

	// Set by the CONNECT.
	device   registry.DeviceID
	clientID string
	jobs     *rate.Limiter

	outbox  outbox
	writing sync.Mutex
	corked  bool
	kept    []byte // of what was written since

	accepted atomic.Bool
	draining atomic.Bool
	killed   atomic.Bool
	heard    atomic.Int64 // when the last packet came, UnixNano
	lastSent atomic.Uint32
	theirs   uint16 // packet id of the packet being handled, as it came
	ours     uint16 // the one that stands for it inside
}

func newMQTTLink(raw net.Conn, limits BrokerLimits) *mqttLink {
	return &mqttLink{Conn: raw, raw: raw, limits: limits, done: make(chan struct{})}
}

// secure takes what the handshake showed.
func (l *mqttLink) secure(c *tls.Conn, now time.Time) {
	leaf := c.ConnectionState().PeerCertificates[0]
	l.Conn, l.leaf = c, leaf
	l.certificate = certificate.IDOf(leaf.Raw)
	l.commonName = leaf.Subject.CommonName
	l.expired = now.After(leaf.NotAfter)
}

func (l *mqttLink) caller(evidence certificate.Evidence) vending.Caller {
	return vending.Caller{Device: l.device, Certificate: l.certificate, CommonName: l.commonName, Evidence: evidence}
}

// Write writes within the write deadline, or keeps what is small for the
// uncorking. A write that fails ends the connection: what is left of a TLS
// record cannot be sent again.
func (l *mqttLink) Write(p []byte) (int, error) {
	l.writing.Lock()
	defer l.writing.Unlock()
	const atMost = 8 << 10
	if l.corked && len(l.kept)+len(p) <= atMost {
		l.kept = append(l.kept, p...)
		return len(p), nil
	}
	if err := l.writeKept(); err != nil {
		return 0, err
	}
	return l.write(p)
}

// cork keeps what is written from now on until uncork writes it in one piece.
func (l *mqttLink) cork() {
	l.writing.Lock()
	defer l.writing.Unlock()
	l.corked = true
}

func (l *mqttLink) uncork() {
	l.writing.Lock()
	defer l.writing.Unlock()
	l.corked = false
	_ = l.writeKept() // who reads next finds the connection ended
}

func (l *mqttLink) writeKept() error {
	if len(l.kept) == 0 {
		return nil
	}
	kept := l.kept
	l.kept = nil
	_, err := l.write(kept)
	return err
}

func (l *mqttLink) write(p []byte) (int, error) {
	if err := l.Conn.SetWriteDeadline(time.Now().Add(l.limits.Write)); err != nil {
		l.kill()
		return 0, err
	}
	n, err := l.Conn.Write(p)
	if err != nil {
		l.kill()
	}
	return n, err
}

// next waits for a packet's beginning, for one and a half times the keepalive.
func (l *mqttLink) next(header *packets.FixedHeader) error {
	silence := time.Duration(l.client.State.Keepalive) * time.Second * 3 / 2
	if err := l.SetReadDeadline(time.Now().Add(silence)); err != nil {
		return err
	}
	if l.draining.Load() { // its own deadline may have come just before
		return net.ErrClosed
	}
	return l.client.ReadFixedHeader(header)
}

// Close ends the connection at the raw socket: a TLS alert to a peer that does
// not read would wait for it.
func (l *mqttLink) Close() error {
	l.killed.Store(true)
	return l.raw.Close()
}

func (l *mqttLink) kill() { _ = l.Close() }

// drain ends the connection when the packet at work has been answered.
func (l *mqttLink) drain() {
	l.draining.Store(true)
	_ = l.SetReadDeadline(time.Unix(1, 0))
}

// linger closes for writing and reads on for a moment, so that the refusal
// just written is not lost to a reset: the peer may have sent more meanwhile.
func (l *mqttLink) linger() {
	const moment, atMost = time.Second, 64
	if c, ok := l.Conn.(*tls.Conn); ok {
		_ = c.CloseWrite()
	}
	_ = l.raw.SetReadDeadline(time.Now().Add(moment))
	buffer := make([]byte, 4<<10)
	for range atMost {
		if _, err := l.raw.Read(buffer); err != nil {
			return
		}
	}
}

// nextID returns a packet id for a message to the device. The library's own way to
// one waits for whoever writes to the connection.
func (l *mqttLink) nextID(held *mqtt.Inflight) uint16 {
	for {
		id := uint16(l.lastSent.Add(1))
		if _, taken := held.Get(id); id != 0 && !taken {
			return id // ends: a session holds fewer messages than there are ids
		}
	}
}

// standIn returns a packet id for a packet of the device that no message to
// the device bears, nor will before the packet is answered. The library keeps
// one map for both directions, and an inbound packet with the id of an
// unacknowledged message would delete it, or be refused for it.
func (l *mqttLink) standIn(theirs uint16, client *mqtt.Client) uint16 {
	id := uint16(l.lastSent.Load()) ^ 0x8000 // ids count up: half the way round is far
	for {
		if _, taken := client.State.Inflight.Get(id); id != 0 && !taken {
			l.theirs, l.ours = theirs, id
			return id
		}
		id++ // ends: a session holds fewer messages than there are ids
	}
}
