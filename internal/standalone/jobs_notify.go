package standalone

import (
	"context"
	"fmt"

	"github.com/certvendor/certvendor/jobs"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
)

// maxNotified is how many executions a notify lists, as on AWS.
const maxNotified = 10

// Added tells the device that an execution was queued for it: notify, and
// notify-next if no other comes before it.
func (j *Jobs) Added(ctx context.Context, device registry.DeviceID) error {
	return j.tell(ctx, device, func(pending []jobs.Execution) bool { return len(pending) == 1 })
}

// Removed tells the device that an execution of its was ended by others than
// itself: notify and notify-next. It may be called once too often.
func (j *Jobs) Removed(ctx context.Context, device registry.DeviceID) error {
	return j.tell(ctx, device, func([]jobs.Execution) bool { return true })
}

func (j *Jobs) tell(ctx context.Context, device registry.DeviceID, nextToo func([]jobs.Execution) bool) error {
	pending, err := j.config.Store.Pending(ctx, device)
	if err != nil {
		return fmt.Errorf("list executions of %s: %w", device, err)
	}
	if err := j.notify(ctx, device, pending); err != nil {
		return err
	}
	if !nextToo(pending) {
		return nil
	}
	return j.notifyNext(ctx, device, pending)
}

// updated does what follows from a device's own update. That is never worth
// the update's failure: the device may ask for the list at any time.
func (j *Jobs) updated(ctx context.Context, e jobs.Execution, before []jobs.Execution) {
	if e.Status.Terminal() && j.config.Ended != nil {
		j.config.Ended()
	}
	after, err := j.config.Store.Pending(ctx, e.Device)
	if err == nil && e.Status.Terminal() {
		err = j.notify(ctx, e.Device, after)
	}
	if err == nil && !sameNext(before, after) {
		err = j.notifyNext(ctx, e.Device, after)
	}
	if err != nil {
		j.config.Log.Warn().Str("device", string(e.Device)).Err(err).Msg("job notification not sent")
	}
}

// sameNext reports whether both lists begin with the same execution. A change
// of its details is none.
func sameNext(a, b []jobs.Execution) bool {
	if len(a) == 0 || len(b) == 0 {
		return len(a) == len(b)
	}
	return a[0].JobID == b[0].JobID && a[0].Number == b[0].Number
}

func (j *Jobs) notify(ctx context.Context, device registry.DeviceID, pending []jobs.Execution) error {
	message := protocol.JobNotify{Timestamp: j.config.Now().Unix(), Jobs: map[protocol.JobStatus][]protocol.JobSummary{}}
	for _, e := range pending[:min(len(pending), maxNotified)] {
		message.Jobs[e.Status] = append(message.Jobs[e.Status], e.Summary())
	}
	return j.publish(ctx, device, "jobs/notify", message)
}

func (j *Jobs) notifyNext(ctx context.Context, device registry.DeviceID, pending []jobs.Execution) error {
	message := protocol.JobExecutionReply{Timestamp: j.config.Now().Unix()}
	if len(pending) > 0 {
		document, err := j.document(ctx, pending[0].JobID)
		if err != nil {
			return err
		}
		message.Execution = j.message(pending[0], document)
	}
	return j.publish(ctx, device, "jobs/notify-next", message)
}

func (j *Jobs) publish(ctx context.Context, device registry.DeviceID, name string, message any) error {
	return j.config.Publish(ctx, protocol.Fill(thingRoot, string(device))+name, protocol.Encode(message))
}
