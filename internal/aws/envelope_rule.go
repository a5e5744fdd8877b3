package aws

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/certvendor/certvendor/protocol"
)

// RuleSQLVersion is the version of the SQL that RuleSQL is written in.
const RuleSQLVersion = "2016-03-23"

// Rule is a topic rule that puts requests of one action into envelopes: its
// statement, and the topic that it republishes to, with QoS 1. The statement
// holds the key, so it is a secret.
type Rule struct {
	SQL   string
	Topic string
}

// NewRule returns the rule for an action. It fails for a topic or an inbox that
// cannot be written into a statement.
func NewRule(topics protocol.Topics, action protocol.Action, inbox string, key RuleKey) (Rule, error) {
	if err := key.Validate(); err != nil {
		return Rule{}, err
	}
	if err := validateInbox(inbox); err != nil {
		return Rule{}, err
	}
	filter := topics.Subscription(action)
	if strings.ContainsAny(filter, `'"\`) {
		return Rule{}, fmt.Errorf("mqtt.topics.%s: %q: a topic rule cannot be made of a topic with quotes or backslashes", action, filter)
	}
	thing := fmt.Sprintf("topic(%d)", slices.Index(strings.Split(filter, "/"), "+")+1)
	const body, client, on = "encode(*, 'base64')", "encode(clientid(), 'base64')", "encode(topic(), 'base64')"
	inner := "sha256(" + concat(quoted(string(key)), body, "principal()", client, on, "traceid()", "timestamp()") + ")"
	return Rule{
		SQL: fmt.Sprintf("SELECT %s AS payloadB64, principal() AS certId, clientid() AS clientId, %s AS thing, "+
			"'%s' AS action, traceid() AS traceId, timestamp() AS ts, sha256(%s) AS mac FROM '%s'",
			body, thing, action, concat(quoted(string(key)), inner), filter),
		Topic: fmt.Sprintf("%s/${%s}/%s", inbox, thing, action),
	}, nil
}

func quoted(text string) string { return "'" + text + "'" }

// concat joins SQL expressions with a bar between any two.
func concat(parts ...string) string { return "concat(" + strings.Join(parts, ", '|', ") + ")" }

// plainTopic are the levels an inbox may have: nothing that MQTT, the SQL or a
// substitution template reads as anything else.
var plainTopic = regexp.MustCompile(`^[A-Za-z0-9_.:-]+(/[A-Za-z0-9_.:-]+){0,4}$`)

func validateInbox(inbox string) error {
	if !plainTopic.MatchString(inbox) {
		return fmt.Errorf("the topic for envelopes, %q, must be one to five levels of letters, digits and _.:-", inbox)
	}
	return nil
}
