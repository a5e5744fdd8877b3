package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/certvendor/certvendor/campaign"
	"github.com/certvendor/certvendor/internal/config"
	"github.com/certvendor/certvendor/internal/control"
)

func (c *cli) campaign() *cobra.Command {
	return group("campaign", "Rotate a part of the fleet in waves that stop by themselves",
		c.campaignPlan(), c.campaignApply(), c.campaignList(), c.campaignShow(), c.campaignReport(),
		c.campaignSteer("pause", "Let nobody in any more until it is resumed"),
		c.campaignSteer("resume", "Let a paused campaign go on, or open its gate"),
		c.campaignSteer("cancel", "End a campaign; what was vended stays valid"),
	)
}

const campaignHelp = `A campaign is a file, or the flags that stand for its parts:

  name: spring
  choose:                   # all that is given must hold
    expiring_within: 60d    # or all: true, issued_by, key, attributes: [site=berlin], names: [...]
    except: [gateway-1]
    sample: 2%              # of those; or a number
    order: expiry           # or random
  canary: {size: 10, pass: 9, strata: model}
  waves: [10%, 50%, 100%]   # of all, each with what came before it
  per_minute: 120
  max_in_flight: 500
  gates: auto               # or manual: an operator resumes after each wave
  soak: 24h                 # how long a wave must hold before the next begins
  verify_within: 1h         # vended and silent for longer is failed
  abort: {failed: 5%, at_least: 3}
  window: {from: "01:00", to: "05:00", zone: timezone}   # an attribute with each device's time zone
  deadline: 2027-01-31T00:00:00Z`

// campaignFlags are a campaign on the command line.
type campaignFlags struct {
	file                         string
	all                          bool
	expiring, issuer, key        string
	attributes                   []string
	names, except, sample, order string
	canary                       string
}

func (f *campaignFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVarP(&f.file, "filename", "f", "", "the campaign's file; - is the standard input")
	flags.BoolVar(&f.all, "all", false, "every device")
	flags.StringVar(&f.expiring, "expiring-within", "", "devices whose certificate expires within so long, such as 30d")
	flags.StringVar(&f.issuer, "issued-by", "", "devices whose certificate was issued by this CA: its common name, its whole name, or its id as ca show lists it")
	flags.StringVar(&f.key, "key", "", "devices whose certificate has such a key: rsa2048, p256")
	flags.StringArrayVar(&f.attributes, "attribute", nil, "devices with this attribute, k=v; may be repeated")
	flags.StringVar(&f.names, "file", "", "devices named in a file, one a line; what follows a comma is left out")
	flags.StringVar(&f.except, "except", "", "but not those named in a file")
	flags.StringVar(&f.sample, "sample", "", "only a part of those, such as 2%, or so many")
	flags.StringVar(&f.order, "order", "", "who comes first: expiry or random")
	flags.StringVar(&f.canary, "canary", "", "how many go first, and must prove that it works")
}

// spec reads the file, and lays the flags over it.
func (f *campaignFlags) spec(args []string) (s campaign.Spec, err error) {
	if f.file != "" {
		text, err := readStdin(f.file, maxCampaign)
		if err != nil {
			return s, err
		}
		if err := config.Decode(text, &s); err != nil {
			return s, fmt.Errorf("%s:%w", f.file, err)
		}
	}
	if len(args) > 0 {
		s.Name = args[0]
	}
	c := &s.Choose
	c.All = c.All || f.all
	c.Attributes = append(c.Attributes, f.attributes...)
	for text, into := range map[*string]*string{&f.issuer: &c.IssuedBy, &f.key: &c.Key} {
		if *text != "" {
			*into = *text
		}
	}
	if f.order != "" {
		c.Order = campaign.Order(f.order)
	}
	if f.expiring != "" {
		if c.ExpiringWithin, err = config.ParseDuration(f.expiring); err != nil {
			return s, fmt.Errorf("--expiring-within %s: %w", f.expiring, err)
		}
	}
	for flag, share := range map[string]struct {
		text string
		into *campaign.Share
	}{"--sample": {f.sample, &c.Sample}, "--canary": {f.canary, &s.Canary.Size}} {
		if share.text == "" {
			continue
		}
		if err := share.into.UnmarshalText([]byte(share.text)); err != nil {
			return s, fmt.Errorf("%s %s: %w", flag, share.text, err)
		}
	}
	for path, into := range map[*string]*[]string{&f.names: &c.Names, &f.except: &c.Except} {
		if *path == "" {
			continue
		}
		names, err := firstColumn(*path)
		if err != nil {
			return s, err
		}
		*into = append(*into, names...)
	}
	return s, nil
}

// maxCampaign bounds a campaign's file, in octets.
const maxCampaign = 1 << 20

// firstColumn reads a file with a name a line. A table's other columns are left
// out, and so is its head.
func firstColumn(path string) ([]string, error) {
	read, err := readNames(path)
	if err != nil {
		return nil, err
	}
	var names []string
	for i, line := range read.names {
		name, _, _ := strings.Cut(line, ",")
		name = strings.Trim(strings.TrimSpace(name), `"`)
		if i > 0 || name != "name" && name != "device" {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("%s names no device", path)
	}
	return names, nil
}

func (c *cli) campaignPlan() *cobra.Command {
	var f campaignFlags
	cmd := &cobra.Command{
		Use: "plan [NAME] -f FILE | --all | ...", Short: "Foretell a campaign: who takes part, how long it takes, what to look at first",
		Long: "Foretell a campaign, and change nothing.\n\n" + campaignHelp, Args: cobra.MaximumNArgs(1),
		RunE: c.ask(func(ctx context.Context, daemon *control.Client, args []string) error {
			spec, err := f.spec(args)
			if err != nil {
				return fmt.Errorf("campaign plan: %w", err)
			}
			if spec.Name == "" {
				spec.Name = "plan" // it is only looked at
			}
			plan, err := daemon.PlanCampaign(ctx, spec)
			if err != nil {
				return err
			}
			return c.print(plan, func(w io.Writer) { printPlan(w, plan) })
		}),
	}
	f.add(cmd)
	return cmd
}

func printPlan(w io.Writer, p campaign.Plan) {
	switch {
	case p.Devices > 0:
		printForecast(w, p)
	case len(p.Skipped) > 0:
		fmt.Fprint(w, "no device takes part\n\n")
	default:
		fmt.Fprint(w, "no device takes part: none is chosen\n\n")
	}
	if len(p.Calls) > 0 {
		fmt.Fprintf(w, "calls at most: %s\n", counts(p.Calls))
		fmt.Fprintf(w, "costs at most: %s\n\n", costs(p.Costs))
	}
	if len(p.Skipped) > 0 {
		fmt.Fprintf(w, "left out: %s\n\n", counts(p.Skipped))
	}
	section(w, "DEVICES RISK SUCH_AS", p.Risks, func(r campaign.Risk) []string {
		such := make([]string, len(r.Such))
		for i, name := range r.Such {
			such[i] = string(name)
		}
		return []string{fmt.Sprint(r.Devices), r.What, strings.Join(such, " ")}
	})
}

func printForecast(w io.Writer, p campaign.Plan) {
	fmt.Fprintf(w, "%s, in waves of %s\n", counted(p.Devices, "device takes part", "devices take part"), strings.Trim(fmt.Sprint(p.Waves), "[]"))
	fmt.Fprintf(w, "%.1f a minute, by %s\n", p.Pace, p.Limit)
	fmt.Fprintf(w, "takes %s, until %s, if every device is online and none fails", time.Duration(p.Seconds*float64(time.Second)).Round(time.Second), when(p.Forecast))
	if p.Manual {
		fmt.Fprint(w, ", and each gate is opened at once")
	}
	fmt.Fprint(w, "\n\n")
}

// costs writes what calls cost, by API, and their sum.
func costs(all map[string]float64) string {
	if len(all) == 0 {
		return "not known: name what a call costs in aws.prices"
	}
	sum := 0.0
	var parts []string
	for _, api := range slices.Sorted(maps.Keys(all)) {
		sum += all[api]
		parts = append(parts, fmt.Sprintf("%s %.2f", api, all[api]))
	}
	return fmt.Sprintf("%.2f, by aws.prices: %s", sum, strings.Join(parts, ", "))
}

func (c *cli) campaignApply() *cobra.Command {
	var f campaignFlags
	var watch bool
	cmd := &cobra.Command{
		Use: "apply [NAME] -f FILE | --all | ...", Short: "Make a campaign and let it run; again, it changes nothing",
		Long: "Make a campaign and let it run. Applied again, it changes nothing.\n\n" + campaignHelp, Args: cobra.MaximumNArgs(1),
		RunE: c.ask(func(ctx context.Context, daemon *control.Client, args []string) error {
			spec, err := f.spec(args)
			if err != nil {
				return fmt.Errorf("campaign apply: %w", err)
			}
			if spec.Name == "" {
				return errors.New("campaign apply: the campaign has no name: give one as `certvendor campaign apply NAME`, or in its file")
			}
			made, err := daemon.ApplyCampaign(ctx, spec)
			if err != nil {
				return err
			}
			if watch {
				return c.watchCampaign(ctx, daemon, made.Name)
			}
			if made.Unchanged {
				return c.say(made, "campaign %s is there already: %s", made.Name, made.State)
			}
			return c.say(made, "campaign %s runs: %s in %s, until about %s", made.Name,
				counted(made.Devices, "device", "devices"), counted(made.Waves, "wave", "waves"), when(made.Forecast))
		}),
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&watch, "watch", false, "show how it goes until it has ended")
	return cmd
}

func (c *cli) campaignSteer(verb, text string) *cobra.Command {
	return &cobra.Command{
		Use: verb + " NAME", Short: text, Args: cobra.ExactArgs(1),
		RunE: c.ask(func(ctx context.Context, daemon *control.Client, args []string) error {
			now, err := daemon.SteerCampaign(ctx, args[0], verb)
			if err != nil {
				return err
			}
			return c.say(now, "campaign %s is %s", now.Name, now.State)
		}),
	}
}
