package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/certvendor/certvendor/internal/control"
	"github.com/certvendor/certvendor/protocol"
)

func (c *cli) jobCancel(show func(control.Job) error) *cobra.Command {
	var asked consent
	cmd := &cobra.Command{
		Use: "cancel [--yes]", Short: "Cancel the job: nobody gets it any more, until `job ensure`", Args: cobra.NoArgs,
		RunE: c.ask(func(ctx context.Context, daemon *control.Client, _ []string) error {
			j, err := daemon.Job(ctx)
			if err != nil {
				return err
			}
			question := fmt.Sprintf("Cancel job %s: %d devices that have it and have not begun lose it, %d wait for it in vain, %d that have begun go on.",
				j.ID, j.Executions[protocol.JobQueued], j.Waiting, j.Executions[protocol.JobInProgress])
			if err := c.confirm("job cancel", asked, question); err != nil {
				return err
			}
			if j, err = daemon.CancelJob(ctx, j.ID); err != nil {
				return err
			}
			return show(j)
		}),
	}
	asked.flag(cmd)
	return cmd
}
