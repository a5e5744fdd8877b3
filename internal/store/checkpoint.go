package store

import (
	"context"
	"database/sql"
	"os"
	"time"
)

const (
	checkpointEvery = 500 * time.Millisecond
	// checkpointAfter is how many commits are let gather in the log.
	checkpointAfter = 256
	// logLength is the length in octets beyond which the log is begun anew, even if
	// that holds off writers for a moment.
	logLength = 32 << 20
	// logKept is how long the log's file stays when it is begun anew. A commit
	// that overwrites what is there is synced in half the time of one that makes
	// the file longer. It has room for what is written until the next look.
	logKept = 2 * logLength
	// framePage is how many octets of the log a page takes, with its header.
	framePage = 4096 + 24
)

// checkpoints moves what was committed from the log into the file, on a
// connection of its own, so that no commit waits for it. Of a log that never
// comes to rest and has grown long, writers are held off while the rest, which
// came meanwhile, is moved, so that the next commit begins it anew; but not for
// long, should a reader be in the way.
func (s *Store) checkpoints() {
	db := connect(s.cfg.Path, 1, "busy_timeout(200)")
	defer db.Close() //nolint:errcheck // nothing is left in it
	tick := time.NewTicker(checkpointEvery)
	defer tick.Stop()
	for done := int64(0); ; {
		select {
		case <-tick.C:
		case <-s.life.Done():
			return
		}
		commits := s.commits.Load()
		if commits == done || commits-done < checkpointAfter && !s.logIsLong() {
			continue
		}
		// One that fails (a reader holds the log) is made up for by the next.
		length, err := checkpoint(s.life, db, "PASSIVE")
		// A copy that is being made reads the log to its end: to wait for it
		// would hold off writers for nothing.
		if err == nil && length > logLength && s.copying.Load() == 0 {
			_, err = checkpoint(s.life, db, "RESTART")
		}
		if err == nil {
			done = commits
		}
	}
}

// logIsLong reports whether the file of the log is longer than is kept of it.
func (s *Store) logIsLong() bool {
	info, err := os.Stat(s.cfg.Path + "-wal")
	return err == nil && info.Size() > logKept
}

// checkpoint returns how many octets there are in the log.
func checkpoint(ctx context.Context, db *sql.DB, mode string) (length int64, err error) {
	var busy, pages, moved int64
	err = db.QueryRowContext(ctx, "PRAGMA wal_checkpoint("+mode+")").Scan(&busy, &pages, &moved)
	return pages * framePage, err
}
