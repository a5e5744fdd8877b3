package standalone

import (
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/rs/zerolog"
)

// The reply goes to the connection that asked, subscribed or not, and to no
// other of the same device.
func TestARequestingConnectionAloneGetsTheReply(t *testing.T) {
	w := startBroker(t)
	memory := &jobMemory{now: time.Now}
	w.jobs = NewJobs(JobsConfig{Store: memory, Publish: w.Publish, Now: time.Now, Log: zerolog.Nop()})
	cert := w.ca.device("dev1")
	other := w.raw(cert, "dev1/other")
	other.subscribe(1, "$aws/things/dev1/jobs/#")
	asking := w.raw(cert, "dev1", v5)
	for _, id := range []uint16{0, 5} { // QoS 0 and 1
		asking.publish(id, "$aws/things/dev1/jobs/get", `{"clientToken":"x"}`)
		reply := asking.expect(packets.Publish)
		if reply.TopicName != "$aws/things/dev1/jobs/get/accepted" || object(t, reply.Payload)["clientToken"] != "x" {
			t.Errorf("reply: %s %s", reply.TopicName, reply.Payload)
		}
	}
	asking.expect(packets.Puback)
	_ = w.Publish(t.Context(), "$aws/things/dev1/jobs/notify", []byte("last"))
	if m := other.expect(packets.Publish); string(m.Payload) != "last" {
		t.Errorf("the other connection heard %s", m.TopicName)
	}
}

func TestAReplyIsNotLeftInTheSession(t *testing.T) {
	w := startBroker(t)
	cert := w.ca.device("dev1")
	r := w.raw(cert, "dev1", keepSession)
	r.subscribe(1, "$aws/things/dev1/jobs/#")
	r.publish(2, "$aws/things/dev1/jobs/get", "")
	r.expect(packets.Puback)
	_ = r.conn.Close()
	again := w.raw(cert, "dev1", keepSession)
	_ = w.Publish(t.Context(), "$aws/things/dev1/jobs/notify", []byte("last"))
	if m := again.expect(packets.Publish); string(m.Payload) != "last" {
		t.Errorf("redelivered: %s", m.TopicName)
	}
}

func TestTooManyJobRequestsAreThrottled(t *testing.T) {
	w := startBroker(t, func(c *BrokerConfig) { c.Limits.JobRequests = 1 })
	r := w.raw(w.ca.device("dev1"), "dev1")
	codes := map[any]int{}
	for id := range uint16(20) {
		r.publish(id+1, "$aws/things/dev1/jobs/start-next", `{}`)
		codes[object(t, r.expect(packets.Publish).Payload)["code"]]++
	}
	if codes[nil] < 3 || codes["RequestThrottled"] < 10 {
		t.Errorf("codes: %v", codes)
	}
}

// A whole job with a real client, as the AWS IoT SDKs play it.
func TestAJobFromNotifyNextToSucceeded(t *testing.T) {
	w := startBroker(t)
	memory := &jobMemory{now: time.Now}
	api := NewJobs(JobsConfig{Store: memory, Publish: w.Publish, Now: time.Now, Log: zerolog.Nop()})
	w.jobs = api
	client := w.connect(w.ca.device("dev1"), "dev1", func(o *paho.ClientOptions) { o.SetUsername("?SDK=Go&Version=1") })
	next := w.listen(client, "$aws/things/dev1/jobs/notify-next")
	started := w.listen(client, "$aws/things/dev1/jobs/start-next/+")
	updated := w.listen(client, "$aws/things/dev1/jobs/+/update/+")

	memory.mu.Lock()
	memory.queue("dev1", "rotate", 1)
	memory.mu.Unlock()
	if err := api.Added(t.Context(), "dev1"); err != nil {
		t.Fatal(err)
	}
	if e := object(t, receive(t, next).Payload())["execution"].(map[string]any); e["jobId"] != "rotate" {
		t.Errorf("notify-next: %v", e)
	}
	if err := w.publish(client, "$aws/things/dev1/jobs/start-next", `{}`); err != nil {
		t.Fatal(err)
	}
	if e := object(t, receive(t, started).Payload())["execution"].(map[string]any); e["status"] != "IN_PROGRESS" {
		t.Errorf("start-next: %v", e)
	}
	if err := w.publish(client, "$aws/things/dev1/jobs/rotate/update", `{"status":"SUCCEEDED","expectedVersion":"2"}`); err != nil {
		t.Fatal(err)
	}
	if m := receive(t, updated); m.Topic() != "$aws/things/dev1/jobs/rotate/update/accepted" {
		t.Errorf("update: %s %s", m.Topic(), m.Payload())
	}
	same(t, "notify-next", object(t, receive(t, next).Payload())["execution"], "null")
}
