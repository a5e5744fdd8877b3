package main

import (
	"fmt"
	"io"
	"os"
	"os/user"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/certvendor/certvendor/internal/app"
)

func (c *cli) restore() *cobra.Command {
	var o app.RestoreOptions
	cmd := &cobra.Command{
		Use: "restore FILE", Short: "Make the data directory anew from a backup; the daemon must not run", Args: cobra.ExactArgs(1),
		Long: `Make the data directory anew from a backup; the daemon must not run.

The files of the audit say what was done since the backup, and it is done again:
nothing that was retired comes back, and nothing that was vended is lost. They are
looked for in the data directory; --audit names a copy of them.

Without them nothing is restored, unless --lossy gives up what they would say. Then
retiring is frozen until somebody thaws it, and devices that connect with a
certificate of this CA that is not on record are taken in with it.

A data directory that has a store is left alone, unless --replace moves what is
there aside. Nothing is ever deleted.

With backend aws, AWS says afterwards what has become of the certificates: each
device's are read before anything is taken from it, and all of them by a sync of
the inventory that the daemon begins by itself. Where aws.journal names a table
that has the store's commits, nothing is restored: that is the store.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := c.load()
			if err != nil {
				return err
			}
			o.File, o.Who = args[0], myself()
			report, err := app.Restore(cmd.Context(), cfg, o)
			if err != nil {
				return err
			}
			return c.print(report, func(w io.Writer) { tellRestore(w, report) })
		},
	}
	cmd.Flags().StringVar(&o.Audit, "audit", "", "the directory of the audit's files, instead of the data directory's")
	cmd.Flags().BoolVar(&o.Replace, "replace", false, "move a store that is there aside, with what belongs to it")
	cmd.Flags().BoolVar(&o.Lossy, "lossy", false, "restore also where the audit's files do not say what was done since")
	return cmd
}

func tellRestore(w io.Writer, r app.RestoreReport) {
	fmt.Fprintf(w, "%s: restored from the backup of %s, and %s of the audit since, up to row %d of %s\n",
		r.Data, when(r.Backup.At), counted(r.Replayed, "row", "rows"), r.Row, when(r.Until))
	if r.Lossy {
		fmt.Fprintf(w, "What was done after that row is lost: %s\n"+
			"What was retired since may be active again. Retiring is frozen: look at the fleet, then `certvendor thaw retiring`.\n", r.Why)
	}
	if r.Aside != "" {
		fmt.Fprintf(w, "What was there before is in %s\n", r.Aside)
	}
	if r.Backup.Log != "" {
		fmt.Fprintf(w, "It was a copy of the store in table %s, at entry %d: no instance may run on that table any more.\n", r.Backup.Log, r.Backup.Entry)
	}
	fmt.Fprintln(w, "Nothing is removed from a device before it is seen again.")
}

// myself names who runs this program, as the daemon names who asks it.
func myself() string {
	uid := strconv.Itoa(os.Getuid())
	if u, err := user.LookupId(uid); err == nil {
		return fmt.Sprintf("uid %s (%s)", uid, u.Username)
	}
	return "uid " + uid
}
