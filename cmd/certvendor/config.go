package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"github.com/certvendor/certvendor/internal/config"
)

func (c *cli) configuration() *cobra.Command {
	return group("config", "The configuration", c.importCDF(), &cobra.Command{
		Use: "check", Short: "Say what is wrong with --config", Args: cobra.NoArgs,
		Long: `Say what is wrong with --config.

It stops at the first thing that is not in the right form, with its line. Then it
lists every value that cannot work, and then every file, secret and group that the
configuration names and serve would not find, for whoever calls it. It opens no
port and does not look into the data directory.`,
		RunE: func(*cobra.Command, []string) error {
			cfg, err := c.load()
			if err != nil {
				return c.wrong(err)
			}
			there := checkSurroundings(cfg)
			for _, err := range there.untold {
				fmt.Fprintf(c.errs, "certvendor: %s: not looked at: %v\n", c.config, err)
			}
			if len(there.problems) > 0 {
				return c.wrong(config.Located(c.config, errors.Join(there.problems...)))
			}
			return c.say(map[string]any{"config": c.config, "ok": true}, "%s: ok", c.config)
		},
	})
}

func (c *cli) importCDF() *cobra.Command {
	return &cobra.Command{
		Use: "import-cdf FILE.env", Short: "Print a configuration of the CDF Certificate Vendor as one of certvendor", Args: cobra.ExactArgs(1),
		Long: `Print a configuration of the CDF Certificate Vendor as one of certvendor.

FILE.env holds its environment, KEY=VALUE a line, as its installer writes it. What
is printed says what differs from certvendor's defaults; what was not taken over is
said on the standard error. Look at the comments in it before you use it.`,
		RunE: func(_ *cobra.Command, args []string) error {
			text, err := os.ReadFile(args[0])
			if err != nil {
				return fmt.Errorf("config import-cdf: %w", err)
			}
			made, err := config.ImportCDF(string(text))
			if err != nil {
				return fmt.Errorf("config import-cdf: %s: %w", args[0], err)
			}
			if c.json {
				return c.say(map[string]any{"yaml": made.YAML, "notes": made.Notes}, "")
			}
			for _, note := range made.Notes {
				fmt.Fprintln(c.errs, "certvendor: "+note)
			}
			_, err = io.WriteString(c.out, made.YAML)
			return err
		},
	}
}

// wrong prints each line of an error, or all of them as JSON.
func (c *cli) wrong(err error) error {
	problems := strings.Split(strings.TrimSpace(err.Error()), "\n")
	if c.json {
		return errors.Join(c.printJSON(map[string]any{"config": c.config, "ok": false, "problems": problems}), errReported)
	}
	for _, problem := range problems {
		fmt.Fprintln(c.errs, "certvendor: "+strings.TrimSpace(problem))
	}
	return errReported
}

// build is what `version --json` prints.
type build struct {
	Version  string `json:"version"`
	Go       string `json:"go"`
	Revision string `json:"revision,omitempty"`
	Time     string `json:"time,omitempty"`
	Modified bool   `json:"modified,omitempty"`
}

// thisBuild reads what the go command has left in the program.
func thisBuild() build {
	b := build{Version: "unknown"}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	b.Version, b.Go = info.Main.Version, info.GoVersion
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Revision = s.Value
		case "vcs.time":
			b.Time = s.Value
		case "vcs.modified":
			b.Modified = s.Value == "true"
		}
	}
	return b
}

func (b build) String() string {
	text := "certvendor " + b.Version
	if b.Revision != "" {
		text += ", revision " + b.Revision
	}
	return text + ", " + b.Go
}

func (c *cli) version() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Say which version this is", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			b := thisBuild()
			return c.say(b, "%s", b)
		},
	}
}
