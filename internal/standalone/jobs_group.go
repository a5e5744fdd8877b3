package standalone

import (
	"context"
	"time"

	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

// Group returns the group g, with word to the device when leaving takes a job
// from it that was pending, as AWS IoT gives it.
func (j *Jobs) Group(g rotation.Group) rotation.Group { return notifyingGroup{g, j} }

type notifyingGroup struct {
	rotation.Group
	jobs *Jobs
}

// Remove implements rotation.Group. That the device could not be told is
// logged and no error: it is out of the group, and may ask for its list.
func (g notifyingGroup) Remove(ctx context.Context, id registry.DeviceID, since time.Time) error {
	before, known := g.jobs.config.Store.Pending(ctx, id)
	if err := g.Group.Remove(ctx, id, since); err != nil {
		return err
	}
	after, err := g.jobs.config.Store.Pending(ctx, id)
	if known == nil && err == nil && len(before) == len(after) {
		return nil
	}
	if g.jobs.config.Ended != nil {
		g.jobs.config.Ended()
	}
	if err := g.jobs.Removed(ctx, id); err != nil {
		g.jobs.config.Log.Warn().Str("device", string(id)).Err(err).Msg("job notification not sent")
	}
	return nil
}
