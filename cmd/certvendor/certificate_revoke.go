package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/control"
)

func (c *cli) certificateRevoke() *cobra.Command {
	var asked control.RevokeRequest
	var file string
	var agreed consent
	cmd := &cobra.Command{
		Use:   "revoke ID... | --file FILE --reason REASON [--brick NAME]... [--yes]",
		Short: "Revoke certificates for good, for all who hold them; their connections are closed",
		RunE: c.ask(func(ctx context.Context, daemon *control.Client, args []string) (err error) {
			if asked.Certificates, err = namedCertificates(file, args); err != nil {
				return err
			}
			if _, err := certificate.ParseReason(asked.Reason); err != nil {
				return fmt.Errorf("certificate revoke: --%w", err)
			}
			return c.revoke(ctx, daemon, asked, agreed)
		}),
	}
	cmd.Flags().StringVar(&file, "file", "", "a file with an id a line; - is the standard input")
	cmd.Flags().StringVar(&asked.Reason, "reason", "", "why: "+strings.Join(certificate.Reasons(), ", "))
	cmd.Flags().StringArrayVar(&asked.Brick, "brick", nil, "a device that may be left without a certificate that works; repeatable")
	agreed.flag(cmd)
	return cmd
}

func namedCertificates(file string, args []string) ([]string, error) {
	switch {
	case (len(args) > 0) == (file != ""):
		return nil, errors.New("certificate revoke: name certificates by their ids, or give --file, and only one of them")
	case file == "":
		return args, nil
	}
	found, err := readNames(file)
	if err == nil && len(found.names) == 0 {
		err = fmt.Errorf("certificate revoke: no certificate is named in %s", file)
	}
	return found.names, err
}

// revoke shows what would be done, asks, and does it.
func (c *cli) revoke(ctx context.Context, daemon *control.Client, asked control.RevokeRequest, agreed consent) error {
	asked.Plan = true
	plan, err := daemon.Revoke(ctx, asked)
	if err != nil {
		return err
	}
	if refused := c.sayRefused(plan); refused > 0 {
		return fmt.Errorf("certificate revoke: %d of %d certificates may not be revoked, so nothing was done", refused, len(plan))
	}
	if err := c.confirm("certificate revoke", agreed, revokeQuestion(plan, asked.Reason)); err != nil {
		return err
	}
	asked.Plan = false
	outcomes, err := daemon.Revoke(ctx, asked)
	if err != nil {
		return err
	}
	return c.reportRevoked(outcomes)
}

// sayRefused says of each certificate why it may not be revoked, and counts them.
func (c *cli) sayRefused(all []control.Revocation) (refused int) {
	for _, r := range all {
		if r.Error == "" {
			continue
		}
		if refused++; refused <= maxReported {
			fmt.Fprintln(c.errs, "certvendor: "+r.Error)
		}
	}
	if more := refused - maxReported; more > 0 {
		fmt.Fprintf(c.errs, "certvendor: and %d more\n", more)
	}
	return refused
}

func revokeQuestion(plan []control.Revocation, reason string) string {
	var what, bricks []string
	for _, r := range plan {
		if r.Unchanged != "" {
			continue
		}
		holders := "nobody"
		if len(r.Devices) > 0 {
			holders = strings.Join(r.Devices[:min(len(r.Devices), maxNamed)], " ")
		}
		if more := len(r.Devices) - maxNamed; more > 0 {
			holders += fmt.Sprintf(" and %d more", more)
		}
		what = append(what, short(r.ID)+" of "+holders)
		bricks = append(bricks, r.Bricks...)
	}
	word := "certificates"
	if len(what) == 1 {
		word = "certificate"
	}
	text := fmt.Sprintf("Revoke %d %s for good, for %s", len(what), word, reason)
	if more := len(what) - maxNamed; more > 0 {
		what = append(what[:maxNamed], fmt.Sprintf("and %d more", more))
	}
	if len(what) > 0 {
		text += ": " + strings.Join(what, ", ")
	}
	text += "."
	for _, name := range unique(bricks) {
		text += fmt.Sprintf(" Device %s may be left without a working certificate.", name)
	}
	return text
}

// revoked is what `certificate revoke --json` prints.
type revoked struct {
	Certificates int                  `json:"certificates"`
	Revoked      int                  `json:"revoked"`
	Failed       int                  `json:"failed"`
	Outcomes     []control.Revocation `json:"outcomes"`
}

func (c *cli) reportRevoked(outcomes []control.Revocation) error {
	done := revoked{Certificates: len(outcomes), Outcomes: outcomes}
	for _, o := range outcomes {
		switch {
		case o.Error != "":
			done.Failed++
		case o.Done:
			done.Revoked++
		}
	}
	err := c.print(done, func(w io.Writer) {
		c.sayRefused(outcomes)
		for _, o := range outcomes {
			switch {
			case o.Unchanged != "":
				fmt.Fprintf(w, "%s: unchanged: %s\n", short(o.ID), o.Unchanged)
			case o.Done:
				fmt.Fprintf(w, "%s: revoked\n", short(o.ID))
			}
		}
		fmt.Fprintf(w, "%d of %d certificates revoked\n", done.Revoked, done.Certificates)
	})
	if err == nil && done.Failed > 0 {
		return errReported
	}
	return err
}
