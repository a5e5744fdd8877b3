package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/certvendor/certvendor/internal/app"
	"github.com/certvendor/certvendor/internal/control"
)

func (c *cli) ca() *cobra.Command {
	return group("ca", "The certificate authority", c.caInit(), c.caShow(), c.caCRL(),
		c.caCSR(), c.caImport(), c.caRotate(), c.caRetire(), c.caRegister())
}

func (c *cli) caInit() *cobra.Command {
	return &cobra.Command{
		Use: "init", Short: "Make CA and store of an empty data directory; the daemon must not run", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := c.load()
			if err != nil {
				return err
			}
			if err := app.InitCA(cmd.Context(), cfg); err != nil {
				return err
			}
			return c.say(map[string]string{"data": cfg.Standalone.Data}, "%s: CA and store are there", cfg.Standalone.Data)
		},
	}
}

func (c *cli) caShow() *cobra.Command {
	var pem, missing bool
	cmd := &cobra.Command{
		Use: "show [--pem | --missing]", Short: "List the CA's certificates, or with --pem print what verifies the broker", Args: cobra.NoArgs,
		RunE: c.ask(func(ctx context.Context, daemon *control.Client, _ []string) error {
			if pem && missing {
				return errors.New("ca show: give either --pem or --missing")
			}
			if missing {
				return list(c, daemon.MissingDevices(ctx), "DEVICE", func(d control.MissingDevice) []string { return []string{d.Name} })
			}
			if pem {
				roots, err := daemon.Roots(ctx)
				if err != nil {
					return err
				}
				return c.say(map[string]string{"roots": roots}, "%s", roots)
			}
			all, _, err := daemon.CAs(ctx)
			if err != nil {
				return err
			}
			if len(all) == 0 && !c.json {
				return c.say(nil, "none of its own: with backend aws, aws.issuer says what signs")
			}
			return list(c, slice(all), "ROLE CERTIFICATE EXPIRES ENCRYPTED KEY IN_USE SUBJECT", func(ca control.CA) []string {
				used := "-"
				switch {
				case ca.Uses != nil:
					used = fmt.Sprint(ca.Uses.All())
				case ca.Missing != nil:
					used = fmt.Sprintf("%d missing", *ca.Missing)
				}
				return []string{ca.Role, short(ca.ID), when(ca.NotAfter), yes(ca.Encrypted), dash(ca.Key), used, fmt.Sprintf("%q", ca.Subject)}
			})
		}),
	}
	cmd.Flags().BoolVar(&pem, "pem", false, "print ca.crt: what devices verify the broker and package links by")
	cmd.Flags().BoolVar(&missing, "missing", false, "list the devices that have not acknowledged the server CA that is prepared")
	return cmd
}
