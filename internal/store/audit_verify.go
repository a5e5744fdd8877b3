package store

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// Verify checks that every row follows from the one before it, and that the
// files hold the same rows, and returns how many rows hold. Its error names the
// first row that does not. Copying waits while the files are read.
func (h Audit) Verify(ctx context.Context) (rows int64, err error) {
	check := &verification{s: h.s}
	if c := h.s.copier; c != nil {
		c.copy() //nolint:errcheck // what is wrong with the files is found below, with its row
		c.mu.Lock()
		defer c.mu.Unlock()
		if check.files, err = openSegments(c.dir); err != nil {
			return 0, fmt.Errorf("verify the audit: %w", err)
		}
		defer check.files.close()
		check.copied = max(c.last.seq, 0)
		check.copying = c.err
	}
	if err := check.run(ctx); err != nil {
		return check.end.seq, fmt.Errorf("verify the audit: %w", err)
	}
	return check.end.seq, nil
}

// Copied returns how many rows are not in the files yet, and the error of the
// last attempt to copy them. Without files it returns 0.
func (h Audit) Copied(ctx context.Context) (behind int64, err error) {
	c := h.s.copier
	if c == nil {
		return 0, nil
	}
	var end head
	if err := h.s.look(ctx, func(q querier) (err error) {
		end, err = readHead(q)
		return err
	}); err != nil {
		return 0, fmt.Errorf("end of the audit: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return end.seq - c.last.seq, fmt.Errorf("copy the audit: %w", c.err)
	}
	return end.seq - c.last.seq, nil
}

// CopyFailure returns the error of the last attempt to copy rows to the files, nil
// where it went well, or where there are no files. It waits for nothing.
func (h Audit) CopyFailure() error {
	if c := h.s.copier; c != nil {
		if err := c.failure.Load(); err != nil && *err != nil {
			return fmt.Errorf("copy the audit: %w", *err)
		}
	}
	return nil
}

type verification struct {
	s       *Store
	files   *segmentReader // nil without files
	copied  int64          // the last row that must be in them
	copying error          // why they may end early
	end     head           // of what holds
}

func (v *verification) run(ctx context.Context) error {
	for {
		var events []Event
		err := v.s.view(ctx, func(q querier) (err error) {
			events, err = eventsAfter(q, v.end.seq, copyBatch)
			return err
		})
		if err != nil {
			return err
		}
		if len(events) == 0 {
			return v.atEnd()
		}
		for _, e := range events {
			if err := v.row(e); err != nil {
				return err
			}
		}
	}
}

func (v *verification) row(e Event) error {
	if e.Seq != v.end.seq+1 {
		return fmt.Errorf("row %d is missing from the store", v.end.seq+1)
	}
	is := e
	next := v.end.next(&is)
	if is.Hash != e.Hash {
		return fmt.Errorf("row %d was changed in the store, or the row before it", e.Seq)
	}
	if v.files != nil && e.Seq <= v.copied {
		line, err := v.files.next()
		switch {
		case errors.Is(err, io.EOF):
			return fmt.Errorf("row %d is missing from the files", e.Seq)
		case err != nil:
			return fmt.Errorf("row %d in the files: %w", e.Seq, err)
		case line != string(e.line()):
			return fmt.Errorf("row %d is not the same in the files", e.Seq)
		}
	}
	v.end = next
	return nil
}

func (v *verification) atEnd() error {
	if v.files == nil {
		return nil
	}
	_, err := v.files.next()
	switch {
	case err == nil:
		return fmt.Errorf("row %d is in the files, but not in the store", v.end.seq+1)
	case errors.Is(err, io.EOF), v.copying != nil: // a copy that failed may leave a line torn
		return v.copying
	}
	return fmt.Errorf("behind row %d in the files: %w", v.end.seq, err)
}

// segmentReader reads the lines of the files one after another.
type segmentReader struct {
	names []string
	file  *os.File
	lines *bufio.Reader
}

func openSegments(dir string) (*segmentReader, error) {
	names, err := segments(dir)
	return &segmentReader{names: names}, err
}

func (r *segmentReader) close() {
	if r.file != nil {
		r.file.Close() //nolint:errcheck // it was only read
	}
}

// errTorn says that a file ends in the middle of a line. The copier leaves none
// so: what a crash has torn is cut off before more is written.
var errTorn = errors.New("a line without its end")

// next returns the next line; io.EOF after the last one.
func (r *segmentReader) next() (string, error) {
	for {
		if r.file != nil {
			line, err := r.lines.ReadString('\n')
			if !errors.Is(err, io.EOF) {
				return strings.TrimSuffix(line, "\n"), err
			}
			if line != "" {
				return "", errTorn
			}
			r.close()
			r.file = nil
		}
		if len(r.names) == 0 {
			return "", io.EOF
		}
		f, err := os.Open(r.names[0])
		if err != nil {
			return "", err
		}
		r.file, r.lines, r.names = f, bufio.NewReader(f), r.names[1:]
	}
}

func headOf(e Event) (head, error) {
	h := head{seq: e.Seq}
	hash, err := hex.DecodeString(e.Hash)
	if err == nil && copy(h.hash[:], hash) != len(h.hash) {
		err = fmt.Errorf("row %d: a hash of %d bytes", e.Seq, len(hash))
	}
	return h, err
}
