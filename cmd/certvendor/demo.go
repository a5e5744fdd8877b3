package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/certvendor/certvendor/internal/app"
	"github.com/certvendor/certvendor/internal/config"
	"github.com/certvendor/certvendor/internal/control"
)

// Bounds of a demo.
const (
	maxDemo     = 10_000
	demoTime    = 10 * time.Minute // a demo that hangs ends
	demoAtOnce  = 64               // devices at work at a time
	demoRefused = 5 * time.Second  // how soon an old certificate must be refused
)

func (c *cli) demo() *cobra.Command {
	var devices int
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Let simulated devices rotate against a world of their own, and show how it went",
		Long: `Start a whole world in a temporary directory, on loopback only, and let
simulated devices go through one whole rotation each: real TLS, real MQTT, keys
made on the devices. Some rotate by package; one acks too early, is refused, and
does it right; one tries to speak for another and is refused.

It ends with 0 only if every device works with its new certificate and its old
one is refused.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if devices < 1 || devices > maxDemo {
				return fmt.Errorf("demo: --devices %d: must be from 1 to %d", devices, maxDemo)
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), demoTime)
			defer cancel()
			return c.runDemo(ctx, devices)
		},
	}
	cmd.Flags().IntVar(&devices, "devices", 20, "how many devices")
	return cmd
}

// runDemo is the demo from its temporary directory to its exit code.
func (c *cli) runDemo(ctx context.Context, devices int) (err error) {
	dir, err := os.MkdirTemp("", "certvendor-demo-")
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	log, err := c.logger("error")
	if err != nil {
		return err
	}
	world, stop, err := startWorld(ctx, demoConfig(dir, devices), log)
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	defer func() { err = errors.Join(err, stop()) }()
	daemon := control.Dial(filepath.Join(dir, "control.sock"))
	defer daemon.Close()
	d := demo{cli: c, daemon: daemon, dir: dir, broker: world.BrokerAddr()}
	result, err := d.play(ctx, devices)
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	if err := c.print(result.summary, result.words); err != nil {
		return err
	}
	if result.Failed > 0 {
		return errReported
	}
	return nil
}

// demoConfig is what the demo's world differs in: it takes any free port,
// waits for nothing, and forgets itself.
func demoConfig(dir string, devices int) config.Config {
	cfg := config.Default()
	cfg.Control.Socket = filepath.Join(dir, "control.sock")
	cfg.Metrics.Listen = ""
	cfg.Standalone.Data = filepath.Join(dir, "data")
	cfg.Standalone.Broker.Listen = "127.0.0.1:0"
	cfg.Standalone.Packages.Listen = "127.0.0.1:0"
	cfg.Rotation.Grace = 0
	cfg.Rotation.SweepEvery = time.Second
	cfg.Rotation.PerMinute = 1_000_000
	cfg.Rotation.MaxInFlight = max(devices, cfg.Rotation.MaxInFlight)
	// The many devices of a demo share few cores; real ones have a server.
	cfg.Vending.Patience = 30 * time.Second
	return cfg
}

// startWorld starts an app, and returns what ends it.
func startWorld(ctx context.Context, cfg config.Config, log zerolog.Logger) (*app.App, func() error, error) {
	world, err := app.New(ctx, cfg, log)
	if err != nil {
		return nil, nil, err
	}
	stop := func() error { return world.Stop(context.WithoutCancel(ctx)) }
	if err := world.Start(ctx); err != nil {
		return nil, nil, errors.Join(err, stop())
	}
	return world, stop, nil
}
