package aws

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/vending"
)

// rig is a bus on a broker, and somebody who receives what it takes.
type rig struct {
	t      *testing.T
	broker *broker
	way    *cutter
	config MQTTConfig
	bus    *MQTTBus
	ends   *receiver
}

// receiver answers every request with its own payload, as far as its gate is
// open.
type receiver struct {
	bus     *MQTTBus
	gate    chan struct{} // closed, or nil: nothing is held up
	entered chan string   // payloads, as their requests come in; nil: not told
	mu      sync.Mutex
	served  []vending.Message
	present []vending.Caller
	refuse  error // what connections are answered
}

func (r *receiver) Serve(ctx context.Context, m vending.Message) {
	r.mu.Lock()
	r.served = append(r.served, m)
	gate, entered := r.gate, r.entered
	r.mu.Unlock()
	if entered != nil {
		entered <- string(m.Payload)
	}
	if gate != nil {
		<-gate
	}
	_ = r.bus.Publish(ctx, m.Topic+"/accepted", m.Payload)
}

func (r *receiver) Present(_ context.Context, c vending.Caller) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.present = append(r.present, c)
	return r.refuse
}

func (r *receiver) payloads() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []string
	for _, m := range r.served {
		all = append(all, string(m.Payload))
	}
	return all
}

// cutter is a Way whose connections a test can cut, as a network does.
type cutter struct {
	Way
	mu    sync.Mutex
	conns []net.Conn

	blocked atomic.Bool            // nothing can be opened
	poison  atomic.Pointer[string] // no connection survives sending it
}

func (c *cutter) Open(ctx context.Context) (net.Conn, error) {
	if c.blocked.Load() {
		return nil, errors.New("blocked by the test")
	}
	conn, err := c.Way.Open(ctx)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conns = append(c.conns, conn)
	return &poisonable{conn, c}, nil
}

type poisonable struct {
	net.Conn
	way *cutter
}

func (p *poisonable) Write(b []byte) (int, error) {
	if poison := p.way.poison.Load(); poison != nil && strings.Contains(string(b), *poison) {
		return 0, errors.New("poisoned by the test")
	}
	return p.Conn.Write(b)
}

// cut has every read fail: a connection that its own side closes is not
// missed by the MQTT client before the keep-alive is over.
func (c *cutter) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.conns {
		_ = conn.SetReadDeadline(time.Unix(1, 0))
	}
	c.conns = nil
}

func quickBackoff() Backoff { return Backoff{Min: 5 * time.Millisecond, Max: 50 * time.Millisecond} }

// newRig starts a bus that takes requests where devices publish them, unless
// the changes say otherwise.
func newRig(t *testing.T, b *broker, changes ...func(*MQTTConfig)) *rig {
	t.Helper()
	r := &rig{t: t, broker: b, way: &cutter{Way: b.way("vendor")}, ends: &receiver{}}
	r.config = MQTTConfig{
		Way: r.way, ClientID: "vendor", Topics: protocol.DefaultTopics(), Identity: Direct,
		Backoff: quickBackoff(), PublishRate: 1e6, Now: time.Now, Log: zerolog.New(zerolog.NewTestWriter(t)),
	}
	for _, change := range changes {
		change(&r.config)
	}
	r.start()
	return r
}

func (r *rig) start() {
	r.t.Helper()
	bus, err := NewMQTTBus(r.config)
	if err != nil {
		r.t.Fatal(err)
	}
	r.bus, r.ends.bus = bus, bus
	bus.Subscribe(r.ends)
	if err := bus.Start(context.Background()); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = bus.Close(canceled()) })
	soon(r.t, "the bus is ready", func() bool { return bus.Ready() == nil })
}

func canceled() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

func getTopic(device string) string {
	return protocol.DefaultTopics().Request(device, protocol.Get)
}

func TestRequestAndReply(t *testing.T) {
	b := startBroker(t)
	r := newRig(t, b)
	pump := b.client("pump-7", "cdf/certificates/pump-7/+/+")
	pump.say(getTopic("pump-7"), "one")
	soon(t, "the reply", func() bool { return slices.Equal(pump.heard(getTopic("pump-7")+"/accepted"), []string{"one"}) })
	m := r.ends.served[0]
	if m.Topic != getTopic("pump-7") || m.Caller != (vending.Caller{}) {
		t.Errorf("%+v: nobody can know who published", m)
	}
	pump.say(protocol.DefaultTopics().Request("pump-7", protocol.Ack), "two")
	soon(t, "the ack's reply", func() bool { return len(pump.heard("")) == 2 })
}

// A message that was delivered and not served comes again; one that was served
// does not.
func TestNothingIsLostWhenConnectionsAreCut(t *testing.T) {
	b := startBroker(t)
	r := newRig(t, b)
	r.ends.gate, r.ends.entered = make(chan struct{}), make(chan string, 10)
	pump := b.client("pump-7", "cdf/certificates/pump-7/+/+")
	pump.say(getTopic("pump-7"), "one")
	<-r.ends.entered
	r.way.cut()
	if again := <-r.ends.entered; again != "one" {
		t.Errorf("got %q", again)
	}
	close(r.ends.gate)
	soon(t, "both replies", func() bool { return len(pump.heard("")) == 2 })

	if n := r.bus.Stats().Lost; n < 1 {
		t.Errorf("%d connections lost", n)
	}
	if err := r.bus.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	r.start()
	pump.say(getTopic("pump-7"), "two")
	soon(t, "another reply", func() bool { return len(pump.heard("")) == 3 })
	if got := r.ends.payloads(); !slices.Equal(got, []string{"one", "one", "two"}) {
		t.Errorf("served %q", got)
	}
}

// What comes while the instance is away waits for it, also over a restart of
// the broker.
func TestRequestsWaitForTheInstance(t *testing.T) {
	b := startBroker(t)
	r := newRig(t, b)
	if err := r.bus.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	pump := b.client("pump-7", "cdf/certificates/pump-7/+/+")
	pump.say(getTopic("pump-7"), "one")
	b.stop()
	b.start()
	r.start()
	soon(t, "the reply", func() bool { return slices.Equal(pump.heard(""), []string{"one"}) })
}

// The broker restarts while requests are at work: all are answered.
func TestCase93BrokerRestartsInMidRun(t *testing.T) {
	b := startBroker(t)
	r := newRig(t, b)
	r.ends.entered = make(chan string, 1000)
	pump := b.client("pump-7", "cdf/certificates/pump-7/+/+")
	const requests = 100
	for i := range requests / 2 {
		pump.say(getTopic("pump-7"), fmt.Sprint(i))
	}
	<-r.ends.entered
	b.stop()
	b.start()
	soon(t, "the device is back", pump.IsConnectionOpen)
	for i := requests / 2; i < requests; i++ {
		pump.say(getTopic("pump-7"), fmt.Sprint(i))
	}
	soon(t, "every reply", func() bool {
		seen := map[string]bool{}
		for _, payload := range pump.heard("") {
			seen[payload] = true
		}
		return len(seen) == requests
	})
	soon(t, "the bus is ready", func() bool { return r.bus.Ready() == nil })
}

// A reply counts as sent when the broker has it: while there is none it waits,
// and what could not be sent in time leaves its request with the broker.
func TestPublishWaitsForTheBroker(t *testing.T) {
	b := startBroker(t)
	r := newRig(t, b)
	pump := b.client("pump-7", "cdf/certificates/pump-7/+/+")
	b.stop()
	soon(t, "the bus notices", func() bool { return r.bus.Ready() != nil })
	published := make(chan error, 1)
	go func() {
		published <- r.bus.Publish(context.Background(), getTopic("pump-7")+"/accepted", []byte("late"))
	}()
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := r.bus.Publish(ctx, "x", nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	select {
	case err := <-published:
		t.Fatalf("returned %v without a broker", err)
	default:
	}
	b.start()
	if err := <-published; err != nil {
		t.Fatal(err)
	}
	soon(t, "it is there", func() bool { return slices.Contains(pump.heard(""), "late") })
}

func (b *MQTTBus) linesDown() []string {
	var names []string
	for _, l := range b.lines {
		if l.state.Load().link == nil {
			names = append(names, l.name)
		}
	}
	return names
}

func TestUnheardRequestComesAgain(t *testing.T) {
	b := startBroker(t)
	r := newRig(t, b, func(c *MQTTConfig) { c.PublishTime = 50 * time.Millisecond })
	r.ends.gate, r.ends.entered = make(chan struct{}), make(chan string, 10)
	pump := b.client("pump-7", "cdf/certificates/pump-7/+/+")
	pump.say(getTopic("pump-7"), "one")
	<-r.ends.entered
	r.losePublisher()
	close(r.ends.gate)
	soon(t, "the reply was given up", func() bool { return r.bus.Stats().Unpublished == 1 && r.bus.Stats().Left == 1 })
	r.way.blocked.Store(false)
	soon(t, "the reply", func() bool { return slices.Equal(pump.heard(""), []string{"one"}) })
	if got := r.ends.payloads(); !slices.Equal(got, []string{"one", "one"}) {
		t.Errorf("served %q", got)
	}
}

// losePublisher ends the connection that publishes, and no other; no new one
// can be made.
func (r *rig) losePublisher() {
	r.t.Helper()
	r.way.blocked.Store(true)
	thief := r.broker.client("vendor-out") // two clients of one id: the broker keeps the later
	soon(r.t, "the publisher is away", func() bool { return slices.Equal(r.bus.linesDown(), []string{"publishes"}) })
	thief.Disconnect(0)
}

// A reply that costs its connection, as AWS IoT has it for a topic that the
// daemon may not publish on, is given up and does not come again for ever.
func TestReplyThatTheBrokerDoesNotWant(t *testing.T) {
	b := startBroker(t)
	r := newRig(t, b)
	r.way.poison.Store(new("deadly"))
	pump := b.client("pump-7", "cdf/certificates/pump-7/+/+")
	pump.say(getTopic("pump-7"), "deadly")
	soon(t, "it is given up", func() bool { return r.bus.Stats().Unpublished == 1 })
	pump.say(getTopic("pump-7"), "harmless")
	soon(t, "the next reply", func() bool { return slices.Equal(pump.heard(""), []string{"harmless"}) })
	if got := r.ends.payloads(); !slices.Equal(got, []string{"deadly", "harmless"}) || r.bus.Stats().Left != 0 {
		t.Errorf("served %q, left %d", got, r.bus.Stats().Left)
	}
}

// The broker may not hand out more than there is room for, and everything is
// served in the end.
func TestBacklogIsBounded(t *testing.T) {
	b := startBroker(t, "max_inflight_messages 0", "max_queued_messages 0")
	const backlog, requests = 8, 60
	r := newRig(t, b, func(c *MQTTConfig) { c.Backlog = backlog })
	r.ends.gate, r.ends.entered = make(chan struct{}), make(chan string, 10*requests)
	pump := b.client("pump-7", "cdf/certificates/pump-7/+/+")
	for i := range requests {
		pump.say(getTopic("pump-7"), fmt.Sprint(i))
	}
	soon(t, "some are left with the broker", func() bool { return r.bus.Stats().Left >= 1 })
	if n := len(r.ends.payloads()); n > backlog {
		t.Errorf("%d at work, %d allowed", n, backlog)
	}
	close(r.ends.gate)
	soon(t, "every reply", func() bool { return len(pump.heard("")) >= requests })
	seen := map[string]int{}
	for _, payload := range r.ends.payloads() {
		if seen[payload]++; seen[payload] > 1 {
			t.Errorf("%s was served twice", payload)
		}
	}
}

// plugin finds the plugin that comes with mosquitto.
func plugin(t *testing.T) string {
	t.Helper()
	found, err := filepath.Glob("/usr/lib/*/mosquitto_dynamic_security.so")
	if err != nil || len(found) == 0 {
		t.Fatalf("mosquitto is there without its plugin: %v", err)
	}
	return found[0]
}

func TestSubscriptionThatIsRefused(t *testing.T) {
	b := startBroker(t)
	// The file of access rules knows nothing of subscriptions, the plugin does.
	b.stop()
	b.write("roles.json", `{"defaultACLAccess":{"publishClientSend":true,"publishClientReceive":true,"subscribe":false,"unsubscribe":true},
		"clients":[{"username":"vendor","roles":[]}],"roles":[],"groups":[]}`)
	b.extra = "plugin " + plugin(t) + "\nplugin_opt_config_file " + b.path("roles.json")
	b.start()
	r := &rig{t: t, broker: b, way: &cutter{Way: b.way("vendor")}, ends: &receiver{}}
	bus, err := NewMQTTBus(MQTTConfig{
		Way: r.way, ClientID: "vendor", Topics: protocol.DefaultTopics(), Identity: Direct, Backoff: quickBackoff(), Now: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	bus.Subscribe(r.ends)
	if err := bus.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = bus.Close(context.Background()) }()
	soon(t, "it says what is refused", func() bool {
		err := bus.Ready()
		return err != nil && strings.Contains(err.Error(), "cdf/certificates/+/") && strings.Contains(err.Error(), "refuses") && bus.Stats().Failed > 1
	})
}

// Close waits for what is at work, and what it has acknowledged does not come
// again.
func TestCase94CloseDrains(t *testing.T) {
	b := startBroker(t)
	pump := b.client("pump-7", "cdf/certificates/pump-7/+/+")
	before := goleak.IgnoreCurrent()
	r := newRig(t, b)
	r.ends.gate, r.ends.entered = make(chan struct{}), make(chan string, 10)
	pump.say(getTopic("pump-7"), "at work")
	<-r.ends.entered
	stopped := make(chan error, 1)
	go func() { stopped <- r.bus.Close(context.Background()) }()
	soon(t, "it is closing", func() bool { r.bus.mu.Lock(); defer r.bus.mu.Unlock(); return r.bus.closing })
	pump.say(getTopic("pump-7"), "too late")
	select {
	case <-stopped:
		t.Fatal("stopped with a request at work")
	default:
	}
	close(r.ends.gate)
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
	if err := goleak.Find(before); err != nil {
		t.Error(err)
	}
	soon(t, "the reply", func() bool { return slices.Equal(pump.heard(""), []string{"at work"}) })
	r.start()
	soon(t, "the one that waited", func() bool { return slices.Equal(pump.heard(""), []string{"at work", "too late"}) })
	if got := r.ends.payloads(); !slices.Equal(got, []string{"at work", "too late"}) {
		t.Errorf("served %q", got)
	}
	if err := r.bus.Start(context.Background()); err == nil {
		t.Error("started twice")
	}
}

// A Close that runs out of time leaves with the broker what it did not finish.
func TestCloseRunsOutOfTime(t *testing.T) {
	b := startBroker(t)
	r := newRig(t, b)
	r.ends.gate, r.ends.entered = make(chan struct{}), make(chan string, 10)
	pump := b.client("pump-7", "cdf/certificates/pump-7/+/+")
	pump.say(getTopic("pump-7"), "one")
	<-r.ends.entered
	stopped := make(chan error, 1)
	go func() { stopped <- r.bus.Close(canceled()) }()
	soon(t, "it has hung up", func() bool { return len(r.bus.linesDown()) == 2 })
	close(r.ends.gate)
	if err := <-stopped; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	r.start()
	soon(t, "it is served again", func() bool { return slices.Equal(pump.heard(""), []string{"one"}) })
}

// Two instances of one client id end each other's connections; both say so.
func TestTwoInstancesOfOneName(t *testing.T) {
	b := startBroker(t)
	r := newRig(t, b)
	other := r.config
	second, err := NewMQTTBus(other)
	if err != nil {
		t.Fatal(err)
	}
	second.Subscribe(&receiver{bus: second})
	if err := second.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = second.Close(canceled()) }()
	for _, bus := range []*MQTTBus{r.bus, second} {
		soon(t, "it says what may be wrong", func() bool {
			err := bus.Ready()
			return err != nil && strings.Contains(err.Error(), "another instance use client id vendor")
		})
	}
}

func TestBusConfigurationsThatCannotWork(t *testing.T) {
	sound := MQTTConfig{Way: &MutualTLS{}, ClientID: "vendor", Topics: protocol.DefaultTopics(), Identity: Direct, Now: time.Now}
	for want, spoil := range map[string]func(*MQTTConfig){
		"":                     func(*MQTTConfig) {},
		"Way and Now":          func(c *MQTTConfig) { c.Way = nil },
		"client id":            func(c *MQTTConfig) { c.ClientID = strings.Repeat("x", 120) },
		"neither rule nor":     func(c *MQTTConfig) { c.Identity = "both" },
		"key of the topic":     func(c *MQTTConfig) { c.Identity = ByRule },
		"64 lower-case":        func(c *MQTTConfig) { c.Identity, c.Keys = ByRule, []RuleKey{"short"} },
		"30 to 1200":           func(c *MQTTConfig) { c.KeepAlive = time.Second },
		"more than zero":       func(c *MQTTConfig) { c.Backlog = -1 },
		"mqtt.topics.get":      func(c *MQTTConfig) { c.Topics.Get = "cdf/get" },
		"the topic for envelo": func(c *MQTTConfig) { c.Identity, c.Keys, c.Inbox = ByRule, []RuleKey{NewRuleKey()}, "in/#" },
	} {
		c := sound
		spoil(&c)
		_, err := NewMQTTBus(c)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	bus, err := NewMQTTBus(sound)
	if err != nil {
		t.Fatal(err)
	}
	if err := bus.Start(context.Background()); err == nil || bus.Ready() == nil || bus.Close(context.Background()) != nil {
		t.Errorf("a bus without a receiver started: %v", err)
	}
}
