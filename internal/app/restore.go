package app

import (
	"context"
	"errors"
	"time"

	"github.com/rs/zerolog"

	"github.com/certvendor/certvendor/internal/config"
	"github.com/certvendor/certvendor/internal/standalone"
)

// RestoreOptions and RestoreReport are those of the world.
type (
	RestoreOptions = standalone.RestoreOptions
	RestoreReport  = standalone.RestoreReport
)

// Restore makes the data directory of a configuration anew from a backup. No
// daemon may run on it.
func Restore(ctx context.Context, c config.Config, o RestoreOptions) (RestoreReport, error) {
	if err := errors.Join(c.Validate(), onlyStandalone(c)); err != nil {
		return RestoreReport{}, err
	}
	world, err := worldConfig(c, zerolog.Nop(), time.Now)
	if err != nil {
		return RestoreReport{}, err
	}
	o.Backdate = c.Vending.Backdate
	return standalone.Restore(ctx, world, o)
}
