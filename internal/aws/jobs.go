package aws

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/jobs"
)

// JobSettings are what AWS IoT is told about the job.
type JobSettings struct {
	InProgressTimeout time.Duration // whole minutes, up to a week
	// PerMinute is how many of the things that are in the group already when the
	// job is made get it within a minute: those that come later have their turn
	// by Pace. 0: as many as AWS gives it to.
	PerMinute int
}

// Jobs is the continuous job of the thing group, and what the store knows of
// its executions. AWS IoT knows no way back from CANCELED, so that each time a
// job goes on again it is another one there, with a number behind its id.
type Jobs struct {
	store.Jobs
	meta  *store.Store
	group *Group
	at    remoteJobs
	own   *ownJobs // of campaigns; nil: they have none
	// restored is when the store was restored, or the zero time.
	restored time.Time
}

var _ jobs.Continuous = (*Jobs)(nil)

// Ensure implements jobs.Continuous: the thing group, then the job.
func (j *Jobs) Ensure(ctx context.Context, job jobs.Job) (jobs.Job, error) {
	former, err := j.Jobs.Status(ctx)
	if err != nil && !errors.Is(err, store.ErrNoJob) {
		return job, err
	}
	if err := j.group.Ensure(ctx); err != nil {
		return job, err
	}
	if former.Job.ID != "" && former.Job.ID != job.ID {
		if err := j.cancel(ctx, former.Job.ID); err != nil {
			return job, err
		}
	}
	is, err := j.Jobs.Ensure(ctx, job)
	if err == nil && is.State == jobs.InProgress && !j.restored.IsZero() {
		is, err = j.heed(ctx, is)
	}
	switch {
	case err != nil:
		return is, err
	case is.State == jobs.Canceled: // a crash may have come before AWS was told
		return is, j.cancel(ctx, is.ID)
	}
	return is, j.create(ctx, is)
}

// create makes the job at AWS if it is not there. One that was canceled there
// gets a successor.
func (j *Jobs) create(ctx context.Context, job jobs.Job) error {
	for {
		id, err := j.remoteID(ctx, job.ID)
		if err != nil {
			return err
		}
		there, err := j.at.describe(ctx, id)
		switch {
		case err != nil:
			return err
		case there == nil:
			return j.at.create(ctx, id, job)
		case !over(there.Status):
			return nil
		}
		if err := j.meta.SetMeta(ctx, store.RemoteJobKey(job.ID), successorID(job.ID, id)); err != nil {
			return err
		}
	}
}

// remoteID returns the id of a job at AWS.
func (j *Jobs) remoteID(ctx context.Context, id string) (string, error) {
	remote, err := j.meta.Meta(ctx, store.RemoteJobKey(id))
	if err != nil || remote != "" {
		return remote, err
	}
	return id, nil
}

// remoteFor returns the id of the job at AWS that an execution is of.
func (j *Jobs) remoteFor(ctx context.Context, e jobs.Execution) (string, error) {
	id := e.JobID
	if j.own != nil {
		var err error
		if id, err = j.own.idFor(ctx, e); err != nil {
			return "", err
		}
	}
	return j.remoteID(ctx, id)
}

// Cancel implements jobs.Continuous.
func (j *Jobs) Cancel(ctx context.Context, id string) error {
	if err := j.Jobs.Cancel(ctx, id); err != nil {
		return err
	}
	if err := j.cancel(ctx, id); err != nil {
		return fmt.Errorf("job %s is canceled here, and goes on at AWS IoT until it is canceled once more: %w", id, err)
	}
	return nil
}

// cancel cancels the job at AWS. Idempotent.
func (j *Jobs) cancel(ctx context.Context, id string) error {
	remote, err := j.remoteID(ctx, id)
	if err != nil {
		return err
	}
	if err := j.at.cancel(ctx, remote); err != nil || j.own == nil {
		return err
	}
	return j.own.cancel(ctx, id)
}

// Resume implements jobs.Continuous. At AWS it is another job from now on.
func (j *Jobs) Resume(ctx context.Context, id string) error {
	if err := j.Jobs.Resume(ctx, id); err != nil {
		return err
	}
	status, err := j.Jobs.Status(ctx)
	if err != nil || status.Job.ID != id {
		return err
	}
	return j.create(ctx, status.Job)
}
