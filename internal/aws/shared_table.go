package aws

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
)

// The key of every item, and the attributes of all kinds of items. The parts
// are: lease, one item; log, one item an entry; pieces, of entries that do not
// fit in an item; copies, the pieces of snapshots; latest, which of them counts.
const (
	keyPart  = "part"
	keyPlace = "place" // in the order of the text

	partLease  = "lease"
	partLog    = "log"
	partPieces = "pieces"
	partCopies = "copies"
	partLatest = "latest"

	attrToken = "token" // of whoever has written it, to know one's own
	attrData  = "data"

	// pieceSize is what of a text is put into an item, which has 400 KB at most.
	pieceSize = 256 << 10
)

// item is one of the table.
type item = map[string]types.AttributeValue

// SharedTable returns what the table of a store that is shared must be.
func SharedTable(name string) *dynamodb.CreateTableInput {
	return &dynamodb.CreateTableInput{
		TableName: &name, BillingMode: types.BillingModePayPerRequest,
		AttributeDefinitions: []types.AttributeDefinition{
			{AttributeName: new(keyPart), AttributeType: types.ScalarAttributeTypeS},
			{AttributeName: new(keyPlace), AttributeType: types.ScalarAttributeTypeS},
		},
		KeySchema: []types.KeySchemaElement{
			{AttributeName: new(keyPart), KeyType: types.KeyTypeHash},
			{AttributeName: new(keyPlace), KeyType: types.KeyTypeRange},
		},
	}
}

// sharedTable is the table of a store that is shared.
type sharedTable struct {
	dynamo *dynamodb.Client
	name   string
}

// tableReady is how long a table that is made may take to be there.
const tableReady = 2 * time.Minute

// ensure makes the table if it is not there.
func (t sharedTable) ensure(ctx context.Context) error {
	there, err := t.dynamo.DescribeTable(ctx, &dynamodb.DescribeTableInput{TableName: &t.name})
	switch {
	case err == nil && len(there.Table.KeySchema) == 2 && deref(there.Table.KeySchema[0].AttributeName) == keyPart &&
		deref(there.Table.KeySchema[1].AttributeName) == keyPlace:
	case err == nil:
		return fmt.Errorf("aws.journal.table: the table %s is one of something else: name another", t.name)
	case !isNotFound(err):
		return fmt.Errorf("aws.journal.table: describe table %s: %w", t.name, err)
	default:
		_, err := t.dynamo.CreateTable(ctx, SharedTable(t.name))
		var there *types.ResourceInUseException // another instance makes it
		if err != nil && !errors.As(err, &there) {
			return fmt.Errorf("aws.journal.table: make table %s: %w", t.name, err)
		}
	}
	ready := dynamodb.NewTableExistsWaiter(t.dynamo, func(o *dynamodb.TableExistsWaiterOptions) { o.MinDelay = time.Second })
	if err := ready.Wait(ctx, &dynamodb.DescribeTableInput{TableName: &t.name}, tableReady); err != nil {
		return fmt.Errorf("aws.journal.table: wait for table %s: %w", t.name, err)
	}
	return nil
}

// get returns nil if there is none.
func (t sharedTable) get(ctx context.Context, part, place string) (item, error) {
	out, err := t.dynamo.GetItem(ctx, &dynamodb.GetItemInput{TableName: &t.name, Key: key(part, place), ConsistentRead: new(true)})
	if err != nil {
		return nil, fmt.Errorf("read %s of table %s: %w", part, t.name, err)
	}
	if len(out.Item) == 0 {
		return nil, nil
	}
	return out.Item, nil
}

// put writes an item if the condition holds, and reports whether it did. An
// attempt of its own whose answer was lost counts as one that did.
func (t sharedTable) put(ctx context.Context, i item, condition string, values item) (bool, error) {
	in := &dynamodb.PutItemInput{
		TableName: &t.name, Item: i, ConditionExpression: &condition,
		ReturnValuesOnConditionCheckFailure: types.ReturnValuesOnConditionCheckFailureAllOld,
	}
	if len(values) > 0 {
		in.ExpressionAttributeValues = values
	}
	_, err := t.dynamo.PutItem(ctx, in)
	var failed *types.ConditionalCheckFailedException
	switch {
	case errors.As(err, &failed):
		return text(failed.Item, attrToken) == text(i, attrToken), nil
	case err != nil:
		return false, fmt.Errorf("write %s of table %s: %w", text(i, keyPart), t.name, err)
	}
	return true, nil
}

// between calls see with every item of a part whose place is from one to
// another, both of them included, until it returns false.
func (t sharedTable) between(ctx context.Context, in dynamodb.QueryInput, part, from, to string, see func(item) (bool, error)) error {
	in.TableName, in.ConsistentRead = &t.name, new(true)
	in.KeyConditionExpression = new(keyPart + " = :part AND " + keyPlace + " BETWEEN :from AND :to")
	in.ExpressionAttributeValues = item{":part": str(part), ":from": str(from), ":to": str(to)}
	for pages := dynamodb.NewQueryPaginator(t.dynamo, &in); pages.HasMorePages(); {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return fmt.Errorf("read %s of table %s: %w", part, t.name, err)
		}
		for _, i := range page.Items {
			if more, err := see(i); err != nil || !more {
				return err
			}
		}
	}
	return nil
}

// atATimeDeleted is how many items one call deletes.
const atATimeDeleted = 25

// drop deletes the items of a part whose place is up to one.
func (t sharedTable) drop(ctx context.Context, part, to string) error {
	var some []types.WriteRequest
	err := t.between(ctx, dynamodb.QueryInput{ProjectionExpression: new(keyPart + ", " + keyPlace)}, part, "0", to, func(i item) (bool, error) {
		some = append(some, types.WriteRequest{DeleteRequest: &types.DeleteRequest{Key: item{keyPart: i[keyPart], keyPlace: i[keyPlace]}}})
		if len(some) < atATimeDeleted {
			return true, nil
		}
		err := t.delete(ctx, some)
		some = nil
		return true, err
	})
	if err != nil {
		return err
	}
	return t.delete(ctx, some)
}

func (t sharedTable) delete(ctx context.Context, some []types.WriteRequest) error {
	for len(some) > 0 {
		out, err := t.dynamo.BatchWriteItem(ctx, &dynamodb.BatchWriteItemInput{RequestItems: map[string][]types.WriteRequest{t.name: some}})
		if err != nil {
			return fmt.Errorf("delete of table %s: %w", t.name, err)
		}
		if some = out.UnprocessedItems[t.name]; len(some) > 0 {
			sleep(ctx, time.Second) // the table has no more to give for now
		}
	}
	return nil
}

// order is a number as a part of a place.
func order(n int64) string { return fmt.Sprintf("%020d", n) }

// last follows every place that begins so.
func last(prefix string) string { return prefix + "~" }

func key(part, place string) item { return item{keyPart: str(part), keyPlace: str(place)} }

func str(s string) types.AttributeValue { return &types.AttributeValueMemberS{Value: s} }

func num(n int64) types.AttributeValue {
	return &types.AttributeValueMemberN{Value: strconv.FormatInt(n, 10)}
}

func bin(b []byte) types.AttributeValue { return &types.AttributeValueMemberB{Value: b} }

func text(i item, name string) string {
	if s, ok := i[name].(*types.AttributeValueMemberS); ok {
		return s.Value
	}
	return ""
}

func number(i item, name string) int64 {
	if s, ok := i[name].(*types.AttributeValueMemberN); ok {
		n, _ := strconv.ParseInt(s.Value, 10, 64) // the service keeps numbers only
		return n
	}
	return 0
}

func data(i item, name string) []byte {
	if b, ok := i[name].(*types.AttributeValueMemberB); ok {
		return b.Value
	}
	return nil
}
