package main

import (
	"context"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/certvendor/certvendor/internal/app"
)

func (c *cli) serve() *cobra.Command {
	return &cobra.Command{
		Use: "serve", Short: "Run the daemon until it is told to stop", Args: cobra.NoArgs,
		Long: `Run the daemon until it is told to stop. Exit status: 0 after that, 78 where the
configuration is wrong, 1 after any other failure, which may pass.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := c.load()
			if err != nil {
				return misconfigured{err}
			}
			log, err := c.logger(cfg.Log.Level)
			if err != nil {
				return misconfigured{err}
			}
			return serve(cmd.Context(), func(ctx context.Context, ready func(*app.App)) error {
				return app.Run(ctx, cfg, log, ready)
			})
		},
	}
}

func (c *cli) logger(name string) (zerolog.Logger, error) {
	level, err := zerolog.ParseLevel(name)
	return zerolog.New(c.errs).Level(level).With().Timestamp().Logger(), err
}

// serve runs the daemon and tells systemd, where there is one, how it is. The
// notifications are a courtesy: nobody may be listening.
func serve(ctx context.Context, run func(context.Context, func(*app.App)) error) error {
	watched, done := context.WithCancel(ctx)
	var watching sync.WaitGroup
	defer watching.Wait()
	defer done()
	stopping := context.AfterFunc(ctx, func() { _, _ = daemon.SdNotify(false, daemon.SdNotifyStopping) })
	defer stopping()
	return run(ctx, func(a *app.App) {
		_, _ = daemon.SdNotify(false, daemon.SdNotifyReady)
		watching.Go(func() { watchdog(watched, a) })
	})
}

// watchdog tells systemd, twice as often as it asks, that the program still
// answers. It only wants an answer: a CA that has expired is no reason to be
// started again.
func watchdog(ctx context.Context, a *app.App) {
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil || interval == 0 {
		return
	}
	tick := time.NewTicker(interval / 2)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		asked, cancel := context.WithTimeout(ctx, interval/2)
		_ = a.Ready(asked) // what it says is for /readyz
		late := asked.Err() != nil
		cancel()
		if !late {
			_, _ = daemon.SdNotify(false, daemon.SdNotifyWatchdog)
		}
	}
}
