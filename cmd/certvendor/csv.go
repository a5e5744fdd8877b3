package main

import (
	"encoding/csv"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/certvendor/certvendor/internal/control"
)

// columns are what a list that can be had as CSV is made of.
type columns[T any] struct {
	names string           // of the columns, in capitals
	row   func(T) []string // an entry for people
	whole func(T) []string // an entry for programs: nothing shortened, empty where there is nothing
}

// listOrCSV prints a list as list does, or as CSV while it goes. JSON is
// printed as the daemon wrote it.
func listOrCSV[T any](c *cli, asCSV bool, all control.List[T], columns columns[T]) error {
	if c.json && !asCSV {
		return arrayJSON(c.out, all.Texts())
	}
	return tableOrCSV(c, asCSV, all.All(), columns)
}

// tableOrCSV is listOrCSV for what is not at hand as the daemon wrote it.
func tableOrCSV[T any](c *cli, asCSV bool, all iter.Seq2[T, error], columns columns[T]) error {
	switch {
	case c.json && asCSV:
		return errors.New("give either --csv or --json")
	case !asCSV:
		return list(c, all, columns.names, columns.row)
	}
	w := csv.NewWriter(c.out)
	if err := w.Write(strings.Fields(strings.ToLower(columns.names))); err != nil {
		return err
	}
	for entry, err := range all {
		if err != nil {
			w.Flush()
			return err
		}
		if err := w.Write(columns.whole(entry)); err != nil {
			return err
		}
	}
	w.Flush()
	return w.Error()
}

// stamp writes a time for programs.
func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// mark writes a yes for programs.
func mark(b bool) string { return strconv.FormatBool(b) }

// selected are the flags of lists that can be cut down to a part of the fleet.
type selected struct {
	within     string
	attributes []string
	csv        bool
}

func (s *selected) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&s.within, "expiring-within", "", "only those whose certificate expires within this time, as 30d or 12h, or has expired")
	cmd.Flags().StringArrayVar(&s.attributes, "attribute", nil, "only devices with this attribute, name=value; repeatable")
	cmd.Flags().BoolVar(&s.csv, "csv", false, "print CSV")
}

// read returns what the flags say; no time if none was given.
func (s *selected) read() (*time.Duration, map[string]string, error) {
	attributes, err := parseAttributes(s.attributes)
	if err != nil || s.within == "" {
		return nil, attributes, err
	}
	within, err := parseSpan(s.within)
	if err != nil {
		return nil, nil, fmt.Errorf("--expiring-within: %w", err)
	}
	return &within, attributes, nil
}

// maxSpan is longer than any certificate lasts that has an end.
const maxSpan = 100 * 365 * 24 * time.Hour

// parseSpan reads a time as Go writes it, or as a number of days.
func parseSpan(text string) (time.Duration, error) {
	span, err := time.ParseDuration(text)
	if days, ok := strings.CutSuffix(text, "d"); ok {
		var n int
		if n, err = strconv.Atoi(days); err == nil && n <= int(maxSpan/(24*time.Hour)) {
			span = time.Duration(n) * 24 * time.Hour
		} else {
			span = -1
		}
	}
	if err != nil || span < 0 || span > maxSpan {
		return 0, fmt.Errorf("%.40q is not a time such as 30d or 12h", text)
	}
	return span, nil
}
