package aws

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/rs/zerolog"
	"golang.org/x/time/rate"

	"github.com/certvendor/certvendor/internal/backend"
	"github.com/certvendor/certvendor/protocol"
)

// Identity says how the bus learns which certificate a request came over.
type Identity string

// The identities.
const (
	// ByRule takes requests from a topic rule, in envelopes that say who
	// published. See Envelope.
	ByRule Identity = "rule"
	// Direct takes requests where devices publish them. A subscriber is never
	// told who published, so the certificate is unknown.
	Direct Identity = "direct"
)

// MQTTConfig is what an MQTTBus needs. What is zero has the default that is named.
type MQTTConfig struct {
	Way Way // how the broker is reached
	// ClientID is this instance's own and the same at every start: the broker
	// keeps requests for it while it is away. Connections besides the one that
	// takes requests add a suffix to it. The broker closes a connection whose
	// client id comes again, so two instances must not share one.
	ClientID string
	Topics   protocol.Topics
	Identity Identity
	// Keys open envelopes, the first that fits; only for ByRule. More than one
	// is for while the rule is given a new key.
	Keys []RuleKey
	// Inbox is where the rule publishes to, without the device and the action;
	// only for ByRule. The default is Inbox.
	Inbox string
	// Share names a shared subscription, for several instances that work as
	// one. Empty: a subscription of this instance's own.
	Share string
	// Presence has the bus take the broker's events of devices that connect.
	Presence bool
	// Table is where such events are written down, and where a device is looked
	// for before an ack of which nobody knows over which certificate it came.
	// Optional.
	Table *Presence
	// Executions has the bus take the broker's events of executions that have
	// ended, see HearEnded.
	Executions bool

	Backlog     int           // how many requests may be at work; 100, which is AWS IoT's own window
	PublishRate float64       // replies a second; 90, because AWS IoT drops what exceeds 100 of one connection
	PublishTime time.Duration // how long a reply may take to reach the broker; 15 s
	KeepAlive   time.Duration // 30 s
	Backoff     Backoff       // between attempts to connect; from 1 s to 2 min
	Now         func() time.Time
	Log         zerolog.Logger
}

// MQTTBus carries messages over AWS IoT Core, or any broker like it. It is a
// backend.Bus. It keeps one connection to take requests, with a session that
// the broker keeps while the bus is away, and another to publish replies; a
// connection that is lost is followed by a new one, with a new MQTT client,
// because a client that reconnects by itself reports publishes as done that no
// broker has taken. Methods are safe for concurrent use, but Subscribe comes
// before Start.
type MQTTBus struct {
	config   MQTTConfig
	receiver backend.Receiver
	ended    func(Ended) // nil: nobody hears
	seen     *traces
	counts   busCounts
	pace     *rate.Limiter
	window   chan struct{} // one slot for each publish that the broker has not taken
	look     time.Duration // how often a connection is held against its Way

	lines     []*line
	publisher *line

	serving context.Context // of every request; canceled when Close runs out of time
	abandon context.CancelFunc
	hangUp  context.CancelFunc // ends the lines
	keeping sync.WaitGroup     // the lines

	mu      sync.Mutex
	closing bool
	atWork  int
	idle    chan struct{} // closed when nothing is at work, made when somebody waits
	started atomic.Bool
}

var _ backend.Bus = (*MQTTBus)(nil)

// window is how many publishes AWS IoT lets one connection have under way.
const window = 100

// NewMQTTBus returns a bus that connects to nothing before Start.
func NewMQTTBus(c MQTTConfig) (*MQTTBus, error) {
	c.Inbox = cmp.Or(c.Inbox, Inbox)
	c.Backlog = cmp.Or(c.Backlog, 100)
	c.PublishRate = cmp.Or(c.PublishRate, 90)
	c.PublishTime = cmp.Or(c.PublishTime, 15*time.Second)
	c.KeepAlive = cmp.Or(c.KeepAlive, 30*time.Second)
	c.Backoff = c.Backoff.orDefault()
	if err := c.validate(); err != nil {
		return nil, err
	}
	b := &MQTTBus{
		config: c, seen: newTraces(), pace: rate.NewLimiter(rate.Limit(c.PublishRate), 10),
		window: make(chan struct{}, window), look: lookTime,
	}
	b.publisher = &line{bus: b, name: "publishes", clientID: c.ClientID + publishes, clean: true}
	taker := &line{bus: b, name: "takes requests", clientID: c.ClientID, filters: c.filters(), take: b.takeRequest}
	b.lines = []*line{b.publisher, taker}
	if c.Presence {
		b.lines = append(b.lines, &line{
			bus: b, name: "takes presence", clientID: c.ClientID + takesPresence, clean: true,
			filters: []string{presenceFilter}, take: b.takePresence, hint: true,
		})
	}
	if c.Executions {
		b.lines = append(b.lines, &line{
			bus: b, name: "hears of executions", clientID: c.ClientID + hearsOfJobs, clean: true,
			filters: []string{executionFilter}, take: b.takeExecution, hint: true,
		})
	}
	return b, nil
}

// What is added to the client id of connections besides the one that takes
// requests.
const (
	publishes     = "-out"
	takesPresence = "-presence"
	hearsOfJobs   = "-jobs"
)

// maxClientID is the quota of AWS IoT, with room for a suffix of ours.
const maxClientID = 128 - len(takesPresence)

// clientIDs returns those of all connections.
func (c MQTTConfig) clientIDs() []string {
	ids := []string{c.ClientID, c.ClientID + publishes}
	if c.Presence {
		ids = append(ids, c.ClientID+takesPresence)
	}
	if c.Executions {
		ids = append(ids, c.ClientID+hearsOfJobs)
	}
	return ids
}

func (c MQTTConfig) validate() error {
	switch {
	case c.Way == nil || c.Now == nil:
		return errors.New("bus: Way and Now must be set")
	case c.ClientID == "" || len(c.ClientID) > maxClientID:
		return fmt.Errorf("bus: a client id has 1 to %d octets", maxClientID)
	case c.Backlog < 1 || c.PublishRate <= 0 || c.PublishTime <= 0:
		return errors.New("bus: Backlog, PublishRate and PublishTime must be more than zero")
	case c.KeepAlive < 30*time.Second || c.KeepAlive > 1200*time.Second:
		return errors.New("bus: the keep-alive is 30 to 1200 seconds, as AWS IoT has it")
	}
	if err := c.validateIdentity(); err != nil {
		return err
	}
	return c.Topics.Validate()
}

func (c MQTTConfig) validateIdentity() error {
	switch c.Identity {
	case Direct:
		return nil
	case ByRule:
	default:
		return fmt.Errorf("identity: %q is neither rule nor direct", c.Identity)
	}
	if len(c.Keys) == 0 {
		return errors.New("identity: rule needs the key of the topic rule")
	}
	for _, key := range c.Keys {
		if err := key.Validate(); err != nil {
			return err
		}
	}
	return validateInbox(c.Inbox)
}

// filters are what the bus subscribes to in order to take requests: the
// envelopes, or the requests themselves, never both.
func (c MQTTConfig) filters() []string {
	filters := []string{c.Inbox + "/+/get", c.Inbox + "/+/ack"}
	if c.Identity == Direct {
		filters = []string{c.Topics.Subscription(protocol.Get), c.Topics.Subscription(protocol.Ack)}
	}
	if c.Share != "" {
		for i := range filters {
			filters[i] = "$share/" + c.Share + "/" + filters[i]
		}
	}
	return filters
}

// Subscribe names who receives requests and presence.
func (b *MQTTBus) Subscribe(r backend.Receiver) { b.receiver = r }

// Start begins to connect, and does not wait for it: Ready says how it went.
// Requests are served with the values of ctx, but not with its end: Close lets
// them finish. Returns an error if nobody receives, or at a second call.
func (b *MQTTBus) Start(ctx context.Context) error {
	if b.receiver == nil {
		return errors.New("bus: started before Subscribe")
	}
	if !b.started.CompareAndSwap(false, true) {
		return errors.New("bus: started twice")
	}
	detached := context.WithoutCancel(ctx)
	b.serving, b.abandon = context.WithCancel(detached)
	keep, hangUp := context.WithCancel(detached)
	b.hangUp = hangUp
	for _, l := range b.lines {
		l.set(&lineState{err: errNotYet})
		b.keeping.Go(func() { l.keep(keep) })
	}
	return nil
}

var errNotYet = errors.New("not connected yet")

// Ready returns nil while requests can be taken and replies published, and
// otherwise which connection is not up, or which subscription not granted, and
// why. Presence is nothing that requests wait for: the log tells of that.
func (b *MQTTBus) Ready() error {
	if !b.started.Load() {
		return errNotYet
	}
	var all []error
	for _, l := range b.lines {
		if err := l.state.Load().err; err != nil && !l.hint {
			all = append(all, fmt.Errorf("the connection that %s: %w", l.name, err))
		}
	}
	return errors.Join(all...)
}

// Close takes no more messages, lets those at work finish until ctx ends, and
// returns when every goroutine of the bus has ended. What was not taken stays
// with the broker. Repeatable.
func (b *MQTTBus) Close(ctx context.Context) error {
	if !b.started.Load() {
		return nil
	}
	var err error
	select {
	case <-b.rest():
	case <-ctx.Done():
		err = fmt.Errorf("requests are at work still: %w", ctx.Err())
		b.abandon()
	}
	b.hangUp()
	b.keeping.Wait()
	<-b.rest()
	b.abandon()
	return err
}

// rest closes the bus to messages and returns what is closed when none is at
// work.
func (b *MQTTBus) rest() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closing = true
	if b.idle == nil {
		b.idle = make(chan struct{})
		if b.atWork == 0 {
			close(b.idle)
		}
	}
	return b.idle
}

// enter takes a place for a message, if the bus takes any more.
func (b *MQTTBus) enter() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closing {
		return false
	}
	b.atWork++
	return true
}

func (b *MQTTBus) leave() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.atWork--; b.atWork == 0 && b.idle != nil {
		close(b.idle)
	}
}

// options are those of every connection. What the library would do by itself
// after a loss is switched off, see MQTTBus.
func (b *MQTTBus) options(l *line) *mqtt.ClientOptions {
	return mqtt.NewClientOptions().
		AddBroker("tls://broker"). // only the Way knows the address
		SetClientID(l.clientID).
		SetProtocolVersion(4). // MQTT 3.1.1; otherwise a refusal is tried again as 3.1
		SetCleanSession(l.clean).
		SetAutoReconnect(false).
		SetConnectRetry(false).
		SetConnectTimeout(connectTime).
		SetOrderMatters(false). // a request at work must not hold up the keep-alive
		SetAutoAckDisabled(true).
		SetKeepAlive(b.config.KeepAlive)
}
