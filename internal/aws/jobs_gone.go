package aws

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/iot"

	"github.com/certvendor/certvendor/jobs"
)

// errGone says that AWS does not have what the daemon has made at its start:
// somebody has taken it away while it runs, as `certvendor setup --remove` does.
// Nothing is made again then, until a person says so.
var errGone = errors.New("somebody has taken it away")

// there returns an error of kind errGone if AWS has no thing group, or not the job
// that goes on here under an id.
func (j *Jobs) there(ctx context.Context, id string) error {
	_, err := j.group.iot.DescribeThingGroup(ctx, &iot.DescribeThingGroupInput{ThingGroupName: &j.group.name})
	switch {
	case isNotFound(err):
		return fmt.Errorf("thing group %s is not at AWS: %w", j.group.name, errGone)
	case err != nil:
		return fmt.Errorf("describe thing group %s: %w", j.group.name, err)
	}
	remote, err := j.remoteID(ctx, id)
	if err != nil {
		return err
	}
	there, err := j.at.describe(ctx, remote)
	switch {
	case err != nil:
		return err
	case there == nil:
		return fmt.Errorf("job %s is not at AWS: %w", remote, errGone)
	case over(there.Status):
		return fmt.Errorf("job %s is %s at AWS: %w", remote, there.Status, errGone)
	}
	return nil
}

// tell says once that something was taken away, and what a person can do.
func (p *Pacer) tell(gone error) {
	if p.gone == nil {
		p.log.Error().Err(gone).Msg("nobody is given a job, and nothing is made again: stop this daemon if it is to end; " +
			"`certvendor job ensure` makes what is missing if it is to go on")
	}
	p.gone = gone
}

// isBack reports whether what was taken away is there again.
func (p *Pacer) isBack(ctx context.Context) (bool, error) {
	status, err := p.jobs.Jobs.Status(ctx)
	if err == nil && status.Job.State == jobs.InProgress {
		err = p.jobs.there(ctx, status.Job.ID)
	}
	switch {
	case errors.Is(err, errGone):
		p.gone = err
		return false, nil
	case err != nil:
		return false, err
	}
	p.log.Info().Msg("what was taken away at AWS is there again: members are given their job")
	p.gone, p.listed, p.looked = nil, time.Time{}, time.Time{}
	return true, nil
}
