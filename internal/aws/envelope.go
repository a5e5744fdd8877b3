package aws

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/vending"
)

// Inbox is where topic rules publish envelopes to, unless configured
// otherwise: below it come the device and the action. No policy of a device
// should allow it to publish there; that it cannot forge an envelope all the
// same is what the MAC is for.
const Inbox = "certvendor/in"

// How old an envelope may be, and how far ahead of ours AWS's clock.
const (
	envelopeAge  = 5 * time.Minute
	envelopeSkew = time.Minute
)

// envelope is what a topic rule makes of a request: the request as it was, and
// around it, never among its members, who published it.
type envelope struct {
	PayloadB64 string         `json:"payloadB64"`
	CertID     string         `json:"certId"` // the publisher's principal: with X.509 the certificate's id
	ClientID   string         `json:"clientId"`
	Thing      string         `json:"thing"` // of the request's topic
	Action     string         `json:"action"`
	TraceID    string         `json:"traceId"`
	TS         jsontext.Value `json:"ts"` // milliseconds, as the rule wrote them
	MAC        string         `json:"mac"`

	payload []byte
	at      time.Time
}

// dropError says why an envelope is not taken. It never repeats the envelope.
type dropError struct {
	why    Drop
	detail string
}

func (e *dropError) Error() string { return fmt.Sprintf("envelope (%s): %s", e.why, e.detail) }

// todo says what an operator is to do about envelopes that are dropped so, if they
// may be those of devices.
func (e *dropError) todo() string {
	switch e.why {
	case DropMAC:
		return "if aws.broker.rule_key is a new key, run `certvendor setup`, and start the daemon again; " +
			"if not, somebody publishes where only the topic rule may"
	case DropStale:
		return "set this machine's clock right; one that has waited for long is asked again by its device"
	}
	return ""
}

// openEnvelope returns an envelope that a rule of ours made lately, for the
// device and the action in whose topic it came, or a *dropError. It is safe
// for any input.
func openEnvelope(c MQTTConfig, topic string, text []byte) (envelope, error) {
	var e envelope
	if err := json.Unmarshal(text, &e); err != nil {
		return e, &dropError{DropForm, "not the JSON of an envelope"}
	}
	action := protocol.Action(e.Action)
	if e.TraceID == "" || action != protocol.Get && action != protocol.Ack {
		return e, &dropError{DropForm, "without a trace id, or with an action that does not exist"}
	}
	if !e.isBy(c.Keys, c.Topics.Request(e.Thing, action)) {
		return e, &dropError{DropMAC, "not made with the rule's key"}
	}
	if topic != c.Inbox+"/"+e.Thing+"/"+e.Action {
		return e, &dropError{DropTopic, "its device or action is not that of its topic"}
	}
	if err := e.read(); err != nil {
		return e, &dropError{DropForm, err.Error()}
	}
	if age := c.Now().Sub(e.at); age > envelopeAge || age < -envelopeSkew {
		return e, &dropError{DropStale, fmt.Sprintf("made %s ago", age.Round(time.Second))}
	}
	return e, nil
}

// read decodes the members that are not text.
func (e *envelope) read() (err error) {
	millis, err := strconv.ParseInt(e.ts(), 10, 64)
	if err != nil {
		return errors.New("ts is not a time in milliseconds")
	}
	e.at = time.UnixMilli(millis)
	if e.payload, err = base64.StdEncoding.DecodeString(e.PayloadB64); err != nil {
		return errors.New("payloadB64 is not base64")
	}
	return nil
}

// ts returns the time as the rule wrote it into the MAC: without the quotes,
// should it have made a string of it.
func (e *envelope) ts() string { return strings.Trim(string(e.TS), `"`) }

func (e *envelope) expires() time.Time { return e.at.Add(envelopeAge + envelopeSkew) }

// isBy reports whether one of the keys made the envelope, for a request on
// that topic. It takes the same time whichever it is.
func (e *envelope) isBy(keys []RuleKey, requestTopic string) bool {
	found := 0
	for _, key := range keys {
		found |= subtle.ConstantTimeCompare([]byte(key.mac(e, requestTopic)), []byte(e.MAC))
	}
	return found == 1
}

// message is the request, on the topic where the device published it.
func (e *envelope) message(topics protocol.Topics, now time.Time) vending.Message {
	id, err := certificate.ParseID(e.CertID)
	if err != nil {
		// An IAM or a Cognito identity is nobody's certificate, and may speak
		// for no device: with an id that no certificate has it is refused like
		// any other stranger's.
		id = certificate.IDOf([]byte("principal " + e.CertID))
	}
	return vending.Message{
		Topic: topics.Request(e.Thing, protocol.Action(e.Action)), Payload: e.payload,
		Caller: vending.Caller{
			Device: registry.DeviceID(e.Thing), Certificate: id, Evidence: certificate.Connection, At: notAfter(e.at, now),
		},
	}
}

// RuleKey is what a topic rule shares with the daemon: 32 random octets as 64
// lower-case hex digits. It is a secret, and prints as one.
type RuleKey string

var ruleKeyForm = regexp.MustCompile(`^[0-9a-f]{64}$`)

// NewRuleKey makes a key.
func NewRuleKey() RuleKey {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails, by its contract
	return RuleKey(hex.EncodeToString(b))
}

// Validate says what is wrong with a key, without repeating it.
func (k RuleKey) Validate() error {
	if !ruleKeyForm.MatchString(string(k)) {
		return errors.New("the topic rule's key must be 64 lower-case hex digits")
	}
	return nil
}

// String and GoString keep the key out of logs.
func (k RuleKey) String() string { return "<secret>" }

// GoString is String.
func (k RuleKey) GoString() string { return k.String() }

// mac is what ruleSQL computes. What a publisher chooses freely, client id and
// topic, is encoded so that it cannot shift the borders between the members;
// the device and the action are in the topic. Two hashes, because one could be
// continued by whoever knows a result (RFC 2104, section 6, of secret prefixes).
func (k RuleKey) mac(e *envelope, requestTopic string) string {
	inner := hash(strings.Join([]string{
		string(k), e.PayloadB64, e.CertID, base64.StdEncoding.EncodeToString([]byte(e.ClientID)),
		base64.StdEncoding.EncodeToString([]byte(requestTopic)), e.TraceID, e.ts(),
	}, "|"))
	return hash(string(k) + "|" + inner)
}

func hash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}
