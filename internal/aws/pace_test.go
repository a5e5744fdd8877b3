package aws

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/backend/backendtest"
	"github.com/certvendor/certvendor/jobs"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

func noon() *backendtest.Clock {
	return backendtest.NewClock(time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC))
}

// fleet enters so many devices into the registry and the rotation group.
func fleet(t *testing.T, w *World, n int) []registry.DeviceID {
	t.Helper()
	var all []registry.DeviceID
	for i := range n {
		id := registry.DeviceID(fmt.Sprintf("thing-%d", i))
		if err := w.registry.Add(t.Context(), id, nil); err != nil {
			t.Fatal(err)
		}
		if err := w.group.Add(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		all = append(all, id)
	}
	return all
}

func (w *World) ensure(t *testing.T) {
	t.Helper()
	if _, err := w.jobs.Ensure(t.Context(), jobs.New("rotate", protocol.DefaultTopics())); err != nil {
		t.Fatal(err)
	}
}

func (w *World) pacedRound(t *testing.T, clock *backendtest.Clock) {
	t.Helper()
	clock.Advance(lookEvery)
	if _, err := w.pacer.round(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func wantStatus(t *testing.T, w *World, want map[registry.DeviceID]protocol.JobStatus) {
	t.Helper()
	for id, status := range want {
		e, some, err := w.jobs.Newest(t.Context(), id)
		if err != nil || !some || e.Status != status {
			t.Errorf("%s: %s, %t, %v; want %s", id, e.Status, some, err, status)
		}
	}
}

// TestJobAndExecutions: case 84 and 88. The members are added to the thing
// group, and what becomes of their executions is read in pages.
func TestJobAndExecutions(t *testing.T) {
	fake, clock := newFake(), noon()
	w := fake.open(t, clock)
	w.ensure(t)
	things := fleet(t, w, 7)
	w.pacedRound(t, clock)
	if len(fake.group) != len(things) {
		t.Fatalf("in the thing group: %v", fake.group)
	}
	targets := fmt.Sprint(fake.job["targets"])
	if targets != "["+fakeARN+"thinggroup/rotate]" || fake.job["targetSelection"] != "CONTINUOUS" {
		t.Errorf("the job is for %s, %v", targets, fake.job["targetSelection"])
	}
	if document := fake.job["document"].(string); !strings.Contains(document, "cdf/certificates/{thingName}/get") {
		t.Errorf("the document is %s", document)
	}
	fake.set("thing-1", "IN_PROGRESS")
	fake.set("thing-2", "SUCCEEDED")
	fake.set("thing-3", "FAILED")
	fake.set("thing-4", "TIMED_OUT")
	w.pacedRound(t, clock)
	wantStatus(t, w, map[registry.DeviceID]protocol.JobStatus{
		"thing-0": protocol.JobQueued, "thing-1": protocol.JobInProgress, "thing-2": protocol.JobSucceeded,
		"thing-3": protocol.JobFailed, "thing-4": protocol.JobTimedOut, "thing-6": protocol.JobQueued,
	})
	fake.mu.Lock()
	delete(fake.executions, "thing-1") // by a person
	fake.mu.Unlock()
	w.pacedRound(t, clock)
	wantStatus(t, w, map[registry.DeviceID]protocol.JobStatus{"thing-1": protocol.JobRemoved})
	status, err := w.jobs.Status(t.Context())
	if err != nil || status.Executions[protocol.JobQueued] != 3 || status.Waiting != 0 {
		t.Errorf("status %+v, %v", status, err)
	}
}

// TestPace: members are added no faster than they may, and no more than may be
// in flight.
func TestPace(t *testing.T) {
	fake, clock := newFake(), noon()
	w := fake.open(t, clock, func(c *Config) { c.Pace = Pace{PerMinute: 2, MaxInFlight: 3} })
	w.ensure(t)
	fleet(t, w, 6)
	w.pacer.counted, w.pacer.allowance = clock.Now(), w.pacer.burst()
	for _, want := range []int{1, 2, 3, 3} { // one a round at most, and three at work
		w.pacedRound(t, clock)
		if len(fake.group) != want {
			t.Fatalf("%d are in the thing group, want %d", len(fake.group), want)
		}
	}
	fake.set("thing-0", "SUCCEEDED")
	w.pacedRound(t, clock)
	if len(fake.group) != 4 {
		t.Errorf("%d are in the thing group once a place is free, want 4", len(fake.group))
	}
}

// TestRerun: a thing that had the job and is added again gets it again.
func TestRerun(t *testing.T) {
	for rerun, want := range map[Rerun][]string{
		Readd:           {"removeThingFromThingGroup", "addThingToThingGroup"},
		DeleteExecution: {"removeThingFromThingGroup", "executionNumber/1", "addThingToThingGroup"},
	} {
		t.Run(string(rerun), func(t *testing.T) {
			fake, clock := newFake(), noon()
			w := fake.open(t, clock, func(c *Config) { c.Rerun = rerun })
			w.ensure(t)
			things := fleet(t, w, 1)
			w.pacedRound(t, clock)
			fake.set(string(things[0]), "FAILED")
			w.pacedRound(t, clock)
			if err := w.group.Add(t.Context(), things[0]); err != nil {
				t.Fatal(err)
			}
			fake.called()
			w.pacedRound(t, clock)
			calls := fake.called()
			for _, call := range want {
				at := slices.IndexFunc(calls, func(c string) bool { return strings.HasSuffix(c, call) })
				if at < 0 {
					t.Fatalf("%s is not, or not in its turn, among %v", call, calls)
				}
				calls = calls[at+1:]
			}
		})
	}
}

// TestCutOffBeforeAWS: a member that the store has given its turn, and whose
// adding a crash has cut off, is added when AWS knows nothing of it.
func TestCutOffBeforeAWS(t *testing.T) {
	for name, ahead := range map[string]time.Duration{"": 0, "by a clock that ran ahead": 365 * 24 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			fake, clock := newFake(), noon()
			w := fake.open(t, clock)
			w.ensure(t)
			clock.Jump(ahead)
			fleet(t, w, 3)
			if _, err := w.jobs.Release(t.Context(), 10); err != nil { // and then the process died
				t.Fatal(err)
			}
			clock.Jump(-ahead)
			w.pacedRound(t, clock)
			w.pacedRound(t, clock)
			w.pacedRound(t, clock)
			if len(fake.group) != 3 {
				t.Errorf("in the thing group: %v", fake.group)
			}
		})
	}
}

// TestAddedByOthers: things that others put into the thing group, more than a
// page of them, are members.
func TestAddedByOthers(t *testing.T) {
	fake, clock := newFake(), noon()
	w := fake.open(t, clock)
	w.ensure(t)
	for i := range 5 {
		fake.add(fmt.Sprintf("other-%d", i))
	}
	w.pacedRound(t, clock)
	members, err := w.group.Members(t.Context(), "", 0)
	if err != nil || len(members) != 5 {
		t.Errorf("members %v, %v", members, err)
	}
	wantStatus(t, w, map[registry.DeviceID]protocol.JobStatus{ // and their turn has come
		"other-0": protocol.JobQueued, "other-4": protocol.JobQueued,
	})
}

// TestAddedByOthersAfterAClockThatRanAhead: a thing that has rotated then is not taken
// for one that is about to leave the thing group until that time comes.
func TestAddedByOthersAfterAClockThatRanAhead(t *testing.T) {
	fake, clock := newFake(), noon()
	w := fake.open(t, clock)
	w.ensure(t)
	fake.add("other-0")
	r := rotation.Rotation{Device: "other-0", Number: 1, State: rotation.Vended, Opened: clock.Now()}
	r, err := w.store.Journal().Open(t.Context(), r, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.State, r.AckedAt = rotation.Finished, clock.Now().AddDate(1, 0, 0)
	r.ClosedAt = r.AckedAt
	if _, err := w.store.Journal().Advance(t.Context(), rotation.Change{Rotation: r}); err != nil {
		t.Fatal(err)
	}
	w.pacedRound(t, clock)
	wantStatus(t, w, map[registry.DeviceID]protocol.JobStatus{"other-0": protocol.JobQueued})
}

// TestHeldInPages: case 79. All certificates of a thing are considered, with
// all their policies, and no other principal.
func TestHeldInPages(t *testing.T) {
	fake, clock := newFake(), noon()
	w := fake.open(t, clock)
	want := 5
	fake.principals["thing-1"] = []string{"arn:aws-cn:iam::123456789012:user/somebody", "cn-north-1:cognito"}
	for range want {
		c := signed(t, w, clock)
		fake.pems[string(c.ID)] = c.PEM()
		fake.principals["thing-1"] = append(fake.principals["thing-1"], fakeARN+"cert/"+string(c.ID))
	}
	held, err := w.inventory.Held(t.Context(), "thing-1")
	if err != nil || len(held) != want {
		t.Fatalf("%d held, %v", len(held), err)
	}
	for _, h := range held {
		if !slices.Equal(h.Policies, []string{"p1", "p2", "p3"}) {
			t.Errorf("policies of %.8s: %v", h.ID, h.Policies)
		}
	}
}

// A certificate that cannot be read, as one with a serial number that is negative,
// does not keep its device from rotating over another.
func TestCertificateThatCannotBeRead(t *testing.T) {
	fake, clock := newFake(), noon()
	w := fake.open(t, clock)
	sound := signed(t, w, clock)
	for name, text := range map[string]string{
		"no PEM": "", "no certificate": "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n", "another": sound.PEM(),
	} {
		id := string(certificate.IDOf([]byte(name)))
		fake.pems[id] = text
		fake.principals["thing-1"] = append(fake.principals["thing-1"], fakeARN+"cert/"+id)
	}
	fake.pems[string(sound.ID)] = sound.PEM()
	fake.principals["thing-1"] = append(fake.principals["thing-1"], fakeARN+"cert/"+string(sound.ID))
	held, err := w.inventory.Held(t.Context(), "thing-1")
	if err != nil || len(held) != 1 || held[0].ID != sound.ID {
		t.Errorf("%d held, %v", len(held), err)
	}
}

// The things that are in the group before there is a job get it at the pace too:
// whoever comes from the original may have many of them waiting. Another pace, or
// another time, is brought up to date.
func TestCase84JobIsGivenOutAtThePace(t *testing.T) {
	fake := newFake()
	settings := JobSettings{InProgressTimeout: time.Hour, PerMinute: 120}
	w := fake.open(t, noon(), func(c *Config) { c.Job = settings })
	w.ensure(t)
	rollout := func() string { return fmt.Sprint(fake.job["jobExecutionsRolloutConfig"], fake.job["timeoutConfig"]) }
	if got := rollout(); got != "map[maximumPerMinute:120] map[inProgressTimeoutInMinutes:60]" || fake.job["targetSelection"] != "CONTINUOUS" {
		t.Errorf("the job was made with %s, %v", got, fake.job["targetSelection"])
	}
	part := jobPart{account: account{clients: w.config.Clients}, job: jobs.New("rotate", protocol.DefaultTopics()), at: w.jobs.at}
	for _, c := range []struct {
		settings JobSettings
		do       Do
		want     string
	}{
		{settings, DoKeep, "map[maximumPerMinute:120] map[inProgressTimeoutInMinutes:60]"},
		{JobSettings{time.Hour, 5000}, DoUpdate, "map[maximumPerMinute:1000] map[inProgressTimeoutInMinutes:60]"},
		{JobSettings{2 * time.Hour, 1000}, DoUpdate, "map[maximumPerMinute:1000] map[inProgressTimeoutInMinutes:120]"},
	} {
		part.at.settings = c.settings
		step, err := part.look(t.Context())
		if err != nil || step.Do != c.do {
			t.Fatalf("%+v: %+v, %v", c.settings, step, err)
		}
		if step.Do == DoUpdate {
			if err := part.make(t.Context(), step); err != nil {
				t.Fatal(err)
			}
		}
		if got := rollout(); got != c.want {
			t.Errorf("%+v: the job has %s", c.settings, got)
		}
	}
}
