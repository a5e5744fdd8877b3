package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/certvendor/certvendor/internal/control"
)

func (c *cli) device() *cobra.Command {
	return group("device", "Devices and their certificates",
		c.deviceAdd(), c.deviceImport(), c.deviceList(), c.deviceShow(),
		c.deviceAct(act{
			verb: "block", short: "Stop everything that is done for devices; nothing of them is removed",
			means: "Nothing is vended to them or taken from them before `device unblock`; their connections stay.",
			did:   "blocked", do: (*control.Client).BlockDevice,
		}),
		c.deviceAct(act{
			verb: "unblock", short: "Let them go on", means: "What is due for them is done.",
			did: "unblocked", do: (*control.Client).UnblockDevice,
		}),
		c.deviceRemove(),
	)
}

func (c *cli) deviceList() *cobra.Command {
	var s selected
	var query control.FleetQuery
	cmd := &cobra.Command{
		Use: "list", Short: "List devices by name, each with the certificate it was last seen on, or else its newest ACTIVE one",
		Args: cobra.NoArgs,
		RunE: c.ask(func(ctx context.Context, daemon *control.Client, _ []string) (err error) {
			if query.Within, query.Attributes, err = s.read(); err != nil {
				return fmt.Errorf("device list: %w", err)
			}
			return listOrCSV(c, s.csv, daemon.Fleet(ctx, query), deviceColumns)
		}),
	}
	s.flags(cmd)
	return cmd
}

var deviceColumns = columns[control.FleetDevice]{
	names: "NAME BLOCKED ADDED CERTIFICATE STANDING EXPIRES SEEN ROTATION ATTRIBUTES",
	row: func(d control.FleetDevice) []string {
		return []string{
			d.Name, yes(d.Blocked), when(d.Added), short(d.Certificate), dash(string(d.Standing)), when(d.NotAfter),
			when(d.LastSeen), dash(string(d.Rotation)), pairs(d.Attributes),
		}
	},
	whole: func(d control.FleetDevice) []string {
		return []string{
			d.Name, mark(d.Blocked), stamp(d.Added), string(d.Certificate), string(d.Standing), stamp(d.NotAfter),
			stamp(d.LastSeen), string(d.Rotation), assignments(d.Attributes, ";"),
		}
	},
}

func (c *cli) deviceShow() *cobra.Command {
	return &cobra.Command{
		Use: "show NAME", Short: "Show all that is known of a device", Args: cobra.ExactArgs(1),
		RunE: c.ask(func(ctx context.Context, daemon *control.Client, args []string) error {
			d, err := daemon.Device(ctx, args[0])
			if err != nil {
				return err
			}
			return c.print(d, func(w io.Writer) {
				printDevice(w, d)
				printRotations(w, d.Rotations, d.Retirements)
				section(w, "WHEN WHAT CERTIFICATE DETAIL", d.Timeline, func(e control.Event) []string {
					return []string{when(e.At), e.Kind, short(e.Certificate), pairs(e.Detail)}
				})
			})
		}),
	}
}

func printDevice(w io.Writer, d control.DeviceDetail) {
	member := "no"
	if d.Member {
		member = "since " + when(d.MemberSince)
	}
	if d.Removed {
		fmt.Fprintf(w, "device      %s\nremoved     it is not in the registry any more; this is what is on record\n\n", d.Name)
	} else {
		fmt.Fprintf(w, "device      %s\nadded       %s\nblocked     %s\nattributes  %s\nin group    %s\n\n",
			d.Name, when(d.Added), yes(d.Blocked), plain(pairs(d.Attributes)), member)
	}
	section(w, "CERTIFICATE STANDING KIND KEY EXPIRES SEEN CONNECTED SHARED", d.Certificates, func(h control.Certificate) []string {
		return []string{
			short(h.ID), string(h.Standing), string(h.Kind), h.Key, when(h.NotAfter), when(h.LastSeen),
			yes(h.Connected), yes(h.Shared),
		}
	})
}

// act is something that is done to devices, one by one.
type act struct {
	verb, short string
	means       string // what follows for the devices
	did         string
	do          func(*control.Client, context.Context, string) (control.Device, error)
}

func (c *cli) deviceAct(a act) *cobra.Command {
	var which those
	var asked consent
	cmd := &cobra.Command{
		Use: a.verb + thoseUsage, Short: a.short,
		RunE: c.ask(func(ctx context.Context, daemon *control.Client, args []string) error {
			names, err := which.devices(ctx, daemon, "device "+a.verb, args, anybody)
			if err != nil {
				return err
			}
			question := fmt.Sprintf("%s%s: %s. %s", strings.ToUpper(a.verb[:1]), a.verb[1:], devicesText(names), a.means)
			if err := c.confirm("device "+a.verb, asked, question); err != nil {
				return err
			}
			var wrong []error // of one device, which leaves the others alone
			for _, name := range names {
				d, err := a.do(daemon, ctx, name)
				if err == nil {
					err = c.say(d, "device %s: %s", d.Name, a.did)
				}
				wrong = append(wrong, err)
			}
			return errors.Join(wrong...)
		}),
	}
	which.flags(cmd, "")
	asked.flag(cmd)
	return cmd
}

func (c *cli) deviceRemove() *cobra.Command {
	var asked consent
	cmd := &cobra.Command{
		Use: "remove NAME", Short: "Take a device out of the registry; its certificates stay on record", Args: cobra.ExactArgs(1),
		RunE: c.ask(func(ctx context.Context, daemon *control.Client, args []string) error {
			question := fmt.Sprintf("Remove device %s: nothing is vended to it any more, and the embedded broker closes its "+
				"connections and lets it in no more, until `device add` enters it again.", args[0])
			if err := c.confirm("device remove", asked, question); err != nil {
				return err
			}
			d, err := daemon.RemoveDevice(ctx, args[0])
			if err != nil {
				return err
			}
			return c.say(d, "device %s: removed", d.Name)
		}),
	}
	asked.flag(cmd)
	return cmd
}

// parseAttributes reads name=value, several times.
func parseAttributes(texts []string) (map[string]string, error) {
	attributes := map[string]string{}
	for _, text := range texts {
		name, value, ok := strings.Cut(text, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("attribute %q: must be name=value", text)
		}
		attributes[name] = value
	}
	return attributes, nil
}

// readBounded reads a small file.
func readBounded(path string, most int64) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return readAtMost(file, path, most)
}

// readStdin is readBounded for what may come from the standard input, as "-".
func readStdin(path string, most int64) ([]byte, error) {
	if path == "-" {
		return readAtMost(os.Stdin, "the standard input", most)
	}
	return readBounded(path, most)
}

// readAtMost reads all, or refuses what is longer: a list that is cut off leaves
// devices out.
func readAtMost(from io.Reader, name string, most int64) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(from, most+1))
	if err == nil && int64(len(text)) > most {
		err = fmt.Errorf("%s: more than %d octets", name, most)
	}
	return text, err
}
