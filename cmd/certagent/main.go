// Command certagent keeps the certificate of one device current: it follows
// the rotation jobs of a certvendor, or of the original it is compatible with.
//
// It is package device as a program. Read config.go for what can be
// configured, run.go for what runs, status.go for what it says about itself.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/certvendor/certvendor/device"
)

const usage = `certagent keeps the certificate of one device current.

  certagent enrol   --config FILE --certificate FILE --key FILE
                    put the device's first certificate and key in place
                    (without --key where the configuration names key_file)
  certagent run     --config FILE [--json]   follow rotation jobs, and rotate when
                                             it is time, until SIGTERM
  certagent once    --config FILE [--json]   rotate now, or finish what was begun
  certagent status  --config FILE [--json]   what is in use, and what is unfinished
  certagent version

Exit status: 0 done, 1 not done, 64 wrong usage, 78 wrong configuration.
`

// The exit statuses that are not 0 or 1, as in sysexits.h: a service manager
// can tell them from a crash, and need not try again.
const (
	exitUsage  = 64
	exitConfig = 78
)

var errUsage = errors.New("wrong usage")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	p := program{out: os.Stdout, diagnostics: os.Stderr}
	err := p.run(ctx, os.Args[1:])
	p.explain(err)
	stop()
	os.Exit(exitStatus(err))
}

func exitStatus(err error) int {
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return 0
	case errors.Is(err, errUsage):
		return exitUsage
	case errors.As(err, new(*configError)):
		return exitConfig
	}
	return 1
}

// program is one call of certagent.
type program struct {
	out, diagnostics io.Writer

	config, certificate, key string
	json                     bool
}

func (p *program) run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		fmt.Fprint(p.diagnostics, usage)
		return fmt.Errorf("%w: no command", errUsage)
	}
	verb, args := args[0], args[1:]
	switch verb {
	case "help", "-h", "-help", "--help":
		fmt.Fprint(p.out, usage)
		return nil
	case "version":
		fmt.Fprintln(p.out, version())
		return nil
	case "enrol", "run", "once", "status":
	default:
		return fmt.Errorf("%w: unknown command %q", errUsage, verb)
	}
	if err := p.parse(verb, args); err != nil {
		return err
	}
	s, err := load(p.config)
	if err != nil {
		return err
	}
	switch verb {
	case "enrol":
		return p.enrol(s)
	case "run":
		return follow(ctx, s, p.log())
	case "once":
		return once(ctx, s, p.log())
	}
	return p.status(s)
}

func (p *program) parse(verb string, args []string) error {
	flags := flag.NewFlagSet("certagent "+verb, flag.ContinueOnError)
	flags.SetOutput(io.Discard) // explain says what is wrong, usage what is right
	flags.StringVar(&p.config, "config", "agent.yaml", "")
	if verb == "enrol" {
		flags.StringVar(&p.certificate, "certificate", "", "")
		flags.StringVar(&p.key, "key", "", "")
	} else {
		flags.BoolVar(&p.json, "json", false, "")
	}
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(p.out, usage)
		return err
	case err != nil:
		return fmt.Errorf("%w: %w", errUsage, err)
	case flags.NArg() > 0:
		return fmt.Errorf("%w: unexpected %q", errUsage, flags.Arg(0))
	case verb == "enrol" && p.certificate == "":
		return fmt.Errorf("%w: enrol needs --certificate", errUsage)
	}
	return nil
}

// log returns where run and once write what happens.
func (p *program) log() *slog.Logger {
	if p.json {
		return slog.New(slog.NewJSONHandler(p.diagnostics, nil))
	}
	return slog.New(slog.NewTextHandler(p.diagnostics, nil))
}

// explain says why the program ends, if it does not end well.
func (p *program) explain(err error) {
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
	case p.json:
		p.log().Error("ended", "err", err.Error())
	case errors.Is(err, device.ErrNotProvisioned):
		fmt.Fprintf(p.diagnostics, "certagent: %v: with certagent enrol\n", err)
	case errors.Is(err, device.ErrInUse):
		fmt.Fprintln(p.diagnostics, "certagent: another certagent is at work:", err)
	default:
		fmt.Fprintln(p.diagnostics, "certagent:", err)
	}
}

func (p *program) writeJSON(v any) error {
	encoder := json.NewEncoder(p.out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(v)
}

// version returns what the binary was built from.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "certagent (unknown version)"
	}
	text := "certagent " + info.Main.Version
	for _, setting := range info.Settings {
		if setting.Key == "vcs.revision" {
			text += " " + setting.Value
		}
	}
	return text + " " + info.GoVersion
}
