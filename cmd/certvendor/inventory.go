package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/control"
	"github.com/certvendor/certvendor/registry"
)

func (c *cli) inventory() *cobra.Command {
	return group("inventory", "What AWS IoT has of things and certificates, in the daemon's store", c.inventorySync(), c.inventoryShow(), c.inventoryStop())
}

// syncFrom are where a sync may begin.
var syncFrom = []string{"all", "defender", "index", "csv"}

func (c *cli) inventorySync() *cobra.Command {
	var from, query string
	var full, watch bool
	cmd := &cobra.Command{
		Use:   "sync [FILE.csv]",
		Short: "Have the daemon read AWS IoT's things and certificates into its store",
		Long: `Have the daemon read AWS IoT's things and certificates into its store.

It only reads there, behind everything else, within its share of the quotas, and
goes on where it was after a restart. A first sync reads everything; later ones
what is new or was switched on or off; --full reads all again. From a faster
source it reads what that names:

  --from defender   certificates in the findings of Device Defender's audits
  --from index      things that the fleet index finds; --query says which
  --from csv FILE   one a line: the name of a thing, the id of a certificate, or
                    both, with a comma between

On a terminal the progress is shown until the sync ends; an interrupt ends the
watching and not the sync.`,
		Args: cobra.MaximumNArgs(1),
		RunE: c.ask(func(ctx context.Context, daemon *control.Client, args []string) error {
			asked, err := syncRequest(ctx, daemon, from, args)
			if err != nil {
				return err
			}
			asked.Query, asked.Full = query, full
			s, err := daemon.BeginSync(ctx, asked)
			if err != nil {
				return err
			}
			if watch || isTerminal(c.out) && !c.json {
				return c.watchSync(ctx, daemon)
			}
			return c.say(s, "the inventory is being read; `certvendor inventory show` says how far it is")
		}),
	}
	cmd.Flags().StringVar(&from, "from", "all", "where it begins: all, defender, index or csv")
	cmd.Flags().StringVar(&query, "query", "", "of the fleet index, such as attributes.site:bonn; empty finds all")
	cmd.Flags().BoolVar(&full, "full", false, "read again what is known already")
	cmd.Flags().BoolVar(&watch, "watch", false, "wait until it has ended")
	return cmd
}

// syncRequest says where a sync begins; what a file names is noted before.
func syncRequest(ctx context.Context, daemon *control.Client, from string, args []string) (control.SyncRequest, error) {
	asked := control.SyncRequest{Source: from}
	switch {
	case !slices.Contains(syncFrom, from):
		return asked, fmt.Errorf("inventory sync: --from %.40q: is none of %s", from, strings.Join(syncFrom, ", "))
	case (from == "csv") != (len(args) == 1):
		return asked, errors.New("inventory sync: --from csv takes a FILE, and nothing else does")
	case from != "csv":
		return asked, nil
	}
	asked.Source = "names"
	names, err := readSyncNames(args[0])
	if err != nil {
		return asked, fmt.Errorf("inventory sync: %w", err)
	}
	return asked, daemon.NameForSync(ctx, names)
}

func (c *cli) inventoryShow() *cobra.Command {
	var watch bool
	cmd := &cobra.Command{
		Use: "show", Short: "Show how far the last sync is, and what it has found", Args: cobra.NoArgs,
		RunE: c.ask(func(ctx context.Context, daemon *control.Client, _ []string) error {
			if watch {
				return c.watchSync(ctx, daemon)
			}
			s, err := daemon.Sync(ctx)
			if err != nil {
				return err
			}
			return c.print(s, func(w io.Writer) { printSync(w, s) })
		}),
	}
	cmd.Flags().BoolVar(&watch, "watch", false, "wait until it has ended")
	return cmd
}

func (c *cli) inventoryStop() *cobra.Command {
	return &cobra.Command{
		Use: "stop", Short: "End the sync that is at work; what it has read stays", Args: cobra.NoArgs,
		RunE: c.ask(func(ctx context.Context, daemon *control.Client, _ []string) error {
			s, err := daemon.StopSync(ctx)
			if err != nil {
				return err
			}
			return c.say(s, "the sync is %s, with %d read", s.Phase, s.Read)
		}),
	}
}

// syncLook is how often a sync is looked at that somebody watches.
const syncLook = 500 * time.Millisecond

// watchSync shows a sync until it has ended.
func (c *cli) watchSync(ctx context.Context, daemon *control.Client) error {
	tick := time.NewTicker(syncLook)
	defer tick.Stop()
	bar := newProgress(c.errs, "", 0)
	for {
		s, err := daemon.Sync(ctx)
		if err != nil {
			bar.clear()
			return err
		}
		if !s.AtWork() {
			bar.clear()
			return c.print(s, func(w io.Writer) { printSync(w, s) })
		}
		if s.Phase == "reading" {
			bar.what, bar.total, bar.done = "read", s.Total, s.Read+s.Failed-1
			bar.step()
		} else {
			bar.what = "list " + s.Phase
			bar.at(s.Listed.Certificates + s.Listed.Things)
		}
		select {
		case <-ctx.Done():
			bar.clear()
			return ctx.Err()
		case <-tick.C:
		}
	}
}

func printSync(w io.Writer, s control.Sync) {
	fmt.Fprintf(w, "sync          %s", s.Phase)
	if s.Source != "" {
		fmt.Fprintf(w, ", from %s", s.Source)
	}
	if s.Query != "" {
		fmt.Fprintf(w, ": %s", s.Query)
	}
	fmt.Fprintln(w)
	if !s.Began.IsZero() {
		fmt.Fprintf(w, "began         %s\n", when(s.Began))
	}
	if !s.Ended.IsZero() {
		fmt.Fprintf(w, "ended         %s\n", when(s.Ended))
	}
	fmt.Fprintf(w, "everything    %s\n", dash(when(s.Whole)))
	fmt.Fprintf(w, "listed        %s, %s, %s\n", counted(s.Listed.Things, "thing", "things"),
		counted(s.Listed.Certificates, "certificate", "certificates"), counted(s.Listed.Findings, "finding", "findings"))
	fmt.Fprintf(w, "read          %d of %d, %d given up\n", s.Read, s.Total, s.Failed)
	f := s.Found
	fmt.Fprintf(w, "found         %d new, %d ACTIVE there no more, %d ACTIVE there again, %d with other policies, %d that differ and stay as they are here\n",
		f.New, f.Off, f.On, f.Policies, f.Left)
	if s.Alien > 0 {
		fmt.Fprintf(w, "no devices    %s, which the registry does not know or a person has removed\n", counted(s.Alien, "thing", "things"))
	}
	if s.Why != "" {
		fmt.Fprintf(w, "failed last   %s\n", oneLine(errors.New(s.Why)))
	}
	fmt.Fprintf(w, "in the store  %s, %s\n", counted(s.Devices, "device", "devices"), counted(s.Certificates, "certificate", "certificates"))
}

// readSyncNames reads things and certificates from a file. A first line that
// begins with "thing", "name" or "certificate" is taken for a heading.
func readSyncNames(path string) (control.SyncNames, error) {
	var names control.SyncNames
	lines, err := readCSV(path)
	if err != nil {
		return names, err
	}
	for i, line := range lines {
		first := strings.ToLower(strings.TrimPrefix(line.fields[0], "\ufeff"))
		if i == 0 && (strings.HasPrefix(first, "thing") || strings.HasPrefix(first, "certificate")) {
			continue
		}
		for _, field := range line.fields {
			text := strings.TrimSpace(strings.TrimPrefix(field, "\ufeff"))
			if text == "" {
				continue
			}
			if id, err := certificate.ParseID(text); err == nil {
				names.Certificates = append(names.Certificates, string(id))
				continue
			}
			if _, err := registry.ParseDeviceID(text); err != nil {
				return names, fmt.Errorf("%s:%d: %w", path, line.number, err)
			}
			names.Things = append(names.Things, text)
		}
	}
	return names, nil
}
