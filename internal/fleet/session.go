package fleet

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

var (
	errSilence = errors.New("no answer")
	errLost    = errors.New("connection lost")
	errRefused = errors.New("refused by the broker")
)

// session is one MQTT connection of simple firmware: it does one thing after
// the other. Not safe for concurrent use.
type session struct {
	client   mqtt.Client
	wait     time.Duration // for each answer
	lost     chan struct{}
	messages chan mqtt.Message
}

// connect really connects: TLS with this certificate, then MQTT under this
// client id.
func (o Options) connect(ctx context.Context, clientID string, certificate tls.Certificate) (*session, error) {
	s := &session{
		wait: o.answerWithin(), lost: make(chan struct{}), messages: make(chan mqtt.Message, 64),
	}
	ctx, cancel := context.WithTimeout(ctx, s.wait+15*time.Second)
	defer cancel()
	socket := make(chan net.Conn, 1)
	s.client = mqtt.NewClient(s.options(clientID, o.keepAlive()).
		SetCustomOpenConnectionFn(func(*url.URL, mqtt.ClientOptions) (net.Conn, error) {
			conn, err := o.dial(ctx, certificate)
			if err == nil {
				socket <- conn
			}
			return conn, err
		}))
	token := s.client.Connect()
	select {
	case <-token.Done():
	case <-ctx.Done():
		select { // without its socket the client ends
		case conn := <-socket:
			_ = conn.Close()
			<-token.Done()
		case <-token.Done():
		}
		s.close()
		return nil, ctx.Err()
	}
	if err := token.Error(); err != nil {
		return nil, fmt.Errorf("connect as %s: %w", clientID, err)
	}
	return s, nil
}

func (o Options) dial(ctx context.Context, certificate tls.Certificate) (net.Conn, error) {
	host, _, err := net.SplitHostPort(o.Broker)
	if err != nil {
		return nil, err
	}
	dialer := tls.Dialer{Config: &tls.Config{
		MinVersion: tls.VersionTLS12, RootCAs: o.Roots, ServerName: host, Time: o.now,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &certificate, nil },
	}}
	return dialer.DialContext(ctx, "tcp", o.Broker)
}

func (o Options) answerWithin() time.Duration {
	if o.Retry.Reply > 0 {
		return o.Retry.Reply
	}
	return 15 * time.Second
}

// keepAlive is short for devices that stay, so that each shows soon that it is
// there.
func (o Options) keepAlive() time.Duration {
	if o.Stay > 0 {
		return 2 * time.Second
	}
	return 30 * time.Second
}

func (s *session) options(clientID string, keepAlive time.Duration) *mqtt.ClientOptions {
	return mqtt.NewClientOptions().
		AddBroker("tls://broker"). // only dial knows the address
		SetClientID(clientID).
		SetProtocolVersion(4).
		SetCleanSession(true).
		SetAutoReconnect(false).
		SetOrderMatters(false).
		SetKeepAlive(keepAlive).
		SetWriteTimeout(5 * time.Second). // for which a request waits on a connection that is just being lost
		SetConnectionLostHandler(func(mqtt.Client, error) { close(s.lost) }).
		SetDefaultPublishHandler(func(_ mqtt.Client, m mqtt.Message) {
			select {
			case s.messages <- m:
			default: // simple firmware drops what it does not expect
			}
		})
}

func (s *session) close() { s.client.Disconnect(250) }

func (s *session) subscribe(ctx context.Context, filters ...string) error {
	wanted := map[string]byte{}
	for _, filter := range filters {
		wanted[filter] = 1
	}
	token := s.client.SubscribeMultiple(wanted, nil)
	if err := s.await(ctx, token); err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	for filter, granted := range token.(*mqtt.SubscribeToken).Result() {
		if granted == 0x80 { // MQTT 3.1.1, 3.9.3
			return fmt.Errorf("subscribe %s: %w", filter, errRefused)
		}
	}
	return nil
}

func (s *session) publish(ctx context.Context, topic string, payload []byte) error {
	if err := s.await(ctx, s.client.Publish(topic, 1, false, payload)); err != nil {
		return fmt.Errorf("publish %s: %w", topic, err)
	}
	return nil
}

func (s *session) await(ctx context.Context, token mqtt.Token) error {
	timer := time.NewTimer(s.wait)
	defer timer.Stop()
	select {
	case <-token.Done():
		if token.Error() != nil && !s.client.IsConnectionOpen() {
			return errLost
		}
		return token.Error()
	case <-s.lost:
		return errLost
	case <-timer.C:
		return errSilence
	case <-ctx.Done():
		return ctx.Err()
	}
}

// receive returns the next message on one of the topics. Others are dropped.
// patience 0 waits as long as the connection lasts.
func (s *session) receive(ctx context.Context, patience time.Duration, topics ...string) (mqtt.Message, error) {
	var late <-chan time.Time
	if patience > 0 {
		timer := time.NewTimer(patience)
		defer timer.Stop()
		late = timer.C
	}
	for {
		select {
		case m := <-s.messages:
			for _, topic := range topics {
				if m.Topic() == topic {
					return m, nil
				}
			}
		case <-late:
			return nil, errSilence
		case <-s.lost:
			return nil, errLost
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// ask publishes on the topic and returns what comes on one of the reply topics,
// whatever request it answers.
func (s *session) ask(ctx context.Context, topic string, payload []byte, replies ...string) (mqtt.Message, error) {
	if err := s.publish(ctx, topic, payload); err != nil {
		return nil, err
	}
	return s.receive(ctx, s.wait, replies...)
}

// pause waits for d, or returns the context's error at its end.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
