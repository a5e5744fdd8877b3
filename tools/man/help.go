package main

import (
	"slices"
	"strings"
)

// help is what a command says of itself: what it is about, and then sections
// such as Usage and Flags. Help in another form is all about.
type help struct {
	about    string
	sections map[string]string
}

// The sections of cobra's help.
var headings = []string{"Usage", "Aliases", "Examples", "Available Commands", "Flags", "Global Flags"}

func parse(text string) help {
	h := help{sections: map[string]string{}}
	var about []string
	section := ""
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		if name, ok := strings.CutSuffix(line, ":"); ok && slices.Contains(headings, name) {
			section = name
			continue
		}
		switch {
		case section == "":
			about = append(about, line)
		case line == "":
		case !strings.HasPrefix(line, " "): // what help says at its end
			section = "end"
		case section == "Flags" && strings.HasPrefix(line, "  -h, --help "): // every command has it
		case section != "end":
			h.sections[section] += line + "\n"
		}
	}
	h.about = strings.Trim(strings.Join(about, "\n"), "\n")
	return h
}

// usage returns how the command is typed.
func (h help) usage(program string) string {
	text := strings.Trim(h.sections["Usage"], "\n")
	if text == "" {
		return program + " COMMAND [flags]"
	}
	lines := strings.Split(text, "\n")
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	return strings.Join(lines, "\n")
}

// commands lists the commands below this one, but for those that cobra adds.
func (h help) commands() []string {
	var names []string
	for line := range strings.Lines(h.sections["Available Commands"]) {
		name, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		if name != "help" && name != "completion" {
			names = append(names, name)
		}
	}
	return names
}
