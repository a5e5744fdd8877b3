package store_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/certvendor/certvendor/campaign"
	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/jobs"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
)

// The job that was chosen for an execution stays so over a restart, and the next
// execution has the next one.
func TestOwnJobIsChosenOnce(t *testing.T) {
	w := open(t)
	w.ensure(jobs.Job{ID: "job-1", Group: "rotate", Document: []byte("{}")})
	w.member("d1")
	w.wantReleased(1, "d1")
	name := func(campaign string, turn int) store.OwnJob {
		return store.OwnJob{ID: fmt.Sprint("own-", campaign, turn), Group: fmt.Sprint("group-", turn)}
	}
	choose := func(number int64, want string) {
		t.Helper()
		newest, _, err := w.Jobs().Newest(w.ctx, "d1")
		w.ok(err)
		own, err := w.OwnJobs().Choose(w.ctx, newest, name)
		w.ok(err)
		if newest.Number != number || own.ID != want || own.Job != newest.JobID {
			t.Fatalf("execution %d has %+v, want %s", newest.Number, own, want)
		}
		if is, had, err := w.OwnJobs().For(w.ctx, newest); err != nil || !had || is != own {
			t.Fatalf("it is %+v, %t, %v", is, had, err)
		}
	}
	choose(1, "own-1")
	choose(1, "own-1")
	w.reopen()
	choose(1, "own-1")
	w.set("d1", protocol.JobFailed)
	w.ok(w.OwnJobs().End(w.ctx, "own-1"))
	if live, err := w.OwnJobs().Live(w.ctx); err != nil || len(live) > 0 {
		t.Errorf("live %+v, %v", live, err)
	}
	w.ok(w.Group().Add(w.ctx, "d1"))
	w.wantReleased(1, "d1")
	choose(2, "own-2")
	w.ok(w.OwnJobs().End(w.ctx, "own-2")) // somebody has it
	live, err := w.OwnJobs().Live(w.ctx)
	if err != nil || len(live) != 1 || live[0].Open != 1 || live[0].Over {
		t.Errorf("live %+v, %v", live, err)
	}
}

// What a campaign had for itself goes when it has ended long ago; what things had
// by hand says how often, and stays.
func TestOwnJobsArePruned(t *testing.T) {
	w := open(t)
	w.ensure(jobs.Job{ID: "job-1", Group: "rotate", Document: []byte("{}")})
	name := func(campaign string, turn int) store.OwnJob {
		return store.OwnJob{ID: fmt.Sprint("own-", campaign, turn), Group: fmt.Sprint("group-", turn)}
	}
	var all []jobs.Execution
	give := func(device registry.DeviceID) {
		t.Helper()
		w.ok(w.Group().Add(w.ctx, device))
		w.wantReleased(1, device)
		newest, _, err := w.Jobs().Newest(w.ctx, device)
		w.ok(err)
		own, err := w.OwnJobs().Choose(w.ctx, newest, name)
		w.ok(err)
		w.ok(w.SetMeta(w.ctx, store.RemoteJobKey(own.ID), own.ID+"-2"))
		all = append(all, newest)
	}
	c, members := spring()
	for _, m := range members {
		w.device(m.Device)
	}
	w.apply(c, members)
	must[[]campaign.Member](t)(w.Campaigns().Take(w.ctx, "spring", 0, nil, 1))
	for _, device := range []registry.DeviceID{"d1", "d2"} { // of the campaign, and by hand
		give(device)
		w.set(device, protocol.JobSucceeded)
	}
	wantLeft := func(want ...string) {
		t.Helper()
		w.clock.add(time.Hour)
		w.prune(100)
		for _, id := range []string{"own-spring1", "own-1"} {
			remote, err := w.Meta(w.ctx, store.RemoteJobKey(id))
			w.ok(err)
			if has := remote != ""; has != slices.Contains(want, id) {
				t.Errorf("%s is left: %t, want %v", id, has, want)
			}
		}
		for i, id := range []string{"own-spring1", "own-1"} {
			own, has, err := w.OwnJobs().For(w.ctx, all[i])
			if err != nil || has != slices.Contains(want, id) || has && own.ID != id {
				t.Errorf("execution %d has %+v, %t, %v; want %v", i, own, has, err, want)
			}
		}
	}
	wantLeft("own-spring1", "own-1") // they have not ended
	w.ok(w.OwnJobs().End(w.ctx, "own-spring1"))
	w.ok(w.OwnJobs().End(w.ctx, "own-1"))
	wantLeft("own-spring1", "own-1") // the campaign goes on
	c, err := w.Campaigns().Find(w.ctx, "spring")
	w.ok(err)
	c.State, c.Ended = campaign.Aborted, w.clock.Now()
	must[bool](t)(w.Campaigns().Save(w.ctx, c))
	wantLeft("own-1")
}
