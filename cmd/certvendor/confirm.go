package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// consent is a person's word that something may be done.
type consent struct{ yes bool }

func (a *consent) flag(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&a.yes, "yes", false, "do it without asking")
}

// errDeclined is returned where a person was asked and did not say yes.
var errDeclined = errors.New("not confirmed, so nothing was done")

// confirm asks whether to go on with what the question says, unless --yes was
// given. Where no person sits at the standard input, it refuses.
func (c *cli) confirm(verb string, a consent, question string) error {
	if a.yes {
		return nil
	}
	if !term.IsTerminal(int(os.Stdin.Fd())) {
		return fmt.Errorf("%s: %s There is no terminal to ask on: --yes does it", verb, question)
	}
	fmt.Fprintf(c.errs, "%s Go on? [y/N] ", question)
	answer, err := bufio.NewReader(os.Stdin).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("%s: read the answer: %w", verb, err)
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	}
	return fmt.Errorf("%s: %w", verb, errDeclined)
}

// maxNamed is how many devices a question names.
const maxNamed = 10

// devicesText is how many devices there are, and which.
func devicesText(names []string) string {
	text := fmt.Sprintf("%s (%s", counted(len(names), "device", "devices"), strings.Join(names[:min(len(names), maxNamed)], ", "))
	if more := len(names) - maxNamed; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text + ")"
}
