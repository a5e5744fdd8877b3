package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/certvendor/certvendor/campaign"
	"github.com/certvendor/certvendor/internal/control"
)

func (c *cli) campaignList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List campaigns, the newest first", Args: cobra.NoArgs,
		RunE: c.ask(func(ctx context.Context, daemon *control.Client, _ []string) error {
			all, err := daemon.Campaigns(ctx)
			if err != nil {
				return err
			}
			return list(c, slice(all), "NAME STATE WAVE DEVICES PASSED FAILED APPLIED ENDED BY WHY", func(s control.Campaign) []string {
				return []string{
					s.Name, string(s.State), fmt.Sprintf("%d/%d", s.Wave+1, s.Waves), strconv.Itoa(s.Devices),
					strconv.Itoa(s.Standings[campaign.Passed]), strconv.Itoa(s.Standings[campaign.Failed]),
					when(s.Applied), when(s.Ended), s.By, dash(s.Why),
				}
			})
		}),
	}
}

func (c *cli) campaignShow() *cobra.Command {
	var watch bool
	cmd := &cobra.Command{
		Use: "show NAME", Short: "Show how a campaign stands, and who of it failed or is late", Args: cobra.ExactArgs(1),
		RunE: c.ask(func(ctx context.Context, daemon *control.Client, args []string) error {
			if watch {
				return c.watchCampaign(ctx, daemon, args[0])
			}
			s, err := daemon.Campaign(ctx, args[0])
			if err != nil {
				return err
			}
			if c.json {
				return c.printJSON(s)
			}
			printCampaign(c.out, s)
			printHistory(c.out, s.History)
			return c.printTrouble(ctx, daemon, s)
		}),
	}
	cmd.Flags().BoolVar(&watch, "watch", false, "redraw until it has ended")
	return cmd
}

func printCampaign(w io.Writer, s control.Campaign) {
	fmt.Fprintf(w, "campaign     %s\nstate        %s", s.Name, s.State)
	if s.Why != "" {
		fmt.Fprintf(w, ": %s", s.Why)
	}
	if s.State == campaign.AtGate || s.State == campaign.Paused || s.State == campaign.Stopped {
		fmt.Fprintf(w, "; `certvendor campaign resume %s` goes on", s.Name)
	}
	fmt.Fprintf(w, "\nwave         %d of %d\ndevices      %d: %s\n", s.Wave+1, s.Waves, s.Devices, counts(s.Standings))
	if s.Holding != "" {
		fmt.Fprintf(w, "holding      %s\n", s.Holding)
	}
	if s.WaitsFor != "" {
		fmt.Fprintf(w, "waits for    %s\n", s.WaitsFor)
	}
	if !s.Forecast.IsZero() {
		fmt.Fprintf(w, "done by      %s, if all are online and none fails\n", when(s.Forecast))
	}
	fmt.Fprintf(w, "applied      %s by %s\n", when(s.Applied), s.By)
	if !s.Ended.IsZero() {
		fmt.Fprintf(w, "ended        %s\n", when(s.Ended))
	}
}

// historyMost is of how many changes `campaign show` tells; --json has all.
const historyMost = 10

func printHistory(w io.Writer, changes []campaign.Change) {
	if len(changes) == 0 { // it is older than its history
		return
	}
	fmt.Fprintln(w)
	table(w, "WHEN STATE WAVE BY WHY", changes[max(0, len(changes)-historyMost):], func(c campaign.Change) []string {
		by := c.By
		if by == "" {
			by = "itself"
		}
		return []string{when(c.At), string(c.State), strconv.Itoa(c.Wave + 1), by, dash(c.Why)}
	})
}

// troubleMost is of how many devices in trouble `campaign show` tells; the
// report has all.
const troubleMost = 20

func (c *cli) printTrouble(ctx context.Context, daemon *control.Client, s control.Campaign) error {
	if s.Standings[campaign.Failed]+s.Standings[campaign.Skipped]+s.Standings[campaign.Late] == 0 {
		return nil
	}
	var trouble []control.CampaignMember
	for m, err := range daemon.CampaignMembers(ctx, s.Name) {
		if err != nil {
			return err
		}
		if m.Why != "" && len(trouble) < troubleMost {
			trouble = append(trouble, m)
		}
	}
	fmt.Fprintln(c.out)
	section(c.out, "DEVICE WAVE STANDING SINCE WHY", trouble, func(m control.CampaignMember) []string {
		return []string{m.Device, strconv.Itoa(m.Wave + 1), string(m.Standing), when(m.Since), m.Why}
	})
	return nil
}

// watchCampaign redraws one line until the campaign has ended. Where nobody
// watches it prints a line for every change.
func (c *cli) watchCampaign(ctx context.Context, daemon *control.Client, name string) error {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for last := ""; ; {
		s, err := daemon.Campaign(ctx, name)
		if err != nil {
			return err
		}
		line := fmt.Sprintf("%s %s, wave %d of %d, %s", s.Name, s.State, s.Wave+1, s.Waves, counts(s.Standings))
		if why := strings.TrimSpace(s.Why + " " + s.Holding); why != "" {
			line += ": " + why
		}
		switch {
		case line == last:
		case isTerminal(c.out):
			fmt.Fprintf(c.out, "\r\x1b[K%s", fitting(c.out, line))
		default:
			fmt.Fprintln(c.out, line)
		}
		last = line
		if s.State.Ended() || s.State == campaign.Paused || s.State == campaign.Stopped || s.State == campaign.AtGate {
			if isTerminal(c.out) {
				fmt.Fprintln(c.out)
			}
			if s.State == campaign.Aborted || s.State == campaign.Stopped {
				return errReported
			}
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// fitting cuts a line that is written over itself to the width of the terminal:
// of one that goes on in the next, only the end would be written over.
func fitting(w io.Writer, line string) string {
	file, ok := w.(*os.File)
	if !ok {
		return line
	}
	width, _, err := term.GetSize(int(file.Fd()))
	if runes := []rune(line); err == nil && width > 1 && len(runes) >= width {
		return string(runes[:width-2]) + "…"
	}
	return line
}

func (c *cli) campaignReport() *cobra.Command {
	var asCSV bool
	cmd := &cobra.Command{
		Use: "report NAME", Short: "Print every device of a campaign: what it had, what it got, when, and by what evidence", Args: cobra.ExactArgs(1),
		RunE: c.ask(func(ctx context.Context, daemon *control.Client, args []string) error {
			s, err := daemon.Campaign(ctx, args[0])
			if err != nil {
				return err
			}
			return tableOrCSV(c, asCSV, daemon.CampaignMembers(ctx, args[0]), reportColumns(s))
		}),
	}
	cmd.Flags().BoolVar(&asCSV, "csv", false, "print CSV")
	return cmd
}

// reportColumns are those of the report on a campaign. Nothing in it is shortened
// for people either: it is what is kept of the campaign.
func reportColumns(s control.Campaign) columns[control.CampaignMember] {
	whole := func(m control.CampaignMember) []string {
		var r control.Rotation // the zero one, of a device that has none
		if m.Rotation != nil {
			r = *m.Rotation
		}
		return []string{
			m.Device, strconv.Itoa(m.Wave + 1), string(m.Standing), m.Why, string(r.Over), string(r.Certificate), m.Issuer, string(r.Evidence),
			stamp(m.Added), stamp(r.Opened), stamp(r.Vended), stamp(r.Proven), stamp(r.Acked), stamp(r.Closed), stamp(r.Undone), s.By, m.OpenedBy,
		}
	}
	return columns[control.CampaignMember]{
		names: "DEVICE WAVE STANDING WHY OLD NEW ISSUER EVIDENCE ADDED OPENED VENDED PROVEN ACKED CLOSED UNDONE BY APPROVED",
		row: func(m control.CampaignMember) []string {
			row := whole(m)
			for i, text := range row {
				row[i] = dash(text)
			}
			return row
		},
		whole: whole,
	}
}
