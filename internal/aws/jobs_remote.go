package aws

import (
	"context"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"

	"github.com/certvendor/certvendor/jobs"
)

// remoteJobs are the jobs of AWS IoT, by the ids that they have there.
type remoteJobs struct {
	iot      *iot.Client
	names    names
	owner    string // see ownerTag
	settings JobSettings
}

// describe returns a job, or nil if it is not there.
func (r remoteJobs) describe(ctx context.Context, id string) (*types.Job, error) {
	out, err := r.iot.DescribeJob(ctx, &iot.DescribeJobInput{JobId: &id})
	if isNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("describe job %s: %w", id, err)
	}
	return out.Job, nil
}

// over reports whether a job does nothing more.
func over(status types.JobStatus) bool {
	switch status {
	case types.JobStatusCanceled, types.JobStatusCompleted, types.JobStatusDeletionInProgress:
		return true
	}
	return false
}

// successorID returns the id that a job goes on under when the one that it had
// at AWS is over.
func successorID(id, was string) string {
	n := 1
	if _, err := fmt.Sscanf(was, id+"-%d", &n); err != nil {
		n = 1
	}
	return fmt.Sprintf("%s-%d", id, n+1)
}

func (r remoteJobs) create(ctx context.Context, id string, job jobs.Job) error {
	_, err := r.iot.CreateJob(ctx, &iot.CreateJobInput{
		JobId: &id, Targets: []string{r.names.group(job.Group)}, TargetSelection: types.TargetSelectionContinuous,
		Document: new(string(job.Document)), Description: new("Rotate the device's certificate (certvendor)."),
		TimeoutConfig: r.timeout(), JobExecutionsRolloutConfig: r.rollout(), Tags: iotTags(r.owner),
	})
	if err != nil && codeOf(err) != alreadyExists {
		return fmt.Errorf("create job %s: %w", id, err)
	}
	return nil
}

func (r remoteJobs) timeout() *types.TimeoutConfig {
	if r.settings.InProgressTimeout <= 0 {
		return nil
	}
	return &types.TimeoutConfig{InProgressTimeoutInMinutes: new(int64(r.settings.InProgressTimeout / time.Minute))}
}

// mostPerMinute is the most that AWS takes for a rollout (AWS IoT Jobs, limits).
const mostPerMinute = 1000

func (r remoteJobs) rollout() *types.JobExecutionsRolloutConfig {
	if r.settings.PerMinute <= 0 {
		return nil
	}
	return &types.JobExecutionsRolloutConfig{MaximumPerMinute: new(int32(min(r.settings.PerMinute, mostPerMinute)))}
}

// cancel is idempotent.
func (r remoteJobs) cancel(ctx context.Context, id string) error {
	there, err := r.describe(ctx, id)
	if err != nil || there == nil || over(there.Status) {
		return err
	}
	_, err = r.iot.CancelJob(ctx, &iot.CancelJobInput{JobId: &id, ReasonCode: new("CERTVENDOR")})
	if err = unlessGone(err); err != nil {
		return fmt.Errorf("cancel job %s: %w", id, err)
	}
	return nil
}
