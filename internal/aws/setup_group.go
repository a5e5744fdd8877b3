package aws

import (
	"context"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/service/iot"
)

// groupPart is the thing group of the rotation. One that is there is used,
// whoever has made it.
type groupPart struct {
	account
	name string
}

func (p *groupPart) resource() Resource { return Resource{GroupKind, p.name} }

func (p *groupPart) group() *Group {
	return &Group{iot: p.clients.IoT, name: p.name, owner: p.owner}
}

// find reports whether the group is there, and whether it is ours.
func (p *groupPart) find(ctx context.Context) (there, ours bool, err error) {
	_, err = p.clients.IoT.DescribeThingGroup(ctx, &iot.DescribeThingGroupInput{ThingGroupName: &p.name})
	if isNotFound(err) {
		return false, false, nil
	}
	if err != nil {
		return false, false, fmt.Errorf("describe thing group %s: %w", p.name, err)
	}
	ours, err = p.ownsIoT(ctx, p.names.group(p.name))
	return true, ours, err
}

func (p *groupPart) look(ctx context.Context) (Step, error) {
	there, ours, err := p.find(ctx)
	switch {
	case err != nil:
		return Step{}, err
	case !there:
		return step(p.resource(), DoCreate), nil
	case !ours:
		return step(p.resource(), DoKeep, "somebody else has made it"), nil
	}
	return step(p.resource(), DoKeep), nil
}

func (p *groupPart) make(ctx context.Context, _ Step) error { return p.group().Ensure(ctx) }

func (p *groupPart) leftovers(ctx context.Context) ([]Step, error) {
	there, ours, err := p.find(ctx)
	switch {
	case err != nil || !there:
		return nil, err
	case !ours:
		return []Step{step(p.resource(), DoLeave, p.untagged())}, nil
	}
	n := 0
	err = p.group().things(ctx, func(things []string) error { n += len(things); return nil })
	switch {
	case err != nil:
		return nil, err
	case n > 0:
		return []Step{step(p.resource(), DoLeave, fmt.Sprintf("things are in it: %d", n))}, nil
	}
	return []Step{step(p.resource(), DoDelete)}, nil
}

func (p *groupPart) remove(ctx context.Context, _ Step) error {
	_, err := p.clients.IoT.DeleteThingGroup(ctx, &iot.DeleteThingGroupInput{ThingGroupName: &p.name})
	if err = unlessGone(err); err != nil {
		return fmt.Errorf("delete it: %w", err)
	}
	return nil
}
