package store_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/certvendor/certvendor/campaign"
	"github.com/certvendor/certvendor/jobs"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

// TestAutoGoesOn: no device whose certificate has come due is left without a job
// for good, whatever became of the one that it had: by hand, before; or of auto,
// which a person took away.
func TestAutoGoesOn(t *testing.T) {
	w := open(t)
	w.ensure(job)
	ends := func(id registry.DeviceID, status protocol.JobStatus) {
		t.Helper()
		_, err := w.Jobs().Update(w.ctx, id, job.ID, 0, func(e jobs.Execution) (jobs.Execution, error) {
			return e.End(status, w.clock.Now()), nil
		})
		w.ok(err)
	}
	w.short("failed", nil)
	w.ok(w.Group().Add(w.ctx, "failed"))
	must[[]registry.DeviceID](t)(w.Jobs().Release(w.ctx, 9))
	ends("failed", protocol.JobFailed)
	for _, id := range []registry.DeviceID{"taken", "abandoned", "content"} {
		w.short(id, nil)
	}
	var group additions
	runner := w.autoRunner(&group, renewal(w))
	w.rounds(runner, 20*time.Hour+10*time.Minute)
	if len(group.at) != 4 {
		t.Fatalf("were let in: %v", group.at)
	}
	must[[]registry.DeviceID](t)(w.Jobs().Release(w.ctx, 9))
	ends("content", protocol.JobSucceeded)
	w.ok(w.Group().Remove(w.ctx, "taken", time.Time{}))
	r, _ := w.vend("abandoned", "next of abandoned", nil)
	w.rounds(runner, 2*time.Minute)
	r.State, r.ClosedAt = rotation.Abandoned, w.clock.Now()
	w.advance(rotation.Change{Rotation: r})
	w.ok(w.Group().Remove(w.ctx, "abandoned", time.Time{}))
	w.rounds(runner, 2*time.Minute)
	if standing, why := w.standing("abandoned"); standing != campaign.Skipped || why != "its rotation was abandoned" {
		t.Errorf("abandoned is %s, %q", standing, why)
	}
	w.rounds(runner, campaign.DefaultVerifyWithin)
	if standing, why := w.standing("content"); standing != campaign.Failed || why != "its job ended SUCCEEDED, and it has not rotated" {
		t.Errorf("content is %s, %q", standing, why)
	}
	w.rounds(runner, 2*time.Hour+10*time.Minute) // more than a quarter of the time that is left
	if len(group.at["taken"]) != 2 || len(group.at["abandoned"]) != 2 || len(group.at["content"]) != 2 {
		t.Errorf("were let in: %v", group.at)
	}
	for _, id := range []registry.DeviceID{"failed", "taken", "abandoned", "content"} {
		if standing, _ := w.standing(id); standing != campaign.Added {
			t.Errorf("%s is %s", id, standing)
		}
	}
}

// unwilling is the rotation group of a process that dies before it can add.
type unwilling struct{ rotation.Group }

func (unwilling) Add(context.Context, registry.DeviceID) error { return errors.New("it dies") }

// A device that is in the group with a job that has ended is given a job by the
// process that comes after the one that let it in.
func TestAutoAddsAgain(t *testing.T) {
	w := open(t)
	w.ensure(job)
	w.short("lamp", nil)
	w.ok(w.Group().Add(w.ctx, "lamp"))
	must[[]registry.DeviceID](t)(w.Jobs().Release(w.ctx, 9))
	_, err := w.Jobs().Update(w.ctx, "lamp", job.ID, 0, func(e jobs.Execution) (jobs.Execution, error) {
		return e.End(protocol.JobFailed, w.clock.Now()), nil
	})
	w.ok(err)
	var group additions
	runner := w.autoRunner(&group, renewal(w))
	runner.Group = unwilling{w.Group()}
	for standing := campaign.Standing(""); standing != campaign.Added; standing, _ = w.standing("lamp") {
		_ = runner.Round(w.ctx)
		w.clock.add(time.Minute)
	}
	w.reopen()
	w.rounds(w.autoRunner(&group, renewal(w)), time.Minute)
	if got := must[[]registry.DeviceID](t)(w.Jobs().Release(w.ctx, 9)); len(got) != 1 {
		t.Errorf("were given a job: %v", got)
	}
}

// A job that times out while vending is frozen is nobody's fault: the device may
// ask on after the thaw, and is judged by that.
func TestFrozenForLong(t *testing.T) {
	for rotates, want := range map[bool]campaign.Standing{true: campaign.Passed, false: campaign.Failed} {
		r := newRuns(t, quick)
		r.ensure(job)
		frozen := ""
		r.runner.Unserved = func(context.Context) string { return frozen }
		for range 3 {
			r.round()
		}
		must[[]registry.DeviceID](t)(r.Jobs().Release(r.ctx, 9))
		frozen = "vending is frozen"
		r.runner.Hold = r.runner.Unserved
		for _, id := range []registry.DeviceID{"d1", "d2", "d3"} {
			_, err := r.Jobs().Update(r.ctx, id, job.ID, 0, func(e jobs.Execution) (jobs.Execution, error) {
				return e.End(protocol.JobTimedOut, r.clock.Now()), nil
			})
			r.ok(err)
		}
		r.rounds(r.runner, 2*campaign.DefaultVerifyWithin)
		if c := r.round(); c.State != campaign.Running {
			t.Fatalf("frozen, it is %s: %s", c.State, c.Why)
		}
		frozen = ""
		r.rounds(r.runner, 5*time.Minute)
		for _, id := range []registry.DeviceID{"d1", "d2", "d3"} {
			if rotates {
				r.rotates(id)
			}
		}
		r.rounds(r.runner, campaign.DefaultVerifyWithin+time.Minute)
		if tally, err := r.Campaigns().Tally(r.ctx, "spring"); err != nil || tally[0][want] != 3 {
			t.Errorf("rotated %t: %v, %v", rotates, tally, err)
		}
	}
}
