package store_test

import (
	"fmt"
	"testing"

	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/jobs"
	"github.com/certvendor/certvendor/protocol"
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
