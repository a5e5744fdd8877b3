package aws

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/rs/zerolog"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/protocol"
)

// engine is rules and the certificates of who publishes.
type engine struct {
	t     *testing.T
	key   RuleKey
	rules map[protocol.Action]Rule
	mu    sync.Mutex
	n     int
	sent  [][2]string       // topics and envelopes
	over  map[string]string // principals by device; principalOf otherwise
}

// speaksOver has a device publish over that certificate from now on.
func (e *engine) speaksOver(device string, principal certificate.ID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.over[device] = string(principal)
}

func newEngine(t *testing.T) *engine {
	e := &engine{t: t, key: NewRuleKey(), rules: map[protocol.Action]Rule{}, over: map[string]string{}}
	for _, action := range []protocol.Action{protocol.Get, protocol.Ack} {
		rule, err := NewRule(protocol.DefaultTopics(), action, Inbox, e.key)
		if err != nil {
			t.Fatal(err)
		}
		e.rules[action] = rule
	}
	return e
}

func principalOf(device string) string { return string(certificate.IDOf([]byte(device))) }

// envelope is what the rules make of a request, as JSON.
func (e *engine) envelope(device string, action protocol.Action, payload string, at time.Time) (topic, text string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.n++
	on, envelope := evaluate(e.t, e.rules[action], published{
		topic: protocol.DefaultTopics().Request(device, action), payload: payload, principal: cmp.Or(e.over[device], principalOf(device)),
		clientID: device, traceID: fmt.Sprint("trace-", e.n), at: at,
	})
	e.sent = append(e.sent, [2]string{on, string(envelope)})
	return on, string(envelope)
}

// runOn has the rules work on a broker, until the test ends.
func (e *engine) runOn(b *broker) {
	c := b.client("rule-engine")
	for _, action := range []protocol.Action{protocol.Get, protocol.Ack} {
		c.must(c.Subscribe(protocol.DefaultTopics().Subscription(action), 1, func(_ mqtt.Client, m mqtt.Message) {
			device, _, _ := protocol.DefaultTopics().Parse(m.Topic())
			c.post(e.envelope(device, action, string(m.Payload()), time.Now()))
		}))
	}
}

// post publishes without waiting, as a handler must.
func (c *client) post(topic, payload string) { c.Publish(topic, 1, false, payload) }

func dropOf(err error) Drop {
	var d *dropError
	if errors.As(err, &d) {
		return d.why
	}
	return ""
}

func TestEnvelopesThatAreDropped(t *testing.T) {
	now := time.Now()
	e := newEngine(t)
	config := MQTTConfig{Topics: protocol.DefaultTopics(), Keys: []RuleKey{NewRuleKey(), e.key}, Inbox: Inbox, Now: func() time.Time { return now }}
	at := func(age time.Duration) string {
		_, text := e.envelope("pump-7", protocol.Get, "{}", now.Add(-age))
		return text
	}
	sound, topic := at(0), Inbox+"/pump-7/get"
	if _, err := openEnvelope(config, topic, []byte(sound)); err != nil {
		t.Fatal(err)
	}
	other := newEngine(t)
	_, foreign := other.envelope("pump-7", protocol.Get, "{}", now)
	for name, c := range map[string]struct {
		topic, text string
		want        Drop
	}{
		"nothing":                 {topic, "", DropForm},
		"no JSON":                 {topic, "{", DropForm},
		"a request as it is":      {topic, `{"csr":"x"}`, DropForm},
		"a member twice":          {topic, strings.Replace(sound, "{", `{"certId":"`+principalOf("x")+`",`, 1), DropForm},
		"an action of its own":    {topic, strings.Replace(sound, `"get"`, `"set"`, 1), DropForm},
		"a time that is none":     {topic, resealed(t, e.key, sound, "ts", "soon"), DropForm},
		"a payload not in base64": {topic, resealed(t, e.key, sound, "payloadB64", "*"), DropForm},
		"another key":             {topic, foreign, DropMAC},
		"another device's topic":  {Inbox + "/pump-8/get", sound, DropTopic},
		"the other action":        {Inbox + "/pump-7/ack", sound, DropTopic},
		"another inbox":           {"elsewhere/pump-7/get", sound, DropTopic},
		"six minutes old":         {topic, at(6 * time.Minute), DropStale},
		"two minutes ahead":       {topic, at(-2 * time.Minute), DropStale},
	} {
		if _, err := openEnvelope(config, c.topic, []byte(c.text)); dropOf(err) != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, age := range []time.Duration{5*time.Minute - time.Second, -59 * time.Second} {
		if _, err := openEnvelope(config, topic, []byte(at(age))); err != nil {
			t.Errorf("%s old: %v", age, err)
		}
	}
}

// Where the clock or the key is wrong no device has an answer: the log says so, and
// what to do, but a forger does not fill it.
func TestDropsAreSaid(t *testing.T) {
	now, said := time.Now(), &bytes.Buffer{}
	e := newEngine(t)
	config := MQTTConfig{
		Way: &MutualTLS{Address: "127.0.0.1:1"}, ClientID: "certvendor", Topics: protocol.DefaultTopics(), Identity: ByRule,
		Keys: []RuleKey{e.key}, Now: func() time.Time { return now }, Log: zerolog.New(said).Level(zerolog.WarnLevel),
	}
	bus, err := NewMQTTBus(config)
	if err != nil {
		t.Fatal(err)
	}
	_, old := e.envelope("pump-7", protocol.Get, "{}", now.Add(-time.Hour))
	_, foreign := newEngine(t).envelope("pump-7", protocol.Get, "{}", now)
	drop := func(text string) {
		t.Helper()
		_, err := openEnvelope(bus.config, Inbox+"/pump-7/get", []byte(text))
		bus.drop(err)
	}
	for range 100 {
		drop(old)
		drop(foreign)
		drop("junk")
	}
	for what, times := range map[string]int{"clock right": 1, "certvendor setup": 1, "\n": 2, "made 1h0m0s ago": 1} {
		if n := strings.Count(said.String(), what); n != times {
			t.Errorf("%q is said %d times: %s", what, n, said)
		}
	}
	now = now.Add(sayEvery)
	drop(old)
	if n := strings.Count(said.String(), "\n"); n != 3 {
		t.Errorf("said %d times after a while", n)
	}
	for secret, text := range map[string]string{"key": string(e.key), "MAC": decoded(t, foreign)["mac"].(string)} {
		if strings.Contains(said.String(), text) {
			t.Errorf("the log has the %s", secret)
		}
	}
}

// resealed changes a member and has the key sign it.
func resealed(t *testing.T, key RuleKey, text, member, value string) string {
	t.Helper()
	members := decoded(t, text)
	members[member] = value
	changed := encoded(t, members)
	var e envelope
	if err := json.Unmarshal([]byte(changed), &e); err != nil {
		t.Fatal(err)
	}
	members["mac"] = key.mac(&e, protocol.DefaultTopics().Request(e.Thing, protocol.Action(e.Action)))
	return encoded(t, members)
}

// Nothing in an envelope can be changed without the key.
func TestEveryMemberIsSealed(t *testing.T) {
	now := time.Now()
	e := newEngine(t)
	config := MQTTConfig{Topics: protocol.DefaultTopics(), Keys: []RuleKey{e.key}, Inbox: Inbox, Now: func() time.Time { return now }}
	topic, sound := e.envelope("pump-7", protocol.Get, "{}", now)
	members := decoded(t, sound)
	names := slices.Sorted(maps.Keys(members))
	if want := []string{"action", "certId", "clientId", "mac", "payloadB64", "thing", "traceId", "ts"}; !slices.Equal(names, want) {
		t.Fatalf("an envelope has %v", names)
	}
	for member, value := range map[string]any{
		"action": "ack", "certId": principalOf("pump-8"), "clientId": "pump-8", "mac": strings.Repeat("0", 64),
		"payloadB64": "e30K", "thing": "pump-8", "traceId": "trace-9", "ts": now.UnixMilli() + 1,
	} {
		changed := maps.Clone(members)
		changed[member] = value
		if _, err := openEnvelope(config, topic, []byte(encoded(t, changed))); dropOf(err) != DropMAC {
			t.Errorf("%s: %v", member, err)
		}
	}
	// Where one member ends and the next begins is sealed too.
	shifted := maps.Clone(members)
	shifted["certId"], shifted["payloadB64"] = "", fmt.Sprint(members["payloadB64"], "|", members["certId"])
	if _, err := openEnvelope(config, topic, []byte(encoded(t, shifted))); dropOf(err) != DropMAC {
		t.Errorf("shifted: %v", err)
	}
}

func decoded(t *testing.T, text string) map[string]any {
	t.Helper()
	var members map[string]any
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&members); err != nil {
		t.Fatal(err)
	}
	return members
}

func encoded(t *testing.T, members map[string]any) string {
	t.Helper()
	text, err := json.Marshal(members)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// An IAM identity is nobody's certificate, and not an unknown one either.
func TestCase69PrincipalThatIsNoCertificate(t *testing.T) {
	e := envelope{CertID: "AROAEXAMPLE:session", Thing: "pump-7", Action: "get", at: time.Now()}
	m := e.message(protocol.DefaultTopics(), time.Now())
	if _, err := certificate.ParseID(string(m.Caller.Certificate)); err != nil || m.Caller.Evidence != certificate.Connection {
		t.Errorf("%+v", m.Caller)
	}
}

func byRule(e *engine) func(*MQTTConfig) {
	return func(c *MQTTConfig) { c.Identity, c.Keys = ByRule, []RuleKey{e.key} }
}

func TestRequestByRule(t *testing.T) {
	b := startBroker(t)
	e := newEngine(t)
	e.runOn(b)
	r := newRig(t, b, byRule(e))
	pump := b.client("pump-7", "cdf/certificates/pump-7/+/+")
	before := time.Now().Truncate(time.Millisecond)
	pump.say(getTopic("pump-7"), "one")
	soon(t, "the reply", func() bool { return slices.Equal(pump.heard(getTopic("pump-7")+"/accepted"), []string{"one"}) })
	c := r.ends.served[0].Caller
	if string(c.Certificate) != principalOf("pump-7") || c.Device != "pump-7" || c.Evidence != certificate.Connection || c.At.Before(before) || c.At.After(time.Now()) {
		t.Errorf("%+v", c)
	}

	// The same envelope again, a forged one, an old one, and one for another.
	pump.say(e.sent[0][0], e.sent[0][1])
	pump.say(Inbox+"/pump-7/get", strings.Replace(e.sent[0][1], principalOf("pump-7"), principalOf("pump-8"), 1))
	old, text := e.envelope("pump-7", protocol.Get, "old", time.Now().Add(-time.Hour))
	pump.say(old, text)
	_, text = e.envelope("pump-7", protocol.Get, "for another", time.Now())
	pump.say(Inbox+"/pump-8/get", text)
	pump.say(Inbox+"/pump-8/get", "junk")
	want := map[Drop]int64{DropRepeated: 1, DropMAC: 1, DropStale: 1, DropTopic: 1, DropForm: 1}
	soon(t, "all are counted", func() bool { return maps.Equal(r.bus.Stats().Dropped, want) })
	if got := r.ends.payloads(); !slices.Equal(got, []string{"one"}) {
		t.Errorf("served %q", got)
	}
}

// A request that is at work when its connection is cut comes again, is not
// served again, and is acknowledged by its first's end.
func TestOneEffectWhenConnectionsAreCut(t *testing.T) {
	b := startBroker(t)
	e := newEngine(t)
	r := newRig(t, b, byRule(e))
	r.ends.gate, r.ends.entered = make(chan struct{}), make(chan string, 10)
	e.runOn(b)
	pump := b.client("pump-7", "cdf/certificates/pump-7/+/+")
	pump.say(getTopic("pump-7"), "one")
	<-r.ends.entered
	r.way.cut()
	soon(t, "it came again", func() bool { r.bus.mu.Lock(); defer r.bus.mu.Unlock(); return r.bus.atWork == 2 })
	close(r.ends.gate)
	soon(t, "it is known for a repeated one", func() bool { return r.bus.Stats().Dropped[DropRepeated] == 1 })
	if err := r.bus.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.start()
	pump.say(getTopic("pump-7"), "two")
	soon(t, "the next reply", func() bool { return slices.Contains(pump.heard(""), "two") })
	if got, replies := r.ends.payloads(), pump.heard(""); !slices.Equal(got, []string{"one", "two"}) || !slices.Equal(replies, got) {
		t.Errorf("served %q, answered %q", got, replies)
	}
}

// A request whose reply could not be sent is not taken for a repeated one.
func TestUnansweredRequestIsNoRepetition(t *testing.T) {
	ts, now := newTraces(), time.Now()
	first := ts.enter("a", now.Add(time.Minute), now)
	second := ts.enter("a", now.Add(time.Minute), now)
	if !first.first || second.first {
		t.Fatalf("%+v %+v", first, second)
	}
	ts.end("a", first, false)
	<-second.ended
	if third := ts.enter("a", now.Add(time.Minute), now); second.answered() || !third.first {
		t.Error("it can never be answered")
	}
}

func TestTracesAreForgotten(t *testing.T) {
	ts, now := newTraces(), time.Now()
	for i := range tracesKept + 10 {
		id := fmt.Sprint(i)
		ts.end(id, ts.enter(id, now.Add(time.Minute), now), i%2 == 0)
	}
	if len(ts.all) > tracesKept || ts.order.Len() > tracesKept+10 {
		t.Errorf("%d are kept", len(ts.all))
	}
	if again := ts.enter(fmt.Sprint(tracesKept+8), now.Add(time.Minute), now); again.first {
		t.Error("the latest is forgotten")
	}
	ts.enter("new", now.Add(3*time.Minute), now.Add(2*time.Minute))
	if len(ts.all) != 1 || ts.order.Len() != 1 {
		t.Errorf("%d of %d are kept beyond their time", len(ts.all), ts.order.Len())
	}
}

func FuzzEnvelope(f *testing.F) {
	key := NewRuleKey()
	config := MQTTConfig{Topics: protocol.DefaultTopics(), Keys: []RuleKey{key}, Inbox: Inbox, Now: time.Now}
	f.Add(Inbox+"/pump-7/get", []byte(`{"thing":"pump-7","action":"get","traceId":"x","ts":1,"mac":"","payloadB64":""}`))
	f.Add("", []byte(nil))
	f.Fuzz(func(t *testing.T, topic string, text []byte) {
		if _, err := openEnvelope(config, topic, text); dropOf(err) == "" {
			t.Errorf("took %q: %v", text, err)
		}
	})
}
