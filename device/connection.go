package device

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"sync"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

// How long a connection may take, from the first packet to the CONNACK: slow
// devices need most of it for the handshake.
const connectTimeout = 30 * time.Second

// connection is one MQTT connection. There is a new one after every loss: the
// MQTT client's own reconnecting reports publishes as done that nobody has
// acknowledged. Safe for concurrent use.
type connection struct {
	client mqtt.Client
	lost   chan struct{}

	mu        sync.Mutex
	listeners map[*listener]struct{}
}

type message struct {
	topic   string
	payload []byte
}

// listener receives what arrives on its topics. What it does not fetch in time
// is dropped: everything here is asked for again.
type listener struct {
	topics   []string
	messages chan message
}

// connect opens a connection under this client id with this certificate.
func (a *Agent) connect(ctx context.Context, clientID string, certificate tls.Certificate) (*connection, error) {
	c := &connection{lost: make(chan struct{}), listeners: map[*listener]struct{}{}}
	address, err := brokerAddress(a.cfg.Broker)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	socket := make(chan net.Conn, 1)
	settled := false
	c.client = mqtt.NewClient(a.options(clientID, c).
		SetCustomOpenConnectionFn(func(*url.URL, mqtt.ClientOptions) (net.Conn, error) {
			conn, err := a.dial(ctx, address, certificate, a.anchors.roots)
			settled = err == nil
			if a.anchors.former != nil && errors.As(err, new(*tls.CertificateVerificationError)) {
				conn, err = a.dial(ctx, address, certificate, a.anchors.former)
			}
			if err == nil {
				socket <- conn
			}
			return conn, err
		}))
	token := c.client.Connect()
	select {
	case <-token.Done():
	case <-ctx.Done():
		// The client has no way to be told: without its socket it ends.
		select {
		case conn := <-socket:
			_ = conn.Close()
			<-token.Done()
		case <-token.Done():
		}
		c.close()
		return nil, ctx.Err()
	}
	if err := token.Error(); err != nil {
		return nil, fmt.Errorf("connect as %s: %w", clientID, err)
	}
	if settled {
		a.settleAnchors()
	}
	return c, nil
}

func (a *Agent) dial(ctx context.Context, address string, certificate tls.Certificate, roots *x509.CertPool) (net.Conn, error) {
	cfg := a.tls(address, certificate, roots)
	conn, err := (&tls.Dialer{Config: cfg}).DialContext(ctx, "tcp", address)
	if moment, ok := a.notYet(err); ok {
		return (&tls.Dialer{Config: at(cfg, moment)}).DialContext(ctx, "tcp", address)
	}
	return conn, err
}

func (a *Agent) options(clientID string, c *connection) *mqtt.ClientOptions {
	return mqtt.NewClientOptions().
		AddBroker("tls://broker"). // only the custom open function knows the address
		SetClientID(clientID).
		SetProtocolVersion(4). // MQTT 3.1.1; otherwise a refusal is tried again as 3.1
		SetCleanSession(true).
		SetAutoReconnect(false).
		SetConnectRetry(false).
		SetConnectTimeout(connectTimeout).
		SetOrderMatters(false). // a handler at work must not hold up the keep-alive
		SetKeepAlive(a.cfg.KeepAlive).
		SetWriteTimeout(connectTimeout).
		SetDefaultPublishHandler(func(_ mqtt.Client, m mqtt.Message) { c.deliver(m) }).
		SetConnectionLostHandler(func(mqtt.Client, error) { close(c.lost) })
}

func (a *Agent) tls(address string, certificate tls.Certificate, roots *x509.CertPool) *tls.Config {
	host, _, _ := net.SplitHostPort(address)
	cfg := &tls.Config{
		MinVersion: tls.VersionTLS12,
		RootCAs:    roots,
		ServerName: host,
		Time:       a.clock,
		// Whatever CAs the broker names: it may trust an issuing CA without
		// naming it, and to send nothing is never better.
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &certificate, nil
		},
	}
	if a.cfg.ALPN {
		cfg.NextProtos = []string{"x-amzn-mqtt-ca"}
	}
	return cfg
}

// close ends the connection. It may be repeated.
func (c *connection) close() {
	const quiesce = 250 // milliseconds for the DISCONNECT to leave
	c.client.Disconnect(quiesce)
}

func (c *connection) alive() bool {
	select {
	case <-c.lost:
		return false
	default:
		return c.client.IsConnectionOpen()
	}
}

// deliver passes over what the broker had retained: it answers nothing that is asked
// now, whoever it was for.
func (c *connection) deliver(m mqtt.Message) {
	if m.Retained() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for l := range c.listeners {
		for _, topic := range l.topics {
			if topic != m.Topic() {
				continue
			}
			select {
			case l.messages <- message{topic: m.Topic(), payload: m.Payload()}:
			default:
			}
		}
	}
}

// listen returns what arrives on the topics from now on, until stop is called.
func (c *connection) listen(topics ...string) (l *listener, stop func()) {
	l = &listener{topics: topics, messages: make(chan message, 16)}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.listeners[l] = struct{}{}
	return l, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.listeners, l)
	}
}

// subscribe returns nil once the broker has granted every filter.
func (c *connection) subscribe(ctx context.Context, wait time.Duration, filters ...string) error {
	wanted := map[string]byte{}
	for _, filter := range filters {
		wanted[filter] = 1
	}
	token := c.client.SubscribeMultiple(wanted, nil)
	if err := c.await(ctx, token, wait); err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	for filter, granted := range token.(*mqtt.SubscribeToken).Result() {
		if granted == 0x80 { // MQTT 3.1.1, 3.9.3: failure; the client takes it for success
			return fmt.Errorf("subscribe %s: refused by the broker", filter)
		}
	}
	return nil
}

// publish returns nil once the broker has taken the message.
func (c *connection) publish(ctx context.Context, wait time.Duration, m message) error {
	if err := c.await(ctx, c.client.Publish(m.topic, 1, false, m.payload), wait); err != nil {
		return fmt.Errorf("publish %s: %w", m.topic, err)
	}
	return nil
}

func (c *connection) await(ctx context.Context, token mqtt.Token, wait time.Duration) error {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-token.Done():
		if token.Error() != nil && !c.alive() {
			return ErrConnectionLost
		}
		return token.Error()
	case <-c.lost:
		return ErrConnectionLost
	case <-timer.C:
		return ErrNoAnswer
	case <-ctx.Done():
		return ctx.Err()
	}
}
