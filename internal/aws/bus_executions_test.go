package aws

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
)

func executionEvent(job, thing, status string) string {
	return fmt.Sprintf(`{"eventType":"JOB_EXECUTION","eventId":"e","timestamp":1,"operation":%q,"jobId":%q,"thingArn":%q,"status":%q}`,
		status, job, fakeARN+"thing/"+thing, status)
}

// What AWS tells of an execution has the store ask for it at once, and believe
// nothing but the answer.
func TestExecutionsThatHaveEnded(t *testing.T) {
	fake, clock, b := newFake(), noon(), startBroker(t)
	bus, err := NewMQTTBus(MQTTConfig{
		Way: b.way("vendor"), ClientID: "vendor", Topics: protocol.DefaultTopics(), Identity: Direct, Executions: true,
		Backoff: quickBackoff(), Now: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	bus.Subscribe(&receiver{bus: bus})
	w := fake.open(t, clock, func(c *Config) { c.Bus = bus })
	w.ensure(t)
	fleet(t, w, 2)
	if err := w.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	soon(t, "both have their job", func() bool {
		return slices.Equal(statuses(t, w), []protocol.JobStatus{protocol.JobQueued, protocol.JobQueued})
	})
	soon(t, "it hears of executions", func() bool { return len(bus.linesDown()) == 0 })
	status, err := w.jobs.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	aws, topic := b.client("broker-itself"), "$aws/events/jobExecution/"+status.Job.ID+"/succeeded"
	fake.called()
	aws.say(topic, executionEvent(status.Job.ID, "thing-1", "SUCCEEDED")) // of an earlier execution
	soon(t, "AWS is asked", func() bool {
		return slices.Contains(fake.called(), "GET /things/thing-1/jobs/"+status.Job.ID)
	})
	fake.set("thing-0", "FAILED")
	fake.set("thing-1", "SUCCEEDED")
	aws.say(topic, "junk")
	aws.say(topic, executionEvent("another", "thing-1", "SUCCEEDED"))
	aws.say(topic, executionEvent(status.Job.ID, "thing-0", "SUCCEEDED"))
	want := []protocol.JobStatus{protocol.JobFailed, protocol.JobQueued}
	soon(t, "the store knows of the one that failed", func() bool { return slices.Equal(statuses(t, w), want) })
	if stats := bus.Stats(); stats.Executions != 3 || stats.Strangers != 1 {
		t.Errorf("counted %+v", stats)
	}
}

func statuses(t *testing.T, w *World) []protocol.JobStatus {
	t.Helper()
	var all []protocol.JobStatus
	for _, id := range []registry.DeviceID{"thing-0", "thing-1"} {
		e, some, err := w.jobs.Newest(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		if some {
			all = append(all, e.Status)
		}
	}
	return all
}
