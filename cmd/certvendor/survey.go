package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/certvendor/certvendor/internal/control"
)

func (c *cli) survey() *cobra.Command {
	return &cobra.Command{
		Use: "survey", Short: "Say what is out there: expiries, names, keys, policies, and who could rotate now; changes nothing",
		Args: cobra.NoArgs,
		RunE: c.ask(func(ctx context.Context, daemon *control.Client, _ []string) error {
			bar := newProgress(c.errs, "survey", 0)
			s, err := daemon.Survey(ctx, bar.at)
			bar.clear()
			if err != nil {
				return err
			}
			return c.print(s, func(w io.Writer) { printSurvey(w, s) })
		}),
	}
}

// found is a line of the survey: what, how many, and which.
type found struct {
	what string
	control.Sample
}

func printSurvey(w io.Writer, s control.Survey) {
	fmt.Fprintf(w, "devices       %d\ncertificates  %d, ACTIVE and held by a device\n\n", s.Devices, s.Certificates)
	numbers(w, "EXPIRE CERTIFICATES", s.Expiries)
	numbers(w, "POLICY CERTIFICATES", s.Policies)
	samples(w, "COMMON-NAME COUNT DEVICES", inOrder(s.Names))
	samples(w, "FOUND COUNT WHICH", []found{
		{"devices without an ACTIVE certificate", s.Without},
		{"devices with several", s.Several},
		{"certificates that several devices hold", s.Shared},
		{"ACTIVE certificates that no device holds", s.Orphans},
		{"ACTIVE certificates of devices that were removed", s.Removed},
		{"certificates with more than ten policies", s.Many},
		{"certificates with a weak key", s.Weak},
		{"keys with several certificates of one device", s.KeysReused},
		{"keys with certificates of several devices", s.KeysShared},
	})
	fmt.Fprintf(w, "%d of %d devices could rotate now\n", s.CanRotate, s.Devices)
	if len(s.CanNot) > 0 {
		fmt.Fprintln(w)
		samples(w, "COULD-NOT COUNT DEVICES", inOrder(s.CanNot))
	}
}

func inOrder(m map[string]control.Sample) []found {
	var all []found
	for _, name := range slices.Sorted(maps.Keys(m)) {
		all = append(all, found{name, m[name]})
	}
	return all
}

func samples(w io.Writer, columns string, all []found) {
	section(w, columns, all, func(f found) []string {
		names := strings.Join(f.Names, ", ")
		if names != "" && f.Count > len(f.Names) {
			names += ", ..."
		}
		return []string{f.what, strconv.Itoa(f.Count), dash(names)}
	})
}

func numbers(w io.Writer, columns string, m map[string]int) {
	section(w, columns, slices.Sorted(maps.Keys(m)), func(name string) []string {
		return []string{dash(name), strconv.Itoa(m[name])}
	})
}
