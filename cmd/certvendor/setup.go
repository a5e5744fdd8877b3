package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/certvendor/certvendor/internal/app"
)

// setting is how `setup` was called.
type setting struct {
	dryRun, remove, beside bool
	asked                  consent
}

func (c *cli) setup() *cobra.Command {
	var how setting
	cmd := &cobra.Command{
		Use: "setup [--dry-run] [--beside] | setup --remove [--dry-run] [--yes]", Args: cobra.NoArgs,
		Short: "Make what the daemon of --config needs in its AWS account, or take it away again",
		Long: `Make what the daemon of --config needs in its AWS account, or take it away again.

It shows what there is and what becomes of it, and makes what is missing: the thing
group, the job, the topic rules with their key and their role, the table of presence,
and the events of executions. What it makes is tagged certvendor=<aws.broker.client_id>.
It needs no daemon, changes nothing when all is there, and goes on where it was cut
off. Where a topic rule of somebody else's hands the requests of devices to who may
answer them, it refuses unless --beside says that both shall.

--remove takes away what carries that tag, and nothing else. Stop the daemon before.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if how.remove && how.beside {
				return errors.New("setup: --remove goes without --beside")
			}
			cfg, err := c.load()
			if err != nil {
				return err
			}
			account, err := app.OpenSetup(cmd.Context(), cfg)
			if err != nil {
				return fmt.Errorf("setup: %w", err)
			}
			if how.remove {
				err = c.takeDown(cmd.Context(), account, how)
			} else {
				err = c.setUp(cmd.Context(), account, how)
			}
			if err != nil && !errors.Is(err, errReported) {
				return fmt.Errorf("setup: %w", err)
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&how.dryRun, "dry-run", false, "show it and change nothing")
	cmd.Flags().BoolVar(&how.remove, "remove", false, "take away what setup has made")
	cmd.Flags().BoolVar(&how.beside, "beside", false, "also where somebody else may answer the devices")
	how.asked.flag(cmd)
	return cmd
}

// setUp makes what is missing.
func (c *cli) setUp(ctx context.Context, account *app.AccountSetup, how setting) error {
	steps, err := account.Plan(ctx)
	if err != nil {
		return err
	}
	others, err := account.Others(ctx)
	if err != nil {
		return err
	}
	report := newSetupReport(steps)
	report.Others = others
	for _, o := range others {
		fmt.Fprintf(c.errs, "certvendor: topic rule %s hears %s and %s\n", o.Rule, o.Topic, o.Does)
	}
	if how.dryRun {
		return c.showSetup(report)
	}
	if len(others) > 0 && !how.beside {
		return errors.New("others may answer the devices: take their rules away, or say --beside")
	}
	return c.finishSetup(report, account.Carry(ctx, steps, report.done))
}

// takeDown takes away what is ours.
func (c *cli) takeDown(ctx context.Context, account *app.AccountSetup, how setting) error {
	steps, err := account.PlanRemoval(ctx)
	if err != nil {
		return err
	}
	report := newSetupReport(steps)
	n := report.toDo()
	if how.dryRun || n == 0 {
		return c.showSetup(report)
	}
	question := fmt.Sprintf("Take %s out of the AWS account (%s): devices get no job and no answer any more.", counted(n, "resource", "resources"), strings.Join(report.names(), ", "))
	if err := c.confirm("--remove", how.asked, question); err != nil {
		return err
	}
	return c.finishSetup(report, account.Remove(ctx, steps, report.done))
}

// finishSetup shows what was done, also where that was not all.
func (c *cli) finishSetup(r *setupReport, failed error) error {
	if err := c.showSetup(r); err != nil {
		return err
	}
	if failed != nil {
		return fmt.Errorf("%w; what was done by then stays, and the same again goes on from there", failed)
	}
	return nil
}

func (c *cli) showSetup(r *setupReport) error {
	return c.print(r, func(w io.Writer) {
		table(w, "KIND NAME WHAT WHY", r.Steps, func(s setupStep) []string {
			return []string{string(s.Kind), s.Name, s.word(), dash(s.Why)}
		})
	})
}
