package main

import (
	"strings"
	"testing"
)

// What a program of two levels says, in cobra's form.
var helps = map[string]string{
	"": `Does things

Usage:
  prog [command]

Available Commands:
  completion  Generate the autocompletion script
  group       Things
  help        Help about any command

Flags:
      --json   print JSON

Use "prog [command] --help" for more information about a command.
`,
	"group": "Things\n\nUsage:\n  prog group [command]\n\nAvailable Commands:\n  add  Add one\n\nFlags:\n  -h, --help   help\n",
	"group add": `Add one.

.hidden is a file, C:\ a path

Usage:
  prog group add NAME [flags]

Flags:
      --file string   a file
  -h, --help          help for add

Global Flags:
      --json   print JSON
`,
}

func TestPageHasEveryCommandAndFlag(t *testing.T) {
	asked := map[string]bool{}
	p := page{name: "prog", version: "1.2.3", date: "2026-01-31", help: func(command []string) (string, error) {
		asked[strings.Join(command, " ")] = true
		return helps[strings.Join(command, " ")], nil
	}}
	text, err := p.write()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		".TH PROG 1 \"2026-01-31\" \"prog 1.2.3\"\n.SH NAME\nprog \\- Does things\n",
		".SS group add\n.nf\nprog group add NAME [flags]\n.fi",
		"\n\\&.hidden is a file, C:\\e a path\n", "      \\-\\-file string   a file",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the page lacks %q:\n%s", want, text)
		}
	}
	if strings.Contains(text, `\-h`) {
		t.Error("the flag that every command has is on the page")
	}
	if asked["completion"] || asked["help"] {
		t.Error("cobra's own commands are on the page")
	}
	if n := strings.Count(text, `\-\-json`); n != 1 {
		t.Errorf("the flag of all commands is on the page %d times", n)
	}
}

func TestHelpInAnotherFormIsKeptWhole(t *testing.T) {
	p := page{name: "prog", help: func([]string) (string, error) { return "prog does things.\n\n  prog run   runs\n", nil }}
	text, err := p.write()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(text, "prog \\- does things\n") || !strings.Contains(text, "  prog run   runs\n") {
		t.Errorf("the page lost what help says:\n%s", text)
	}
}
