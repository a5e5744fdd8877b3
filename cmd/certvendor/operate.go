package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/certvendor/certvendor/internal/control"
)

func (c *cli) job() *cobra.Command {
	show := func(j control.Job) error {
		return c.print(j, func(w io.Writer) {
			fmt.Fprintf(w, "job         %s\ngroup       %s\nstate       %s\nexecutions  %s\nwaiting     %d\ndocument    %s\n",
				dash(j.ID), dash(j.Group), dash(j.State), counts(j.Executions), j.Waiting, dash(j.Document))
		})
	}
	return group("job", "The job that tells members of the rotation group to rotate",
		&cobra.Command{
			Use: "ensure", Short: "Make the job as the configuration wants it", Args: cobra.NoArgs,
			RunE: c.ask(func(ctx context.Context, daemon *control.Client, _ []string) error {
				if _, err := daemon.EnsureJob(ctx); err != nil {
					return err
				}
				j, err := daemon.Job(ctx)
				if err != nil {
					return err
				}
				return show(j)
			}),
		},
		&cobra.Command{
			Use: "status", Short: "Show the job and how its executions stand", Args: cobra.NoArgs,
			RunE: c.ask(func(ctx context.Context, daemon *control.Client, _ []string) error {
				j, err := daemon.Job(ctx)
				if err != nil {
					return err
				}
				return show(j)
			}),
		},
		c.jobCancel(show),
	)
}

func frozenText(f control.Frozen) string {
	switch {
	case f.Vending && f.Retiring:
		return fmt.Sprintf("vending and retiring since %s: %s", when(f.At), plain(f.Why))
	case f.Vending:
		return fmt.Sprintf("vending since %s: %s", when(f.At), plain(f.Why))
	case f.Retiring:
		return fmt.Sprintf("retiring since %s: %s", when(f.At), plain(f.Why))
	}
	return "nothing"
}

// both are the arguments of freeze and thaw.
var both = cobra.MatchAll(cobra.MaximumNArgs(1), cobra.OnlyValidArgs)

func what(args []string) control.What {
	if len(args) == 0 {
		return control.What{Vending: true, Retiring: true}
	}
	return control.What{Vending: args[0] == "vending", Retiring: args[0] == "retiring"}
}

func (c *cli) freeze() *cobra.Command {
	var why string
	cmd := &cobra.Command{
		Use: "freeze [vending|retiring]", Short: "Stop vending, retiring or both, durably",
		Args: both, ValidArgs: []string{"vending", "retiring"},
		RunE: c.ask(func(ctx context.Context, daemon *control.Client, args []string) error {
			f, err := daemon.Freeze(ctx, what(args), why)
			if err != nil {
				return err
			}
			return c.say(f, "frozen: %s", frozenText(f))
		}),
	}
	cmd.Flags().StringVar(&why, "why", "", "a reason, for whoever finds it frozen")
	return cmd
}

func (c *cli) thaw() *cobra.Command {
	return &cobra.Command{
		Use: "thaw [vending|retiring]", Short: "Let vending, retiring or both go on",
		Args: both, ValidArgs: []string{"vending", "retiring"},
		RunE: c.ask(func(ctx context.Context, daemon *control.Client, args []string) error {
			f, err := daemon.Thaw(ctx, what(args))
			if err != nil {
				return err
			}
			return c.say(f, "frozen: %s", frozenText(f))
		}),
	}
}

func (c *cli) audit() *cobra.Command {
	return group("audit", "The record of what was done", &cobra.Command{
		Use: "verify", Short: "Hold the audit's files against its store", Args: cobra.NoArgs,
		RunE: c.ask(func(ctx context.Context, daemon *control.Client, _ []string) error {
			n, err := daemon.VerifyAudit(ctx)
			var broken *control.Error
			switch {
			case err == nil:
				return c.say(verdict{OK: true, Events: n}, "the audit holds together: %s", counted(n, "event", "events"))
			case !errors.As(err, &broken):
				return err
			case c.json:
				return errors.Join(c.printJSON(verdict{Events: n, Why: broken.Text}), errReported)
			}
			return fmt.Errorf("%s; %s together. Stop nothing and repair nothing: "+
				"compare with the copies of audit/*.jsonl on another machine; each file is named by its first row", broken.Text,
				counted(n, "event before it holds", "events before it hold"))
		}),
	})
}

// verdict is what `audit verify --json` prints.
type verdict struct {
	OK     bool   `json:"ok"`
	Events int64  `json:"events"` // how many hold together, from the first on
	Why    string `json:"why,omitempty"`
}
