package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The kinds of errors of a replay.
var (
	// ErrNoAudit says that there are no files of the audit that go on from
	// where the store ends.
	ErrNoAudit = errors.New("the audit's files do not go on from the store")
	// ErrAltered says that a row of the audit's files is not what was written.
	ErrAltered = errors.New("the audit's files were altered")
)

// Replayed says how far a replay came.
type Replayed struct {
	Rows int64     // carried out
	Row  int64     // the last one of the store now
	At   time.Time // when that was written
}

// Replay brings a store that is a copy up to the end of the audit's files in
// dir: what each row after the store's own last one says is done again, at the
// time it was done, and the row is entered as it is. A line that a crash has
// torn is the end of the files, in the last of them.
//
// What it returns holds also with an error: so far the files could be followed.
// ErrNoAudit, ErrAltered, or a row that this version cannot carry out. The
// store must have been opened without an AuditDir, and not be used meanwhile.
//
// docs/decisions/0013 says what does not come back: sightings, and how far
// jobs were.
func (s *Store) Replay(ctx context.Context, dir string) (Replayed, error) {
	var end head
	var done Replayed
	err := s.view(ctx, func(q querier) error {
		last, some, err := single(q, scanEvent, `SELECT `+eventColumns+` FROM audit ORDER BY seq DESC LIMIT 1`)
		if err != nil || !some {
			return err
		}
		done.Row, done.At = last.Seq, last.At
		end, err = headOf(last)
		return err
	})
	if err != nil {
		return done, fmt.Errorf("replay the audit: %w", err)
	}
	r, err := openReplay(dir, end)
	if err != nil {
		return done, fmt.Errorf("replay the audit: %w", err)
	}
	defer r.files.close()
	for {
		events, bad := r.some(copyBatch)
		n, err := s.replaySome(ctx, events)
		if n > 0 {
			done = Replayed{done.Rows + int64(n), events[n-1].Seq, events[n-1].At}
		}
		switch {
		case err != nil:
			return done, fmt.Errorf("replay the audit: %w", err)
		case errors.Is(bad, io.EOF), errors.Is(bad, errTorn): // what a crash has torn is no row
			return done, nil
		case bad != nil:
			return done, fmt.Errorf("replay the audit: %w", bad)
		}
	}
}

// replaySome carries out events in one transaction, or where one of them cannot be,
// all before it, and returns how many that were.
func (s *Store) replaySome(ctx context.Context, events []Event) (n int, err error) {
	if err := s.replay(ctx, events); err == nil {
		return len(events), nil
	}
	for n := range events {
		if err := s.replay(ctx, events[n:n+1]); err != nil {
			return n, err
		}
	}
	return len(events), nil
}

// replay carries out events in one transaction.
func (s *Store) replay(ctx context.Context, events []Event) error {
	return s.commit(ctx, func(t *tx) error {
		now := t.now
		defer func() { t.now, t.replays = now, false }()
		t.replays = true
		for _, e := range events {
			t.now = e.At
			if err := t.again(e); err != nil {
				return fmt.Errorf("row %d (%s): %w", e.Seq, e.Kind, err)
			}
			r, err := recordOf(e, t.head)
			if err != nil {
				return err
			}
			t.head = r.end
			if err := t.enter(r); err != nil {
				return err
			}
		}
		return nil
	})
}

// replayFiles reads the rows that follow a head, and checks each.
type replayFiles struct {
	files *segmentReader
	end   head
}

// openReplay finds the row that the files go on from, which must be the same
// in them.
func openReplay(dir string, from head) (*replayFiles, error) {
	names, err := segments(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: there is no directory %s", ErrNoAudit, dir)
	}
	if err != nil {
		return nil, err
	}
	at := slices.IndexFunc(names, func(name string) bool { return firstRow(name) > max(from.seq, 1) })
	if at < 0 {
		at = len(names)
	}
	if at == 0 {
		return nil, fmt.Errorf("%w: %s holds no row %d", ErrNoAudit, dir, max(from.seq, 1))
	}
	r := &replayFiles{files: &segmentReader{names: names[at-1:]}, end: from}
	if from.seq == 0 {
		return r, nil
	}
	if err := r.find(from); err != nil {
		r.files.close()
		return nil, err
	}
	return r, nil
}

// firstRow is what a file is named by; -1 for a name that is none.
func firstRow(name string) int64 {
	text, ok := strings.CutPrefix(strings.TrimSuffix(filepath.Base(name), ".jsonl"), "audit-")
	n, err := strconv.ParseInt(text, 10, 64)
	if !ok || err != nil || n < 1 {
		return -1
	}
	return n
}

// find reads up to the row of a head.
func (r *replayFiles) find(from head) error {
	for {
		e, err := r.line()
		switch {
		case errors.Is(err, io.EOF):
			return fmt.Errorf("%w: they end before row %d", ErrNoAudit, from.seq)
		case err != nil:
			return err
		case e.Seq > from.seq:
			return fmt.Errorf("%w: row %d is missing", ErrAltered, from.seq)
		case e.Seq == from.seq && e.Hash != from.text():
			return fmt.Errorf("%w, or are another store's: row %d is not the same as in the backup", ErrAltered, from.seq)
		case e.Seq == from.seq:
			return nil
		}
	}
}

// some returns the next rows, each of which follows from the one before it,
// and why there are no more after them: io.EOF at the end.
func (r *replayFiles) some(most int) (events []Event, err error) {
	for len(events) < most {
		e, err := r.line()
		if err != nil {
			return events, err
		}
		is := e
		next := r.end.next(&is)
		if e.Seq != r.end.seq+1 || e.Hash != is.Hash {
			return events, fmt.Errorf("%w: row %d does not follow from the row before it", ErrAltered, r.end.seq+1)
		}
		events, r.end = append(events, e), next
	}
	return events, nil
}

func (r *replayFiles) line() (Event, error) {
	var e Event
	text, err := r.files.next()
	if errors.Is(err, errTorn) && len(r.files.names) > 0 {
		return e, fmt.Errorf("%w: a file ends within a line behind row %d, and others follow it", ErrAltered, r.end.seq)
	}
	if err != nil {
		return e, err
	}
	if err := json.Unmarshal([]byte(text), &e); err != nil || string(e.line()) != text {
		return e, fmt.Errorf("%w: what follows row %d is no row", ErrAltered, r.end.seq)
	}
	return e, nil
}
