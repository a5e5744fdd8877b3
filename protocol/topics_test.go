package protocol_test

import (
	"strings"
	"testing"

	"github.com/certvendor/certvendor/protocol"
)

func TestParseTopic(t *testing.T) {
	ours := protocol.DefaultTopics()
	short := ours
	short.Get, short.Ack = "{thingName}", "ack/{thingName}"
	for _, c := range []struct {
		name, topic string
		topics      protocol.Topics
		device      string
		action      protocol.Action
		ok          bool
	}{
		{"a get", "cdf/certificates/thing001/get", ours, "thing001", protocol.Get, true},
		{"an ack", "cdf/certificates/thing001/ack", ours, "thing001", protocol.Ack, true},
		{"a device called get", "cdf/certificates/get/get", ours, "get", protocol.Get, true},
		{"an odd name is left to the registry", "cdf/certificates/a b.c/get", ours, "a b.c", protocol.Get, true},
		{"the token itself as a name", "cdf/certificates/{thingName}/get", ours, "{thingName}", protocol.Get, true},
		{"the name as first and only level", "thing001", short, "thing001", protocol.Get, true},
		{"the name as last level", "ack/thing001", short, "thing001", protocol.Ack, true},
		{"no name", "cdf/certificates//get", ours, "", "", false},
		{"an extra level in front", "x/cdf/certificates/thing001/get", ours, "", "", false},
		{"an extra level behind", "cdf/certificates/thing001/get/x", ours, "", "", false},
		{"an extra level inside", "cdf/certificates/thing001/x/get", ours, "", "", false},
		{"an empty level behind", "cdf/certificates/thing001/get/", ours, "", "", false},
		{"a leading slash", "/cdf/certificates/thing001/get", ours, "", "", false},
		{"an answer", "cdf/certificates/thing001/get/accepted", ours, "", "", false},
		{"a plus for a name", "cdf/certificates/+/get", ours, "", "", false},
		{"a plus in a name", "cdf/certificates/th+ng/get", ours, "", "", false},
		{"a hash in a name", "cdf/certificates/th#ng/get", ours, "", "", false},
		{"a NUL in a name", "cdf/certificates/thing\x00/get", ours, "", "", false},
		{"another action", "cdf/certificates/thing001/put", ours, "", "", false},
		{"another case", "cdf/certificates/thing001/GET", ours, "", "", false},
		{"nothing", "", ours, "", "", false},
		{"a name where a slash makes two levels", "ack/thing/001", short, "", "", false},
	} {
		device, action, ok := c.topics.Parse(c.topic)
		if device != c.device || action != c.action || ok != c.ok {
			t.Errorf("%s: %q is %q %q %v, want %q %q %v", c.name, c.topic, device, action, ok, c.device, c.action, c.ok)
		}
	}
}

func TestValidateTopics(t *testing.T) {
	if err := protocol.DefaultTopics().Validate(); err != nil {
		t.Errorf("the default: %v", err)
	}
	for _, c := range []struct{ name, template, says string }{
		{"no name", "cdf/get", "once"},
		{"the name twice", "{thingName}/{thingName}", "once"},
		{"the name as part of a level", "cdf/x{thingName}/get", "once"},
		{"the name whole and as a part", "{thingName}/x{thingName}", "once"},
		{"a plus", "cdf/+/{thingName}", "wildcard"},
		{"a hash", "cdf/{thingName}/#", "wildcard"},
		{"a NUL", "cdf/{thingName}/\x00", "wildcard"},
		{"the broker's own", "$aws/things/{thingName}/get", "broker"},
		{"empty", "", "once"},
		{"another's", protocol.DefaultTopics().Get, "same template as get"},
	} {
		topics := protocol.DefaultTopics()
		topics.AckRejected = c.template
		err := topics.Validate()
		if err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "ack_rejected") {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestTopicsOfADevice(t *testing.T) {
	topics := protocol.DefaultTopics()
	topics.AckAccepted = "replies/{thingName}/ok"
	for _, c := range []struct{ got, want string }{
		{topics.Request("a", protocol.Get), "cdf/certificates/a/get"},
		{topics.Request("a", protocol.Ack), "cdf/certificates/a/ack"},
		{topics.Accepted("a", protocol.Get), "cdf/certificates/a/get/accepted"},
		{topics.Accepted("a", protocol.Ack), "replies/a/ok"},
		{topics.Rejected("a", protocol.Get), "cdf/certificates/a/get/rejected"},
		{topics.Rejected("a", protocol.Ack), "cdf/certificates/a/ack/rejected"},
		{topics.Subscription(protocol.Get), "cdf/certificates/+/get"},
		{topics.Subscription(protocol.Ack), "cdf/certificates/+/ack"},
		{protocol.NewJobDocument(topics).Ack.Subscribe, "replies/{thingName}/+"},
	} {
		if c.got != c.want {
			t.Errorf("got %s, want %s", c.got, c.want)
		}
	}
}

// FuzzParseTopic holds that what is parsed is exactly what is made: a topic
// that means a device is the one topic of that device.
func FuzzParseTopic(f *testing.F) {
	for _, seed := range []string{
		"cdf/certificates/thing001/get", "cdf/certificates/thing001/ack", "cdf/certificates//get", "cdf/certificates/+/get",
		"cdf/certificates/a/b/get", "cdf/certificates/get/get/accepted", "cdf/certificates/\x00/ack", "", "/", "#",
	} {
		f.Add(seed)
	}
	topics := protocol.DefaultTopics()
	f.Fuzz(func(t *testing.T, topic string) {
		device, action, ok := topics.Parse(topic)
		switch {
		case !ok && (device != "" || action != ""):
			t.Errorf("%q: refused as %q %q", topic, device, action)
		case !ok:
		case device == "" || strings.ContainsAny(device, "/+#\x00"):
			t.Errorf("%q: a device %q", topic, device)
		case device == protocol.ThingName: // Fill has nothing to replace twice
		case topics.Request(device, action) != topic:
			t.Errorf("%q is not the topic of %q %q", topic, device, action)
		}
	})
}
