package store

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// A store can be shared: the statements of each of its commits are recorded in
// a Log, in one order, before the commit is made, and every copy of the store
// carries out the same statements in the same order. One copy leads: it alone is
// written to, and each of its commits takes the next number of the log, which
// nobody else can have taken. All others follow.
//
// shared_entry.go is what an entry holds, shared_lead.go how a copy leads,
// shared_follow.go how one follows, shared_snapshot.go what a new copy begins
// with.

// The kinds of errors of a store that is shared.
var (
	// ErrFollows is returned for what is asked of a copy that does not lead and
	// would write.
	ErrFollows = errors.New("this instance stands by, and writes nothing")
	// ErrTaken says that another entry has the number, or another snapshot is
	// as late.
	ErrTaken = errors.New("another instance has written to the log")
	// ErrLost says that this copy led, and does not any more, or cannot tell
	// what became of its last commit: it writes nothing until it is opened anew.
	ErrLost = errors.New("this instance has lost the store that is shared")
	// ErrDiverged says that a copy is not what the log says it is.
	ErrDiverged = errors.New("this copy of the store is not the same as the one that leads")
	// ErrBehind says that entries are gone that a copy lacks: opened anew it
	// begins with the snapshot.
	ErrBehind = errors.New("this copy of the store is too far behind its log")
	// ErrForeign says that a store is not a copy of the one that the log is of.
	ErrForeign = errors.New("the store is not a copy of the one that is shared")
)

// Entry is one commit.
type Entry struct {
	Seq      int64  // 1 is the first, and none is missing
	Epoch    int64  // of the leader; it grows with each
	Instance string // of the leader, for people
	Schema   int    // the version of the schema that the statements are for
	Audit    int64  // the last row of the audit after it, and its hash
	Hash     []byte
	// Statements is what was carried out, compressed. It holds what the rows
	// of the store hold: certificates and hashes, and never a key.
	Statements []byte
}

// Snapshot is a whole copy that the log has, which new copies begin with.
type Snapshot struct {
	Log  string // the name of the log; empty: it is not begun
	Seq  int64  // the last entry that the copy has carried out
	Size int64  // in bytes, as it is kept
}

// Log is where the commits of a store are recorded in one order. It is safe for
// concurrent use.
type Log interface {
	// Append records an entry. It returns nil once the entry is durable, and
	// ErrTaken if another one has its number. Any other error comes only with
	// the end of ctx, and says that it is not known whether it is recorded.
	Append(ctx context.Context, e Entry) error
	// After returns the next entries after a number, in order; none at the end.
	// What was dropped by Save is left out.
	After(ctx context.Context, seq int64) ([]Entry, error)
	// Latest returns the latest snapshot, and a zero one of a log that is not
	// begun.
	Latest(ctx context.Context) (Snapshot, error)
	// Load writes a snapshot to w, or returns an error.
	Load(ctx context.Context, s Snapshot, w io.Writer) error
	// Save keeps what r yields as the latest snapshot, and drops what the one
	// before it has made needless. ErrTaken: there is one as late already.
	Save(ctx context.Context, s Snapshot, r io.Reader) error
}

// The keys of meta of a store that is shared.
const (
	logKey    = "log"     // its name
	logSeqKey = "log_seq" // the last entry that was carried out
)

// Shared says where a copy is.
type Shared struct {
	Leads bool
	Seq   int64 // the last entry that it has carried out
}

// Shared returns where this copy is; a zero Shared of a store without a Log.
func (s *Store) Shared() Shared { return Shared{s.leads.Load(), s.seq.Load()} }

// lose ends all writing, and tells who runs the store.
func (s *Store) lose(err error) error {
	if !errors.Is(err, ErrLost) {
		err = fmt.Errorf("%w: %w", ErrLost, err)
	}
	s.leads.Store(false)
	if s.cfg.Lost != nil {
		s.cfg.Lost(err)
	}
	return err
}
