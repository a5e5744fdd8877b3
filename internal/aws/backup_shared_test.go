package aws

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/backup"
	"github.com/certvendor/certvendor/registry"
)

// leadOver opens a course's world on a table.
func (c *course) leadOver(config Config, table string) {
	c.t.Helper()
	config.Sharing = Sharing{Table: table, Lease: time.Second}
	shared, err := StandBy(c.ctx, config)
	c.must(err)
	if err := shared.Lead(c.ctx); err != nil {
		c.must(errors.Join(err, shared.Close()))
	}
	config.Shared = shared
	c.reopen(config)
}

// A store that instances share is not put in the place of what its table has. In
// a new table it becomes one that others follow.
func TestRestoreOfASharedStore(t *testing.T) {
	c := newCourse(t, certificate.Deactivate, nil)
	config := c.world.config
	c.must(c.world.Close())
	c.leadOver(config, "first")
	used := c.rotate()
	file := c.backUp()
	c.must(c.world.registry.Add(c.ctx, "thing-2", nil))
	c.must(c.world.Close())

	into := Restoring{Data: config.Data, Instance: "restorer", Now: c.clock.Now, Table: "first", Dynamo: c.clients.Dynamo}
	o := backup.Options{File: file, Replace: true}
	_, err := Restore(c.ctx, into, o)
	if !errors.Is(err, backup.ErrRestore) || !strings.Contains(err.Error(), "name a new table in aws.journal.table") {
		t.Fatalf("restored over a log that goes on: %v", err)
	}
	into.Table = "second"
	report, err := Restore(c.ctx, into, o)
	c.must(err)
	if name, _, _ := strings.Cut(report.Backup.Log, "/"); name != "first" || report.Backup.Entry == 0 || report.Replayed == 0 {
		t.Errorf("the report is %+v", report)
	}
	c.clock.Advance(time.Minute)
	c.leadOver(config, "second")
	if _, err := c.world.registry.Devices.Device(c.ctx, "thing-2"); err != nil {
		t.Errorf("what was done after the backup: %v", err)
	}
	c.afterwards(used)
	c.wantFollowed(config, "second")

	// An instance that has a copy of the former store does not mix the two.
	_, err = c.clients.Dynamo.DescribeTable(c.ctx, &dynamodb.DescribeTableInput{TableName: new("first")})
	c.must(err)
	other := config
	other.Data, other.Sharing = t.TempDir(), Sharing{Table: "first", Lease: time.Second}
	former, err := StandBy(c.ctx, other)
	c.must(err)
	c.must(former.Close())
	other.Sharing.Table = "second"
	if _, err := StandBy(c.ctx, other); err == nil || !strings.Contains(err.Error(), "move it away, and this instance makes a copy") {
		t.Errorf("a copy of the former store follows the new one: %v", err)
	}
}

// wantFollowed has another instance make a copy of a table for itself.
func (c *course) wantFollowed(config Config, table string) {
	c.t.Helper()
	config.Data, config.Instance, config.Sharing = c.t.TempDir(), "another", Sharing{Table: table, Lease: time.Second}
	follower, err := StandBy(c.ctx, config)
	c.must(err)
	_, err = follower.store.Follow(c.ctx)
	c.must(err)
	for _, id := range []registry.DeviceID{courseThing, "thing-2"} {
		if _, err := follower.store.Devices().Device(c.ctx, id); err != nil {
			c.t.Errorf("what follows it: %v", err)
		}
	}
	restored, err := follower.store.Restored(c.ctx)
	if err != nil || restored.At.IsZero() {
		c.t.Errorf("what follows it was restored: %+v, %v", restored, err)
	}
	c.must(follower.Close())
}
