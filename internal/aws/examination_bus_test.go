package aws

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/certvendor/certvendor/internal/backend"
	"github.com/certvendor/certvendor/internal/backend/backendtest"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/vending"
)

// TestExaminationOverTheBus sits the examination of every world with each
// request and each reply over a real broker, which is restarted again and again
// in the middle: before a request, and between a request and its reply.
// LONG_TESTS=1 sits all of it.
func TestExaminationOverTheBus(t *testing.T) {
	motoURL(t)
	mosquitto(t)
	backendtest.Run(t, func(t *testing.T, clock *backendtest.Clock) backendtest.World {
		account := newAccount()
		clients := dialMoto(t, account, nil)
		prepareAccount(t, account, clients, "given", "device")
		config := testConfig(account, clients, clock.Now, t.TempDir())
		config.Issuer = given(softwareCA(t, clock.Now))
		return examinedWorld(t, config, &examinedBus{t: t, clock: clock, broker: startBroker(t), engine: newEngine(t)})
	}, partsOf("get", "ack", "brick")...)
}

// TestExaminationOutside sits the examination with an issuer whose every
// signature has an effect elsewhere, so that every intention is durable.
func TestExaminationOutside(t *testing.T) {
	motoURL(t)
	backendtest.Run(t, func(t *testing.T, clock *backendtest.Clock) backendtest.World {
		account := newAccount()
		clients := dialMoto(t, account, nil)
		prepareAccount(t, account, clients, "given", "device")
		config := testConfig(account, clients, clock.Now, t.TempDir())
		config.Issuer, config.ActsOutside = given(softwareCA(t, clock.Now)), true
		world := examinedWorld(t, config, nil)
		world.ActsOutside = true
		return world
	}, partsOf("lease", "crash", "edge")...)
}

// partsOf returns these parts of the examination, or no names, which are all of
// it, where LONG_TESTS is set.
func partsOf(some ...string) []string {
	if os.Getenv("LONG_TESTS") != "" {
		return nil
	}
	return some
}

// examinedBus is a broker, the rule engine on it, and the devices of an
// examination as one client; over it, a bus for requests that the rule
// republishes, and one for those of which nobody knows who speaks.
type examinedBus struct {
	t      *testing.T
	clock  *backendtest.Clock
	broker *broker
	engine *engine

	mu       sync.Mutex
	device   *client
	receiver backend.Receiver
	buses    []*MQTTBus
	asked    int
	restart  bool                     // before the next reply
	awaited  map[string]chan struct{} // by topic and payload: the receiver is done with it
}

// restarts is how many requests there are between two restarts of the broker.
const restarts = 5

// carry has the devices' requests come to a receiver from now on.
func (x *examinedBus) carry(receiver backend.Receiver) backendtest.Carrier {
	x.t.Helper()
	if x.device == nil {
		x.device = x.broker.client("devices", "cdf/certificates/+/+/+")
		x.awaited = map[string]chan struct{}{}
		x.t.Cleanup(x.close)
	}
	x.close()
	x.receiver = receiver
	x.buses = []*MQTTBus{x.start("by-rule", ByRule), x.start("direct", Direct)}
	return x
}

func (x *examinedBus) start(name string, identity Identity) *MQTTBus {
	x.t.Helper()
	c := MQTTConfig{
		Way: x.broker.way(name), ClientID: name, Topics: protocol.DefaultTopics(), Identity: identity,
		Backoff: quickBackoff(), Now: x.clock.Now,
	}
	if identity == ByRule {
		c.Keys = []RuleKey{x.engine.key}
	}
	bus, err := NewMQTTBus(c)
	if err != nil {
		x.t.Fatal(err)
	}
	bus.Subscribe(x)
	if err := bus.Start(x.t.Context()); err != nil {
		x.t.Fatal(err)
	}
	soon(x.t, "the bus is ready", func() bool { return len(bus.linesDown()) == 0 })
	return bus
}

func (x *examinedBus) close() {
	for _, bus := range x.buses {
		_ = bus.Close(canceled()) // as a process that dies
	}
	x.buses = nil
}

// Ask implements backendtest.Carrier.
func (x *examinedBus) Ask(m vending.Message) {
	x.t.Helper()
	device, action, named := protocol.DefaultTopics().Parse(m.Topic)
	if !named {
		x.t.Fatalf("no request's topic: %s", m.Topic)
	}
	topic, payload := m.Topic, string(m.Payload)
	x.asked++
	if x.asked%restarts == 0 {
		x.broker.stop()
		x.broker.start()
	}
	done := make(chan struct{})
	x.mu.Lock()
	x.awaited[topic+"\n"+payload] = done
	// A message that the broker delivers a second time is told by its trace id,
	// and without one it is another request: only the first kind has the broker
	// go between the request and its reply.
	x.restart = m.Caller.Certificate != "" && x.asked%restarts == 2
	x.mu.Unlock()
	if m.Caller.Certificate != "" {
		x.engine.speaksOver(device, m.Caller.Certificate)
		topic, payload = x.engine.envelope(device, action, payload, x.clock.Now())
	}
	x.device.say(topic, payload)
	select {
	case <-done:
	case <-time.After(time.Minute):
		x.t.Fatalf("nobody has served %s", m.Topic)
	}
}

// Serve implements backend.Receiver. What nobody waits for has come a second
// time.
func (x *examinedBus) Serve(ctx context.Context, m vending.Message) {
	x.mu.Lock()
	key := m.Topic + "\n" + string(m.Payload)
	done, waits := x.awaited[key]
	delete(x.awaited, key)
	x.mu.Unlock()
	if waits {
		defer close(done)
		x.receiver.Serve(ctx, m)
	}
}

// Present implements backend.Receiver.
func (x *examinedBus) Present(ctx context.Context, caller vending.Caller) error {
	return x.receiver.Present(ctx, caller)
}

// Publish implements backendtest.Carrier.
func (x *examinedBus) Publish(ctx context.Context, topic string, payload []byte) error {
	x.mu.Lock()
	restart := x.restart
	x.restart = false
	x.mu.Unlock()
	if restart {
		x.broker.stop()
		x.broker.start()
	}
	had := x.heard(topic, payload)
	if err := x.buses[0].Publish(ctx, topic, payload); err != nil {
		return err
	}
	for deadline := time.Now().Add(time.Minute); x.heard(topic, payload) == had; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			return fmt.Errorf("the device has never had the reply on %s", topic)
		}
	}
	return nil
}

// heard returns how often the devices have had that.
func (x *examinedBus) heard(topic string, payload []byte) (times int) {
	for _, text := range x.device.heard(topic) {
		if text == string(payload) {
			times++
		}
	}
	return times
}
