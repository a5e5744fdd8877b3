package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/certvendor/certvendor/internal/control"
)

func (c *cli) caCRL() *cobra.Command {
	var out, ca string
	lifetime := 7 * 24 * time.Hour
	cmd := &cobra.Command{
		Use: "crl --out FILE [--next-update 168h] [--ca ID]", Short: "Have the issuing CA sign a list of what is revoked and not expired, for others", Args: cobra.NoArgs,
		RunE: c.ask(func(ctx context.Context, daemon *control.Client, _ []string) error {
			if out == "" {
				return errors.New("ca crl: --out names the file that is written")
			}
			crl, err := daemon.CRL(ctx, ca, lifetime)
			if err != nil {
				return err
			}
			if err := replaceFile(out, []byte(crl.PEM)); err != nil {
				return fmt.Errorf("ca crl: %w", err)
			}
			crl.PEM = ""
			return c.print(crl, func(w io.Writer) {
				fmt.Fprintf(w, "%s: CRL %d with %s; the next one is due by %s\n",
					out, crl.Number, counted(crl.Entries, "certificate", "certificates"), when(crl.NextUpdate))
				if crl.Others > 0 {
					fmt.Fprintf(w, "%s not in it: only their CAs can list them\n",
						counted(crl.Others, "revoked certificate of another CA is", "revoked certificates of other CAs are"))
				}
			})
		}),
	}
	cmd.Flags().StringVar(&out, "out", "", "the file to write, in PEM; one that is there is replaced")
	cmd.Flags().Var((*span)(&lifetime), "next-update", "how long it is good for: sign the next one before that")
	cmd.Flags().StringVar(&ca, "ca", "", "the CA that signs it, by its id: a former one lists what it has issued itself (default the one that issues)")
	return cmd
}

// replaceFile writes a file that others read: it is there whole, or as it was.
func replaceFile(path string, content []byte) error {
	file, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, written := file.Write(content)
	err = errors.Join(written, file.Chmod(0o644), file.Sync(), file.Close())
	if err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(file.Name()))
	}
	return nil
}
