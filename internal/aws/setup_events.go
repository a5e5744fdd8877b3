package aws

import (
	"context"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"
)

// eventsPart has AWS IoT publish what becomes of executions.
type eventsPart struct{ account }

const executionEvents = string(types.EventTypeJobExecution)

func (p *eventsPart) resource() Resource { return Resource{EventsKind, executionEvents} }

func (p *eventsPart) describe(ctx context.Context) (map[string]types.Configuration, error) {
	out, err := p.clients.IoT.DescribeEventConfigurations(ctx, &iot.DescribeEventConfigurationsInput{})
	if err != nil {
		return nil, fmt.Errorf("describe which events are published: %w", err)
	}
	return out.EventConfigurations, nil
}

func (p *eventsPart) look(ctx context.Context) (Step, error) {
	is, err := p.describe(ctx)
	if err != nil {
		return Step{}, err
	}
	if is[executionEvents].Enabled {
		return step(p.resource(), DoKeep), nil
	}
	return step(p.resource(), DoUpdate, "they are off"), nil
}

// make leaves the others as they are.
func (p *eventsPart) make(ctx context.Context, _ Step) error {
	is, err := p.describe(ctx)
	if err != nil {
		return err
	}
	if is == nil {
		is = map[string]types.Configuration{}
	}
	is[executionEvents] = types.Configuration{Enabled: true}
	_, err = p.clients.IoT.UpdateEventConfigurations(ctx, &iot.UpdateEventConfigurationsInput{EventConfigurations: is})
	if err != nil {
		return fmt.Errorf("have them published: %w", err)
	}
	return nil
}

// leftovers leaves the events: they are the account's, and nobody knows who
// else listens by now.
func (p *eventsPart) leftovers(ctx context.Context) ([]Step, error) {
	is, err := p.describe(ctx)
	if err != nil || !is[executionEvents].Enabled {
		return nil, err
	}
	return []Step{step(p.resource(), DoLeave, "a setting of the account, which others may use")}, nil
}

func (p *eventsPart) remove(context.Context, Step) error { return nil }
