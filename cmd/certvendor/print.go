package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"golang.org/x/term"

	"github.com/certvendor/certvendor/certificate"
)

// printJSON prints a value on one line.
func (c *cli) printJSON(value any) error {
	encoder := json.NewEncoder(c.out)
	encoder.SetEscapeHTML(false)
	return encoder.Encode(value)
}

// print prints a value as JSON, or else in words.
func (c *cli) print(value any, words func(io.Writer)) error {
	if c.json {
		return c.printJSON(value)
	}
	words(c.out)
	return nil
}

// say prints a value as JSON, or else a sentence.
func (c *cli) say(value any, format string, args ...any) error {
	return c.print(value, func(w io.Writer) { fmt.Fprintf(w, format+"\n", args...) })
}

// list prints what it goes through: as one JSON array while it goes, which an
// error leaves unfinished, or as a table whose columns are as wide as their
// content.
func list[T any](c *cli, all iter.Seq2[T, error], columns string, row func(T) []string) error {
	if c.json {
		return listJSON(c.out, all)
	}
	entries := []T{}
	for entry, err := range all {
		if err != nil {
			return err
		}
		entries = append(entries, entry)
	}
	if len(entries) == 0 {
		fmt.Fprintln(c.out, "none")
		return nil
	}
	table(c.out, columns, entries, row)
	return nil
}

func listJSON[T any](out io.Writer, all iter.Seq2[T, error]) error {
	return arrayJSON(out, func(yield func([]byte, error) bool) {
		var text bytes.Buffer
		encoder := json.NewEncoder(&text)
		encoder.SetEscapeHTML(false)
		for entry, err := range all {
			text.Reset()
			if err == nil {
				err = encoder.Encode(entry)
			}
			if !yield(bytes.TrimSpace(text.Bytes()), err) || err != nil {
				return
			}
		}
	})
}

// arrayJSON prints one JSON array of texts that are JSON, while they come.
func arrayJSON(out io.Writer, all iter.Seq2[[]byte, error]) error {
	w := bufio.NewWriterSize(out, 1<<16)
	before := "["
	for text, err := range all {
		if err != nil {
			return errors.Join(w.Flush(), err)
		}
		_, _ = w.WriteString(before) // what fails is said by Flush
		_, _ = w.Write(text)
		before = ","
	}
	if before == "[" {
		_, _ = w.WriteString(before)
	}
	_, _ = w.WriteString("]\n")
	return w.Flush()
}

// section prints a table with an empty line behind it, or nothing where there
// is nothing to show.
func section[T any](w io.Writer, columns string, entries []T, row func(T) []string) {
	if len(entries) == 0 {
		return
	}
	table(w, columns, entries, row)
	fmt.Fprintln(w)
}

func table[T any](w io.Writer, columns string, entries []T, row func(T) []string) {
	lines := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(lines, strings.Join(strings.Fields(columns), "\t"))
	for _, entry := range entries {
		cells := row(entry)
		for i, cell := range cells {
			cells[i] = plain(cell)
		}
		fmt.Fprintln(lines, strings.Join(cells, "\t"))
	}
	_ = lines.Flush() // whoever read has gone
}

// plain writes on one line, with escapes, what would break a table or steer a
// terminal: subjects, attributes and reasons are what others have named.
func plain(text string) string {
	isOdd := func(r rune) bool { return r == utf8.RuneError || !strconv.IsGraphic(r) }
	if !strings.ContainsFunc(text, isOdd) {
		return text
	}
	var b strings.Builder
	for _, r := range text {
		if isOdd(r) {
			b.WriteString(strings.Trim(strconv.QuoteRune(r), "'"))
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

// slice turns a slice into something list can go through.
func slice[T any](all []T) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for _, entry := range all {
			if !yield(entry, nil) {
				return
			}
		}
	}
}

// when writes a time for people, and a dash for none.
func when(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02T15:04:05Z")
}

// short writes as much of a certificate's id as tells it from others.
func short(id certificate.ID) string {
	if id == "" {
		return "-"
	}
	return string(id[:min(len(id), 12)])
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "-"
}

// pairs writes a map as k=v, sorted.
func pairs(m map[string]string) string { return dash(assignments(m, " ")) }

func assignments(m map[string]string, between string) string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(m)) {
		all = append(all, name+"="+m[name])
	}
	return strings.Join(all, between)
}

// counted writes how many there are, in the words for one or for several.
func counted[N int | int64](n N, one, several string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, several)
}

// counts writes how many there are of each, sorted.
func counts[K ~string](m map[K]int) string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(m)) {
		if m[name] > 0 {
			all = append(all, fmt.Sprintf("%s %d", name, m[name]))
		}
	}
	return dash(strings.Join(all, ", "))
}

// isTerminal reports whether a person watches what is written.
func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// progress is a line that is written over itself while work goes on, and
// nothing at all where nobody watches.
type progress struct {
	w     io.Writer
	what  string
	total int
	done  int
}

func newProgress(w io.Writer, what string, total int) *progress {
	if !isTerminal(w) {
		w = nil
	}
	return &progress{w: w, what: what, total: total}
}

const barWidth = 30

// step counts one more.
func (p *progress) step() {
	p.done++
	if p.w == nil {
		return
	}
	full := barWidth
	if p.total > 0 {
		full = barWidth * p.done / p.total
	}
	fmt.Fprintf(p.w, "\r%s [%s%s] %d of %d", p.what, strings.Repeat("#", full), strings.Repeat(".", barWidth-full), p.done, p.total)
}

// at counts so many, of a number that nobody knows.
func (p *progress) at(done int) {
	if p.w != nil {
		fmt.Fprintf(p.w, "\r%s: %d", p.what, done)
	}
}

// clear leaves an empty line.
func (p *progress) clear() {
	if p.w != nil {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}
