package aws

import (
	"context"
	"fmt"
	"regexp"
	"strings"

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

// leftovers are the group, and those that campaigns have had.
func (p *groupPart) leftovers(ctx context.Context) ([]Step, error) {
	steps, err := p.leftover(ctx, p.name)
	if err != nil {
		return nil, err
	}
	pages := iot.NewListThingGroupsPaginator(p.clients.IoT, &iot.ListThingGroupsInput{NamePrefixFilter: new(p.name + "-")})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, fmt.Errorf("list the thing groups: %w", err)
		}
		for _, g := range page.ThingGroups {
			if !ofCampaign.MatchString(strings.TrimPrefix(deref(g.GroupName), p.name)) {
				continue
			}
			some, err := p.leftover(ctx, deref(g.GroupName))
			if err != nil {
				return nil, err
			}
			steps = append(steps, some...)
		}
	}
	return steps, nil
}

// ofCampaign is what a campaign's group has behind the rotation group's name, see
// ownJobs.
var ofCampaign = regexp.MustCompile(`^-[0-9a-f]{8}$`)

// leftover is one group: nothing, if it is not there.
func (p *groupPart) leftover(ctx context.Context, name string) ([]Step, error) {
	one := &groupPart{account: p.account, name: name}
	there, ours, err := one.find(ctx)
	if err != nil {
		return nil, err
	}
	if !there || !ours {
		return p.removal(one.resource(), there, ours), nil
	}
	n := 0
	err = one.group().things(ctx, func(things []string) error { n += len(things); return nil })
	switch {
	case err != nil:
		return nil, err
	case n > 0:
		return []Step{step(one.resource(), DoLeave, fmt.Sprintf("things are in it: %d", n))}, nil
	}
	return []Step{step(one.resource(), DoDelete)}, nil
}

func (p *groupPart) remove(ctx context.Context, s Step) error {
	_, err := p.clients.IoT.DeleteThingGroup(ctx, &iot.DeleteThingGroupInput{ThingGroupName: &s.Name})
	if err = unlessGone(err); err != nil {
		return fmt.Errorf("delete it: %w", err)
	}
	return nil
}
