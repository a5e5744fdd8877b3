package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/certvendor/certvendor/campaign"
	"github.com/certvendor/certvendor/internal/control"
)

func (c *cli) rotation() *cobra.Command {
	return group("rotation", "Who shall rotate, and how it goes",
		c.rotationGroup("add", "Put devices into the rotation group; each gets its job in its turn", "in the rotation group", (*control.Client).Join),
		c.rotationGroup("remove", "Take devices out of the rotation group; a job that was begun is left to its device", "out of the rotation group", (*control.Client).Leave),
		c.rotationRetry(), c.rotationAbandon(), c.rotationUndo(),
		c.rotationList(), c.rotationShow(), c.rotationStatus(), c.rotationSweep(),
	)
}

// grouped is what `rotation add --json` prints.
type grouped struct {
	Devices int               `json:"devices"`
	Done    int               `json:"done"`
	Failed  []control.Outcome `json:"failed"`
	Warned  []control.Outcome `json:"warned,omitempty"` // done, and without effect yet
}

func (c *cli) rotationGroup(verb, text, done string, do func(*control.Client, context.Context, []string, func(control.Outcome)) error) *cobra.Command {
	var w whom
	cmd := &cobra.Command{
		Use: verb + " NAME... | --all | --file FILE", Short: text,
		RunE: c.ask(func(ctx context.Context, daemon *control.Client, args []string) error {
			devices, err := w.devices(ctx, daemon, verb, args)
			if err != nil {
				return err
			}
			result := grouped{Devices: len(devices.names), Failed: []control.Outcome{}}
			report := newReport(c.errs, verb, devices)
			err = do(daemon, ctx, devices.names, func(o control.Outcome) {
				report.add(o)
				switch {
				case o.Error != "":
					result.Failed = append(result.Failed, o)
				default:
					result.Done++
				}
				if o.Warning != "" {
					result.Warned = append(result.Warned, o)
				}
			})
			report.end()
			if err != nil {
				return err
			}
			if err := c.say(result, "%d of %d devices %s", result.Done, result.Devices, done); err != nil {
				return err
			}
			if len(result.Failed) > 0 {
				return errReported
			}
			return nil
		}),
	}
	cmd.Flags().BoolVar(&w.all, "all", false, "every device")
	cmd.Flags().StringVar(&w.file, "file", "", "a file with a name a line; - is the standard input")
	return cmd
}

func (c *cli) rotationList() *cobra.Command {
	var stuck, open, asCSV bool
	var state string
	cmd := &cobra.Command{
		Use: "list", Short: "List rotations, or with --stuck what does not go on by itself", Args: cobra.NoArgs,
		RunE: c.ask(func(ctx context.Context, daemon *control.Client, _ []string) error {
			if stuck && (open || state != "") {
				return errors.New("rotation list: --stuck goes without --open and --state")
			}
			if stuck {
				return tableOrCSV(c, asCSV, daemon.Stuck(ctx), stuckColumns)
			}
			query := control.RotationQuery{State: state, Open: open}
			return tableOrCSV(c, asCSV, daemon.Rotations(ctx, query), rotationColumns)
		}),
	}
	cmd.Flags().BoolVar(&stuck, "stuck", false, "retirements that are due, or whose device went back, and stale rotations: why, and what to type")
	cmd.Flags().StringVar(&state, "state", "", "only rotations in this state")
	cmd.Flags().BoolVar(&open, "open", false, "only rotations that are open or stale")
	cmd.Flags().BoolVar(&asCSV, "csv", false, "print CSV")
	return cmd
}

var stuckColumns = columns[control.Stuck]{
	names: "DEVICE WHAT CERTIFICATE SINCE WHY DO",
	row: func(s control.Stuck) []string {
		return []string{s.Device, s.What, short(s.Certificate), when(s.Since), s.Why, s.Do}
	},
	whole: func(s control.Stuck) []string {
		return []string{s.Device, s.What, string(s.Certificate), stamp(s.Since), s.Why, s.Do}
	},
}

var rotationColumns = columns[control.Rotation]{
	names: "DEVICE NUMBER STATE BY CERTIFICATE EVIDENCE OPENED CLOSED",
	row: func(r control.Rotation) []string {
		return []string{
			r.Device, strconv.FormatInt(r.Number, 10), string(r.State), broughtBy(r), short(r.Certificate),
			dash(string(r.Evidence)), when(r.Opened), when(r.Closed),
		}
	},
	whole: func(r control.Rotation) []string {
		return []string{
			r.Device, strconv.FormatInt(r.Number, 10), string(r.State), broughtBy(r), string(r.Certificate),
			string(r.Evidence), stamp(r.Opened), stamp(r.Closed),
		}
	},
}

// broughtBy is the flow that a rotation's certificate comes by.
func broughtBy(r control.Rotation) string {
	if r.ByPackage {
		return "package"
	}
	return "csr"
}

func printRotations(w io.Writer, rotations []control.Rotation, retirements []control.Retirement) {
	section(w, rotationColumns.names, rotations, rotationColumns.row)
	section(w, "RETIRED BY MODE DUE DONE REVERTED WHY", retirements, func(r control.Retirement) []string {
		return []string{
			short(r.Certificate), strconv.FormatInt(r.Rotation, 10), string(r.Mode), when(r.Due), when(r.Done),
			yes(r.Reverted), dash(r.Why),
		}
	})
}

func (c *cli) rotationShow() *cobra.Command {
	return &cobra.Command{
		Use: "show NAME", Short: "Show a device's rotations and what they replace", Args: cobra.ExactArgs(1),
		RunE: c.ask(func(ctx context.Context, daemon *control.Client, args []string) error {
			d, err := daemon.Device(ctx, args[0])
			if err != nil {
				return err
			}
			d.Timeline = []control.Event{}
			return c.print(d, func(w io.Writer) {
				printDevice(w, d)
				printRotations(w, d.Rotations, d.Retirements)
			})
		}),
	}
}

func (c *cli) rotationStatus() *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Count, and say when everybody will have had their job", Args: cobra.NoArgs,
		RunE: c.ask(func(ctx context.Context, daemon *control.Client, _ []string) error {
			s, err := daemon.Status(ctx)
			if err != nil {
				return err
			}
			return c.print(s, func(w io.Writer) { printStatus(w, s) })
		}),
	}
}

func printStatus(w io.Writer, s control.Status) {
	fmt.Fprintf(w, "members      %d\nwaiting      %d", s.Members, s.Waiting)
	switch {
	case s.JobCanceled:
		fmt.Fprint(w, "; the job is canceled, and nobody gets it before `certvendor job ensure`")
	case s.Waiting > 0:
		fmt.Fprintf(w, "; at %d a minute the last gets its job in %d min", s.PerMinute, s.MinutesLeft)
	}
	fmt.Fprintf(w, "\njobs         %s\nrotations    %s\nretirements  %d to do", counts(s.Executions), counts(s.Rotations), s.Retirements)
	if s.Stuck > 0 {
		fmt.Fprintf(w, ", %d stuck: certvendor rotation list --stuck", s.Stuck)
	}
	fmt.Fprintf(w, "\norphans      %d\nfrozen       %s\n", s.Orphans, frozenText(s.Frozen))
	if s.Observes {
		fmt.Fprintln(w, "observes     gets and acks are logged and not answered, and nothing is changed")
	}
	if s.Auto != nil {
		fmt.Fprintf(w, "auto         %s\n", autoText(*s.Auto))
	}
	if s.NotReady != "" {
		fmt.Fprintf(w, "not ready    %s\n", s.NotReady)
	}
}

// autoText says how the campaign of due certificates stands.
func autoText(c control.Campaign) string {
	text := string(c.State)
	if why := strings.TrimSpace(c.Why + " " + c.Holding); why != "" {
		text += ": " + why
	}
	if c.State == campaign.Stopped {
		text += "; nobody is let in until `certvendor campaign resume auto`"
	}
	if c.Devices > 0 {
		text += "; " + counts(c.Standings)
	}
	return text
}

func (c *cli) rotationSweep() *cobra.Command {
	var now bool
	cmd := &cobra.Command{
		Use: "sweep", Short: "Do now what is due", Args: cobra.NoArgs,
		RunE: c.ask(func(ctx context.Context, daemon *control.Client, _ []string) error {
			s, err := daemon.Sweep(ctx, now)
			if err != nil {
				return err
			}
			return c.say(s, "proven %d, finished %d, stale %d, settled %d; retirements looked at: %d",
				s.Proven, s.Finished, s.Stale, s.Settled, s.Retired)
		}),
	}
	cmd.Flags().BoolVar(&now, "now", false, "take the clock for right as it is, after it was set")
	return cmd
}
