package standalone

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/rs/zerolog"

	"github.com/certvendor/certvendor/jobs"
	"github.com/certvendor/certvendor/protocol"
)

// jobWorld is the API on a store in memory; what it publishes is kept.
type jobWorld struct {
	*Jobs
	t      *testing.T
	memory *jobMemory
	ended  int

	mu        sync.Mutex
	published []published
}

type published struct {
	topic string
	body  map[string]any
}

var jobTime = time.Unix(1_800_000_000, 0)

func newJobWorld(t *testing.T) *jobWorld {
	now := func() time.Time { return jobTime }
	w := &jobWorld{t: t, memory: &jobMemory{now: now}}
	w.Jobs = NewJobs(JobsConfig{
		Store: w.memory, Publish: w.publish, Ended: func() { w.ended++ },
		InProgressTimeout: time.Hour, Now: now, Log: zerolog.New(zerolog.NewTestWriter(t)),
	})
	return w
}

func (w *jobWorld) publish(_ context.Context, topic string, payload []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.published = append(w.published, published{topic, object(w.t, payload)})
	return nil
}

// ask sends a request of dev1 and returns the last level of the reply's topic
// and its body.
func (w *jobWorld) ask(name, payload string) (verdict string, body map[string]any) {
	w.t.Helper()
	request := "$aws/things/dev1/jobs/" + name
	topic, reply := w.Answer(w.t.Context(), "dev1", request, []byte(payload))
	verdict, ok := strings.CutPrefix(topic, request+"/")
	if !ok {
		w.t.Errorf("the reply to %s is on %s", request, topic)
	}
	body = object(w.t, reply)
	if body["timestamp"] != float64(jobTime.Unix()) {
		w.t.Errorf("timestamp of %s: %v", reply, body["timestamp"])
	}
	return verdict, body
}

func object(t *testing.T, payload []byte) map[string]any {
	t.Helper()
	var body map[string]any
	if err := json.Unmarshal(payload, &body); err != nil {
		t.Fatalf("%s: %v", payload, err)
	}
	return body
}

// same compares with the JSON that is expected.
func same(t *testing.T, what string, got any, want string) {
	t.Helper()
	encoded, err := json.Marshal(got, json.Deterministic(true))
	if err != nil {
		t.Fatal(err)
	}
	expected := jsontext.Value(want)
	if err := expected.Canonicalize(); err != nil {
		t.Fatalf("%s: %v", want, err)
	}
	actual := jsontext.Value(encoded)
	if err := actual.Canonicalize(); err != nil {
		t.Fatal(err)
	}
	if string(actual) != string(expected) {
		t.Errorf("%s:\n got %s\nwant %s", what, actual, expected)
	}
}

func TestTheListOfJobs(t *testing.T) {
	w := newJobWorld(t)
	verdict, body := w.ask("get", "")
	same(t, verdict, body, `{"inProgressJobs":[],"queuedJobs":[],"timestamp":1800000000}`)

	w.memory.queue("dev1", "one", 1)
	w.memory.queue("dev1", "two", 3)
	w.memory.queue("dev2", "other", 1)
	w.ask("start-next", "")
	verdict, body = w.ask("get", `{"clientToken":"t1"}`)
	same(t, verdict, body, `{"clientToken":"t1","timestamp":1800000000,
		"inProgressJobs":[{"jobId":"one","queuedAt":1800000000,"startedAt":1800000000,"lastUpdatedAt":1800000000,"versionNumber":2,"executionNumber":1}],
		"queuedJobs":[{"jobId":"two","queuedAt":1800000000,"lastUpdatedAt":1800000000,"versionNumber":1,"executionNumber":3}]}`)
}

func TestStartNextStartsTheOldestAndReturnsItAgain(t *testing.T) {
	w := newJobWorld(t)
	verdict, body := w.ask("start-next", `{"clientToken":"t"}`)
	same(t, verdict, body, `{"timestamp":1800000000,"clientToken":"t"}`)

	w.memory.queue("dev1", "one", 1)
	w.memory.queue("dev1", "two", 1)
	const started = `{"clientToken":"t","timestamp":1800000000,"execution":{"jobId":"one","thingName":"dev1","status":"IN_PROGRESS",
		"statusDetails":{"step":"1"},"queuedAt":1800000000,"startedAt":1800000000,"lastUpdatedAt":1800000000,"versionNumber":2,
		"executionNumber":1,"approximateSecondsBeforeTimedOut":3600,"jobDocument":{"operation":"RotateCertificates","job":"one"}}}`
	verdict, body = w.ask("start-next", `{"clientToken":"t","statusDetails":{"step":"1"}}`)
	same(t, verdict, body, started)
	verdict, body = w.ask("start-next", `{"clientToken":"t","statusDetails":{"step":"2"}}`)
	same(t, verdict+" again", body, started)
	if len(w.published) != 0 {
		t.Errorf("published %v, though neither the list nor the next changed", w.published)
	}
}

func TestStartNextTakesTheNextWhereOneEndedMeanwhile(t *testing.T) {
	w := newJobWorld(t)
	w.memory.queue("dev1", "one", 1)
	w.memory.queue("dev1", "two", 1)
	w.memory.before = func() { w.memory.all[0] = w.memory.all[0].End(protocol.JobCanceled, jobTime) }
	_, body := w.ask("start-next", "")
	if e, _ := body["execution"].(map[string]any); e["jobId"] != "two" {
		t.Errorf("started %v", body)
	}
}

func TestDescribeAJob(t *testing.T) {
	w := newJobWorld(t)
	verdict, body := w.ask("$next/get", "")
	same(t, verdict, body, `{"timestamp":1800000000}`)

	w.memory.queue("dev1", "one", 1)
	w.memory.all[0] = w.memory.all[0].End(protocol.JobTimedOut, jobTime)
	w.memory.queue("dev1", "one", 2)
	const newest = `{"timestamp":1800000000,"execution":{"jobId":"one","thingName":"dev1","status":"QUEUED","queuedAt":1800000000,
		"lastUpdatedAt":1800000000,"versionNumber":1,"executionNumber":2,"jobDocument":{"operation":"RotateCertificates","job":"one"}}}`
	for _, id := range []string{"$next", "one"} {
		verdict, body := w.ask(id+"/get", "{}")
		same(t, verdict+" "+id, body, newest)
	}
	verdict, body = w.ask("one/get", `{"executionNumber":1,"includeJobDocument":false}`)
	same(t, verdict, body, `{"timestamp":1800000000,"execution":{"jobId":"one","thingName":"dev1","status":"TIMED_OUT",
		"queuedAt":1800000000,"lastUpdatedAt":1800000000,"versionNumber":2,"executionNumber":1}}`)
}

func TestAnUpdateToTheEnd(t *testing.T) {
	w := newJobWorld(t)
	w.memory.queue("dev1", "one", 1)
	w.memory.queue("dev1", "two", 1)
	verdict, body := w.ask("one/update", `{"status":"IN_PROGRESS","expectedVersion":"1"}`)
	same(t, verdict, body, `{"timestamp":1800000000}`)
	if len(w.published) != 0 || w.ended != 0 {
		t.Errorf("published %v, ended %d", w.published, w.ended)
	}
	verdict, body = w.ask("one/update",
		`{"status":"SUCCEEDED","expectedVersion":2,"includeJobExecutionState":true,"includeJobDocument":true,"clientToken":"t"}`)
	same(t, verdict, body, `{"timestamp":1800000000,"clientToken":"t","executionState":{"status":"SUCCEEDED","versionNumber":3},
		"jobDocument":{"operation":"RotateCertificates","job":"one"}}`)
	if w.ended != 1 || w.memory.status("dev1", "one") != protocol.JobSucceeded {
		t.Errorf("ended %d times, status %s", w.ended, w.memory.status("dev1", "one"))
	}
	if len(w.published) != 2 {
		t.Fatalf("published %v", w.published)
	}
	same(t, w.published[0].topic, w.published[0].body, `{"timestamp":1800000000,"jobs":{"QUEUED":[
		{"jobId":"two","queuedAt":1800000000,"lastUpdatedAt":1800000000,"versionNumber":1,"executionNumber":1}]}}`)
	same(t, w.published[1].topic, w.published[1].body, `{"timestamp":1800000000,"execution":{"jobId":"two","thingName":"dev1","status":"QUEUED",
		"queuedAt":1800000000,"lastUpdatedAt":1800000000,"versionNumber":1,"executionNumber":1,"jobDocument":{"operation":"RotateCertificates","job":"two"}}}`)

	w.published = nil
	w.ask("$next/update", `{"status":"FAILED"}`)
	if len(w.published) != 2 {
		t.Fatalf("published %v", w.published)
	}
	if w.published[0].topic != "$aws/things/dev1/jobs/notify" || w.published[1].topic != "$aws/things/dev1/jobs/notify-next" {
		t.Errorf("published on %s and %s", w.published[0].topic, w.published[1].topic)
	}
	same(t, "notify of nothing", w.published[0].body, `{"timestamp":1800000000,"jobs":{}}`)
	same(t, "notify-next of nothing", w.published[1].body, `{"timestamp":1800000000}`)
}

func TestStartingALaterJobMakesItTheNext(t *testing.T) {
	w := newJobWorld(t)
	w.memory.queue("dev1", "one", 1)
	w.memory.queue("dev1", "two", 1)
	w.ask("two/update", `{"status":"IN_PROGRESS"}`)
	if len(w.published) != 1 || w.published[0].topic != "$aws/things/dev1/jobs/notify-next" {
		t.Errorf("published %v", w.published)
	}
}

func TestHowAJobRequestIsRefused(t *testing.T) {
	setUp := func(t *testing.T) *jobWorld {
		w := newJobWorld(t)
		w.memory.queue("dev1", "done", 1)
		w.memory.all[0] = w.memory.all[0].End(protocol.JobRemoved, jobTime)
		w.memory.queue("dev1", "one", 1)
		w.memory.queue("dev2", "other", 1)
		return w
	}
	const queued = `{"status":"QUEUED","versionNumber":1}`
	for name, test := range map[string]struct {
		topic, payload string
		code           protocol.JobCode
		state          string
	}{
		"noise":                             {"get", "\x00\xff", protocol.JobInvalidJSON, ""},
		"not an object":                     {"get", "[]", protocol.JobInvalidJSON, ""},
		"a member twice":                    {"one/update", `{"status":"FAILED","status":"SUCCEEDED"}`, protocol.JobInvalidJSON, ""},
		"something behind the object":       {"get", "{} {}", protocol.JobInvalidJSON, ""},
		"a member of another type":          {"one/update", `{"status":5}`, protocol.JobInvalidRequest, ""},
		"a client token that is none":       {"get", `{"clientToken":5}`, protocol.JobInvalidRequest, ""},
		"a client token beyond measure":     {"get", `{"clientToken":"` + strings.Repeat("x", 65) + `"}`, protocol.JobInvalidRequest, ""},
		"a payload beyond measure":          {"get", `{"x":"` + strings.Repeat("x", protocol.MaxPayload) + `"}`, protocol.JobInvalidRequest, ""},
		"no status":                         {"one/update", "", protocol.JobInvalidRequest, ""},
		"a status that does not exist":      {"one/update", `{"status":"DONE"}`, protocol.JobInvalidRequest, ""},
		"a status that is not the device's": {"one/update", `{"status":"REMOVED"}`, protocol.JobInvalidStateTransition, queued},
		"a version that is not there":       {"one/update", `{"status":"FAILED","expectedVersion":"7"}`, protocol.JobVersionMismatch, queued},
		"a version that is no number":       {"one/update", `{"status":"FAILED","expectedVersion":"x"}`, protocol.JobInvalidRequest, ""},
		"an execution that has ended":       {"done/update", `{"status":"SUCCEEDED"}`, protocol.JobTerminalState, ""},
		"too many details": {"one/update", `{"status":"FAILED","statusDetails":{"a":"1","b":"1","c":"1","d":"1","e":"1","f":"1",
			"g":"1","h":"1","i":"1","j":"1","k":"1"}}`, protocol.JobInvalidRequest, ""},
		"bad details to start with":          {"start-next", `{"statusDetails":{"a b":"1"}}`, protocol.JobInvalidRequest, ""},
		"a job that is not there":            {"two/get", "", protocol.JobNotFound, ""},
		"an update of one that is not there": {"two/update", `{"status":"FAILED"}`, protocol.JobNotFound, ""},
		"another device's job":               {"other/get", "", protocol.JobNotFound, ""},
		"an execution that is not there":     {"one/get", `{"executionNumber":2}`, protocol.JobNotFound, ""},
		"a negative execution":               {"one/get", `{"executionNumber":-1}`, protocol.JobInvalidRequest, ""},
		"a job id that cannot be":            {"o.ne/get", "", protocol.JobInvalidTopic, ""},
		"another placeholder":                {"$last/get", "", protocol.JobInvalidTopic, ""},
		"a step timer beyond measure":        {"one/update", `{"status":"FAILED","stepTimeoutInMinutes":10081}`, protocol.JobInvalidRequest, ""},
		"the same to start with":             {"start-next", `{"stepTimeoutInMinutes":-2}`, protocol.JobInvalidRequest, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := setUp(t)
			before := slices.Clone(w.memory.all)
			verdict, body := w.ask(test.topic, test.payload)
			if verdict != "rejected" || body["code"] != string(test.code) || body["message"] == "" {
				t.Errorf("%s: %v", verdict, body)
			}
			state := "null"
			if test.state != "" {
				state = test.state
			}
			same(t, "executionState", body["executionState"], state)
			if !slices.EqualFunc(before, w.memory.all, func(a, b jobs.Execution) bool { return a.Version == b.Version && a.Status == b.Status }) {
				t.Errorf("changed: %v", w.memory.all)
			}
		})
	}
}

func TestARefusalEchoesTheClientToken(t *testing.T) {
	w := newJobWorld(t)
	_, body := w.ask("two/get", `{"clientToken":"t"}`)
	if body["clientToken"] != "t" {
		t.Errorf("%v", body)
	}
}

func TestAStoreThatFailsStaysInTheLog(t *testing.T) {
	w := newJobWorld(t)
	w.memory.queue("dev1", "one", 1)
	w.memory.err = errors.New("disk full at /var/lib")
	for _, request := range []string{"get", "start-next", "one/get", "$next/get"} {
		verdict, body := w.ask(request, "")
		if verdict != "rejected" || body["code"] != "InternalError" || strings.Contains(body["message"].(string), "disk") {
			t.Errorf("%s: %s %v", request, verdict, body)
		}
	}
}

func TestNotifyListsTenAtMost(t *testing.T) {
	w := newJobWorld(t)
	for i := range 15 {
		w.memory.queue("dev1", fmt.Sprint("job-", i), 1)
	}
	if err := w.Added(t.Context(), "dev1"); err != nil {
		t.Fatal(err)
	}
	if len(w.published) != 1 {
		t.Fatalf("published %v: one behind another is not the next", w.published)
	}
	if list := w.published[0].body["jobs"].(map[string]any)["QUEUED"].([]any); len(list) != 10 {
		t.Errorf("%d listed", len(list))
	}
}
