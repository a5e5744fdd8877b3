package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/certvendor/certvendor/internal/config"
	"github.com/certvendor/certvendor/internal/control"
)

// cli is what all verbs share.
type cli struct {
	config string // --config
	socket string // --socket
	server remote // --server and what goes with it
	json   bool   // --json
	out    io.Writer
	errs   io.Writer
}

// run carries out a command line, and returns the exit code of the program.
func run(ctx context.Context, args []string) int {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	c := &cli{out: os.Stdout, errs: os.Stderr}
	root := c.root()
	root.SetArgs(args)
	root.SetOut(c.out)
	root.SetErr(c.errs)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	if !errors.Is(err, errReported) {
		fmt.Fprintln(c.errs, "certvendor: "+oneLine(err))
	}
	if errors.As(err, &misconfigured{}) {
		return exitConfig
	}
	return 1
}

// exitConfig is EX_CONFIG of sysexits.h: the daemon's configuration is wrong, which a
// person has to mend. The systemd unit starts it again after any other failure.
const exitConfig = 78

// misconfigured is why the daemon cannot go by its configuration.
type misconfigured struct{ error }

func (m misconfigured) Unwrap() error { return m.error }

// errReported ends the program with 1 after everything was said already.
var errReported = errors.New("reported")

// oneLine joins what several errors say.
func oneLine(err error) string {
	return strings.ReplaceAll(strings.TrimSpace(err.Error()), "\n", "; ")
}

func (c *cli) root() *cobra.Command {
	root := group("certvendor", "Rotates the certificates of IoT devices, and leaves none without one that works",
		c.serve(), c.demo(), c.simulate(), c.device(), c.rotation(), c.campaign(), c.certificate(), c.explain(), c.survey(),
		c.inventory(), c.packages(), c.job(), c.ca(), c.setup(), c.policy(), c.doctor(),
		c.freeze(), c.thaw(), c.audit(), c.backup(), c.restore(), c.profile(), c.configuration(), c.version(),
	)
	root.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	root.SilenceUsage, root.SilenceErrors = true, true
	root.TraverseChildren = true        // before its verb, --server is the daemon's address, also where a verb has a --server of its own
	root.Version = thisBuild().String() // of --version, beside the verb
	root.SetVersionTemplate("{{.Version}}\n")
	saysWhatToGive(root)
	root.PersistentFlags().StringVar(&c.config, "config", "config.yaml", "the configuration, which names the daemon's socket")
	root.PersistentFlags().StringVar(&c.socket, "socket", "", "the daemon's socket, instead of the one in --config")
	c.server.flags(root.PersistentFlags())
	root.PersistentFlags().BoolVar(&c.json, "json", false, "print JSON")
	return root
}

// load reads the configuration.
func (c *cli) load() (config.Config, error) { return config.Load(c.config, os.Environ()) }

// dial returns the way to the daemon.
func (c *cli) dial() (*control.Client, error) {
	switch {
	case c.server.address != "" && c.socket != "":
		return nil, errors.New("--server and --socket: name one of them")
	case c.server.address != "":
		return c.server.dial()
	case c.socket != "":
		return control.Dial(c.socket), nil
	}
	cfg, err := c.load()
	if err != nil {
		return nil, fmt.Errorf("find the daemon's socket: %w", err)
	}
	return control.Dial(cfg.Control.Socket), nil
}

// ask makes a verb that talks to the daemon.
func (c *cli) ask(do func(ctx context.Context, daemon *control.Client, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		daemon, err := c.dial()
		if err != nil {
			return err
		}
		defer daemon.Close()
		return do(cmd.Context(), daemon, args)
	}
}
