package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/certvendor/certvendor/internal/durable"
)

const (
	// segmentSize is how long a file of the audit's copy may grow, in bytes.
	segmentSize = 64 << 20
	copyEvery   = 5 * time.Second // how soon a copy that failed is tried again
	copyBatch   = 1000            // rows to a sync
	// copyPause is how long rows are gathered after each copy, so that commits
	// that follow each other share its sync.
	copyPause = 20 * time.Millisecond
)

// copier appends the audit to files, row by row in order, behind the commits.
// A file is named by the number of its first row.
type copier struct {
	s       *Store
	dir     string
	segment int64 // size at which the next file begins
	woken   chan struct{}
	handed  handed

	mu   sync.Mutex
	file *os.File // nil until there is a row to write
	size int64    // of file, up to the last whole row
	last head     // the last row in the files
	err  error    // of the last attempt

	failure atomic.Pointer[error] // err, for who does not wait
}

func newCopier(s *Store) (*copier, error) {
	c := &copier{s: s, dir: s.cfg.AuditDir, segment: segmentSize, woken: make(chan struct{}, 1)}
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return nil, fmt.Errorf("audit directory: %w", err)
	}
	if err := c.resume(); err != nil {
		return nil, fmt.Errorf("audit directory: %w", err)
	}
	return c, nil
}

// hand gives the copier the rows of a commit, and has it look.
func (c *copier) hand(rows []record) {
	c.handed.add(rows)
	select {
	case c.woken <- struct{}{}:
	default:
	}
}

func (c *copier) loop() {
	tick := time.NewTicker(copyEvery)
	defer tick.Stop()
	for {
		c.copy() //nolint:errcheck // kept, and told by Copied, CopyFailure and Verify
		select {
		case <-c.woken:
		case <-tick.C:
		case <-c.s.life.Done():
			return
		}
		pause := time.NewTimer(copyPause)
		select {
		case <-pause.C:
		case <-c.s.life.Done():
			return
		}
	}
}

// close copies what is left.
func (c *copier) close() error {
	err := c.copy()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.file != nil {
		err = errors.Join(err, c.file.Close())
	}
	if err != nil {
		return fmt.Errorf("copy the audit: %w", err)
	}
	return nil
}

// copy brings the files up to the last commit.
func (c *copier) copy() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		more, err := c.copySome()
		c.failure.Store(&err)
		if c.err = err; err != nil || !more {
			return err
		}
	}
}

func (c *copier) copySome() (more bool, err error) {
	rows := c.handed.after(c.last)
	if rows == nil {
		if rows, err = c.stored(); err != nil {
			return false, err
		}
		more = len(rows) == copyBatch
	}
	for len(rows) > 0 {
		if rows, err = c.write(rows); err != nil {
			return false, err
		}
	}
	return more, nil
}

// stored reads the rows that follow from the store: at a start, and where
// there were more of them than are kept in memory.
func (c *copier) stored() ([]record, error) {
	var events []Event
	r := <-c.s.idle
	defer func() { c.s.idle <- r }()
	err := r.snapshot(context.WithoutCancel(c.s.life), func(q querier) (err error) {
		if err := c.last.check(q); err != nil {
			return err
		}
		events, err = eventsAfter(q, c.last.seq, copyBatch)
		return err
	})
	if err != nil {
		return nil, err
	}
	rows, end := make([]record, len(events)), c.last
	for i, e := range events {
		if rows[i], err = recordOf(e, end); err != nil {
			return nil, err
		}
		end = rows[i].end
	}
	return rows, nil
}

// check makes sure that the last row in the files is that of the store.
func (h head) check(q querier) error {
	if h.seq == 0 {
		return nil
	}
	e, there, err := single(q, scanEvent, `SELECT `+eventColumns+` FROM audit WHERE seq = ?`, h.seq)
	if err == nil && (!there || e.Hash != h.text()) {
		err = fmt.Errorf("audit row %d is in the files, but not so in the store", h.seq)
	}
	return err
}

func eventsAfter(q querier, seq int64, most int) ([]Event, error) {
	return collect(q, scanEvent, `SELECT `+eventColumns+` FROM audit WHERE seq > ? ORDER BY seq`+atMost, seq, most)
}

// write appends rows to the current file, syncs it, and returns those that
// belong in the next one. What a failure leaves half-written is cut off.
func (c *copier) write(rows []record) (rest []record, err error) {
	if c.file == nil || c.size >= c.segment {
		if err := c.begin(rows[0].Seq); err != nil {
			return nil, err
		}
	}
	fit, size := 0, c.size
	for ; fit < len(rows) && size < c.segment; fit++ {
		size += int64(len(rows[fit].line))
	}
	text := make([]byte, 0, size-c.size)
	for i := range rows[:fit] {
		text = append(text, rows[i].line...)
	}
	if _, err := c.file.WriteAt(text, c.size); err != nil {
		return nil, errors.Join(err, c.file.Truncate(c.size))
	}
	if err := c.file.Sync(); err != nil {
		return nil, err
	}
	c.size, c.last = size, rows[fit-1].end
	return rows[fit:], nil
}

// begin starts the file whose first row is seq.
func (c *copier) begin(seq int64) error {
	if c.file != nil {
		if err := c.file.Close(); err != nil {
			return err
		}
		c.file = nil
	}
	f, err := os.OpenFile(filepath.Join(c.dir, segmentName(seq)), os.O_CREATE|os.O_RDWR|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	c.file, c.size = f, 0
	return durable.Sync(c.dir)
}

func segmentName(seq int64) string { return fmt.Sprintf("audit-%020d.jsonl", seq) }

// segments returns the files in the order of their rows. What is named in another way
// is none of them.
func segments(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var all []string
	for _, e := range entries {
		if first := firstRow(e.Name()); first > 0 && e.Name() == segmentName(first) {
			all = append(all, filepath.Join(dir, e.Name()))
		}
	}
	slices.Sort(all)
	return all, nil
}

// resume finds the last whole row of the files. A line torn by a crash is cut
// off, and completed when its row is copied again.
func (c *copier) resume() error {
	files, err := segments(c.dir)
	if err != nil {
		return err
	}
	for len(files) > 0 {
		name := files[len(files)-1]
		files = files[:len(files)-1]
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		line, end, err := lastLine(f)
		if err != nil {
			return errors.Join(err, f.Close())
		}
		if line == nil {
			// Nothing of it was written: the row before is in the file before.
			if err := errors.Join(f.Close(), os.Remove(name)); err != nil {
				return err
			}
			continue
		}
		c.file, c.size = f, end
		return c.resumeAt(line)
	}
	return nil
}

func (c *copier) resumeAt(line []byte) error {
	var e Event
	if err := json.Unmarshal(line, &e); err != nil {
		return errors.Join(fmt.Errorf("last row of %s: %w", c.file.Name(), err), c.file.Close())
	}
	last, err := headOf(e)
	if err == nil {
		err = errors.Join(c.file.Truncate(c.size), c.file.Sync())
	}
	if err != nil {
		return errors.Join(fmt.Errorf("last row of %s: %w", c.file.Name(), err), c.file.Close())
	}
	c.last = last
	return nil
}

// lastLine returns the last line that ends in a line feed, and where it ends;
// nil if there is none.
func lastLine(f *os.File) (line []byte, end int64, err error) {
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, 0, err
	}
	last, err := lastFeed(f, size)
	if err != nil || last < 0 {
		return nil, 0, err
	}
	before, err := lastFeed(f, last)
	if err != nil {
		return nil, 0, err
	}
	line = make([]byte, last-before-1)
	if _, err := f.ReadAt(line, before+1); err != nil {
		return nil, 0, err
	}
	return line, last + 1, nil
}

// lastFeed returns the place of the last line feed before end; -1 if there is
// none. It reads no byte twice: what a crash or a stranger left may be long.
func lastFeed(f *os.File, end int64) (int64, error) {
	block := make([]byte, 64<<10)
	for end > 0 {
		n := min(end, int64(len(block)))
		end -= n
		if _, err := f.ReadAt(block[:n], end); err != nil {
			return 0, err
		}
		if i := bytes.LastIndexByte(block[:n], '\n'); i >= 0 {
			return end + int64(i), nil
		}
	}
	return -1, nil
}
