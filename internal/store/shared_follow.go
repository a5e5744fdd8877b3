package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
)

// Follow carries out what the log has and this copy has not, and returns how many
// entries that were. It is called by one goroutine at a time, and not any more
// once this copy leads.
func (s *Store) Follow(ctx context.Context) (n int, err error) {
	if !s.named.Load() {
		latest, err := s.cfg.Log.Latest(ctx)
		if err == nil && latest.Log != "" {
			err = fmt.Errorf("%w: it is from before %s was begun", ErrBehind, latest.Log)
		}
		return 0, err
	}
	if err := s.checkPlace(ctx); err != nil {
		return 0, err
	}
	for {
		entries, err := s.cfg.Log.After(ctx, s.seq.Load())
		if err != nil || len(entries) == 0 {
			return n, err
		}
		err = s.commitAlways(ctx, func(t *tx) error {
			t.follows = true
			for _, e := range entries {
				if err := t.carryOut(ctx, e); err != nil {
					return fmt.Errorf("entry %d of the log: %w", e.Seq, err)
				}
			}
			return nil
		})
		if err != nil {
			return n, err
		}
		for _, e := range entries {
			s.sinceSnapshot.Add(int64(len(e.Statements)))
		}
		n += len(entries)
	}
}

// checkPlace makes sure, once, that the log has the last entry that this copy has
// carried out, and that it has led to the same audit: a table that was brought
// back from a backup may have lost it.
func (s *Store) checkPlace(ctx context.Context) error {
	if s.checked.Load() {
		return nil
	}
	latest, err := s.cfg.Log.Latest(ctx)
	if err != nil {
		return err
	}
	if at := s.seq.Load(); at > latest.Seq {
		entries, err := s.cfg.Log.After(ctx, at-1)
		if err != nil {
			return err
		}
		var end head
		if err := s.look(ctx, func(q querier) (err error) { end, err = readHead(q); return err }); err != nil {
			return err
		}
		if len(entries) == 0 || entries[0].Seq != at || entries[0].Audit != end.seq || !bytes.Equal(entries[0].Hash, end.hash[:]) {
			return fmt.Errorf("%w: %s does not have its entry %d, or another one", ErrForeign, latest.Log, at)
		}
	}
	s.checked.Store(true)
	return nil
}

// carryOut does what an entry says, and checks that it has led to the same.
func (t *tx) carryOut(ctx context.Context, e Entry) error {
	if e.Seq != t.seq+1 {
		return fmt.Errorf("%w: it has the entries up to %d", ErrBehind, t.seq)
	}
	if e.Schema < t.schema {
		return fmt.Errorf("%w: it has schema version %d, the entry is for %d", ErrDiverged, t.schema, e.Schema)
	}
	if err := t.migrate(ctx, e.Schema); err != nil {
		return err
	}
	statements, err := openStatements(e.Statements)
	if err != nil {
		return err
	}
	t.wrote = true
	for {
		next, err := statements.next()
		if errors.Is(err, io.EOF) && !errors.Is(err, errGarbled) {
			break
		}
		if err != nil {
			return err
		}
		t.touches(next.text)
		rows, err := t.session.exec(next.text, next.args...)
		if err != nil {
			return fmt.Errorf("%.60q: %w", next.text, err)
		}
		if rows != next.rows {
			return fmt.Errorf("%w: %.60q changed %d rows here, and %d there", ErrDiverged, next.text, rows, next.rows)
		}
	}
	if t.head, err = readHead(t); err != nil {
		return err
	}
	if t.head.seq != e.Audit || !bytes.Equal(t.head.hash[:], e.Hash) {
		return fmt.Errorf("%w: the audit ends with row %d here, and with row %d there, or with another hash", ErrDiverged, t.head.seq, e.Audit)
	}
	t.seq, t.epoch = e.Seq, e.Epoch
	return nil
}

// joinLog makes the file a copy of the store that is shared: it stays as it is
// where it is one, and is made from the latest snapshot where there is none.
// Where the log is not begun, it is made, or brought to this version, as that of
// a store that is not shared.
func joinLog(ctx context.Context, cfg Config) error {
	latest, err := cfg.Log.Latest(ctx)
	if err != nil {
		return err
	}
	at, err := readShared(ctx, cfg.Path)
	if err != nil {
		return err
	}
	if latest.Log == "" {
		if at.log != "" && !sameName(at.log, cfg.LogName) {
			return fmt.Errorf("%w: it is a copy of %s, and %s is not begun", ErrForeign, at.log, cfg.LogName)
		}
		return errors.Join(create(cfg.Path), migrate(ctx, cfg.Path, migrations()))
	}
	switch {
	case at.empty:
		return fetch(ctx, cfg, latest)
	case at.log != latest.Log:
		return fmt.Errorf("%w: move it away, and this instance makes a copy of %s for itself", ErrForeign, latest.Log)
	case at.schema > len(migrations()):
		return fmt.Errorf("%w: it has schema version %d, this one knows versions up to %d", ErrNewer, at.schema, len(migrations()))
	case at.seq >= latest.Seq:
		return nil
	}
	next, err := cfg.Log.After(ctx, at.seq)
	if err != nil || len(next) > 0 && next[0].Seq == at.seq+1 {
		return err
	}
	return fetch(ctx, cfg, latest)
}

// sharedAt is what a file is a copy of.
type sharedAt struct {
	empty  bool // there is nothing in it that could be lost
	log    string
	seq    int64
	schema int
}

func readShared(ctx context.Context, path string) (at sharedAt, err error) {
	if info, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) || err == nil && info.Size() == 0 {
		return sharedAt{empty: true}, nil
	}
	db := connect(path, 1)
	defer func() { err = errors.Join(err, db.Close()) }()
	if at.schema, err = schemaVersion(ctx, db); err != nil || at.schema == 0 {
		return sharedAt{empty: err == nil}, err
	}
	session, err := newSession(ctx, db)
	if err != nil {
		return at, err
	}
	defer func() { err = errors.Join(err, session.close()) }()
	if at.log, err = meta(session, logKey); err != nil {
		return at, err
	}
	if at.log != "" {
		text, err := meta(session, logSeqKey)
		if err != nil {
			return at, err
		}
		at.seq, err = strconv.ParseInt(text, 10, 64)
		return at, err
	}
	end, err := readHead(session)
	at.empty = end.seq == 0
	return at, err
}

// leaveLog makes a copy a store of its own, which can never be a copy again.
func leaveLog(ctx context.Context, path string) error {
	db := connect(path, 1)
	_, err := db.ExecContext(ctx, `DELETE FROM meta WHERE key IN (?, ?)`, logKey, logSeqKey)
	return errors.Join(err, db.Close())
}
