package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/certvendor/certvendor/internal/config"
)

// saysWhatToGive makes every command below root answer wrong arguments and
// flags with what it takes, in place of cobra's own words.
func saysWhatToGive(root *cobra.Command) {
	root.SetFlagErrorFunc(flagError)
	for _, cmd := range root.Commands() {
		saysWhatToGive(cmd)
		if cmd.HasSubCommands() || cmd.Args == nil {
			continue
		}
		takes := cmd.Args
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if takes(cmd, args) == nil {
				return nil
			}
			return fmt.Errorf("%s: %s; it is `%s`", verb(cmd), given(args), synopsis(cmd))
		}
	}
}

// given says which arguments there were.
func given(args []string) string {
	if len(args) == 0 {
		return "something is missing"
	}
	return fmt.Sprintf("%.200q does not fit", args)
}

// verb is a command's name as it stands in errors, which begin with the
// program's.
func verb(cmd *cobra.Command) string {
	if !cmd.HasParent() {
		return "no command"
	}
	return strings.TrimPrefix(cmd.CommandPath(), cmd.Root().Name()+" ")
}

// synopsis is how a command is typed.
func synopsis(cmd *cobra.Command) string {
	if !cmd.HasParent() {
		return cmd.Use
	}
	return cmd.Parent().CommandPath() + " " + cmd.Use
}

// flagError says in a sentence what is wrong with a flag.
func flagError(cmd *cobra.Command, err error) error {
	var named interface{ GetSpecifiedName() string }
	var valued interface{ GetValue() string }
	help := fmt.Sprintf("`%s --help` lists the flags", cmd.CommandPath())
	switch {
	case errors.As(err, &valued):
		_, flag, _ := strings.Cut(err.Error(), `" for "`)
		flag, _, _ = strings.Cut(flag, `"`)
		if wrong := (notSpan{}); errors.As(err, &wrong) {
			help = wrong.Error()
		}
		return fmt.Errorf("%s: %s cannot be %.80q: %s", verb(cmd), flag, valued.GetValue(), help)
	case errors.As(err, &named) && strings.HasPrefix(err.Error(), "flag needs"):
		return fmt.Errorf("%s: %s needs a value: %s", verb(cmd), dashed(named.GetSpecifiedName()), help)
	case errors.As(err, &named):
		return fmt.Errorf("%s: there is no flag %s: %s", verb(cmd), dashed(named.GetSpecifiedName()), help)
	}
	return fmt.Errorf("%s: %w: %s", verb(cmd), err, help)
}

// span is a flag's duration, which may be in days, as the configuration's are.
type span time.Duration

// notSpan says how a duration is written, of one that is not.
type notSpan struct{ error }

// Set reads what was typed.
func (s *span) Set(text string) error {
	d, err := config.ParseDuration(text)
	if err != nil {
		return notSpan{err}
	}
	*s = span(d)
	return nil
}

// String writes it for the help, which shows no default that is empty.
func (s *span) String() string {
	if *s == 0 {
		return ""
	}
	return time.Duration(*s).String()
}

// Type is what the help calls it.
func (*span) Type() string { return "duration" }

func dashed(flag string) string {
	if len(flag) == 1 {
		return "-" + flag
	}
	return "--" + flag
}

// group is a command that only has commands below it.
func group(use, short string, below ...*cobra.Command) *cobra.Command {
	g := &cobra.Command{Use: use, Short: short}
	g.AddCommand(below...)
	// Without this, cobra takes a misspelt verb for a request for help, and
	// ends with 0.
	g.RunE = func(cmd *cobra.Command, _ []string) error {
		return fmt.Errorf("%s: say which: %s", verb(cmd), strings.Join(verbs(cmd), ", "))
	}
	g.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			wrong := strings.TrimSpace(strings.TrimPrefix(cmd.CommandPath(), cmd.Root().Name()) + " " + args[0])
			return fmt.Errorf("%s: no such command; there are %s", wrong, strings.Join(verbs(cmd), ", "))
		}
		return nil
	}
	return g
}

func verbs(cmd *cobra.Command) []string {
	var names []string
	for _, below := range cmd.Commands() {
		names = append(names, below.Name())
	}
	return names
}
