package aws

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"

	"github.com/certvendor/certvendor/internal/archive"
	"github.com/certvendor/certvendor/internal/backup"
	"github.com/certvendor/certvendor/internal/store"
)

// backendName is that of this world in the manifest of a backup.
const backendName = "aws"

// Backup writes a copy of the store while it goes on, as of one commit. What
// AWS keeps is not in it, and no key is: there is none in the store. One backup
// is made at a time: backup.ErrMaking.
func (w *World) Backup(ctx context.Context, version string, _ bool, out io.Writer) error {
	return w.backing.Write(ctx, backup.Source{
		Data: w.config.Data, Backend: backendName, Version: version, Instance: w.config.Instance, Store: w.store, Now: w.config.Now(),
	}, out)
}

// Restoring says what is to be made anew from a backup.
type Restoring struct {
	Data     string
	Region   string
	Instance string
	Now      func() time.Time
	// Table is that of a store which instances are to share; empty: none do.
	Table  string
	Dynamo *dynamodb.Client // for the table
}

// Restore makes the data directory anew from a backup and the audit's files, see
// backup.Restore. A table that has a log is the truth of a store that is shared,
// and is left as it is: nothing is restored then.
func Restore(ctx context.Context, into Restoring, o backup.Options) (backup.Report, error) {
	return backup.Restore(ctx, backup.Place{
		Data: into.Data, Key: dataKey, Backend: backendName, Instance: into.Instance, Now: into.Now, Elsewhere: true, World: into,
	}, o)
}

var _ backup.World = Restoring{}

// MayRestore implements backup.World.
func (r Restoring) MayRestore(ctx context.Context) error {
	if r.Table == "" {
		return nil
	}
	latest, err := sharedLog{sharedTable: sharedTable{r.Dynamo, r.Table}}.Latest(ctx)
	if isNotFound(err) || err == nil && latest.Log == "" {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look whether table %s has a log: %w", r.Table, err)
	}
	return fmt.Errorf("the table %s has all commits of the store, and an instance with an empty aws.data follows it by itself: "+
		"to go back to a backup in its place, stop all instances, name a new table in aws.journal.table, and restore again", r.Table)
}

// Unpacked implements backup.World.
func (Restoring) Unpacked(context.Context, string, archive.Manifest) error { return nil }

// Opened implements backup.World: a store of another region is refused now, and
// one of another account when the daemon starts and knows its own.
func (r Restoring) Opened(ctx context.Context, _ string, s *store.Store) error {
	own, err := s.Meta(ctx, accountKey)
	if err != nil {
		return err
	}
	if account, region, _ := strings.Cut(own, "/"); r.Region != "" && own != "" && region != r.Region {
		return fmt.Errorf("the backup is of account %s in region %s, and aws.region is %s", account, region, r.Region)
	}
	return nil
}

// Replayed implements backup.World. How far a sync of the inventory was says
// nothing any more: the daemon begins another one.
func (Restoring) Replayed(ctx context.Context, _ string, s *store.Store) error {
	var was SyncState
	number, err := s.Sync().Position(ctx, &was)
	if err != nil {
		return err
	}
	return s.Sync().Drop(ctx, store.Position{Number: number + 1, State: SyncState{}})
}
