package app

import (
	"context"
	"time"

	"github.com/rs/zerolog"

	"github.com/certvendor/certvendor/internal/aws"
	"github.com/certvendor/certvendor/internal/backup"
	"github.com/certvendor/certvendor/internal/config"
	"github.com/certvendor/certvendor/internal/standalone"
)

// RestoreOptions say what to restore from; RestoreReport says what was restored.
type (
	RestoreOptions = backup.Options
	RestoreReport  = backup.Report
)

// Restore makes the data directory of a configuration anew from a backup. No
// daemon may run on it.
func Restore(ctx context.Context, c config.Config, o RestoreOptions) (RestoreReport, error) {
	if err := c.Validate(); err != nil {
		return RestoreReport{}, err
	}
	o.Backdate = c.Vending.Backdate
	if c.Backend == config.AWSBackend {
		return restoreAWS(ctx, c, o)
	}
	world, err := worldConfig(c, zerolog.Nop(), time.Now)
	if err != nil {
		return RestoreReport{}, err
	}
	return standalone.Restore(ctx, world, o)
}

// restoreAWS calls AWS only where the store is to be shared: whether its table
// has a log already.
func restoreAWS(ctx context.Context, c config.Config, o RestoreOptions) (RestoreReport, error) {
	instance, err := instanceName()
	if err != nil {
		return RestoreReport{}, err
	}
	into := aws.Restoring{
		Data: c.AWS.Data, Region: c.AWS.Region, Instance: instance, Now: time.Now, Table: c.AWS.Journal.Table,
	}
	if into.Table != "" {
		clients, err := (&App{config: c, now: time.Now}).dialAWS(ctx)
		if err != nil {
			return RestoreReport{}, err
		}
		into.Dynamo = clients.Dynamo
	}
	return aws.Restore(ctx, into, o)
}
