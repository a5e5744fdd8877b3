package store

import (
	"os"
	"time"
)

const (
	checkpointEvery = 500 * time.Millisecond
	// checkpointAfter is how many commits are let gather in the log.
	checkpointAfter = 256
	// walLimit is the size in bytes beyond which the log is begun anew, even if
	// that holds off writers for a moment.
	walLimit = 64 << 20
)

// checkpoints moves what was committed from the log into the file, on a
// connection of its own, so that no commit waits for it. When a log that never
// comes to rest has grown too long, writers are held off while it is begun
// anew; but not for long, should a reader be in the way.
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
		commits, mode := s.commits.Load(), "PASSIVE"
		// A copy that is being made reads the log to its end: to wait for it
		// would hold off writers for nothing.
		if info, err := os.Stat(s.cfg.Path + "-wal"); err == nil && info.Size() > walLimit && s.copying.Load() == 0 {
			mode = "TRUNCATE"
		}
		if commits == done || mode == "PASSIVE" && commits-done < checkpointAfter {
			continue
		}
		// One that fails (a reader holds the log) is made up for by the next.
		if _, err := db.ExecContext(s.life, "PRAGMA wal_checkpoint("+mode+")"); err == nil {
			done = commits
		}
	}
}
