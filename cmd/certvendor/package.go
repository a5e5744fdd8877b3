package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/certvendor/certvendor/internal/control"
)

// maxPackage is the most octets that a package may have.
const maxPackage = 1 << 20

func (c *cli) packages() *cobra.Command {
	return group("package", "Key and certificate in one file, for devices that cannot make a key",
		c.packageCreate(), c.packagePut(), c.packageList())
}

func (c *cli) packageCreate() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use: "create NAME... | --file FILE", Short: "Make key, certificate and zip, in place of what the device has",
		RunE: c.ask(func(ctx context.Context, daemon *control.Client, args []string) error {
			names, err := namedDevices("package create", file, args)
			if err != nil {
				return err
			}
			bar := newProgress(c.errs, "packages", len(names))
			made := []control.Package{}
			failed := false
			for _, name := range names {
				bar.step()
				p, err := daemon.CreatePackage(ctx, name)
				if err != nil {
					failed = true
					bar.clear()
					fmt.Fprintln(c.errs, "certvendor: "+oneLine(err))
					continue
				}
				made = append(made, p)
			}
			bar.clear()
			if len(made) > 0 || c.json {
				if err := list(c, slice(made), packageColumns, packageRow); err != nil {
					return err
				}
			}
			if failed {
				return errReported
			}
			return nil
		}),
	}
	cmd.Flags().StringVar(&file, "file", "", "a file with a name a line; - is the standard input")
	return cmd
}

func (c *cli) packagePut() *cobra.Command {
	var id string
	cmd := &cobra.Command{
		Use: "put NAME FILE.zip --certificate-id ID", Short: "Store a package that was made elsewhere", Args: cobra.ExactArgs(2),
		RunE: c.ask(func(ctx context.Context, daemon *control.Client, args []string) error {
			if id == "" {
				return fmt.Errorf("device %s: give --certificate-id, the id of the certificate in the package", args[0])
			}
			zip, err := readBounded(args[1], maxPackage)
			if err != nil {
				return fmt.Errorf("device %s: %w", args[0], err)
			}
			p, err := daemon.PutPackage(ctx, args[0], id, zip)
			if err != nil {
				return err
			}
			return c.say(p, "device %s: package with certificate %s stored", p.Device, short(p.Certificate))
		}),
	}
	cmd.Flags().StringVar(&id, "certificate-id", "", "the id of the certificate in it, 64 hex digits")
	return cmd
}

const packageColumns = "DEVICE CERTIFICATE CREATED SPENT"

func packageRow(p control.Package) []string {
	return []string{p.Device, short(p.Certificate), when(p.Created), when(p.Spent)}
}

func (c *cli) packageList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List packages by device", Args: cobra.NoArgs,
		RunE: c.ask(func(ctx context.Context, daemon *control.Client, _ []string) error {
			return list(c, daemon.ListPackages(ctx), packageColumns, packageRow)
		}),
	}
}
