package main

import (
	"fmt"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
)

func (c *cli) configuration() *cobra.Command {
	return group("config", "The configuration", &cobra.Command{
		Use: "check", Short: "Say everything that is wrong with --config", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if _, err := c.load(); err != nil {
				for line := range strings.Lines(err.Error()) {
					fmt.Fprintln(c.errs, "certvendor: "+strings.TrimSpace(line))
				}
				return errReported
			}
			return c.say(map[string]any{"config": c.config, "ok": true}, "%s: ok", c.config)
		},
	})
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
