package standalone

import (
	"context"

	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/jobs"
)

// Continuous returns the job of the store, with word to the devices when it is
// canceled under their hands, as AWS IoT gives it.
func (j *Jobs) Continuous(s store.Jobs) jobs.Continuous { return notifyingJob{s, j} }

type notifyingJob struct {
	store.Jobs
	jobs *Jobs
}

// Cancel implements jobs.Continuous. That a device could not be told is logged
// and no error: the job is canceled, and the device may ask for its list.
func (n notifyingJob) Cancel(ctx context.Context, id string) error {
	lost, err := n.CancelFor(ctx, id)
	if err != nil {
		return err
	}
	failed := 0
	var first error
	for _, device := range lost {
		if err := n.jobs.Removed(ctx, device); err != nil {
			failed++
			first = err
		}
	}
	if failed > 0 {
		n.jobs.config.Log.Warn().Int("devices", failed).Err(first).Msg("job notifications not sent")
	}
	return nil
}
