// Package mqtt is as much of MQTT 3.1.1 as a device needs to ask and be
// answered: one connection, used by one goroutine at a time, that reads into
// one buffer. It costs the machine less than a library does, so that what is
// measured beside it is the server.
package mqtt

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"
)

// Packet types, in the upper half of the first octet (MQTT 3.1.1, 2.2.1).
const (
	connect    = 1 << 4
	connack    = 2 << 4
	publish    = 3 << 4
	puback     = 4 << 4
	subscribe  = 8<<4 | 2
	suback     = 9 << 4
	pingreq    = 12 << 4
	pingresp   = 13 << 4
	disconnect = 14 << 4
	qos1       = 1 << 1
)

// patience is how long the broker may take for anything.
const patience = 30 * time.Second

// keepalive is what CONNECT promises, in seconds.
const keepalive = 1200

// Conn is an open connection.
type Conn struct {
	tls  *tls.Conn
	in   *bufio.Reader
	body []byte // of the packet read last
	out  []byte
	id   uint16
}

// Dial connects, speaks TLS and is accepted.
func Dial(ctx context.Context, address string, config *tls.Config, clientID string) (*Conn, error) {
	dialer := tls.Dialer{Config: config}
	raw, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("connect %s: %w", clientID, err)
	}
	c := &Conn{tls: raw.(*tls.Conn), in: bufio.NewReaderSize(raw, 4096)}
	if err := c.connect(clientID); err != nil {
		return nil, errors.Join(fmt.Errorf("connect %s: %w", clientID, err), raw.Close())
	}
	return c, nil
}

func (c *Conn) connect(clientID string) error {
	body := append(appendString(nil, "MQTT"), 4, 2) // level 4; clean session
	body = binary.BigEndian.AppendUint16(body, keepalive)
	if err := c.send(connect, appendString(body, clientID)); err != nil {
		return err
	}
	kind, err := c.read()
	switch {
	case err != nil:
		return err
	case kind != connack || len(c.body) != 2:
		return fmt.Errorf("answered with packet %#x", kind)
	case c.body[1] != 0:
		return fmt.Errorf("refused with code %d", c.body[1])
	}
	return nil
}

// Subscribe subscribes at QoS 1.
func (c *Conn) Subscribe(filter string) error {
	body := binary.BigEndian.AppendUint16(nil, c.next())
	body = append(appendString(body, filter), 1)
	if err := c.send(subscribe, body); err != nil {
		return err
	}
	kind, err := c.read()
	switch {
	case err != nil:
		return fmt.Errorf("subscribe %s: %w", filter, err)
	case kind != suback || len(c.body) != 3 || c.body[2] > 2:
		return fmt.Errorf("subscribe %s: refused", filter)
	}
	return nil
}

// Ask publishes at QoS 1 and returns the message that comes next, which it
// acknowledges. Topic and payload are valid until the next call.
func (c *Conn) Ask(topic string, payload []byte) (answered string, reply []byte, err error) {
	body := binary.BigEndian.AppendUint16(appendString(nil, topic), c.next())
	if err := c.send(publish|qos1, append(body, payload...)); err != nil {
		return "", nil, err
	}
	for {
		kind, err := c.read()
		if err != nil {
			return "", nil, fmt.Errorf("ask %s: %w", topic, err)
		}
		if kind&0xf0 == publish {
			return c.message(kind)
		}
	}
}

// message reads a PUBLISH and acknowledges it.
func (c *Conn) message(kind byte) (topic string, payload []byte, err error) {
	topic, rest, ok := cutString(c.body)
	if !ok {
		return "", nil, errors.New("a PUBLISH that cannot be read")
	}
	if kind&qos1 == 0 {
		return topic, rest, nil
	}
	if len(rest) < 2 {
		return "", nil, errors.New("a PUBLISH without its id")
	}
	return topic, rest[2:], c.send(puback, rest[:2])
}

// Ping asks whether the connection is alive.
func (c *Conn) Ping() error {
	if err := c.send(pingreq, nil); err != nil {
		return err
	}
	for {
		switch kind, err := c.read(); {
		case err != nil:
			return err
		case kind == pingresp:
			return nil
		}
	}
}

// Close says good-bye and hangs up.
func (c *Conn) Close() error {
	_ = c.send(disconnect, nil) // it may have hung up already
	return c.tls.NetConn().Close()
}

func (c *Conn) next() uint16 {
	if c.id++; c.id == 0 {
		c.id = 1
	}
	return c.id
}

// send writes a packet in one piece.
func (c *Conn) send(kind byte, body []byte) error {
	if err := c.tls.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	c.out = append(c.out[:0], kind)
	for n := len(body); ; {
		octet := byte(n & 0x7f)
		if n >>= 7; n > 0 {
			octet |= 0x80
		}
		c.out = append(c.out, octet)
		if n == 0 {
			break
		}
	}
	c.out = append(c.out, body...)
	_, err := c.tls.Write(c.out)
	return err
}

// read reads a packet, whose body stays in c.body until the next one.
func (c *Conn) read() (kind byte, err error) {
	if kind, err = c.in.ReadByte(); err != nil {
		return 0, err
	}
	length, err := binary.ReadUvarint(c.in) // the same coding as MQTT's remaining length
	if err != nil {
		return 0, err
	}
	if length > 256<<10 {
		return 0, fmt.Errorf("a packet of %d octets", length)
	}
	if cap(c.body) < int(length) {
		c.body = make([]byte, length)
	}
	c.body = c.body[:length]
	_, err = io.ReadFull(c.in, c.body)
	return kind, err
}

func appendString(to []byte, text string) []byte {
	return append(binary.BigEndian.AppendUint16(to, uint16(len(text))), text...)
}

func cutString(from []byte) (text string, rest []byte, ok bool) {
	if len(from) < 2 {
		return "", nil, false
	}
	n := int(binary.BigEndian.Uint16(from))
	if len(from) < 2+n {
		return "", nil, false
	}
	return string(from[2 : 2+n]), from[2+n:], true
}
