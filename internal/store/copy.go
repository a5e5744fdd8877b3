package store

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// Copied says what a copy of the store holds.
type Copied struct {
	Schema  int
	Row     int64     // the last one of the audit
	Hash    string    // of that row, hex; empty without rows
	Audited time.Time // when that row was written
	CA      string    // the issuing CA's certificate
	Log     string    // of a store that is shared: its name, and the last
	Entry   int64     // entry that the copy has
}

// Copy writes a copy of the store, as of one commit, to a file that is complete
// and synced once it has its name. It can be called while the store is used:
// commits go on meanwhile, and the log grows until the copy is made.
func (s *Store) Copy(ctx context.Context, path string) (Copied, error) {
	select {
	case <-s.closing:
		return Copied{}, ErrClosed
	default:
	}
	s.copying.Add(1)
	defer s.copying.Add(-1)
	copied, err := copyAndRead(ctx, s.cfg.Path, path)
	if err != nil {
		return Copied{}, fmt.Errorf("copy the store: %w", err)
	}
	return copied, nil
}

func copyAndRead(ctx context.Context, from, to string) (Copied, error) {
	db := connect(from, 1)
	if err := errors.Join(copyTo(ctx, db, to), db.Close()); err != nil {
		return Copied{}, err
	}
	return readCopied(ctx, to)
}

// readCopied reads a store that nobody has open.
func readCopied(ctx context.Context, path string) (c Copied, err error) {
	db := connect(path, 1)
	defer func() { err = errors.Join(err, db.Close()) }()
	if c.Schema, err = schemaVersion(ctx, db); err != nil {
		return c, err
	}
	session, err := newSession(ctx, db)
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, session.close()) }()
	if c.CA, err = meta(session, CACertificate); err != nil {
		return c, err
	}
	if c.Log, err = meta(session, logKey); err != nil {
		return c, err
	}
	if c.Log != "" {
		text, err := meta(session, logSeqKey)
		if err != nil {
			return c, err
		}
		if c.Entry, err = strconv.ParseInt(text, 10, 64); err != nil {
			return c, fmt.Errorf("read which entry of the log was the last: %w", err)
		}
	}
	last, some, err := single(session, scanEvent, `SELECT `+eventColumns+` FROM audit ORDER BY seq DESC LIMIT 1`)
	if some {
		c.Row, c.Hash, c.Audited = last.Seq, last.Hash, last.At
	}
	return c, err
}
