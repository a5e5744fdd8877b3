package aws

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/vending"
)

func event(clientID, thing, principal string, at time.Time) string {
	return fmt.Sprintf(`{"clientId":%q,"thingName":%q,"timestamp":%d,"eventType":"connected","sessionIdentifier":"s","principalIdentifier":%q,"ipAddress":"192.0.2.1","versionNumber":3}`,
		clientID, thing, at.UnixMilli(), principal)
}

func TestReadPresence(t *testing.T) {
	now := time.Now()
	early := now.Add(-time.Minute).Truncate(time.Millisecond)
	id := certificate.ID(principalOf("pump-7"))
	caller := func(at time.Time) vending.Caller {
		return vending.Caller{Device: "pump-7", Certificate: id, Evidence: certificate.Presence, At: at}
	}
	for name, c := range map[string]struct {
		text string
		want vending.Caller
	}{
		"a device":               {event("pump-7", "", string(id), early), caller(early)},
		"its candidate":          {event("pump-7/candidate", "", string(id), early), caller(early)},
		"a certificate of one":   {event("whatever", "pump-7", string(id), early), caller(early)},
		"a clock that is ahead":  {event("pump-7", "", string(id), now.Add(time.Hour)), caller(now)},
		"an IAM identity":        {event("pump-7", "", "AROA:session", early), vending.Caller{}},
		"a name of no device":    {event("pump 7", "", string(id), early), vending.Caller{}},
		"a time that is missing": {event("pump-7", "", string(id), time.UnixMilli(0)), vending.Caller{}},
		"another event":          {`{"eventType":"disconnected","clientId":"pump-7","timestamp":1,"principalIdentifier":"` + string(id) + `"}`, vending.Caller{}},
		"no event":               {"junk", vending.Caller{}},
	} {
		got, ok := readPresence([]byte(c.text), now)
		if ok != (c.want != vending.Caller{}) || got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

// A broker that gives no presence away gets requests served all the same.
func TestPresenceThatIsRefused(t *testing.T) {
	b := startBroker(t)
	b.stop()
	b.write("roles.json", `{"defaultACLAccess":{"publishClientSend":true,"publishClientReceive":true,"subscribe":true,"unsubscribe":true},
		"clients":[{"username":"vendor","roles":[{"rolename":"deaf","priority":1}]},{"username":"pump-7","roles":[]}],"groups":[],
		"roles":[{"rolename":"deaf","acls":[{"acltype":"subscribePattern","topic":"$aws/#","priority":1,"allow":false}]}]}`)
	b.extra = "plugin " + plugin(t) + "\nplugin_opt_config_file " + b.path("roles.json")
	b.start()
	r := newRig(t, b, func(c *MQTTConfig) { c.Presence = true })
	soon(t, "presence is refused", func() bool { return r.bus.Stats().Failed > 0 })
	if down := r.bus.linesDown(); !slices.Equal(down, []string{"takes presence"}) || r.bus.Ready() != nil {
		t.Errorf("down %v, ready: %v", down, r.bus.Ready())
	}
	pump := b.client("pump-7", "cdf/certificates/pump-7/+/+")
	pump.say(getTopic("pump-7"), "one")
	soon(t, "the reply", func() bool { return slices.Equal(pump.heard(""), []string{"one"}) })
}

func TestPresence(t *testing.T) {
	b := startBroker(t)
	r := newRig(t, b, func(c *MQTTConfig) { c.Presence = true })
	soon(t, "it hears of presence", func() bool { return len(r.bus.linesDown()) == 0 })
	aws := b.client("broker-itself")
	at := time.Now().Truncate(time.Millisecond)
	aws.say("$aws/events/presence/connected/pump-7/candidate", event("pump-7/candidate", "", principalOf("pump-7"), at))
	soon(t, "it is counted", func() bool { return r.bus.Stats().Presence == 1 })
	r.ends.mu.Lock()
	if got := r.ends.present; len(got) != 1 || got[0].Device != "pump-7" || !got[0].At.Equal(at) {
		t.Errorf("got %+v", got)
	}
	r.ends.refuse = errors.New("unknown")
	r.ends.mu.Unlock()
	aws.say("$aws/events/presence/connected/console", event("console", "", principalOf("console"), at))
	aws.say("$aws/events/presence/connected/x", "junk")
	soon(t, "strangers are counted", func() bool { return r.bus.Stats().Strangers == 2 })
}
