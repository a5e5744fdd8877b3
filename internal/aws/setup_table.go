package aws

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
)

// tablePart is the table of presence.
type tablePart struct {
	account
	name string
}

// tableTime is how long a table may take to be there, or to be gone.
const tableTime = 5 * time.Minute

func (p *tablePart) resource() Resource { return Resource{TableKind, p.name} }

// describe returns the table, or nil, and whether it is ours.
func (p *tablePart) describe(ctx context.Context) (*types.TableDescription, bool, error) {
	out, err := p.clients.Dynamo.DescribeTable(ctx, &dynamodb.DescribeTableInput{TableName: &p.name})
	if isNotFound(err) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("describe table %s: %w", p.name, err)
	}
	tags, err := p.clients.Dynamo.ListTagsOfResource(ctx, &dynamodb.ListTagsOfResourceInput{ResourceArn: out.Table.TableArn})
	if err != nil {
		return nil, false, fmt.Errorf("list the tags of table %s: %w", p.name, err)
	}
	for _, t := range tags.Tags { // up to ten of them come with the first page, and we give one
		if deref(t.Key) == ownerTag && deref(t.Value) == p.owner {
			return out.Table, true, nil
		}
	}
	return out.Table, false, nil
}

func (p *tablePart) look(ctx context.Context) (Step, error) {
	there, ours, err := p.describe(ctx)
	switch {
	case err != nil:
		return Step{}, err
	case there == nil:
		return step(p.resource(), DoCreate), nil
	case !ours:
		return step(p.resource(), DoRefuse, p.untagged()), nil
	case !keyed(there.KeySchema):
		return step(p.resource(), DoRefuse, "its key is another one: delete it, or give the daemon another aws.broker.client_id"), nil
	}
	forgets, err := p.forgets(ctx)
	if err != nil {
		return Step{}, err
	}
	if !forgets {
		return step(p.resource(), DoUpdate, "it keeps everything for ever"), nil
	}
	return step(p.resource(), DoKeep), nil
}

func keyed(schema []types.KeySchemaElement) bool {
	return len(schema) == 2 && deref(schema[0].AttributeName) == presenceDevice && deref(schema[1].AttributeName) == presenceSeen
}

// forgets reports whether what is old enough goes by itself.
func (p *tablePart) forgets(ctx context.Context) (bool, error) {
	out, err := p.clients.Dynamo.DescribeTimeToLive(ctx, &dynamodb.DescribeTimeToLiveInput{TableName: &p.name})
	if err != nil {
		return false, fmt.Errorf("describe the time to live of table %s: %w", p.name, err)
	}
	d := out.TimeToLiveDescription
	if d == nil || deref(d.AttributeName) != presenceExpires {
		return false, nil
	}
	return d.TimeToLiveStatus == types.TimeToLiveStatusEnabled || d.TimeToLiveStatus == types.TimeToLiveStatusEnabling, nil
}

func (p *tablePart) make(ctx context.Context, s Step) error {
	if s.Do == DoCreate {
		if err := p.create(ctx); err != nil {
			return err
		}
	}
	there := dynamodb.NewTableExistsWaiter(p.clients.Dynamo, func(o *dynamodb.TableExistsWaiterOptions) { o.MinDelay = time.Second })
	if err := there.Wait(ctx, &dynamodb.DescribeTableInput{TableName: &p.name}, tableTime); err != nil {
		return fmt.Errorf("wait until it is there: %w", err)
	}
	forgets, err := p.forgets(ctx)
	if err != nil || forgets {
		return err
	}
	_, err = p.clients.Dynamo.UpdateTimeToLive(ctx, &dynamodb.UpdateTimeToLiveInput{
		TableName:               &p.name,
		TimeToLiveSpecification: &types.TimeToLiveSpecification{AttributeName: new(presenceExpires), Enabled: new(true)},
	})
	if err != nil {
		return fmt.Errorf("have it forget: %w", err)
	}
	return nil
}

func (p *tablePart) create(ctx context.Context) error {
	_, err := p.clients.Dynamo.CreateTable(ctx, &dynamodb.CreateTableInput{
		TableName: &p.name, BillingMode: types.BillingModePayPerRequest,
		AttributeDefinitions: []types.AttributeDefinition{
			{AttributeName: new(presenceDevice), AttributeType: types.ScalarAttributeTypeS},
			{AttributeName: new(presenceSeen), AttributeType: types.ScalarAttributeTypeS},
		},
		KeySchema: []types.KeySchemaElement{
			{AttributeName: new(presenceDevice), KeyType: types.KeyTypeHash},
			{AttributeName: new(presenceSeen), KeyType: types.KeyTypeRange},
		},
		Tags: []types.Tag{{Key: new(ownerTag), Value: &p.owner}},
	})
	if err != nil {
		return fmt.Errorf("create it: %w", err)
	}
	return nil
}

func (p *tablePart) leftovers(ctx context.Context) ([]Step, error) {
	there, ours, err := p.describe(ctx)
	if err != nil {
		return nil, err
	}
	return p.removal(p.resource(), there != nil, ours), nil
}

func (p *tablePart) remove(ctx context.Context, _ Step) error {
	_, err := p.clients.Dynamo.DeleteTable(ctx, &dynamodb.DeleteTableInput{TableName: &p.name})
	var busy *types.ResourceInUseException // it is being deleted already
	if err = unlessGone(err); err != nil && !errors.As(err, &busy) {
		return fmt.Errorf("delete it: %w", err)
	}
	gone := dynamodb.NewTableNotExistsWaiter(p.clients.Dynamo, func(o *dynamodb.TableNotExistsWaiterOptions) { o.MinDelay = time.Second })
	if err := gone.Wait(ctx, &dynamodb.DescribeTableInput{TableName: &p.name}, tableTime); err != nil {
		return fmt.Errorf("wait until it is gone: %w", err)
	}
	return nil
}
