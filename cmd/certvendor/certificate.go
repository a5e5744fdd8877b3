package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/certvendor/certvendor/internal/control"
)

func (c *cli) certificate() *cobra.Command {
	return group("certificate", "Certificates, who holds them and how they stand", c.certificateList(), c.certificateShow(), c.certificateRevoke())
}

var certificateColumns = columns[control.HeldCertificate]{
	names: "CERTIFICATE DEVICE STANDING KIND KEY EXPIRES SEEN SHARED ISSUER",
	row: func(h control.HeldCertificate) []string {
		return []string{
			short(h.ID), dash(h.Device), string(h.Standing), string(h.Kind), h.Key, when(h.NotAfter), when(h.LastSeen),
			yes(h.Shared), h.Issuer,
		}
	},
	whole: func(h control.HeldCertificate) []string {
		return []string{
			string(h.ID), h.Device, string(h.Standing), string(h.Kind), h.Key, stamp(h.NotAfter), stamp(h.LastSeen),
			mark(h.Shared), h.Issuer,
		}
	},
}

func (c *cli) certificateList() *cobra.Command {
	var s selected
	var query control.CertificateQuery
	cmd := &cobra.Command{
		Use: "list", Short: "List certificates by id, or by expiry, each as often as it is held", Args: cobra.NoArgs,
		RunE: c.ask(func(ctx context.Context, daemon *control.Client, _ []string) (err error) {
			if query.Within, query.Attributes, err = s.read(); err != nil {
				return fmt.Errorf("certificate list: %w", err)
			}
			return listOrCSV(c, s.csv, daemon.Certificates(ctx, query), certificateColumns)
		}),
	}
	s.flags(cmd)
	cmd.Flags().StringVar(&query.Issuer, "issuer", "", "only those of this issuer: its common name, its whole name, or the id of a CA as ca show lists it")
	cmd.Flags().StringVar(&query.Standing, "standing", "", "only those that are ACTIVE, INACTIVE, DELETED or REVOKED")
	cmd.Flags().StringVar(&query.Key, "key", "", "only those for the key with this id")
	cmd.Flags().StringVar(&query.Device, "device", "", "only those that this device holds")
	return cmd
}

func (c *cli) certificateShow() *cobra.Command {
	return &cobra.Command{
		Use: "show ID|FILE", Short: "Show a certificate: by its id, or the first digits of it, or a file in PEM", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !isID.MatchString(args[0]) {
				return c.showFile(cmd.Context(), args[0])
			}
			daemon, err := c.dial()
			if err != nil {
				return err
			}
			defer daemon.Close()
			d, err := daemon.Certificate(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return c.printCertificate(shown{Known: true, CertificateDetail: d})
		},
	}
}

// isID tells an id from a file; a file with such a name is ./NAME.
var isID = regexp.MustCompile(`^[0-9a-f]{4,64}$`)

// shown is what `certificate show --json` prints. Of a certificate that the
// daemon does not know there is only what is in its file.
type shown struct {
	Known bool `json:"known"`
	control.CertificateDetail
}

// showFile shows what is in a file, and what the daemon knows of it. The file
// can be read without a daemon.
func (c *cli) showFile(ctx context.Context, path string) error {
	text, err := readBounded(path, maxPEM)
	if err != nil {
		return fmt.Errorf("certificate show: %w: give an id, at least 4 of its lower-case hex digits, or a file", err)
	}
	described, err := control.Describe(text)
	if err != nil {
		return fmt.Errorf("certificate show: %s: %w", path, err)
	}
	s := shown{CertificateDetail: control.CertificateDetail{
		Certificate: described, Holders: []control.Holder{}, Rotations: []control.Rotation{}, Retirements: []control.Retirement{},
	}}
	daemon, err := c.dial()
	if err == nil {
		defer daemon.Close()
		var known control.CertificateDetail
		if known, err = daemon.Certificate(ctx, string(described.ID)); err == nil {
			s = shown{Known: true, CertificateDetail: known}
		}
	}
	var refused *control.Error
	if err != nil && !errors.As(err, &refused) {
		fmt.Fprintf(c.errs, "certvendor: warning: only what is in the file is shown: %s\n", oneLine(err))
	}
	return c.printCertificate(s)
}

func (c *cli) printCertificate(s shown) error {
	return c.print(s, func(w io.Writer) {
		fmt.Fprintf(w, "certificate  %s\nsubject      %s\nissuer       %s\nserial       %s\nkey          %s, id %s\nvalid        %s to %s\n",
			s.ID, dash(plain(s.Subject)), dash(plain(s.Issuer)), s.Serial, s.Key, s.KeyID, when(s.NotBefore), when(s.NotAfter))
		if !s.Known {
			fmt.Fprintln(w, "standing     not known to the daemon")
			return
		}
		fmt.Fprintf(w, "standing     %s\nkind         %s\npolicies     %s\nlast seen    %s\n\n",
			s.Standing, s.Kind, dash(strings.Join(s.Policies, " ")), when(s.LastSeen))
		section(w, "HOLDER SINCE SEEN EVIDENCE CONNECTED", s.Holders, func(h control.Holder) []string {
			return []string{h.Device, when(h.Attached), when(h.LastSeen), dash(string(h.Evidence)), yes(h.Connected)}
		})
		printRotations(w, s.Rotations, s.Retirements)
	})
}
