package protocol

import (
	"fmt"
	"strings"
)

// ThingName is the token in a topic template, and in a job document, that
// stands for the device's name. The device replaces it in job documents.
const ThingName = "{thingName}"

// Topics are the six topic templates of the protocol. Each holds ThingName
// exactly once, as a whole level, and no wildcard.
type Topics struct {
	Get         string
	GetAccepted string
	GetRejected string
	Ack         string
	AckAccepted string
	AckRejected string
}

// DefaultTopics returns the topics of the original.
func DefaultTopics() Topics {
	const root = "cdf/certificates/" + ThingName
	return Topics{
		Get: root + "/get", GetAccepted: root + "/get/accepted", GetRejected: root + "/get/rejected",
		Ack: root + "/ack", AckAccepted: root + "/ack/accepted", AckRejected: root + "/ack/rejected",
	}
}

// Validate reports the first template that could not work, by its
// configuration key.
func (t Topics) Validate() error {
	seen := map[string]string{}
	for _, entry := range t.entries() {
		switch {
		case strings.ContainsAny(entry.template, "+#\x00"):
			return fmt.Errorf("mqtt.topics.%s: %q: a topic template holds no wildcard", entry.key, entry.template)
		case countLevels(entry.template, ThingName) != 1 || strings.Count(entry.template, ThingName) != 1:
			return fmt.Errorf("mqtt.topics.%s: %q: must hold %s once, as a level of its own", entry.key, entry.template, ThingName)
		case strings.HasPrefix(entry.template, "$"):
			return fmt.Errorf("mqtt.topics.%s: %q: topics that start with $ belong to the broker", entry.key, entry.template)
		case seen[entry.template] != "":
			return fmt.Errorf("mqtt.topics.%s: the same template as %s", entry.key, seen[entry.template])
		}
		seen[entry.template] = entry.key
	}
	return nil
}

// Parse finds the device and the action of a request's topic. It reports
// false for any topic that is not exactly one of the two request topics; the
// device name it returns is whatever stands in the topic, unchecked.
func (t Topics) Parse(topic string) (device string, action Action, ok bool) {
	if device, ok = match(t.Get, topic); ok {
		return device, Get, true
	}
	if device, ok = match(t.Ack, topic); ok {
		return device, Ack, true
	}
	return "", "", false
}

// Request returns the topic on which the device asks.
func (t Topics) Request(device string, action Action) string {
	if action == Ack {
		return Fill(t.Ack, device)
	}
	return Fill(t.Get, device)
}

// Accepted returns the topic of a reply that grants a request.
func (t Topics) Accepted(device string, action Action) string {
	if action == Ack {
		return Fill(t.AckAccepted, device)
	}
	return Fill(t.GetAccepted, device)
}

// Rejected returns the topic of a reply that refuses a request.
func (t Topics) Rejected(device string, action Action) string {
	if action == Ack {
		return Fill(t.AckRejected, device)
	}
	return Fill(t.GetRejected, device)
}

// Subscription returns the filter that matches the requests of every device.
func (t Topics) Subscription(action Action) string {
	if action == Ack {
		return strings.Replace(t.Ack, ThingName, "+", 1)
	}
	return strings.Replace(t.Get, ThingName, "+", 1)
}

// Fill replaces ThingName in a template, wherever it stands.
func Fill(template, device string) string {
	return strings.ReplaceAll(template, ThingName, device)
}

func (t Topics) entries() []struct{ key, template string } {
	return []struct{ key, template string }{
		{"get", t.Get}, {"get_accepted", t.GetAccepted}, {"get_rejected", t.GetRejected},
		{"ack", t.Ack}, {"ack_accepted", t.AckAccepted}, {"ack_rejected", t.AckRejected},
	}
}

func match(template, topic string) (device string, ok bool) {
	before, after, _ := strings.Cut(template, ThingName)
	rest, ok := strings.CutPrefix(topic, before)
	if !ok {
		return "", false
	}
	device, ok = strings.CutSuffix(rest, after)
	if !ok || device == "" || strings.ContainsAny(device, "/+#\x00") {
		return "", false
	}
	return device, true
}

func countLevels(template, level string) int {
	n := 0
	for _, l := range strings.Split(template, "/") {
		if l == level {
			n++
		}
	}
	return n
}
