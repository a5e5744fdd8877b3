package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/certvendor/certvendor/internal/control"
)

func (c *cli) rotation() *cobra.Command {
	return group("rotation", "Who shall rotate, and how it goes",
		c.rotationGroup("add", "Put devices into the rotation group; each gets its job in its turn", "in the rotation group", (*control.Client).Join),
		c.rotationGroup("remove", "Take devices out of the rotation group; a job that was begun is left to its device", "out of the rotation group", (*control.Client).Leave),
		c.rotationList(), c.rotationShow(), c.rotationStatus(), c.rotationSweep(),
	)
}

// whom says which devices a verb is about.
type whom struct {
	all  bool
	file string
}

// grouped is what `rotation add --json` prints.
type grouped struct {
	Devices int               `json:"devices"`
	Done    int               `json:"done"`
	Failed  []control.Outcome `json:"failed"`
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
			result := grouped{Devices: len(devices), Failed: []control.Outcome{}}
			bar := newProgress(c.errs, verb, len(devices))
			err = do(daemon, ctx, devices, func(o control.Outcome) {
				bar.step()
				if o.Error == "" {
					result.Done++
					return
				}
				result.Failed = append(result.Failed, o)
				bar.clear()
				fmt.Fprintln(c.errs, "certvendor: "+o.Error)
			})
			bar.clear()
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

// devices returns the names, from the one source that was given.
func (w whom) devices(ctx context.Context, daemon *control.Client, verb string, args []string) ([]string, error) {
	given := 0
	for _, is := range []bool{len(args) > 0, w.all, w.file != ""} {
		if is {
			given++
		}
	}
	switch {
	case given != 1:
		return nil, fmt.Errorf("rotation %s: name devices, or give --all or --file, and only one of them", verb)
	case w.file != "":
		return readNames(w.file)
	case w.all && verb == "remove":
		var names []string
		for m, err := range daemon.Members(ctx) {
			if err != nil {
				return nil, err
			}
			names = append(names, m.Device)
		}
		return names, nil
	case w.all:
		var names []string
		for d, err := range daemon.Devices(ctx, nil) {
			if err != nil {
				return nil, err
			}
			names = append(names, d.Name)
		}
		return names, nil
	}
	return args, nil
}

// maxNames bounds a file of names, in octets: some million of the longest.
const maxNames = 128 << 20

func readNames(path string) ([]string, error) {
	var text []byte
	var err error
	if path == "-" {
		text, err = io.ReadAll(io.LimitReader(os.Stdin, maxNames))
	} else {
		text, err = readBounded(path, maxNames)
	}
	if err != nil {
		return nil, fmt.Errorf("read names: %w", err)
	}
	var names []string
	for line := range strings.Lines(string(text)) {
		name := strings.TrimSpace(line)
		if name != "" && !strings.HasPrefix(name, "#") {
			names = append(names, name)
		}
	}
	return names, nil
}

func (c *cli) rotationList() *cobra.Command {
	var stuck, open bool
	var state string
	cmd := &cobra.Command{
		Use: "list", Short: "List rotations, or with --stuck what does not go on by itself", Args: cobra.NoArgs,
		RunE: c.ask(func(ctx context.Context, daemon *control.Client, _ []string) error {
			if stuck {
				return list(c, daemon.Stuck(ctx), "DEVICE WHAT CERTIFICATE SINCE WHY DO", func(s control.Stuck) []string {
					return []string{s.Device, s.What, short(s.Certificate), when(s.Since), s.Why, s.Do}
				})
			}
			query := control.RotationQuery{State: state, Open: open}
			return list(c, daemon.Rotations(ctx, query), rotationColumns, rotationRow)
		}),
	}
	cmd.Flags().BoolVar(&stuck, "stuck", false, "retirements that are due, or whose device went back, and stale rotations: why, and what to type")
	cmd.Flags().StringVar(&state, "state", "", "only rotations in this state")
	cmd.Flags().BoolVar(&open, "open", false, "only rotations that are open or stale")
	cmd.MarkFlagsMutuallyExclusive("stuck", "state")
	cmd.MarkFlagsMutuallyExclusive("stuck", "open")
	return cmd
}

const rotationColumns = "DEVICE NUMBER STATE BY CERTIFICATE EVIDENCE OPENED CLOSED"

func rotationRow(r control.Rotation) []string {
	by := "csr"
	if r.ByPackage {
		by = "package"
	}
	return []string{
		r.Device, strconv.FormatInt(r.Number, 10), string(r.State), by, short(r.Certificate),
		dash(string(r.Evidence)), when(r.Opened), when(r.Closed),
	}
}

func printRotations(w io.Writer, d control.DeviceDetail) {
	table(w, rotationColumns, d.Rotations, rotationRow)
	fmt.Fprintln(w)
	table(w, "RETIRED BY MODE DUE DONE REVERTED WHY", d.Retirements, func(r control.Retirement) []string {
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
			d.Timeline = nil
			return c.print(d, func(w io.Writer) {
				printDevice(w, d)
				fmt.Fprintln(w)
				printRotations(w, d)
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
	if s.Waiting > 0 {
		fmt.Fprintf(w, "; at %d a minute the last gets its job in %d min", s.PerMinute, s.MinutesLeft)
	}
	fmt.Fprintf(w, "\njobs         %s\nrotations    %s\nretirements  %d to do", counts(s.Executions), counts(s.Rotations), s.Retirements)
	if s.Stuck > 0 {
		fmt.Fprintf(w, ", %d stuck: certvendor rotation list --stuck", s.Stuck)
	}
	fmt.Fprintf(w, "\norphans      %d\nfrozen       %s\n", s.Orphans, frozenText(s.Frozen))
	if s.NotReady != "" {
		fmt.Fprintf(w, "not ready    %s\n", s.NotReady)
	}
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
