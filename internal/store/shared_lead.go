package store

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Lead makes this copy the one that is written to: it carries out what the log
// still has, and enters that it leads, after which no earlier leader can enter
// anything. A log that is not begun begins with this store. epoch is greater than
// that of every leader before. A store of an older version is brought to this
// one's schema in the same commit, after a copy of the file was made beside it.
func (s *Store) Lead(ctx context.Context, epoch int64) error {
	if err := s.lead(ctx, epoch); err != nil {
		return fmt.Errorf("lead the store %s: %w", s.cfg.Path, err)
	}
	return nil
}

func (s *Store) lead(ctx context.Context, epoch int64) error {
	latest, err := s.cfg.Log.Latest(ctx)
	if err != nil {
		return err
	}
	if latest.Log == "" {
		if err := s.beginLog(ctx); err != nil {
			return fmt.Errorf("begin the log: %w", err)
		}
	}
	for {
		if _, err := s.Follow(ctx); err != nil {
			return err
		}
		if err := s.copyBeforeMigration(ctx); err != nil {
			return err
		}
		s.sinceSnapshot.Store(max(s.sinceSnapshot.Load(), (s.seq.Load()-latest.Seq)*entryLeast))
		s.snapshotSize.Store(latest.Size)
		// Whoever led until now may have written in between.
		if err := s.takeOver(ctx, epoch); !errors.Is(err, ErrTaken) {
			return err
		}
	}
}

// entryLeast is what an entry is taken for in bytes whose size was not seen.
const entryLeast = 512

func (s *Store) takeOver(ctx context.Context, epoch int64) error {
	return s.commitAlways(ctx, func(t *tx) error {
		if err := t.migrate(ctx, len(migrations())); err != nil {
			return err
		}
		if epoch < t.epoch {
			return fmt.Errorf("%w: another one leads since, as number %d", ErrLost, t.epoch)
		}
		t.takesOver, t.epoch = true, epoch
		t.committed(func() { s.leads.Store(true) })
		return t.audit(Event{Kind: StoreTakenOver, Detail: map[string]string{"epoch": strconv.FormatInt(epoch, 10)}})
	})
}

// beginLog names the log, in this copy and then in the log, whose first
// snapshot this copy is.
func (s *Store) beginLog(ctx context.Context) error {
	random := make([]byte, 8)
	_, _ = rand.Read(random) // never fails, by its contract
	name := s.cfg.LogName + "/" + hex.EncodeToString(random)
	err := s.commitAlways(ctx, func(t *tx) error {
		t.unrecorded, t.seq = true, 0
		t.committed(func() { s.named.Store(true) })
		return errors.Join(setMeta(t, logKey, name), setMeta(t, logSeqKey, "0"))
	})
	if err != nil {
		return err
	}
	return s.snapshot(ctx)
}

// share records what a transaction has carried out. It is the last thing that
// is done before the commit.
func (w *writer) share(t *tx) error {
	if w.s.cfg.Log == nil || t.unrecorded {
		return nil
	}
	if !t.follows {
		t.seq++
	}
	if _, err := t.session.exec(`UPDATE meta SET value = ? WHERE key = ?`, strconv.FormatInt(t.seq, 10), logSeqKey); err != nil {
		return err
	}
	if t.follows {
		return nil
	}
	statements, err := t.recording.statements()
	if err != nil {
		return err
	}
	err = w.s.cfg.Log.Append(w.s.patience, Entry{
		Seq: t.seq, Epoch: t.epoch, Instance: t.instance, Schema: t.schema,
		Audit: t.head.seq, Hash: t.head.hash[:], Statements: statements,
	})
	if err != nil && !(t.takesOver && errors.Is(err, ErrTaken)) {
		w.broken = w.s.lose(err)
		return w.broken
	}
	if err == nil {
		w.s.sinceSnapshot.Add(int64(len(statements)))
		err = w.call(afterRecord)
	}
	return err
}

// recordTime is how long the end of the store waits until it is known whether
// its last commit is recorded.
const recordTime = 5 * time.Second

// readPlace reads where this copy is.
func (w *writer) readPlace() error {
	version, err := meta(w, "schema_version")
	if err == nil {
		w.schema, err = strconv.Atoi(version)
	}
	if err != nil {
		return fmt.Errorf("read the version of the schema: %w", err)
	}
	text, err := meta(w, logSeqKey)
	w.s.named.Store(text != "")
	if err == nil && text != "" {
		w.seq, err = strconv.ParseInt(text, 10, 64)
	}
	if err != nil {
		return fmt.Errorf("read which entry of the log was the last: %w", err)
	}
	w.s.seq.Store(w.seq)
	return nil
}

// commitFailed is said where a commit that may be recorded was not made here.
func (w *writer) commitFailed(err error) error {
	err = fmt.Errorf("commit: %w", err)
	if w.s.cfg.Log != nil {
		w.broken = w.s.lose(err)
		return w.broken
	}
	return err
}

// migrate brings this copy to a version of the schema. It is not recorded: the
// entry says for which version its statements are.
func (t *tx) migrate(ctx context.Context, version int) error {
	steps := migrations()
	if version > len(steps) {
		return fmt.Errorf("%w: it has schema version %d, this one knows versions up to %d: upgrade this instance too", ErrNewer, version, len(steps))
	}
	for ; t.schema < version; t.schema++ {
		t.wrote = true
		t.touches(steps[t.schema])
		if _, err := t.conn.ExecContext(context.WithoutCancel(ctx), steps[t.schema]); err != nil {
			return fmt.Errorf("migrate to schema version %d: %w", t.schema+1, err)
		}
		if _, err := t.session.exec(`UPDATE meta SET value = ? WHERE key = 'schema_version'`, strconv.Itoa(t.schema+1)); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) copyBeforeMigration(ctx context.Context) error {
	var text string
	err := s.look(ctx, func(q querier) (err error) {
		text, err = meta(q, "schema_version")
		return err
	})
	if err != nil || text == strconv.Itoa(len(migrations())) {
		return err
	}
	_, err = s.Copy(ctx, fmt.Sprintf("%s.v%s.bak", s.cfg.Path, text))
	return err
}

// sameName reports whether two logs have one name but for what is random.
func sameName(log, name string) bool {
	before, _, _ := strings.Cut(log, "/")
	return before == name
}
