package main

import (
	"fmt"
	"strings"
)

// page is a manual page of a program.
type page struct {
	name, version, date string
	help                func(command []string) (string, error)

	text strings.Builder
}

// write asks the program for its help, and returns the page in roff.
func (p *page) write() (string, error) {
	text, err := p.help(nil)
	if err != nil {
		return "", err
	}
	top := parse(text)
	about, rest, _ := strings.Cut(top.about, "\n")
	about = strings.TrimSuffix(strings.TrimPrefix(about, p.name+" "), ".")
	p.line(".TH %s 1 %q %q", strings.ToUpper(p.name), p.date, p.name+" "+p.version)
	p.line(".SH NAME\n%s \\- %s", p.name, escape(about))
	p.line(".SH SYNOPSIS")
	p.verbatim(top.usage(p.name))
	if rest = strings.Trim(rest, "\n"); rest != "" {
		p.line(".SH DESCRIPTION")
		p.verbatim(rest)
	}
	if flags := top.sections["Flags"]; flags != "" {
		p.line(".SH OPTIONS")
		p.verbatim(flags)
	}
	if commands := top.commands(); len(commands) > 0 {
		p.line(".SH COMMANDS")
		if err := p.below(nil, commands); err != nil {
			return "", err
		}
	}
	return p.text.String(), nil
}

// below writes the sections of the commands under a command.
func (p *page) below(parent, names []string) error {
	for _, name := range names {
		command := append(parent[:len(parent):len(parent)], name)
		text, err := p.help(command)
		if err != nil {
			return fmt.Errorf("help of %s: %w", strings.Join(command, " "), err)
		}
		h := parse(text)
		if under := h.commands(); len(under) > 0 {
			if err := p.below(command, under); err != nil {
				return err
			}
			continue
		}
		p.line(".SS %s", escape(strings.Join(command, " ")))
		p.verbatim(h.usage(p.name))
		p.line(".PP")
		p.verbatim(h.about)
		if flags := h.sections["Flags"]; flags != "" {
			p.line(".PP")
			p.verbatim(flags)
		}
	}
	return nil
}

func (p *page) line(format string, args ...any) { fmt.Fprintf(&p.text, format+"\n", args...) }

// verbatim writes text as it stands.
func (p *page) verbatim(text string) { p.line(".nf\n%s\n.fi", escape(strings.TrimRight(text, "\n"))) }

// escape makes roff print text as it stands.
func escape(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(text)
	lines := strings.Split(text, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, ".") || strings.HasPrefix(l, "'") {
			lines[i] = `\&` + l
		}
	}
	return strings.Join(lines, "\n")
}
