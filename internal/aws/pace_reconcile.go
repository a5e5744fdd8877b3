package aws

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"

	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/jobs"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
)

const (
	runningPage = 250
	// appears is how long AWS may take to give a thing of the group its
	// execution, before it is added once more.
	appears = 2 * time.Minute
)

// reconcile brings the store's executions of the job to where AWS has them. It
// lists those that have not ended, and asks for each of ours that is not among
// them by its name.
func (p *Pacer) reconcile(ctx context.Context) error {
	status, err := p.jobs.Jobs.Status(ctx)
	if errors.Is(err, store.ErrNoJob) {
		return nil
	}
	if err != nil {
		return err
	}
	if status.Job.State == jobs.InProgress {
		if err := p.jobs.there(ctx, status.Job.ID); err != nil {
			return err
		}
	}
	ids := []string{status.Job.ID}
	var live []store.LiveJob
	if p.jobs.own != nil {
		if live, err = p.jobs.own.rows.Live(ctx); err != nil {
			return err
		}
	}
	for _, l := range live {
		if l.Open > 0 && l.ID != status.Job.ID {
			ids = append(ids, l.ID)
		}
	}
	running, err := p.running(ctx, ids)
	if err != nil {
		return err
	}
	if err := p.compareAll(ctx, status.Job.ID, running); err != nil || p.jobs.own == nil {
		return err
	}
	for _, l := range live {
		if l.Over && l.Campaign != "" && l.Open > 0 {
			if err := p.passOn(ctx, l); err != nil {
				return err
			}
		}
	}
	return p.jobs.own.end(ctx, live)
}

// passOn gives the things that wait for the job of a campaign which has ended
// that of another one, if there is one that waits for them.
func (p *Pacer) passOn(ctx context.Context, over store.LiveJob) error {
	var errs []error
	var after registry.DeviceID
	for {
		page, err := p.jobs.own.rows.Waiting(ctx, over, after, runningPage)
		if err != nil || len(page) == 0 {
			return errors.Join(append(errs, err)...)
		}
		for _, device := range page {
			after = device
			errs = append(errs, p.give(ctx, device))
		}
	}
}

// compareAll compares the executions of a job, page by page.
func (p *Pacer) compareAll(ctx context.Context, job string, running map[runs]types.JobExecutionStatus) error {
	var errs []error
	var after registry.DeviceID
	for {
		page, err := p.jobs.Running(ctx, job, after, runningPage)
		if err != nil || len(page) == 0 {
			return errors.Join(append(errs, err)...)
		}
		for _, e := range page {
			after = e.Device
			errs = append(errs, p.compare(ctx, e, running))
		}
	}
}

// runs names an execution at AWS.
type runs struct {
	device registry.DeviceID
	job    string // its id there
}

// running returns the executions of jobs that have not ended at AWS.
func (p *Pacer) running(ctx context.Context, ids []string) (map[runs]types.JobExecutionStatus, error) {
	all := map[runs]types.JobExecutionStatus{}
	for _, id := range ids {
		remote, err := p.jobs.remoteID(ctx, id)
		if err != nil {
			return nil, err
		}
		if err := p.list(ctx, remote, all); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// list adds the executions of one job.
func (p *Pacer) list(ctx context.Context, remote string, all map[runs]types.JobExecutionStatus) error {
	for _, status := range []types.JobExecutionStatus{types.JobExecutionStatusQueued, types.JobExecutionStatusInProgress} {
		pages := iot.NewListJobExecutionsForJobPaginator(p.iot, &iot.ListJobExecutionsForJobInput{
			JobId: &remote, Status: status, MaxResults: new(int32(runningPage)),
		})
		for pages.HasMorePages() {
			page, err := pages.NextPage(ctx)
			if isNotFound(err) {
				return nil
			}
			if err != nil {
				return fmt.Errorf("list the %s executions of job %s: %w", status, remote, err)
			}
			for _, e := range page.ExecutionSummaries {
				all[runs{thingOf(deref(e.ThingArn)), remote}] = status
			}
		}
	}
	return nil
}

// compare brings one execution to where AWS has it.
func (p *Pacer) compare(ctx context.Context, e jobs.Execution, running map[runs]types.JobExecutionStatus) error {
	remote, err := p.jobs.remoteFor(ctx, e)
	if err != nil {
		return err
	}
	if status, runs := running[runs{e.Device, remote}]; runs {
		return p.set(ctx, e, protocol.JobStatus(status), nil)
	}
	there, err := p.describe(ctx, e.Device, remote)
	switch {
	case err != nil:
		return err
	case there != nil:
		return p.set(ctx, e, protocol.JobStatus(there.Status), detailsOf(there))
	case e.Status == protocol.JobQueued && p.now().Sub(e.QueuedAt).Abs() > appears:
		// A crash may have come between the store and AWS; before it was queued
		// too, by a clock that was set back since.
		return p.give(ctx, e.Device)
	case e.Status == protocol.JobInProgress:
		// Somebody has deleted it, or its job. Left as it is it would take a
		// place in flight for good.
		return p.set(ctx, e, protocol.JobRemoved, nil)
	}
	return nil
}

// describe returns a thing's newest execution of a job at AWS, or nil.
func (p *Pacer) describe(ctx context.Context, device registry.DeviceID, remote string) (*types.JobExecution, error) {
	out, err := p.iot.DescribeJobExecution(ctx, &iot.DescribeJobExecutionInput{JobId: &remote, ThingName: new(string(device))})
	if isNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("describe job %s of thing %s: %w", remote, device, err)
	}
	return out.Execution, nil
}

func detailsOf(e *types.JobExecution) map[string]string {
	if e.StatusDetails == nil {
		return nil
	}
	return e.StatusDetails.DetailsMap
}

// set writes the status of an execution. REMOVED after the device has acked,
// and so left the group, is no failure: its own last word came too late.
func (p *Pacer) set(ctx context.Context, e jobs.Execution, status protocol.JobStatus, details map[string]string) error {
	if status == protocol.JobRemoved {
		done, err := p.group.rotated(ctx, e.Device, e.QueuedAt)
		if err != nil {
			return err
		}
		if done {
			status = protocol.JobSucceeded
		}
	}
	if status == e.Status {
		return nil
	}
	_, err := p.jobs.Update(ctx, e.Device, e.JobID, e.Number, func(is jobs.Execution) (jobs.Execution, error) {
		if is.Status.Terminal() {
			return is, nil
		}
		if status == protocol.JobInProgress && is.StartedAt.IsZero() {
			is.StartedAt = p.now()
		}
		if details != nil {
			is.Details = details
		}
		return is.End(status, p.now()), nil
	})
	if err != nil || status != protocol.JobSucceeded {
		return err
	}
	return p.doneBefore(ctx, e)
}

// thingOf returns the name in a thing's ARN: what follows the last slash. A
// name holds none.
func thingOf(thingARN string) registry.DeviceID {
	for i := len(thingARN) - 1; i >= 0; i-- {
		if thingARN[i] == '/' {
			return registry.DeviceID(thingARN[i+1:])
		}
	}
	return registry.DeviceID(thingARN)
}
