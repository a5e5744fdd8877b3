package main

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/control"
	"github.com/certvendor/certvendor/registry"
)

// atOnce is how many lines of an import are at work at a time.
const atOnce = 64

func (c *cli) deviceImport() *cobra.Command {
	return &cobra.Command{
		Use:   "import FILE.csv",
		Short: "Take in a fleet, one device a line",
		Long: `Take in a fleet, one device a line:

  name[,certificate[,attributes]]

The certificate is a PEM file, relative to FILE.csv, or PEM itself, in quotes;
empty enters the device without one. Attributes are k=v;k=v. A first line that
begins with "name" is taken for a heading. A device that is there already keeps
what it has: attributes are merged over its own (k= takes one away), a certificate
comes beside those it holds, and a line that changes nothing says "unchanged", so
that an import can be repeated. A line that fails does not stop the others, and
makes the exit code 1.`,
		Args: cobra.ExactArgs(1),
		RunE: c.ask(func(ctx context.Context, daemon *control.Client, args []string) error {
			lines, err := readCSV(args[0])
			if err != nil {
				return fmt.Errorf("device import: %w", err)
			}
			return c.importLines(ctx, daemon, filepath.Dir(args[0]), lines)
		}),
	}
}

// csvLine is a line of the file.
type csvLine struct {
	number int
	fields []string
}

// imported is how it went with a line; it is what --json prints.
type imported struct {
	Line          int            `json:"line"`
	Device        string         `json:"device"`
	CertificateID certificate.ID `json:"certificateId,omitempty"`
	Unchanged     bool           `json:"unchanged,omitempty"`
	Warning       string         `json:"warning,omitempty"`
	Error         string         `json:"error,omitempty"`
}

func readCSV(path string) ([]csvLine, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	reader := csv.NewReader(file)
	reader.FieldsPerRecord = -1
	reader.TrimLeadingSpace = true
	reader.Comment = '#'
	var lines []csvLine
	for {
		fields, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return lines, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		number, _ := reader.FieldPos(0)
		if len(lines) == 0 && strings.EqualFold(strings.TrimPrefix(fields[0], "\ufeff"), "name") {
			continue
		}
		lines = append(lines, csvLine{number, fields})
	}
}

func (c *cli) importLines(ctx context.Context, daemon *control.Client, dir string, lines []csvLine) error {
	bar := newProgress(c.errs, "import", len(lines))
	results := make([]imported, 0, len(lines))
	failed := 0
	for start := 0; start < len(lines) && ctx.Err() == nil; start += atOnce {
		for _, result := range importSome(ctx, daemon, dir, lines[start:min(start+atOnce, len(lines))]) {
			results = append(results, result)
			if result.Error != "" {
				failed++
			}
			c.reportLine(bar, result)
			bar.step()
		}
	}
	bar.clear()
	if err := c.say(results, "%s", importSummary(results)); err != nil {
		return err
	}
	if failed > 0 || ctx.Err() != nil {
		return errReported
	}
	return nil
}

// importSummary counts devices: several lines may be about one.
func importSummary(results []imported) string {
	in, changed := map[string]bool{}, map[string]bool{}
	failed := 0
	for _, r := range results {
		switch {
		case r.Error != "":
			failed++
			continue
		case !r.Unchanged:
			changed[r.Device] = true
		}
		in[r.Device] = true
	}
	text := fmt.Sprintf("%s: %d taken in or changed, %d unchanged", counted(len(in), "device", "devices"), len(changed), len(in)-len(changed))
	if failed > 0 {
		text += fmt.Sprintf("; %d of %d lines failed", failed, len(results))
	}
	return text
}

// reportLine says at once how it went with a line: to a person who watches,
// only what went wrong.
func (c *cli) reportLine(bar *progress, r imported) {
	switch {
	case r.Error != "":
		bar.clear()
		fmt.Fprintf(c.errs, "line %d: %s\n", r.Line, r.Error)
	case r.Warning != "":
		bar.clear()
		fmt.Fprintf(c.errs, "line %d: device %s: warning: %s\n", r.Line, r.Device, r.Warning)
	case r.Unchanged && !c.json && !isTerminal(c.out):
		fmt.Fprintf(c.out, "line %d: device %s: unchanged\n", r.Line, r.Device)
	case !c.json && !isTerminal(c.out):
		took := "no certificate in the line"
		if r.CertificateID != "" {
			took = short(r.CertificateID)
		}
		fmt.Fprintf(c.out, "line %d: device %s: %s\n", r.Line, r.Device, took)
	}
}

func importSome(ctx context.Context, daemon *control.Client, dir string, lines []csvLine) []imported {
	results := make([]imported, len(lines))
	var working errgroup.Group
	for i, line := range lines {
		working.Go(func() error {
			results[i] = importOne(ctx, daemon, dir, line)
			return nil
		})
	}
	_ = working.Wait() // each line has a result of its own
	return results
}

func importOne(ctx context.Context, daemon *control.Client, dir string, line csvLine) imported {
	result := imported{Line: line.number, Device: strings.TrimSpace(strings.TrimPrefix(line.fields[0], "\ufeff"))}
	if _, err := registry.ParseDeviceID(result.Device); err != nil {
		result.Error = oneLine(err)
		return result
	}
	request, file, err := line.request(dir, result.Device)
	if err == nil {
		var adopted control.Adopted
		adopted, err = daemon.AdoptDevice(ctx, request)
		err = fromFile(file, err)
		result.CertificateID, result.Unchanged, result.Warning = adopted.CertificateID, adopted.Unchanged, adopted.Warning
	}
	if err != nil {
		result.Error = oneLine(err)
	}
	return result
}

// request returns what the line asks for, and the file its certificate is from.
func (l csvLine) request(dir, name string) (request control.AdoptRequest, file string, err error) {
	request.Name = name
	if len(l.fields) > 3 {
		return request, "", fmt.Errorf("device %s: %d columns, more than 3", name, len(l.fields))
	}
	if len(l.fields) > 1 && strings.TrimSpace(l.fields[1]) != "" {
		request.Certificate = l.fields[1]
		if !strings.Contains(request.Certificate, "-----BEGIN") {
			file = strings.TrimSpace(request.Certificate)
			if !filepath.IsAbs(file) {
				file = filepath.Join(dir, file)
			}
			text, err := readBounded(file, maxCertificate)
			if err != nil {
				return request, file, fmt.Errorf("device %s: %w", name, err)
			}
			request.Certificate = string(text)
		}
	}
	if len(l.fields) > 2 {
		request.Attributes, err = parseAttributes(strings.FieldsFunc(l.fields[2], func(r rune) bool { return r == ';' }))
		if err != nil {
			return request, file, fmt.Errorf("device %s: %w", name, err)
		}
	}
	return request, file, nil
}
