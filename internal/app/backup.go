package app

import (
	"context"
	"errors"
	"io"
	"runtime/debug"

	"github.com/certvendor/certvendor/internal/backup"
)

// backup is the operator's.
func (a *App) backup(ctx context.Context, keys bool, w io.Writer) error {
	err := a.world.Backup(ctx, version(), keys, w)
	if err != nil && !errors.Is(err, backup.ErrMaking) && ctx.Err() == nil {
		a.log.Error().Err(err).Msg("backup")
	}
	return err
}

// version is that of the program, as the go command has left it there.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}
