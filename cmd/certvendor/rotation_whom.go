package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/certvendor/certvendor/internal/control"
)

// whom says which devices a verb is about.
type whom struct {
	all  bool
	file string
}

// named are the devices, with the lines of the file they stand in, if that is
// where they are from.
type named struct {
	names []string
	lines []int
}

// devices returns the names, from the one source that was given.
func (w whom) devices(ctx context.Context, daemon *control.Client, verb string, args []string) (named, error) {
	given := 0
	for _, is := range []bool{len(args) > 0, w.all, w.file != ""} {
		if is {
			given++
		}
	}
	switch {
	case given != 1:
		return named{}, fmt.Errorf("rotation %s: name devices, or give --all or --file, and only one of them", verb)
	case w.file != "":
		return readNames(w.file)
	case w.all && verb == "remove":
		var names []string
		for m, err := range daemon.Members(ctx) {
			if err != nil {
				return named{}, err
			}
			names = append(names, m.Device)
		}
		return named{names: names}, nil
	case w.all:
		var names []string
		for d, err := range daemon.Devices(ctx, nil) {
			if err != nil {
				return named{}, err
			}
			names = append(names, d.Name)
		}
		return named{names: names}, nil
	}
	return named{names: unique(args)}, nil
}

// maxNames bounds a file of names, in octets: some million of the longest.
const maxNames = 128 << 20

// readNames reads a file with a name a line, each once.
func readNames(path string) (named, error) {
	text, err := readStdin(path, maxNames)
	if err != nil {
		return named{}, fmt.Errorf("read names: %w", err)
	}
	var found named
	number, seen := 0, map[string]bool{}
	for line := range strings.Lines(string(text)) {
		number++
		name := strings.TrimSpace(line)
		if name != "" && !strings.HasPrefix(name, "#") && !seen[name] {
			seen[name] = true
			found.names, found.lines = append(found.names, name), append(found.lines, number)
		}
	}
	return found, nil
}

// maxReported is how many devices that failed are named, one a line.
const maxReported = 10

// report says of many devices, in their order, what went wrong.
type report struct {
	w       io.Writer
	bar     *progress
	devices named
	seen    int // devices
	said    int // lines that were, or would have been, written
}

func newReport(w io.Writer, what string, devices named) *report {
	return &report{w: w, bar: newProgress(w, what, len(devices.names)), devices: devices}
}

func (r *report) add(o control.Outcome) {
	r.bar.step()
	r.seen++
	text := o.Error
	if text == "" && o.Warning != "" {
		text = "warning: " + o.Warning
	}
	if text == "" {
		return
	}
	r.said++
	if r.said > maxReported {
		return
	}
	if r.seen <= len(r.devices.lines) {
		text = fmt.Sprintf("line %d: %s", r.devices.lines[r.seen-1], text)
	}
	r.bar.clear()
	fmt.Fprintln(r.w, "certvendor: "+text)
}

// end counts what was not said.
func (r *report) end() {
	r.bar.clear()
	if more := r.said - maxReported; more > 0 {
		fmt.Fprintf(r.w, "certvendor: and %d more; --json names them all\n", more)
	}
}
