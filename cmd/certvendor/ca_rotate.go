package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/certvendor/certvendor/internal/control"
)

func (c *cli) caRotate() *cobra.Command {
	var server, finish, abandon bool
	var cutOff int
	var agreed consent
	cmd := &cobra.Command{
		Use:   "rotate [--server [--finish [--force N] [--yes] | --abandon]]",
		Short: "Let another issuing CA take over, under the root; or with --server, change what devices verify the broker by",
		Long: `Let another issuing CA take over, under the root. The one before it stays trusted.

With --server, prepare another CA for the certificates of the listeners: from then
on every get is answered with both as trust anchors. Once every device has
acknowledged them, --server --finish uses it. Until then it is refused; --force N
names how many devices may be cut off. --server --abandon forgets it instead.

To ask a daemon over TCP, name it before the verb: certvendor --server HOST:PORT
--operator-cert FILE --operator-key FILE ca rotate.`,
		Args: cobra.NoArgs,
		RunE: c.ask(func(ctx context.Context, daemon *control.Client, _ []string) error {
			switch {
			case (finish || abandon) && !server:
				return errors.New("ca rotate: --finish and --abandon go with --server")
			case finish && abandon:
				return errors.New("ca rotate: give either --finish or --abandon")
			case abandon:
				return c.abandonServer(ctx, daemon)
			case finish:
				return c.finishServer(ctx, daemon, cutOff, agreed)
			case server:
				return c.prepareServer(ctx, daemon)
			}
			return c.takeOver(ctx, daemon, func() (control.CA, error) { return daemon.RotateCA(ctx) })
		}),
	}
	cmd.Flags().BoolVar(&server, "server", false, "the CA of the listeners' certificates, not the one that issues for devices")
	cmd.Flags().BoolVar(&finish, "finish", false, "use the server CA that is prepared")
	cmd.Flags().BoolVar(&abandon, "abandon", false, "forget the server CA that is prepared")
	cmd.Flags().IntVar(&cutOff, "force", 0, "so many devices that have not acknowledged it may be cut off")
	agreed.flag(cmd)
	return cmd
}

func (c *cli) prepareServer(ctx context.Context, daemon *control.Client) error {
	made, err := daemon.PrepareServerCA(ctx)
	if err != nil {
		return fmt.Errorf("ca rotate: %w", err)
	}
	return c.print(made, func(w io.Writer) {
		fmt.Fprintf(w, "server CA %s is prepared; the listeners show what they did\n", short(made.ID))
		fmt.Fprintf(w, "make a backup now: a key that is new is in none\n")
		fmt.Fprintf(w, "certvendor campaign apply NAME --all    tells every device of it\n")
		fmt.Fprintf(w, "certvendor ca show --missing            lists those that have not acknowledged it\n")
		fmt.Fprintf(w, "certvendor ca rotate --server --finish  uses it, when there is none\n")
	})
}

func (c *cli) finishServer(ctx context.Context, daemon *control.Client, cutOff int, agreed consent) error {
	if cutOff > 0 {
		question := fmt.Sprintf("Use the new server CA, and cut off up to %s verify the broker by it.",
			counted(cutOff, "device that does not", "devices that do not"))
		if err := c.confirm("ca rotate", agreed, question); err != nil {
			return err
		}
	}
	used, err := daemon.UseServerCA(ctx, cutOff)
	if err != nil {
		return fmt.Errorf("ca rotate: %w", err)
	}
	return c.say(used, "server CA %s is used from now on: `certvendor ca show --pem` prints it", short(used.ID))
}

func (c *cli) abandonServer(ctx context.Context, daemon *control.Client) error {
	ca, err := daemon.AbandonServerCA(ctx)
	if err != nil {
		return fmt.Errorf("ca rotate: %w", err)
	}
	return c.print(ca, func(w io.Writer) {
		fmt.Fprintf(w, "server CA %s is abandoned; devices that trust it are told with their next get\n", short(ca.ID))
		if ca.Key != "" {
			fmt.Fprintf(w, "destroy %s: no listener ever uses it\n", ca.Key)
		}
	})
}

func (c *cli) caCSR() *cobra.Command {
	var fresh bool
	cmd := &cobra.Command{
		Use: "csr [--new] > FILE", Short: "Print a certificate request of the issuing CA, for another CA to stand above it", Args: cobra.NoArgs,
		RunE: c.ask(func(ctx context.Context, daemon *control.Client, _ []string) error {
			text, err := daemon.RequestCA(ctx, fresh)
			if err != nil {
				return err
			}
			return c.print(map[string]string{"csr": text}, func(w io.Writer) { fmt.Fprint(w, text) })
		}),
	}
	cmd.Flags().BoolVar(&fresh, "new", false, "for an issuing CA with a new key and a new name")
	return cmd
}

func (c *cli) caImport() *cobra.Command {
	return &cobra.Command{
		Use: "import CHAIN.pem", Short: "Let the CA take over whose request was signed: its certificate first, then each one's issuer, the root last", Args: cobra.ExactArgs(1),
		RunE: c.ask(func(ctx context.Context, daemon *control.Client, args []string) error {
			text, err := readBounded(args[0], maxPEM)
			if err != nil {
				return fmt.Errorf("ca import: %w", err)
			}
			return c.takeOver(ctx, daemon, func() (control.CA, error) {
				made, err := daemon.ImportCA(ctx, string(text))
				if err != nil {
					err = fmt.Errorf("ca import: %s: %w", args[0], err)
				}
				return made, err
			})
		}),
	}
}

// tookOver is what `ca rotate` and `ca import` print.
type tookOver struct {
	control.CA
	Before string `json:"before,omitempty"` // the CA that issued until now
}

// takeOver has another CA take over, and says what comes after it.
func (c *cli) takeOver(ctx context.Context, daemon *control.Client, change func() (control.CA, error)) error {
	all, _, err := daemon.CAs(ctx)
	if err != nil {
		return err
	}
	made, err := change()
	if err != nil {
		return err
	}
	done := tookOver{CA: made}
	for _, ca := range all {
		if ca.Role == "issuing" && ca.ID != made.ID {
			done.Before = string(ca.ID)
		}
	}
	return c.print(done, func(w io.Writer) {
		if done.Before == "" {
			fmt.Fprintf(w, "CA %s issues already, until %s\n", short(made.ID), when(made.NotAfter))
			return
		}
		before := done.Before[:12]
		fmt.Fprintf(w, "CA %s issues from now on, until %s; %s stays trusted\n", short(made.ID), when(made.NotAfter), before)
		fmt.Fprintf(w, "make a backup now: a key that is new is in none\n")
		fmt.Fprintf(w, "certvendor campaign apply NAME --issued-by %s   replaces what the one before it issued\n", before)
		fmt.Fprintf(w, "certvendor ca retire %s   distrusts it, when nothing of it is in use\n", before)
	})
}

func (c *cli) caRetire() *cobra.Command {
	var asked control.CARetireRequest
	var agreed consent
	cmd := &cobra.Command{
		Use:   "retire ID [--force N] [--yes]",
		Short: "Distrust a CA for good, once nothing of it is in use",
		Long: `Distrust a former issuing CA for good: the broker refuses its certificates, and
closes connections with them. While a certificate of it is ACTIVE, held by a
device and not expired, or a package with one waits, it is refused; --force N
names how many of these may stop working.`,
		Args: cobra.ExactArgs(1),
		RunE: c.ask(func(ctx context.Context, daemon *control.Client, args []string) error {
			asked.ID = args[0]
			return c.retireCA(ctx, daemon, asked, agreed)
		}),
	}
	cmd.Flags().IntVar(&asked.Lose, "force", 0, "so many certificates and packages that are in use may stop working")
	agreed.flag(cmd)
	return cmd
}

func (c *cli) retireCA(ctx context.Context, daemon *control.Client, asked control.CARetireRequest, agreed consent) error {
	asked.Plan = true
	plan, err := daemon.RetireCA(ctx, asked)
	if err != nil {
		return fmt.Errorf("ca retire: %w", err)
	}
	if plan.Unchanged != "" {
		return c.say(plan, "CA %s: unchanged: %s", short(plan.ID), plan.Unchanged)
	}
	u, id := plan.Uses, short(plan.ID)
	if u.All() > asked.Lose {
		return fmt.Errorf("ca retire: CA %s: %s, so nothing was done: `certvendor certificate list --issuer %s --standing ACTIVE` lists them, "+
			"a campaign --issued-by %s replaces them; --force %d lets them stop working", id, usesText(u), id, id, u.All())
	}
	if u.All() > 0 {
		question := fmt.Sprintf("Distrust CA %s for good: %s, and stop working at once.", id, usesText(u))
		if err := c.confirm("ca retire", agreed, question); err != nil {
			return err
		}
	}
	asked.Plan = false
	done, err := daemon.RetireCA(ctx, asked)
	if err != nil {
		return fmt.Errorf("ca retire: %w", err)
	}
	return c.say(done, "CA %s is retired: no certificate of it connects any more", id)
}

func usesText(u control.CAUses) string {
	text := counted(u.Certificates, "ACTIVE certificate of it is held", "ACTIVE certificates of it are held")
	if u.Birth > 0 {
		text += fmt.Sprintf(" (%s, which no rotation replaces)", counted(u.Birth, "of them a birth certificate", "of them birth certificates"))
	}
	if u.Packages > 0 {
		text += ", " + counted(u.Packages, "package with one waits for its device", "packages with one wait for their devices")
	}
	return text
}
