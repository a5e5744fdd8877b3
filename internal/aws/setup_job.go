package aws

import (
	"context"
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"

	"github.com/certvendor/certvendor/jobs"
)

// jobPart is the continuous job. The daemon makes the same one when it starts:
// its id follows from group and document, and from how often it was canceled.
type jobPart struct {
	account
	job jobs.Job
	at  remoteJobs
}

func (p *jobPart) resource() Resource { return Resource{JobKind, p.job.ID} }

// latest returns the id that the job has at AWS, or would have, and what is
// there under it.
func (p *jobPart) latest(ctx context.Context) (string, *types.Job, error) {
	for id := p.job.ID; ; id = successorID(p.job.ID, id) {
		there, err := p.at.describe(ctx, id)
		if err != nil || there == nil || !over(there.Status) {
			return id, there, err
		}
	}
}

func (p *jobPart) look(ctx context.Context) (Step, error) {
	id, there, err := p.latest(ctx)
	r := Resource{JobKind, id}
	switch {
	case err != nil:
		return Step{}, err
	case there == nil:
		return step(r, DoCreate), nil
	}
	var what []string
	if minutes(there.TimeoutConfig) != minutes(p.at.timeout()) {
		what = append(what, "how long a device may be at work on it")
	}
	if perMinute(there.JobExecutionsRolloutConfig) != perMinute(p.at.rollout()) {
		what = append(what, "how fast it is given out")
	}
	return differing(r, what), nil
}

// minutes are those after which an execution times out; 0 is never.
func minutes(c *types.TimeoutConfig) int64 {
	if c == nil || c.InProgressTimeoutInMinutes == nil {
		return 0
	}
	return *c.InProgressTimeoutInMinutes
}

// perMinute is how many get it within a minute; 0 is what AWS has by default.
func perMinute(c *types.JobExecutionsRolloutConfig) int32 {
	if c == nil || c.MaximumPerMinute == nil {
		return 0
	}
	return *c.MaximumPerMinute
}

func (p *jobPart) make(ctx context.Context, s Step) error {
	if s.Do == DoCreate {
		return p.at.create(ctx, s.Name, p.job)
	}
	_, err := p.clients.IoT.UpdateJob(ctx, &iot.UpdateJobInput{
		JobId: &s.Name, TimeoutConfig: p.at.timeout(), JobExecutionsRolloutConfig: p.at.rollout(),
	})
	if err != nil {
		return fmt.Errorf("update it: %w", err)
	}
	return nil
}

// leftovers are all jobs of ours: also those of former documents and of campaigns,
// and those that were canceled, whose group may be gone.
func (p *jobPart) leftovers(ctx context.Context) ([]Step, error) {
	var steps []Step
	prefix, _, _ := strings.Cut(p.job.ID, "-")
	pages := iot.NewListJobsPaginator(p.clients.IoT, &iot.ListJobsInput{TargetSelection: types.TargetSelectionContinuous})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, fmt.Errorf("list the jobs: %w", err)
		}
		for _, j := range page.Jobs {
			r := Resource{JobKind, deref(j.JobId)}
			if !strings.HasPrefix(r.Name, prefix+"-") || j.Status == types.JobStatusDeletionInProgress {
				continue
			}
			ours, err := p.ownsIoT(ctx, deref(j.JobArn))
			switch {
			case err != nil:
				return nil, err
			case ours:
				steps = append(steps, step(r, DoDelete))
			case r.Name == p.job.ID:
				steps = append(steps, step(r, DoLeave, p.untagged()))
			}
		}
	}
	return steps, nil
}

// remove cancels a job and deletes it, with what devices have done of it. AWS
// carries that out after a while.
func (p *jobPart) remove(ctx context.Context, s Step) error {
	if err := p.at.cancel(ctx, s.Name); err != nil {
		return err
	}
	_, err := p.clients.IoT.DeleteJob(ctx, &iot.DeleteJobInput{JobId: &s.Name, Force: true})
	if err = unlessGone(err); err != nil {
		return fmt.Errorf("delete it: %w", err)
	}
	return nil
}
