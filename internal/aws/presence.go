package aws

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/vending"
)

// Presence reads the table of presence: who has connected with which
// certificate, as AWS IoT has written it down. It is safe for concurrent use.
type Presence struct {
	dynamo *dynamodb.Client
	table  string
	now    func() time.Time
}

// NewPresence returns a reader of the table with that name, see PresenceTable.
func NewPresence(dynamo *dynamodb.Client, table string, now func() time.Time) *Presence {
	return &Presence{dynamo, table, now}
}

// ErrNoTable says that there is no table of presence.
var ErrNoTable = errors.New("there is no table of presence: `certvendor setup` makes it")

// newestRead is how many of a device's connections are read: the newest. What
// was before them cannot be its latest sighting.
const newestRead = 50

// Of returns the last connection of a device with each certificate, the oldest
// first; more reports whether there are older ones, which were not read. Whoever
// connects under a device's name is among them.
func (p *Presence) Of(ctx context.Context, device registry.DeviceID) (all []vending.Caller, more bool, err error) {
	out, err := p.dynamo.Query(ctx, &dynamodb.QueryInput{
		TableName:                &p.table,
		KeyConditionExpression:   new("#device = :device AND #seen < :refused"),
		ExpressionAttributeNames: map[string]string{"#device": presenceDevice, "#seen": presenceSeen},
		ExpressionAttributeValues: map[string]types.AttributeValue{
			":device":  &types.AttributeValueMemberS{Value: string(device)},
			":refused": &types.AttributeValueMemberS{Value: refusedPrefix},
		},
		ConsistentRead: new(true), ScanIndexForward: new(false), Limit: new(int32(newestRead)),
	})
	if isNotFound(err) {
		return nil, false, fmt.Errorf("table %s: %w", p.table, ErrNoTable)
	}
	if err != nil {
		return nil, false, fmt.Errorf("read presence of device %s in table %s: %w", device, p.table, err)
	}
	known, latest := map[certificate.ID]bool{}, p.now()
	for _, item := range out.Items { // the newest first
		caller, ok := readSeen(device, item[presenceSeen], latest)
		if ok && !known[caller.Certificate] {
			known[caller.Certificate] = true
			all = append(all, caller)
			latest = caller.At.Add(-time.Nanosecond) // also where our clock is behind that of AWS
		}
	}
	slices.Reverse(all)
	return all, len(out.LastEvaluatedKey) > 0, nil
}

// Refused returns when AWS IoT has last not let a device in with a certificate, and
// the zero time if it never did.
func (p *Presence) Refused(ctx context.Context, device registry.DeviceID, id certificate.ID) (time.Time, error) {
	out, err := p.dynamo.GetItem(ctx, &dynamodb.GetItemInput{TableName: &p.table, Key: map[string]types.AttributeValue{
		presenceDevice: &types.AttributeValueMemberS{Value: string(device)},
		presenceSeen:   &types.AttributeValueMemberS{Value: refusedPrefix + string(id)},
	}})
	if err != nil {
		return time.Time{}, fmt.Errorf("read presence of device %s in table %s: %w", device, p.table, err)
	}
	at, is := out.Item[presenceAt].(*types.AttributeValueMemberN)
	if !is {
		return time.Time{}, nil
	}
	millis, err := strconv.ParseInt(at.Value, 10, 64)
	if err != nil {
		return time.Time{}, nil // not what our statement writes
	}
	return notAfter(time.UnixMilli(millis), p.now()), nil
}

// readSeen reads what connectedSQL writes into presenceSeen.
func readSeen(device registry.DeviceID, value types.AttributeValue, now time.Time) (vending.Caller, bool) {
	text, is := value.(*types.AttributeValueMemberS)
	if !is {
		return vending.Caller{}, false
	}
	before, after, _ := strings.Cut(text.Value, "-")
	millis, err := strconv.ParseInt(before, 10, 64)
	id, errID := certificate.ParseID(after)
	if err != nil || errID != nil || millis <= 0 {
		return vending.Caller{}, false
	}
	return vending.Caller{
		Device: device, Certificate: id, Evidence: certificate.Presence, At: notAfter(time.UnixMilli(millis), now),
	}, true
}
