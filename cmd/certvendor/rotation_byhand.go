package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"github.com/certvendor/certvendor/internal/control"
)

// byHand is a verb about the rotations of devices that a person names.
type byHand struct {
	verb, short string
	ask         string // begins the question: the devices follow it
	means       string // ends it: a sentence about what follows for the devices
	did         string // what was done, after a count
	isFor       func(control.CampaignMember) bool
	ofCampaign  string // says which those are
	do          func(*control.Client, context.Context, []string, func(control.Outcome)) error
}

func (c *cli) rotationRetry() *cobra.Command {
	return c.rotationByHand(byHand{
		verb: "retry", short: "Give a device whose rotation is stale or abandoned, or whose job failed, a job again",
		ask: "Try again", means: "Each gets the job to rotate in its turn.",
		did: "get a job again", isFor: gotNowhere, ofCampaign: "that failed in it or were late", do: (*control.Client).Retry,
	})
}

func (c *cli) rotationAbandon() *cobra.Command {
	return c.rotationByHand(byHand{
		verb: "abandon", short: "End a device's open or stale rotation; its certificate is kept",
		ask: "Abandon the open rotation of", means: "Nothing is taken away; each leaves the rotation group.",
		did: "have no open rotation any more", isFor: isUnfinished, ofCampaign: "whose rotation is not proven yet", do: (*control.Client).Abandon,
	})
}

func (c *cli) rotationUndo() *cobra.Command {
	return c.rotationByHand(byHand{
		verb: "undo", short: "Bring back what a device's last finished rotation replaced; the new certificate stays too",
		ask: "Undo the last finished rotation of", means: "What it replaced works again, until the next rotation; the new certificate goes on working.",
		did: "have their former certificates back", isFor: mayBeUndone,
		ofCampaign: "whose rotation in it is their last one, is finished, and was not undone", do: (*control.Client).Undo,
	})
}

func (c *cli) rotationByHand(v byHand) *cobra.Command {
	var which those
	var asked consent
	cmd := &cobra.Command{
		Use: v.verb + thoseUsage, Short: v.short,
		RunE: c.ask(func(ctx context.Context, daemon *control.Client, args []string) error {
			names, err := which.devices(ctx, daemon, "rotation "+v.verb, args, v.isFor)
			if err != nil {
				return err
			}
			question := fmt.Sprintf("%s: %s. %s", v.ask, devicesText(names), v.means)
			if err := c.confirm("rotation "+v.verb, asked, question); err != nil {
				return err
			}
			done := handled{Devices: len(names), Outcomes: []control.Outcome{}}
			err = v.do(daemon, ctx, names, done.add)
			if err != nil && len(done.Outcomes) == 0 {
				return err
			}
			reported := c.reportHandled(v, done) // also of those before an error: it is done
			return cmp.Or(err, reported)
		}),
	}
	which.flags(cmd, v.ofCampaign)
	asked.flag(cmd)
	return cmd
}

// namedDevices returns the devices that were named one way or the other, each
// once, in their order.
func namedDevices(verb, file string, args []string) ([]string, error) {
	if (len(args) > 0) == (file != "") {
		return nil, fmt.Errorf("%s: name devices, or give --file, and only one of them", verb)
	}
	if file != "" {
		found, err := readNames(file)
		if err != nil {
			return nil, err
		}
		if args = found.names; len(args) == 0 {
			return nil, fmt.Errorf("%s: no device is named in %s", verb, file)
		}
	}
	return unique(args), nil
}

// unique returns each name once, in the order of their first.
func unique(names []string) []string {
	seen := map[string]bool{}
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		before := seen[name]
		seen[name] = true
		return before
	})
}

// handled is what `rotation retry --json` prints, and its like.
type handled struct {
	Devices  int               `json:"devices"`
	Done     int               `json:"done"`
	Failed   int               `json:"failed"`
	Outcomes []control.Outcome `json:"outcomes"`
}

func (h *handled) add(o control.Outcome) {
	h.Outcomes = append(h.Outcomes, o)
	switch {
	case o.Error != "":
		h.Failed++
	case o.Done != "":
		h.Done++
	}
}

// reportHandled says of each device what was done, or why not.
func (c *cli) reportHandled(v byHand, h handled) error {
	err := c.print(h, func(w io.Writer) {
		for _, o := range h.Outcomes {
			switch {
			case o.Error != "":
				fmt.Fprintln(c.errs, "certvendor: "+o.Error)
			case o.Unchanged != "":
				fmt.Fprintf(w, "%s: unchanged: %s\n", o.Device, o.Unchanged)
			default:
				fmt.Fprintf(w, "%s: %s\n", o.Device, o.Done)
			}
			if o.Warning != "" {
				fmt.Fprintln(c.errs, "certvendor: warning: "+o.Warning)
			}
		}
		fmt.Fprintf(w, "%d of %d devices %s\n", h.Done, h.Devices, v.did)
	})
	if err == nil && h.Failed > 0 {
		return errReported
	}
	return err
}
