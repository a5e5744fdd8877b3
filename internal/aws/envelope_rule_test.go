package aws

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/certvendor/certvendor/protocol"
)

// published is a message as the rules engine sees it.
type published struct {
	topic, payload, principal, clientID, traceID string
	at                                           time.Time
}

// ruleEngine evaluates the part of AWS IoT's SQL that our statements use, by
// what AWS documents of each function. That the real one agrees is for an
// account to show.
type ruleEngine struct {
	t    testing.TB
	text string // of the statement, what is left of it
	m    published
	// fields are the members of the payload, for statements that name them.
	fields map[string]any
}

// evaluate returns what the rule republishes, and where to.
func evaluate(t testing.TB, r Rule, m published) (topic string, envelope []byte) {
	t.Helper()
	e := &ruleEngine{t: t, text: r.SQL, m: m}
	members := e.selected()
	e.take("FROM '")
	if _, _, matches := (protocol.Topics{Get: strings.Replace(strings.TrimSuffix(e.text, "'"), "+", protocol.ThingName, 1)}).Parse(m.topic); !matches {
		t.Fatalf("the rule for %s does not see %s", e.text, m.topic)
	}
	before, expression, ok := strings.Cut(r.Topic, "${")
	expression, after, ok2 := strings.Cut(expression, "}")
	if !ok || !ok2 {
		t.Fatalf("republishes to %q", r.Topic)
	}
	template := &ruleEngine{t: t, text: expression, m: m}
	text, err := json.Marshal(members)
	if err != nil {
		t.Fatal(err)
	}
	return before + fmt.Sprint(template.expression()) + after, text
}

// selected returns what a statement selects, by its names. What is undefined is
// left out, as AWS does.
func (e *ruleEngine) selected() map[string]any {
	e.t.Helper()
	e.take("SELECT ")
	members := map[string]any{}
	for {
		value := e.expression()
		e.take(" AS ")
		name, rest, _ := strings.Cut(e.text, " ")
		if value != nil {
			members[strings.TrimSuffix(name, ",")] = value
		}
		if e.text = rest; !strings.HasSuffix(name, ",") {
			return members
		}
	}
}

func (e *ruleEngine) take(text string) {
	e.t.Helper()
	rest, ok := strings.CutPrefix(e.text, text)
	if !ok {
		e.t.Fatalf("%q expected before %q", text, e.text)
	}
	e.text = rest
}

func (e *ruleEngine) expression() any {
	e.t.Helper()
	value := e.term()
	for {
		switch {
		case strings.HasPrefix(e.text, " + "):
			e.take(" + ")
			value = value.(int64) + e.term().(int64)
		case strings.HasPrefix(e.text, " / "):
			e.take(" / ")
			value = value.(int64) / e.term().(int64)
		default:
			return value
		}
	}
}

// choice is a CASE with one WHEN.
func (e *ruleEngine) choice() any {
	e.t.Helper()
	is := e.expression()
	e.take(" WHEN true THEN ")
	then := e.expression()
	e.take(" ELSE ")
	other := e.expression()
	e.take(" END")
	if is == true {
		return then
	}
	return other
}

func (e *ruleEngine) term() any {
	e.t.Helper()
	switch {
	case strings.HasPrefix(e.text, "CASE "):
		e.take("CASE ")
		return e.choice()
	case strings.HasPrefix(e.text, "'"):
		literal, rest, _ := strings.Cut(e.text[1:], "'")
		e.text = rest
		return literal
	case strings.HasPrefix(e.text, "*"):
		e.text = e.text[1:]
		return e.m.payload
	case e.text[0] >= '0' && e.text[0] <= '9':
		digits := len(e.text) - len(strings.TrimLeft(e.text, "0123456789"))
		n, err := strconv.ParseInt(e.text[:digits], 10, 64)
		if err != nil {
			e.t.Fatal(err)
		}
		e.text = e.text[digits:]
		return n
	}
	letters := len(e.text) - len(strings.TrimLeft(e.text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789"))
	name, rest := e.text[:letters], e.text[letters:]
	if !strings.HasPrefix(rest, "(") {
		e.text = rest
		return e.fields[name]
	}
	e.text = rest[1:]
	var args []any
	for !strings.HasPrefix(e.text, ")") {
		args = append(args, e.expression())
		e.text = strings.TrimPrefix(e.text, ", ")
	}
	e.take(")")
	return e.call(name, args)
}

func (e *ruleEngine) call(name string, args []any) any {
	e.t.Helper()
	switch name {
	case "concat":
		var b strings.Builder
		for _, arg := range args {
			fmt.Fprint(&b, arg)
		}
		return b.String()
	case "isUndefined":
		return args[0] == nil
	case "floor":
		return args[0]
	case "regexp_substr":
		return regexp.MustCompile(args[1].(string)).FindString(args[0].(string))
	case "regexp_matches":
		return regexp.MustCompile(args[1].(string)).MatchString(args[0].(string))
	case "sha256":
		return hash(args[0].(string))
	case "encode":
		if args[1] != "base64" {
			e.t.Fatalf("encoding %v", args[1])
		}
		return base64.StdEncoding.EncodeToString([]byte(args[0].(string)))
	case "topic":
		if len(args) == 0 {
			return e.m.topic
		}
		return strings.Split(e.m.topic, "/")[args[0].(int64)-1]
	case "principal":
		return e.m.principal
	case "clientid":
		return e.m.clientID
	case "traceid":
		return e.m.traceID
	case "timestamp":
		return e.m.at.UnixMilli()
	}
	e.t.Fatalf("no function %q", name)
	return nil
}

// The statement computes what the bus verifies, for whatever a device sends.
func TestRuleAndBusAgree(t *testing.T) {
	key := NewRuleKey()
	deeper := protocol.DefaultTopics()
	deeper.Get, deeper.Ack = "mill/fleet/certs/{thingName}/get", "{thingName}/ack/please"
	now := time.Now()
	for _, topics := range []protocol.Topics{protocol.DefaultTopics(), deeper} {
		config := MQTTConfig{Topics: topics, Keys: []RuleKey{key}, Inbox: "inbox/of-mine", Now: func() time.Time { return now }}
		for _, action := range []protocol.Action{protocol.Get, protocol.Ack} {
			rule, err := NewRule(topics, action, config.Inbox, key)
			if err != nil {
				t.Fatal(err)
			}
			for _, payload := range []string{"", "{}", `{"certId":"forged","thing":"other","mac":"x"}`, "\x00\xff'\"|${topic(3)}"} {
				for _, clientID := range []string{"pump:7_a", "pump|7|x", "pump-7/candidate", "ünïcode' \"q\"", "n/a", ""} {
					m := published{
						topic: topics.Request("pump:7_a", action), payload: payload, clientID: clientID,
						principal: strings.Repeat("ab", 32), traceID: "trace-1", at: now.Add(-time.Second).Truncate(time.Millisecond),
					}
					on, text := evaluate(t, rule, m)
					e, err := openEnvelope(config, on, text)
					if err != nil {
						t.Fatalf("%s with %q by %q: %v", on, payload, clientID, err)
					}
					got := e.message(topics, now)
					if got.Topic != m.topic || string(got.Payload) != payload || string(got.Caller.Device) != "pump:7_a" ||
						string(got.Caller.Certificate) != m.principal || !got.Caller.At.Equal(m.at) {
						t.Errorf("%+v from %+v", got, m)
					}
				}
			}
		}
	}
}

func TestRulesThatCannotBeMade(t *testing.T) {
	quoted := protocol.DefaultTopics()
	quoted.Get = "it's/{thingName}/get"
	for name, c := range map[string]struct {
		topics protocol.Topics
		inbox  string
		key    RuleKey
		want   string
	}{
		"a quote in a topic":    {quoted, Inbox, NewRuleKey(), "quotes"},
		"a template in a topic": {protocol.DefaultTopics(), "in/${x}", NewRuleKey(), "the topic for envelopes"},
		"a key with a quote":    {protocol.DefaultTopics(), Inbox, "'||'", "64 lower-case hex digits"},
	} {
		if _, err := NewRule(c.topics, protocol.Get, c.inbox, c.key); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestRuleKeyIsNotPrinted(t *testing.T) {
	key := NewRuleKey()
	if err := key.Validate(); err != nil || key == NewRuleKey() {
		t.Fatal("no key", err)
	}
	for _, text := range []string{fmt.Sprint(key), fmt.Sprintf("%v %+v %#v %s %q", key, []RuleKey{key}, key, key, key)} {
		if strings.Contains(text, string(key)) {
			t.Errorf("printed as %s", text)
		}
	}
}
