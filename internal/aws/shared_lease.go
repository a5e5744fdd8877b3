package aws

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
)

// lease is the right to lead, one item of the table. Its holder changes it again
// and again; whoever has seen no change for as long as it lasts may take it. No
// clock is compared with another's: each instance measures that by its own.
//
// It decides who tries to lead. What keeps two from writing is the log.
type lease struct {
	sharedTable
	instance string // ours
	token    string // of this process
	lasts    time.Duration

	mu      sync.Mutex
	seen    holder
	since   time.Time // when seen was first seen so
	epoch   int64     // of ours; 0: we do not hold it
	renewed instant   // when the last renewal that succeeded was begun
	wall    func() time.Time
}

// instant is a moment by both clocks of a machine. The steady one stands still
// while the machine is suspended; the other can be set.
type instant struct{ steady, wall time.Time }

func (l *lease) now() instant { return instant{time.Now(), l.wall()} }

// past returns how much time has gone by for certain to others: the longer of
// what the two clocks say.
func (l *lease) past(then instant) time.Duration {
	return max(time.Since(then.steady), l.wall().Sub(then.wall))
}

// holder is what the item says.
type holder struct {
	instance, token string
	epoch, beat     int64
}

func newLease(table sharedTable, instance string, lasts time.Duration) *lease {
	return &lease{
		sharedTable: table, instance: instance, token: rand.Text(), lasts: lasts,
		wall: func() time.Time { return time.Now().Round(0) },
	}
}

// beats is how often the lease is renewed, and looked at, within its time.
const beats = 5

func (l *lease) every() time.Duration { return l.lasts / beats }

// try takes the lease if nobody has it, or if its holder has not been heard of
// for as long as it lasts. It returns our epoch, 0 where another holds it.
func (l *lease) try(ctx context.Context) (epoch int64, err error) {
	i, err := l.get(ctx, partLease, partLease)
	if err != nil {
		return 0, err
	}
	is := holder{text(i, "who"), text(i, attrToken), number(i, "epoch"), number(i, "beat")}
	epoch, beat := is.epoch+1, int64(0)
	switch {
	case is.token == l.token:
		// The answer to our taking it was lost, and the others count its time
		// from then on: they are to see that it is kept.
		epoch, beat = is.epoch, is.beat+1
	case i != nil && is.token != "" && !l.silent(is):
		return 0, nil
	}
	next := key(partLease, partLease)
	next["who"], next[attrToken], next["epoch"], next["beat"] = str(l.instance), str(l.token), num(epoch), num(beat)
	condition, values := "attribute_not_exists("+keyPart+")", item(nil)
	if i != nil {
		condition, values = "epoch = :epoch AND beat = :beat", item{":epoch": num(is.epoch), ":beat": num(is.beat)}
	}
	began := l.now()
	ours, err := l.put(ctx, next, condition, values)
	if err != nil || !ours {
		return 0, err
	}
	return l.hold(epoch, began), nil
}

// silent reports whether nothing was heard of the holder for long enough.
func (l *lease) silent(is holder) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if is != l.seen {
		l.seen, l.since = is, time.Now()
		return false
	}
	return time.Since(l.since) >= l.lasts
}

func (l *lease) hold(epoch int64, began instant) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.epoch, l.renewed, l.seen = epoch, began, holder{instance: l.instance}
	return epoch
}

// errLease says that this instance must not lead any more.
var errLease = errors.New("the lease to lead has ended")

// holds returns nil while nobody else can have taken the lease.
func (l *lease) holds() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.epoch == 0 || l.past(l.renewed) > l.lasts*(beats-1)/beats {
		return errLease
	}
	return nil
}

// forget has this instance not lead any more, whatever the table says, until it
// takes the lease again.
func (l *lease) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.renewed = instant{}
}

// leader returns the name of who was last known to lead; empty for nobody.
func (l *lease) leader() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.seen.instance
}

// renew is called often enough. Its error is errLease once the lease is
// another's, or cannot be kept.
func (l *lease) renew(ctx context.Context) error {
	began := l.now()
	ctx, cancel := context.WithTimeout(ctx, l.lasts) // one that hangs keeps nothing
	defer cancel()
	err := l.update(ctx, "SET beat = beat + :one", item{":one": num(1)})
	var lost *types.ConditionalCheckFailedException
	switch {
	case errors.As(err, &lost):
		return fmt.Errorf("%w: another instance has taken it", errLease)
	case err == nil:
		return l.keep(began)
	}
	if ended := l.holds(); ended != nil {
		return fmt.Errorf("%w: %w", ended, err)
	}
	return err
}

// keep notes a renewal, unless this instance is not to lead any more.
func (l *lease) keep(began instant) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.renewed == (instant{}) {
		return errLease
	}
	l.renewed = began
	return nil
}

// release lets another take the lease at once.
func (l *lease) release(ctx context.Context) error {
	err := l.update(ctx, "SET #token = :nobody, who = :nobody", item{":nobody": str("")})
	var lost *types.ConditionalCheckFailedException
	l.mu.Lock()
	defer l.mu.Unlock()
	l.epoch = 0
	if errors.As(err, &lost) {
		return nil // it is another's already
	}
	return err
}

func (l *lease) update(ctx context.Context, change string, values item) error {
	l.mu.Lock()
	values[":epoch"], values[":token"] = num(l.epoch), str(l.token)
	l.mu.Unlock()
	_, err := l.dynamo.UpdateItem(ctx, &dynamodb.UpdateItemInput{
		TableName: &l.name, Key: key(partLease, partLease), UpdateExpression: &change,
		ConditionExpression:       new("epoch = :epoch AND #token = :token"),
		ExpressionAttributeNames:  map[string]string{"#token": attrToken},
		ExpressionAttributeValues: values,
	})
	if err != nil {
		return fmt.Errorf("keep the lease in table %s: %w", l.name, err)
	}
	return nil
}
