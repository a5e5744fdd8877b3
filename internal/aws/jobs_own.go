package aws

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/iot"

	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/jobs"
	"github.com/certvendor/certvendor/registry"
)

// ownJobs gives each campaign a continuous job and a thing group of its own, so
// that no thing has to be given the same job twice. What is added by hand has
// the job of the rotation group the first time, and another one each time after
// that. The pace is the pacer's, as ever: it decides when a thing joins.
type ownJobs struct {
	rows  store.OwnJobs
	jobs  *Jobs
	group *Group
	ready *recent[string, struct{}] // that were found at AWS lately
}

// readyFor is how long a job that was found is believed to be there.
const readyFor = time.Minute

// named names a campaign's job and its group. Both follow from the job that it
// stands for, the campaign, and how often the thing has had one of it.
func (o *ownJobs) named(e jobs.Execution) func(string, int) store.OwnJob {
	return func(campaign string, turn int) store.OwnJob {
		if campaign == "" && turn == 1 {
			return store.OwnJob{ID: e.JobID, Group: o.group.name}
		}
		sum := sha256.Sum256(fmt.Appendf(nil, "%s\n%s\n%d", e.JobID, campaign, turn))
		suffix := "-" + hex.EncodeToString(sum[:4])
		return store.OwnJob{ID: e.JobID + suffix, Group: o.group.name + suffix}
	}
}

// prepare returns the thing group that a thing is to join for an execution, with
// its job at AWS. Of the one that it had before, it is taken out.
func (o *ownJobs) prepare(ctx context.Context, e jobs.Execution) (group string, err error) {
	former, had, err := o.rows.Newest(ctx, e.Device)
	if err != nil {
		return "", err
	}
	own, err := o.rows.Choose(ctx, e, o.named(e))
	if err != nil {
		return "", err
	}
	if had && former.Group != own.Group {
		if err := o.group.takeFrom(ctx, e.Device, former.Group); err != nil {
			return "", err
		}
	}
	return own.Group, o.ensure(ctx, own)
}

// ensure makes a campaign's group and job at AWS if they are not there.
func (o *ownJobs) ensure(ctx context.Context, own store.OwnJob) error {
	if _, lately := o.ready.get(own.ID); lately || own.ID == own.Job {
		return nil
	}
	if err := o.jobs.there(ctx, own.Job); err != nil {
		return err // who takes all of it away leaves nothing that is made again
	}
	document, err := o.jobs.Document(ctx, own.Job)
	if err != nil {
		return err
	}
	if err := o.group.ensure(ctx, own.Group); err != nil {
		return err
	}
	if err := o.jobs.create(ctx, jobs.Job{ID: own.ID, Group: own.Group, Document: document}); err != nil {
		return err
	}
	o.ready.put(own.ID, struct{}{})
	return nil
}

// groupOf returns the thing group that a thing was added to last.
func (o *ownJobs) groupOf(ctx context.Context, device registry.DeviceID) (string, error) {
	own, had, err := o.rows.Newest(ctx, device)
	if err != nil || !had {
		return o.group.name, err
	}
	return own.Group, nil
}

// idFor returns the id of the job that an execution is of.
func (o *ownJobs) idFor(ctx context.Context, e jobs.Execution) (string, error) {
	own, has, err := o.rows.For(ctx, e)
	if err != nil || !has {
		return e.JobID, err
	}
	return own.ID, nil
}

// cancel cancels the campaigns' jobs that stand for a job.
func (o *ownJobs) cancel(ctx context.Context, job string) error {
	live, err := o.rows.Live(ctx)
	errs := []error{err}
	for _, l := range live {
		if l.Job == job && l.ID != job {
			errs = append(errs, o.cancelOne(ctx, l.ID))
		}
	}
	return errors.Join(errs...)
}

func (o *ownJobs) cancelOne(ctx context.Context, id string) error {
	o.ready.forget(id)
	remote, err := o.jobs.remoteID(ctx, id)
	if err != nil {
		return err
	}
	return o.jobs.at.cancel(ctx, remote)
}

// end ends the jobs that are over: each is canceled, and its group is deleted
// when nobody is at work on it any more.
func (o *ownJobs) end(ctx context.Context, live []store.LiveJob) error {
	var errs []error
	for _, l := range live {
		if l.Over && l.ID != l.Job {
			errs = append(errs, o.endOne(ctx, l))
		}
	}
	return errors.Join(errs...)
}

func (o *ownJobs) endOne(ctx context.Context, l store.LiveJob) error {
	if err := o.cancelOne(ctx, l.ID); err != nil || l.Open > 0 {
		return err
	}
	_, err := o.group.iot.DeleteThingGroup(ctx, &iot.DeleteThingGroupInput{ThingGroupName: &l.Group})
	if err = unlessGone(err); err != nil {
		return fmt.Errorf("delete thing group %s: %w", l.Group, err)
	}
	return o.rows.End(ctx, l.ID)
}
