package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/certvendor/certvendor/internal/control"
	"github.com/certvendor/certvendor/protocol"
)

func (c *cli) explain() *cobra.Command {
	var get, ack bool
	cmd := &cobra.Command{
		Use: "explain NAME", Short: "Say what a get and an ack of a device would meet now, and which rule says so; changes nothing",
		Args: cobra.ExactArgs(1),
		RunE: c.ask(func(ctx context.Context, daemon *control.Client, args []string) error {
			var action protocol.Action
			switch {
			case get && ack:
				return errors.New("explain: give either --get or --ack; without them it is both")
			case get:
				action = protocol.Get
			case ack:
				action = protocol.Ack
			}
			e, err := daemon.Explain(ctx, args[0], action)
			if err != nil {
				return err
			}
			return c.print(e, func(w io.Writer) { printExplanation(w, e) })
		}),
	}
	cmd.Flags().BoolVar(&get, "get", false, "only what a get would meet")
	cmd.Flags().BoolVar(&ack, "ack", false, "only what an ack would meet")
	return cmd
}

func printExplanation(w io.Writer, e control.Explanation) {
	fmt.Fprintf(w, "device  %s\n\n", e.Device)
	section(w, "RULE OVER VERDICT SAYS", e.Rules, func(f control.Finding) []string {
		verdict := "pass"
		if !f.Passes {
			verdict = string(f.Reason)
		}
		return []string{f.Rule, short(f.Certificate), verdict, f.Says}
	})
	section(w, "REQUEST OVER ANSWER THEN", e.Answers, func(a control.Answer) []string {
		request, answer, then := string(a.Action), "accepted", strings.Join(a.Effects, "; ")
		if a.With != "" {
			request += ", " + a.With
		}
		if !a.Accepted {
			answer, then = string(a.Reason), a.Says
		}
		return []string{request, short(a.Over), answer, dash(then)}
	})
	section(w, "RETIRED BY MODE DUE NOW", e.Retirements, func(o control.Outlook) []string {
		now := "the rule allows it"
		if !o.Allowed {
			now = o.Why
		}
		return []string{short(o.Certificate), strconv.FormatInt(o.Rotation, 10), string(o.Mode), when(o.Due), now}
	})
}
