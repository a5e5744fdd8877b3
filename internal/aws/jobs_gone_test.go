package aws

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/jobs"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
)

// makes are the calls that make, or add, something.
func makes(calls []string) []string {
	return slices.DeleteFunc(calls, func(call string) bool {
		return !strings.HasPrefix(call, "POST /thing-groups") && !strings.HasPrefix(call, "PUT /")
	})
}

// Somebody takes away what the daemon has at AWS, as setup --remove does: it says
// so once, makes nothing again, and goes on when it is there again.
func TestTakenAway(t *testing.T) {
	for name, take := range map[string]func(*fakeIoT){
		"the job":   func(f *fakeIoT) { f.noJob = true; f.executions = map[string]*fakeExecution{} },
		"the group": func(f *fakeIoT) { f.noGroup = true },
		"both": func(f *fakeIoT) {
			f.noGroup, f.noJob, f.group, f.executions = true, true, nil, map[string]*fakeExecution{}
		},
		"nothing, but the job is canceled": func(f *fakeIoT) { f.jobStatus = "CANCELED" },
	} {
		for _, rerun := range []Rerun{Readd, JobPerCampaign} {
			t.Run(name+"/"+string(rerun), func(t *testing.T) {
				fake, clock, said := newFake(), noon(), &bytes.Buffer{}
				w := fake.open(t, clock, func(c *Config) { c.Rerun, c.Log = rerun, zerolog.New(said) })
				w.ensure(t)
				fleet(t, w, 2)
				w.pacedRound(t, clock)
				take(fake)
				fake.called()
				w.campaignOf(t, "c", "late-1", "late-2")
				for range 5 {
					w.pacedRound(t, clock)
				}
				if made := makes(fake.called()); len(made) > 0 {
					t.Errorf("it makes %v", made)
				}
				if n := strings.Count(said.String(), "certvendor job ensure"); n != 1 {
					t.Errorf("said %d times:\n%s", n, said)
				}
				if name != "nothing, but the job is canceled" {
					w.ensure(t)
				} else {
					fake.jobStatus = "IN_PROGRESS"
				}
				clock.Advance(appears)
				for range 3 {
					w.pacedRound(t, clock)
				}
				for _, id := range []registry.DeviceID{"thing-0", "late-1", "late-2"} {
					if n := fake.openOf(string(id)); n != 1 {
						t.Errorf("%s has %d jobs to do once all is there again:\n%s", id, n, said)
					}
				}
			})
		}
	}
}

// A campaign's job is not made in the minute before it is noticed that all is gone.
func TestNothingIsMadeForACampaignWhenAllIsGone(t *testing.T) {
	w, fake, clock := perCampaign(t)
	w.pacedRound(t, clock)
	fake.noJob = true
	w.campaignOf(t, "c", "thing-1")
	fake.called()
	if _, err := w.pacer.round(t.Context()); err != nil { // which does not look yet
		t.Fatal(err)
	}
	if made := makes(fake.called()); len(made) > 0 {
		t.Errorf("it makes %v", made)
	}
}

// After a restore the job goes on as AWS has it, and who has done it since the
// backup is out of the group.
func TestJobAfterARestore(t *testing.T) {
	fake, clock := newFake(), noon()
	w := fake.open(t, clock)
	w.ensure(t)
	fleet(t, w, 2)
	w.pacedRound(t, clock)
	clock.Advance(time.Hour)
	w.jobs.restored, w.pacer.restored = clock.Now(), clock.Now()
	fake.set("thing-0", "SUCCEEDED")
	w.pacedRound(t, clock)
	wantStatus(t, w, map[registry.DeviceID]protocol.JobStatus{"thing-0": protocol.JobSucceeded, "thing-1": protocol.JobQueued})
	for id, want := range map[registry.DeviceID]bool{"thing-0": false, "thing-1": true} {
		if is, err := w.group.Has(t.Context(), id); err != nil || is != want {
			t.Errorf("%s is in the group: %t, %v", id, is, err)
		}
	}
}

// What became of the job since the backup is what AWS says: it goes on as its
// successor, and one that was canceled stays so until somebody brings it back.
func TestSuccessorOfTheJobAfterARestore(t *testing.T) {
	c := newCourse(t, certificate.Deactivate, nil)
	job := jobs.New("rotate", protocol.DefaultTopics())
	ensure := func(want jobs.State, remote string) {
		t.Helper()
		is, err := c.world.jobs.Ensure(c.ctx, job)
		c.must(err)
		id, err := c.world.jobs.remoteID(c.ctx, job.ID)
		c.must(err)
		if is.State != want || id != remote {
			t.Fatalf("it is %s, as %s; want %s, as %s", is.State, id, want, remote)
		}
	}
	ensure(jobs.InProgress, job.ID)
	c.must(c.world.jobs.Cancel(c.ctx, job.ID))
	c.must(c.world.jobs.Resume(c.ctx, job.ID))
	ensure(jobs.InProgress, job.ID+"-2")
	c.must(c.world.store.SetMeta(c.ctx, store.RemoteJobKey(job.ID), "")) // as it was backed up
	c.world.jobs.restored = time.Now().Add(time.Hour)
	ensure(jobs.InProgress, job.ID+"-2")
	c.must(c.world.jobs.at.cancel(c.ctx, job.ID+"-2")) // by a person, since the backup
	ensure(jobs.Canceled, job.ID+"-2")
	c.must(c.world.jobs.Resume(c.ctx, job.ID))
	ensure(jobs.InProgress, job.ID+"-3")
	c.world.jobs.restored = time.Now().Add(-time.Hour)
	c.must(c.world.jobs.at.cancel(c.ctx, job.ID+"-3")) // after the restore, as ever
	ensure(jobs.InProgress, job.ID+"-4")
}

// A job that was canceled while AWS did not listen is canceled there when it is
// said once more, or at the next start.
func TestCanceledBeforeAWSHears(t *testing.T) {
	for name, again := range map[string]func(*Jobs, context.Context, jobs.Job) error{
		"said once more": func(j *Jobs, ctx context.Context, job jobs.Job) error { return j.Cancel(ctx, job.ID) },
		"the next start": func(j *Jobs, ctx context.Context, job jobs.Job) error {
			_, err := j.Ensure(ctx, job)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := &refusal{method: "PUT", path: "/cancel", status: 401, code: "UnauthorizedException", times: 1}
			c := refusedCourse(t, f)
			job := jobs.New("rotate", protocol.DefaultTopics())
			_, err := c.world.jobs.Ensure(c.ctx, job)
			c.must(err)
			if err := c.world.jobs.Cancel(c.ctx, job.ID); err == nil || !strings.Contains(err.Error(), "goes on at AWS IoT") {
				t.Errorf("canceled: %v", err)
			}
			c.must(again(c.world.jobs, c.ctx, job))
			there, err := c.world.jobs.at.describe(c.ctx, job.ID)
			c.must(err)
			if !over(there.Status) {
				t.Errorf("at AWS it is %s", there.Status)
			}
			c.must(c.world.jobs.Resume(c.ctx, job.ID))
			if there, err = c.world.jobs.at.describe(c.ctx, job.ID+"-2"); err != nil || there == nil || over(there.Status) {
				t.Errorf("brought back: %+v, %v", there, err)
			}
		})
	}
}
