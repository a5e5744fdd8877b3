package standalone

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/rs/zerolog"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/backend"
	"github.com/certvendor/certvendor/internal/crew"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
)

// BrokerConfig is what a Broker needs. Zero Limits are the defaults.
type BrokerConfig struct {
	Listen      string                                               // host:port; port 0 lets the system choose
	Certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error) // of the server, asked at every handshake
	ClientCAs   func() *x509.CertPool                                // trust anchors, roots or not, asked at every handshake
	Trust       func() uint64                                        // changes before ClientCAs does; nil: never
	Expired     time.Duration                                        // how long after notAfter a certificate may still connect, for get, ack and jobs only
	Topics      protocol.Topics
	Extra       []TopicRule // topics of the fleet's own
	Limits      BrokerLimits
	Now         func() time.Time
	Log         zerolog.Logger
	// Adopt is asked at every CONNECT, before the receiver is, whether the
	// certificate is one that a restore has lost. Optional.
	Adopt func(context.Context, registry.DeviceID, *x509.Certificate) error
}

// JobAPI answers the AWS IoT Jobs MQTT API; Jobs is one. It is called
// concurrently, with topics that parse as requests of that API, for the
// connection's own device. What it returns goes to the requesting connection
// and to no other.
type JobAPI interface {
	// Answer returns the reply and its topic; an empty topic: there is none.
	Answer(ctx context.Context, device registry.DeviceID, topic string, payload []byte) (replyTopic string, reply []byte)
}

// Broker is an MQTT broker for devices that speak TLS with a client
// certificate. It is a backend.Bus. All methods are safe for concurrent use,
// but Subscribe and ServeJobs come before Start.
type Broker struct {
	config   BrokerConfig
	limits   BrokerLimits
	acl      *topicACL
	conns    *connTable
	door     *door
	counts   brokerCounts
	server   *mqtt.Server // its parts: the sessions, the index of topics, the packets
	tls      *tls.Config
	crew     crew.Crew // connections rest on small stacks, and are worked for on large ones
	receiver backend.Receiver
	jobs     JobAPI

	serving context.Context // of every request; canceled when Close runs out of time
	cancel  context.CancelFunc
	stop    chan struct{} // closed when Close begins
	once    sync.Once
	started atomic.Bool
	running sync.WaitGroup // the accept loop, housekeeping and every connection
}

var _ backend.Bus = (*Broker)(nil)

// NewBroker listens, so that a port that is taken fails here, and returns a
// broker that accepts nobody before Start.
func NewBroker(config BrokerConfig) (*Broker, error) {
	if err := config.validate(); err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", config.Listen)
	if err != nil {
		return nil, fmt.Errorf("standalone.broker.listen: %w", err)
	}
	b, err := newBroker(config, listener)
	if err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return b, nil
}

func newBroker(config BrokerConfig, listener net.Listener) (*Broker, error) {
	acl, err := newTopicACL(config.Topics, config.Extra)
	if err != nil {
		return nil, err
	}
	b := &Broker{config: config, limits: config.Limits.orDefaults(), acl: acl, stop: make(chan struct{})}
	b.server = mqtt.New(&mqtt.Options{
		Capabilities: b.limits.capabilities(),
		// Each connection holds such a buffer for ever. It is for the first
		// octets of a packet: TLS holds the rest, which is read past it.
		ClientNetReadBufferSize: 1 << 5,
		// The library logs whole packets, with whatever a device put into
		// them; what is worth a line is logged here.
		Logger: slog.New(slog.DiscardHandler),
	})
	if err := b.server.AddHook(&brokerHook{broker: b}, nil); err != nil {
		return nil, fmt.Errorf("add broker hook: %w", err)
	}
	b.conns = newConnTable(b.limits, config.Now, b.forget)
	b.door = newDoor(listener, b.limits, &b.counts)
	b.tls = b.tlsConfig()
	return b, nil
}

func (c BrokerConfig) validate() error {
	switch {
	case c.Certificate == nil || c.ClientCAs == nil || c.Now == nil:
		return errors.New("broker: Certificate, ClientCAs and Now must be set")
	case c.Expired < 0:
		return errors.New("broker.expired: must not be negative")
	}
	return c.Topics.Validate()
}

// Addr returns the address it listens on.
func (b *Broker) Addr() net.Addr { return b.door.listener.Addr() }

// Subscribe names who receives connections and requests.
func (b *Broker) Subscribe(r backend.Receiver) { b.receiver = r }

// ServeJobs names who answers the Jobs API.
func (b *Broker) ServeJobs(j JobAPI) { b.jobs = j }

// Start lets devices in. It does not block. Requests are served with the
// values of ctx, but not with its end: Close lets them finish. Returns an
// error if nobody receives, or at a second call.
func (b *Broker) Start(ctx context.Context) error {
	if b.receiver == nil || b.jobs == nil {
		return errors.New("broker: started before Subscribe and ServeJobs")
	}
	if !b.started.CompareAndSwap(false, true) {
		return errors.New("broker: started twice")
	}
	b.serving, b.cancel = context.WithCancel(context.WithoutCancel(ctx))
	b.running.Go(func() { b.door.serve(b.stop, b.running.Go, b.handle) })
	b.running.Go(b.keepHouse)
	return nil
}

// Connected reports whether the device has an open connection with that
// certificate.
func (b *Broker) Connected(device registry.DeviceID, c certificate.ID) bool {
	return b.conns.connected(holding{device, c})
}

// Heard returns when the last packet of the device came over a connection with
// that certificate that is open; zero where there is none.
func (b *Broker) Heard(device registry.DeviceID, c certificate.ID) time.Time {
	return b.conns.heard(holding{device, c})
}

// CloseHolding closes every connection of that device with that certificate,
// also those that have not been accepted yet, without a word to the device. It
// does not wait for them to end.
func (b *Broker) CloseHolding(device registry.DeviceID, c certificate.ID) {
	b.conns.closeHolding(holding{device, c})
}

// CloseUntrusted closes every connection whose certificate no CA signed that is
// trusted now.
func (b *Broker) CloseUntrusted() { b.conns.closeUnless(b.trusts) }

// Close lets nobody in any more, lets requests finish until ctx ends, and
// returns when every goroutine of the broker has ended. Repeatable.
func (b *Broker) Close(ctx context.Context) error {
	var err error
	b.once.Do(func() {
		close(b.stop)
		err = b.door.close()
	})
	if !b.started.Load() {
		return err
	}
	ended := make(chan struct{})
	go func() { b.running.Wait(); b.crew.Wait(); close(ended) }()
	b.door.drain()
	select {
	case <-ended:
	case <-ctx.Done():
		b.cancel()
		b.door.kill()
		<-ended
	}
	b.cancel()
	return err
}

// keepHouse drops stored sessions that are too old, and what mochi's own
// event loop, which is not run, would do besides: forget expired messages.
func (b *Broker) keepHouse() {
	tick := time.NewTicker(min(time.Minute, b.limits.StoredSession/4+time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-b.stop:
			return
		case <-tick.C:
			b.conns.dropOld()
			now := b.config.Now().Unix()
			for _, client := range b.server.Clients.GetAll() {
				client.ClearExpiredInflights(now, int64(b.limits.StoredSession/time.Second)+1)
			}
		}
	}
}
