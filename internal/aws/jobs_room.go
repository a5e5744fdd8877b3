package aws

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/aws/aws-sdk-go-v2/service/iot"

	"github.com/certvendor/certvendor/registry"
)

// mostGroups is how many thing groups a thing may be in (AWS IoT Core quotas,
// which do not let it be raised).
const mostGroups = 10

// errCrowded says that a thing is in as many groups as it may be.
var errCrowded = errors.New("the thing can join no group")

// Joins says why a thing could not be added to the thing group, or returns
// nil. It asks AWS, and changes nothing there.
func (g *Group) Joins(ctx context.Context, id registry.DeviceID) error {
	if err := g.room(ctx, id); err != nil {
		return fmt.Errorf("thing group %s: %w", g.name, err)
	}
	return nil
}

// room returns an error of kind errCrowded if a thing is in as many groups as
// it may be, and remembers that: a plan says so.
func (g *Group) room(ctx context.Context, id registry.DeviceID) error {
	var groups []string
	pages := iot.NewListThingGroupsForThingPaginator(g.iot, &iot.ListThingGroupsForThingInput{ThingName: new(string(id))})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if isNotFound(err) {
			return fmt.Errorf("AWS IoT has no thing %s: %w", id, err)
		}
		if err != nil {
			return fmt.Errorf("list the thing groups of thing %s: %w", id, err)
		}
		for _, group := range page.ThingGroups {
			groups = append(groups, deref(group.GroupName))
		}
	}
	return g.crowded(ctx, id, groups)
}

// crowded is room for groups that are known.
func (g *Group) crowded(ctx context.Context, id registry.DeviceID, groups []string) error {
	full := len(groups) >= mostGroups && !slices.Contains(groups, g.name)
	if !full {
		return g.devices.SetCrowded(ctx, id, 0)
	}
	if err := g.devices.SetCrowded(ctx, id, len(groups)); err != nil {
		return err
	}
	return fmt.Errorf("%w: it is in %d of at most %d: take it out of one", errCrowded, len(groups), mostGroups)
}
