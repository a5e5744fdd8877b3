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
	"github.com/certvendor/certvendor/rotation"
)

// Group is the rotation group: the store's members, each of which the Pacer
// adds to the thing group when its turn comes. AWS IoT gives it the job then.
type Group struct {
	store.Group
	iot     *iot.Client
	name    string
	owner   string // see ownerTag
	poke    func() // somebody waits
	jobs    store.Jobs
	devices store.Devices
	// rotated reports whether a device has acked, or finished a rotation, since
	// a time.
	rotated func(context.Context, registry.DeviceID, time.Time) (bool, error)
	own     *ownJobs // of campaigns; nil: they have none
}

var _ rotation.Group = (*Group)(nil)

// groupDescription makes creating the group repeatable.
const groupDescription = "Things that certvendor has asked to rotate their certificate."

// Ensure creates the thing group if it is not there. Idempotent.
func (g *Group) Ensure(ctx context.Context) error { return g.ensure(ctx, g.name) }

func (g *Group) ensure(ctx context.Context, name string) error {
	_, err := g.iot.DescribeThingGroup(ctx, &iot.DescribeThingGroupInput{ThingGroupName: &name})
	if err == nil {
		return nil
	}
	if !isNotFound(err) {
		return fmt.Errorf("describe thing group %s: %w", name, err)
	}
	_, err = g.iot.CreateThingGroup(ctx, &iot.CreateThingGroupInput{
		ThingGroupName:       &name,
		ThingGroupProperties: &types.ThingGroupProperties{ThingGroupDescription: new(groupDescription)},
		Tags:                 iotTags(g.owner),
	})
	if err != nil && codeOf(err) != alreadyExists {
		return fmt.Errorf("create thing group %s: %w", name, err)
	}
	return nil
}

// Add implements rotation.Group.
func (g *Group) Add(ctx context.Context, id registry.DeviceID) error {
	if err := g.Group.Add(ctx, id); err != nil {
		return err
	}
	g.poke()
	return nil
}

// Remove implements rotation.Group. Who was added to the thing group by others
// leaves it too; who has become a member again since, does not.
func (g *Group) Remove(ctx context.Context, id registry.DeviceID, since time.Time) error {
	if err := g.Group.Remove(ctx, id, since); err != nil {
		return err
	}
	still, err := g.Has(ctx, id)
	if err != nil || still {
		return err
	}
	if err := g.succeeded(ctx, id); err != nil {
		return err
	}
	defer g.poke() // a place in flight may be free
	return g.take(ctx, id)
}

// succeeded says of the job of a device that leaves because it has acked what
// AWS would say a moment later: that it has done it. The store has not heard yet
// that the job was begun, and has called it REMOVED.
func (g *Group) succeeded(ctx context.Context, id registry.DeviceID) error {
	newest, some, err := g.jobs.Newest(ctx, id)
	if err != nil || !some || newest.Status != protocol.JobRemoved {
		return err
	}
	rotated, err := g.rotated(ctx, id, newest.QueuedAt)
	if err != nil || !rotated {
		return err
	}
	_, err = g.jobs.Update(ctx, id, newest.JobID, newest.Number, func(e jobs.Execution) (jobs.Execution, error) {
		if e.Status != protocol.JobRemoved {
			return e, nil
		}
		return e.End(protocol.JobSucceeded, e.UpdatedAt), nil
	})
	return err
}

// take takes a thing out of the thing group that it was added to. Idempotent.
func (g *Group) take(ctx context.Context, id registry.DeviceID) error {
	name := g.name
	if g.own != nil {
		var err error
		if name, err = g.own.groupOf(ctx, id); err != nil {
			return err
		}
	}
	return g.takeFrom(ctx, id, name)
}

func (g *Group) takeFrom(ctx context.Context, id registry.DeviceID, name string) error {
	_, err := g.iot.RemoveThingFromThingGroup(ctx, &iot.RemoveThingFromThingGroupInput{
		ThingName: new(string(id)), ThingGroupName: &name,
	})
	if err = unlessGone(err); err != nil {
		return fmt.Errorf("remove thing %s from thing group %s: %w", id, name, err)
	}
	return nil
}

// joinTo adds a thing to a thing group, or returns an error of kind errCrowded.
// Idempotent.
func (g *Group) joinTo(ctx context.Context, id registry.DeviceID, name string) error {
	_, err := g.iot.AddThingToThingGroup(ctx, &iot.AddThingToThingGroupInput{
		ThingName: new(string(id)), ThingGroupName: &name,
	})
	if err == nil {
		return g.devices.SetCrowded(ctx, id, 0)
	}
	if code := codeOf(err); code == limitExceeded || code == invalidRequest {
		err = errors.Join(g.room(ctx, id), err)
	}
	return fmt.Errorf("add thing %s to thing group %s: %w", id, name, err)
}

// things calls each with the names of the things in the thing group, a page at
// a time.
func (g *Group) things(ctx context.Context, each func([]string) error) error {
	pages := iot.NewListThingsInThingGroupPaginator(g.iot, &iot.ListThingsInThingGroupInput{
		ThingGroupName: &g.name, MaxResults: new(int32(groupPage)),
	})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return fmt.Errorf("list thing group %s: %w", g.name, err)
		}
		if err := each(page.Things); err != nil {
			return err
		}
	}
	return nil
}

// groupPage is the most things AWS lists at a time.
const groupPage = 250
