package control

import (
	"strings"
	"testing"
	"time"

	"github.com/certvendor/certvendor/jobs"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/rotation"
)

// TestAgain says of every situation whether a device is given a job again.
func TestAgain(t *testing.T) {
	now := time.Now()
	member := rotation.Member{Device: "d", Since: now}
	job := func(s protocol.JobStatus) jobs.Execution {
		return jobs.Execution{Device: "d", Status: s, UpdatedAt: now}
	}
	in := func(s rotation.State) *rotation.Rotation {
		return &rotation.Rotation{Device: "d", Number: 3, State: s, ClosedAt: now}
	}
	for name, c := range map[string]struct {
		t                       tried
		why, unchanged, refused string
	}{
		"waits for its turn":      {tried{member: rotation.Member{Since: now, Waiting: true}}, "", "waits", ""},
		"has its job":             {tried{member: member, job: job(protocol.JobQueued)}, "", "QUEUED", ""},
		"is at work on it":        {tried{member: member, job: job(protocol.JobInProgress)}, "", "IN_PROGRESS", ""},
		"failed":                  {tried{member: member, job: job(protocol.JobFailed), newest: in(rotation.Vended)}, "FAILED", "", ""},
		"said done and never ack": {tried{member: member, job: job(protocol.JobSucceeded), newest: in(rotation.Vended)}, "SUCCEEDED", "", ""},
		"left it canceled":        {tried{member: member, job: job(protocol.JobCanceled)}, "CANCELED", "", ""},
		"stale":                   {tried{newest: in(rotation.Stale)}, "rotation 3 is stale", "", ""},
		"abandoned":               {tried{newest: in(rotation.Abandoned), job: job(protocol.JobRemoved)}, "abandoned", "", ""},
		"failed and was removed":  {tried{job: job(protocol.JobFailed)}, "FAILED", "", ""},
		"timed out, rotation open": {
			tried{job: job(protocol.JobTimedOut), newest: in(rotation.Vended)}, "TIMED_OUT", "", "",
		},
		"finished":         {tried{newest: in(rotation.Finished), job: job(protocol.JobSucceeded)}, "", "", "rotation 3 is finished"},
		"failed, finished": {tried{newest: in(rotation.Finished), job: job(protocol.JobFailed)}, "", "", "rotation 3 is finished"},
		"never rotated":    {tried{}, "", "", "not rotated yet"},
		"open":             {tried{newest: in(rotation.Vended)}, "", "", "rotation 3 is vended"},
	} {
		c.t.device = "d"
		why, unchanged, err := c.t.again()
		text := ""
		if err != nil {
			text = err.Error()
		}
		for what, got := range map[string][2]string{"again": {why, c.why}, "unchanged": {unchanged, c.unchanged}, "refused": {text, c.refused}} {
			if (got[0] == "") != (got[1] == "") || !strings.Contains(got[0], got[1]) {
				t.Errorf("%s: %s %q, want %q", name, what, got[0], got[1])
			}
		}
	}
}

// TestStatusOfACanceledJob: while the job is canceled nobody gets it, in however many
// minutes.
func TestStatusOfACanceledJob(t *testing.T) {
	w := open(t)
	w.add("lamp")
	w.must(w.Join(w.ctx, []string{"lamp"}, func(Outcome) {}))
	if s, err := w.Status(w.ctx); err != nil || s.Waiting != 1 || s.MinutesLeft != 1 || s.JobCanceled {
		t.Errorf("one waits: %+v, %v", s, err)
	}
	job, err := w.Job(w.ctx)
	w.must(err)
	_, err = w.CancelJob(w.ctx, job.ID)
	w.must(err)
	if s, err := w.Status(w.ctx); err != nil || s.Waiting != 1 || s.MinutesLeft != 0 || !s.JobCanceled {
		t.Errorf("canceled: %+v, %v", s, err)
	}
}
