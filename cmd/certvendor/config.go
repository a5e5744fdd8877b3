package main

import (
	"errors"
	"fmt"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"github.com/certvendor/certvendor/internal/config"
)

func (c *cli) configuration() *cobra.Command {
	return group("config", "The configuration", &cobra.Command{
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
			problems, untold := checkSurroundings(cfg)
			for _, err := range untold {
				fmt.Fprintf(c.errs, "certvendor: %s: not looked at: %v\n", c.config, err)
			}
			if len(problems) > 0 {
				return c.wrong(config.Located(c.config, errors.Join(problems...)))
			}
			return c.say(map[string]any{"config": c.config, "ok": true}, "%s: ok", c.config)
		},
	})
}

// wrong prints each line of an error.
func (c *cli) wrong(err error) error {
	for line := range strings.Lines(err.Error()) {
		fmt.Fprintln(c.errs, "certvendor: "+strings.TrimSpace(line))
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

func (c *cli) version() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Say which version this is", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			b := thisBuild()
			text := "certvendor " + b.Version
			if b.Revision != "" {
				text += ", revision " + b.Revision
			}
			return c.say(b, "%s, %s", text, b.Go)
		},
	}
}
