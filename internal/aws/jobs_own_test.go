package aws

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/certvendor/certvendor/campaign"
	"github.com/certvendor/certvendor/internal/backend/backendtest"
	"github.com/certvendor/certvendor/jobs"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
)

func perCampaign(t *testing.T, change ...func(*Config)) (*World, *fakeIoT, *backendtest.Clock) {
	t.Helper()
	fake, clock := newFake(), noon()
	w := fake.open(t, clock, append(change, func(c *Config) { c.Rerun = JobPerCampaign })...)
	w.ensure(t)
	return w, fake, clock
}

// campaignOf applies a campaign of these devices and lets all of them in.
func (w *World) campaignOf(t *testing.T, name string, devices ...registry.DeviceID) campaign.Campaign {
	t.Helper()
	c := campaign.Campaign{
		Spec:    campaign.Spec{Name: name, Choose: campaign.Choice{All: true}}.WithDefaults(),
		Devices: len(devices), By: "somebody", Applied: w.config.Now(),
	}
	var members []campaign.Member
	for i, id := range devices {
		if err := w.registry.Add(t.Context(), id, nil); err != nil {
			t.Fatal(err)
		}
		members = append(members, campaign.Member{Device: id, Place: i, Standing: campaign.Pending})
	}
	rows := w.store.Campaigns()
	if _, err := rows.Apply(t.Context(), c, members); err != nil {
		t.Fatal(err)
	}
	taken, err := rows.Take(t.Context(), name, 0, nil, len(devices))
	if err != nil || len(taken) != len(devices) {
		t.Fatalf("%d of %d let in: %v", len(taken), len(devices), err)
	}
	w.add(t, devices...)
	return c
}

func (w *World) add(t *testing.T, devices ...registry.DeviceID) {
	t.Helper()
	for _, id := range devices {
		if err := w.group.Add(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
}

// endCampaign ends a campaign as its runner does.
func (w *World) endCampaign(t *testing.T, name string) {
	t.Helper()
	rows := w.store.Campaigns()
	c, err := rows.Find(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	c.State, c.Ended = campaign.Finished, w.config.Now()
	if saved, err := rows.Save(t.Context(), c); err != nil || !saved {
		t.Fatalf("saved: %t, %v", saved, err)
	}
}

// rotates plays what a thing does with its job, and its leaving behind the ack.
func (f *fakeIoT) rotates(t *testing.T, w *World, id registry.DeviceID) {
	t.Helper()
	if n := f.openOf(string(id)); n != 1 {
		t.Errorf("%s has %d jobs to do, want 1", id, n)
	}
	f.mu.Lock()
	all := slices.Collect(maps.Values(f.owns))
	for _, executions := range append([]map[string]*fakeExecution{f.executions}, executionsOfAll(all)...) {
		if e := executions[string(id)]; e != nil && e.status == "QUEUED" {
			e.status = "SUCCEEDED"
		}
	}
	f.mu.Unlock()
	if err := w.group.Remove(t.Context(), id, time.Time{}); err != nil {
		t.Fatal(err)
	}
}

func executionsOfAll(owns []*fakeOwn) (all []map[string]*fakeExecution) {
	for _, own := range owns {
		all = append(all, own.executions)
	}
	return all
}

// jobStates returns the states of the jobs besides the first, by their ids.
func (f *fakeIoT) jobStates() map[string]string {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := map[string]string{}
	for id, own := range f.owns {
		all[id] = own.status
	}
	return all
}

// Each campaign has a job and a group of its own, which things come into at the
// pace, and which end with it. Nobody has two.
func TestJobPerCampaign(t *testing.T) {
	w, fake, clock := perCampaign(t, func(c *Config) { c.Pace = Pace{PerMinute: 2, MaxInFlight: 100} })
	w.pacer.counted, w.pacer.allowance = clock.Now(), w.pacer.burst()
	things := []registry.DeviceID{"thing-0", "thing-1", "thing-2"}
	w.campaignOf(t, "spring", things...)
	w.pacedRound(t, clock)
	if len(fake.owns) != 1 || len(fake.group) != 0 {
		t.Fatalf("jobs %v, in the first group %v", fake.jobStates(), fake.group)
	}
	spring := slices.Collect(maps.Keys(fake.owns))[0]
	own := fake.owns[spring]
	if n := len(fake.groups[own.group]); n != 1 {
		t.Errorf("%d things came in the first round, at 2 a minute", n)
	}
	if !strings.HasPrefix(spring, jobs.New("rotate", protocol.DefaultTopics()).ID+"-") || !strings.HasPrefix(own.group, "rotate-") ||
		own.document != fake.job["document"] {
		t.Errorf("the job is %s for %s: %s", spring, own.group, own.document)
	}
	for range things {
		w.pacedRound(t, clock)
	}
	if n := len(fake.groups[own.group]); n != 3 {
		t.Fatalf("%d things are in the campaign's group", n)
	}
	for _, id := range things {
		fake.rotates(t, w, id)
	}
	w.pacedRound(t, clock)
	if fake.jobStates()[spring] != "IN_PROGRESS" {
		t.Error("the job has ended before its campaign")
	}
	w.endCampaign(t, "spring")
	w.pacedRound(t, clock)
	if fake.jobStates()[spring] != "CANCELED" || fake.groups[own.group] != nil {
		t.Errorf("after the campaign: the job is %s, its group %v", fake.jobStates()[spring], fake.groups[own.group])
	}
	fake.called()
	w.pacedRound(t, clock)
	if calls := fmt.Sprint(fake.called()); strings.Contains(calls, spring) {
		t.Errorf("what has ended is asked about still: %s", calls)
	}

	// The next one is another job, and nobody's execution is repeated.
	w.campaignOf(t, "autumn", things...)
	for range 4 {
		w.pacedRound(t, clock)
	}
	if len(fake.jobStates()) != 2 {
		t.Fatalf("jobs %v", fake.jobStates())
	}
	for _, id := range things {
		fake.rotates(t, w, id)
	}
}

// What is added by hand has the first job once, and then another.
func TestJobPerHand(t *testing.T) {
	w, fake, clock := perCampaign(t)
	things := fleet(t, w, 2)
	w.pacedRound(t, clock)
	if len(fake.owns) != 0 || len(fake.group) != 2 {
		t.Fatalf("jobs %v, in the first group %v", fake.jobStates(), fake.group)
	}
	for turn := range 3 {
		for _, id := range things {
			fake.rotates(t, w, id)
		}
		w.add(t, things...)
		w.pacedRound(t, clock)
		if n := len(fake.owns); n != turn+1 {
			t.Fatalf("%d more jobs after %d more times", n, turn+1)
		}
	}
	for _, id := range things {
		fake.rotates(t, w, id)
	}
	w.pacedRound(t, clock)
	w.pacedRound(t, clock)
	for id, status := range fake.jobStates() {
		if status != "CANCELED" {
			t.Errorf("job %s is %s, and nobody has it", id, status)
		}
	}
	if len(fake.groups) > 0 || fake.jobStatus != "IN_PROGRESS" {
		t.Errorf("groups %v; the first job is %s", fake.groups, fake.jobStatus)
	}
}

// A thing that fails and is added again while its campaign goes on has the job
// again, which is another; one that is in no hurry is compared with its own.
func TestJobPerCampaignAgain(t *testing.T) {
	w, fake, clock := perCampaign(t)
	w.campaignOf(t, "spring", "thing-0", "thing-1")
	w.pacedRound(t, clock)
	for _, own := range fake.owns {
		own.executions["thing-0"].status = "FAILED"
	}
	w.pacedRound(t, clock)
	wantStatus(t, w, map[registry.DeviceID]protocol.JobStatus{"thing-0": protocol.JobFailed, "thing-1": protocol.JobQueued})
	w.add(t, "thing-0")
	w.pacedRound(t, clock)
	w.pacedRound(t, clock)
	wantStatus(t, w, map[registry.DeviceID]protocol.JobStatus{"thing-0": protocol.JobQueued, "thing-1": protocol.JobQueued})
	if len(fake.owns) != 2 {
		t.Fatalf("jobs %v", fake.jobStates())
	}
	fake.rotates(t, w, "thing-0")
	fake.rotates(t, w, "thing-1")
}

// Other topics: another job, and a campaign that goes on has another too. The
// former ones are canceled.
func TestJobPerCampaignOtherTopics(t *testing.T) {
	w, fake, clock := perCampaign(t)
	w.campaignOf(t, "spring", "thing-0")
	w.pacedRound(t, clock)
	former := slices.Collect(maps.Keys(fake.owns))
	topics := protocol.DefaultTopics()
	topics.Get = "other/{thingName}/get"
	if _, err := w.jobs.Ensure(t.Context(), jobs.New("rotate", topics)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		w.pacedRound(t, clock)
	}
	status := fake.jobStates()
	if len(status) != 2 || status[former[0]] != "CANCELED" {
		t.Fatalf("jobs %v", status)
	}
	for id, own := range fake.owns {
		if id != former[0] && !strings.Contains(own.document, "other/{thingName}/get") {
			t.Errorf("the document of %s: %s", id, own.document)
		}
	}
	fake.rotates(t, w, "thing-0")
}

// A crash between the store and AWS: the thing is added when AWS knows nothing
// of it, and to the group that was chosen for it.
func TestJobPerCampaignCutOff(t *testing.T) {
	w, fake, clock := perCampaign(t)
	w.campaignOf(t, "spring", "thing-0")
	if _, err := w.jobs.Release(t.Context(), 10); err != nil {
		t.Fatal(err)
	}
	newest, _, err := w.jobs.Newest(t.Context(), "thing-0")
	if err != nil {
		t.Fatal(err)
	}
	own, err := w.jobs.own.rows.Choose(t.Context(), newest, w.jobs.own.named(newest)) // and then the process died
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		w.pacedRound(t, clock)
	}
	if fmt.Sprint(fake.groups[own.Group]) != "[thing-0]" || len(fake.owns) != 1 {
		t.Errorf("jobs %v, groups %v, want %s", fake.jobStates(), fake.groups, own.Group)
	}
	fake.rotates(t, w, "thing-0")
}

// A thing that waits in two campaigns has the job of one. When that one ends, it
// is given the other's; who is at work on its job, or waits for no other, is not.
func TestJobOfAnotherCampaign(t *testing.T) {
	for _, cut := range []bool{false, true} {
		t.Run(fmt.Sprintf("cut off: %t", cut), func(t *testing.T) {
			w, fake, clock := perCampaign(t)
			w.campaignOf(t, "spring", "both", "at-work", "alone")
			w.pacedRound(t, clock)
			w.pacedRound(t, clock)
			spring := slices.Collect(maps.Keys(fake.owns))[0]
			clock.Advance(time.Second)
			w.campaignOf(t, "summer", "both", "at-work")
			fake.mu.Lock()
			fake.owns[spring].executions["at-work"].status = "IN_PROGRESS"
			fake.mu.Unlock()
			w.pacedRound(t, clock)
			w.endCampaign(t, "spring")
			if cut { // the process dies once it is written down, and AWS is told later
				newest, _, err := w.jobs.Newest(t.Context(), "both")
				if err != nil {
					t.Fatal(err)
				}
				if own, err := w.jobs.own.rows.Choose(t.Context(), newest, w.jobs.own.named(newest)); err != nil || own.Campaign != "summer" {
					t.Fatalf("chosen: %+v, %v", own, err)
				}
			}
			for range 4 {
				w.pacedRound(t, clock)
			}
			wantStatus(t, w, map[registry.DeviceID]protocol.JobStatus{
				"both": protocol.JobQueued, "at-work": protocol.JobInProgress, "alone": protocol.JobCanceled,
			})
			for id, want := range map[string]int{"both": 1, "at-work": 1, "alone": 0} {
				if n := fake.openOf(id); n != want {
					t.Errorf("%s has %d jobs to do, want %d", id, n, want)
				}
			}
			if e := fake.owns[spring].executions["both"]; e != nil && e.status == "QUEUED" || fake.jobStates()[spring] != "CANCELED" {
				t.Errorf("the job of the campaign that has ended is %s, and the thing's %+v", fake.jobStates()[spring], e)
			}
			fake.rotates(t, w, "both")
			fake.mu.Lock()
			fake.owns[spring].executions["at-work"].status = "SUCCEEDED"
			group := fake.owns[spring].group
			fake.mu.Unlock()
			w.pacedRound(t, clock)
			w.pacedRound(t, clock)
			if _, there := fake.groups[group]; there {
				t.Error("the group of the campaign that has ended is there still")
			}
		})
	}
}
