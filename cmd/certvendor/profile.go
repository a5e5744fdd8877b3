package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/certvendor/certvendor/internal/control"
)

func (c *cli) profile() *cobra.Command {
	var out string
	lasts := 10 * time.Second
	cmd := &cobra.Command{
		Use:   "profile cpu|allocs|heap|mutex|block --out FILE [--lasts 10s]",
		Short: "Have the daemon watch itself at work, and write what go tool pprof reads",
		Long: `Have the daemon watch itself at work, and write what go tool pprof reads:

  cpu     where the time goes
  allocs  where memory is taken, since the start
  heap    where memory is held
  mutex   where locks are waited for
  block   where goroutines wait

Nothing is watched, or costs anything, while nobody asks. In the file are names
of functions and numbers, and nothing of devices, keys or certificates.`,
		Args: cobra.ExactArgs(1),
		RunE: c.ask(func(ctx context.Context, daemon *control.Client, args []string) error {
			if out == "" {
				return errors.New("profile: --out names the file that is written")
			}
			profile, err := daemon.Profile(ctx, args[0], lasts)
			if err != nil {
				return err
			}
			if err := replaceFile(out, profile); err != nil {
				return fmt.Errorf("profile: %w", err)
			}
			return c.say(map[string]string{"file": out}, "%s: go tool pprof reads it", out)
		}),
	}
	cmd.Flags().StringVar(&out, "out", "", "the file to write, as pprof reads it; one that is there is replaced")
	cmd.Flags().Var((*span)(&lasts), "lasts", "how long it watches, at most 5m")
	return cmd
}
