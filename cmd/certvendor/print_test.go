package main

import (
	"strings"
	"testing"
)

// A subject, an attribute or a reason may hold anything: what others have named
// never makes a line, a column or a command for the terminal.
func TestATableHoldsWhatOthersHaveNamed(t *testing.T) {
	var b strings.Builder
	table(&b, "NAME WHAT", [][]string{
		{"tab", "a\tb"}, {"line", "a\r\nb"}, {"terminal", "\x1b[31mred\u009b0m\xff"}, {"order", "a\u202eb"}, {"words", `日本 é "it's" a\b`},
	}, func(cells []string) []string { return cells })
	want := strings.Join([]string{
		"NAME      WHAT",
		`tab       a\tb`,
		`line      a\r\nb`,
		`terminal  \x1b[31mred\u009b0m�`,
		`order     a\u202eb`,
		`words     日本 é "it's" a\b`,
		"",
	}, "\n")
	if got := b.String(); got != want {
		t.Errorf("printed\n%q, want\n%q", got, want)
	}
}
