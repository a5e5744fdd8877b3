package standalone

import (
	"strings"
	"testing"

	"github.com/certvendor/certvendor/protocol"
)

func testACL(t *testing.T, rules ...TopicRule) *topicACL {
	t.Helper()
	a, err := newTopicACL(protocol.DefaultTopics(), rules)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestWhatADeviceMayPublishOn(t *testing.T) {
	a := testACL(t, TopicRule{Filter: "fleet/{thingName}/#", Publish: true}, TopicRule{Filter: "news", Subscribe: true})
	for topic, want := range map[string]bool{
		"cdf/certificates/dev1/get":                   true,
		"cdf/certificates/dev1/ack":                   true,
		"cdf/certificates/dev1/get/accepted":          false,
		"cdf/certificates/dev1/get/":                  false,
		"cdf/certificates/dev1":                       false,
		"cdf/certificates/dev2/get":                   false,
		"cdf/certificates/+/get":                      false,
		"cdf/certificates//get":                       false,
		"$aws/things/dev1/jobs/get":                   true,
		"$aws/things/dev1/jobs/start-next":            true,
		"$aws/things/dev1/jobs/job-1/get":             true,
		"$aws/things/dev1/jobs/$next/get":             true,
		"$aws/things/dev1/jobs/job-1/update":          true,
		"$aws/things/dev1/jobs/update":                false,
		"$aws/things/dev1/jobs//update":               false,
		"$aws/things/dev1/jobs/a/b/update":            false,
		"$aws/things/dev1/jobs/job-1/start-next":      false,
		"$aws/things/dev1/jobs/notify":                false,
		"$aws/things/dev1/jobs/get/accepted":          false,
		"$aws/things/dev1/jobs/job-1/update/accepted": false,
		"$aws/things/dev1/shadow/update":              false,
		"$aws/things/dev2/jobs/get":                   false,
		"$aws/rules/x/cdf/certificates/dev1/get":      false,
		"$share/g/cdf/certificates/dev1/get":          false,
		"fleet/dev1/temperature":                      true,
		"fleet/dev1":                                  true,
		"fleet/dev2/temperature":                      false,
		"news":                                        false,
		"":                                            false,
		"fleet/dev1/#":                                false,
		"fleet/dev1/" + strings.Repeat("x", 512):      false,
		"fleet/dev1" + strings.Repeat("/", 15):        false,
		"fleet/dev1" + strings.Repeat("/", 14):        true,
	} {
		if got := a.publish("dev1", topic, false); got != want {
			t.Errorf("publish %.60q: %t", topic, got)
		}
	}
}

func TestWhatADeviceMaySubscribeTo(t *testing.T) {
	a := testACL(t, TopicRule{Filter: "fleet/+/alarm", Subscribe: true}, TopicRule{Filter: "up/{thingName}", Publish: true})
	for filter, want := range map[string]bool{
		"cdf/certificates/dev1/get/+":          true,
		"cdf/certificates/dev1/#":              true,
		"cdf/certificates/dev1/+/accepted":     true,
		"cdf/certificates/dev1":                false,
		"cdf/certificates/dev10/get/+":         false,
		"cdf/certificates/dev2/get/+":          false,
		"cdf/certificates/+/get/accepted":      false,
		"cdf/certificates/#":                   false,
		"cdf/+/dev1/get/accepted":              false,
		"+/certificates/dev1/#":                false,
		"#":                                    false,
		"+/#":                                  false,
		"$aws/things/dev1/jobs/notify-next":    true,
		"$aws/things/dev1/#":                   true,
		"$aws/things/+/jobs/notify":            false,
		"$aws/#":                               false,
		"$SYS/#":                               false,
		"$share/g/cdf/certificates/dev1/get/+": false,
		"$SHARE/g/cdf/certificates/dev1/get/+": false,
		"cdf/certificates/dev1/a#":             false,
		"cdf/certificates/dev1/a+/b":           false,
		"cdf/certificates/dev1/#/b":            false,
		"cdf/certificates/dev1/\x00":           false,
		"fleet/+/alarm":                        true,
		"fleet/dev7/alarm":                     true,
		"fleet/#":                              false,
		"fleet/+/+":                            false,
		"up/dev1":                              false,
		"":                                     false,
		"cdf/certificates/dev1" + strings.Repeat("/a", 14): false,
	} {
		if got := a.subscribe("dev1", filter, false); got != want {
			t.Errorf("subscribe %.60q: %t", filter, got)
		}
	}
}

func TestRulesThatWouldOpenTheProtocol(t *testing.T) {
	for filter, want := range map[string]bool{
		"fleet/#": true, "{thingName}/data": true, "+/data": true, "a": true,
		"#": false, "+/#": false, "cdf/#": false, "cdf/certificates/x/get": false, "cdf/certificates/{thingName}/more": false,
		"+/+/+/get": false, "cdf/certificates/+": false, "$aws/#": false, "$share/g/fleet/#": false, "": false,
		"fleet/x{thingName}": false, "fleet/#/a": false,
	} {
		_, err := newTopicACL(protocol.DefaultTopics(), []TopicRule{{Filter: filter, Publish: true}})
		if (err == nil) != want {
			t.Errorf("%q: %v", filter, err)
		}
	}
	if _, err := newTopicACL(protocol.DefaultTopics(), []TopicRule{{Filter: "fleet/#"}}); err == nil {
		t.Error("a rule that allows nothing was accepted")
	}
}

func TestTopicsOfOnesOwnChoice(t *testing.T) {
	topics := protocol.Topics{
		Get: "pki/{thingName}/get", GetAccepted: "pki/{thingName}/get/ok", GetRejected: "pki/{thingName}/get/no",
		Ack: "ack/{thingName}", AckAccepted: "replies/ok/{thingName}", AckRejected: "replies/no/{thingName}",
	}
	a, err := newTopicACL(topics, nil)
	if err != nil {
		t.Fatal(err)
	}
	for filter, want := range map[string]bool{
		"pki/dev1/#": true, "replies/ok/dev1": true, "replies/no/dev1": true,
		"replies/+/dev1": false, "replies/ok/dev1/x": false, "replies/ok/+": false, "cdf/certificates/dev1/#": false,
	} {
		if got := a.subscribe("dev1", filter, false); got != want {
			t.Errorf("subscribe %q: %t", filter, got)
		}
	}
	if !a.publish("dev1", "ack/dev1", false) || a.publish("dev1", "ack/dev2", false) {
		t.Error("publish on the ack topic")
	}
	// A device named "ok" could subscribe to everybody's replies.
	topics.GetAccepted = "replies/{thingName}/get"
	if _, err := newTopicACL(topics, nil); err == nil {
		t.Error("names on different levels of one tree were accepted")
	}
}

func TestCoversAndOverlap(t *testing.T) {
	for _, test := range []struct {
		pattern, filter string
		covers, overlap bool
	}{
		{"a/b", "a/b", true, true},
		{"a/+", "a/b", true, true},
		{"a/b", "a/+", false, true},
		{"a/+", "a/#", false, true},
		{"a/#", "a/+/c", true, true},
		{"a/#", "a", true, true},
		{"a", "a/#", false, true},
		{"a/+", "a", false, false},
		{"a/+/c", "a/b", false, false},
		{"+/b", "$aws/b", false, true},
		{"#", "$aws/b", false, true},
		{"a/b", "a/c", false, false},
		{"a/+/c", "a/b/#", false, true},
	} {
		if got := covers(test.pattern, test.filter); got != test.covers {
			t.Errorf("%q covers %q: %t", test.pattern, test.filter, got)
		}
		if got, back := overlap(test.pattern, test.filter), overlap(test.filter, test.pattern); got != test.overlap || back != got {
			t.Errorf("%q and %q overlap: %t, %t", test.pattern, test.filter, got, back)
		}
	}
}

func FuzzWhatIsAllowedIsOnesOwn(f *testing.F) {
	for _, seed := range []string{"cdf/certificates/dev1/#", "$aws/things/dev1/jobs/get", "$share/a/b", "+/+/dev1"} {
		f.Add(seed)
	}
	a, err := newTopicACL(protocol.DefaultTopics(), nil)
	if err != nil {
		f.Fatal(err)
	}
	others := []string{
		"cdf/certificates/dev2/get/accepted", "cdf/certificates/dev2/get", "$aws/things/dev2/jobs/notify", "$SYS/broker/clients",
	}
	f.Fuzz(func(t *testing.T, filter string) {
		for _, other := range others {
			if a.publish("dev1", filter, false) && covers(filter, other) {
				t.Errorf("publish on %q", filter)
			}
			if a.subscribe("dev1", filter, false) && covers(filter, other) {
				t.Errorf("subscribe to %q hears %q", filter, other)
			}
		}
	})
}
