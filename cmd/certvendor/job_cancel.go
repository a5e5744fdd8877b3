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
			question := fmt.Sprintf("Cancel job %s: %s, %s for it in vain, %s on.", j.ID,
				counted(j.Executions[protocol.JobQueued], "device that has it and has not begun loses it", "devices that have it and have not begun lose it"),
				counted(j.Waiting, "waits", "wait"), counted(j.Executions[protocol.JobInProgress], "that has begun goes", "that have begun go"))
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
