package store

import (
	"context"
	"strings"

	"github.com/certvendor/certvendor/certificate"
)

// Migrate, Migrations: the parts of Open that change a file.
var (
	Migrate    = migrate
	Migrations = migrations
)

// DraftsKept is a bound that tests go beyond.
const DraftsKept = draftsKept

// HandedKept is another.
const HandedKept = handedKept

// OnCommit has fn called before and after every commit. An error kills the
// store: that commit is not made, or not answered, and nothing is written any
// more.
func (s *Store) OnCommit(ctx context.Context, fn func(after bool) error) error {
	return s.commit(ctx, func(*tx) error { // on the goroutine that calls it
		s.hook = func(point hookPoint) error {
			if point == afterRecord {
				return nil
			}
			return fn(point == afterCommit)
		}
		return nil
	})
}

// OnPoint is OnCommit with each point by its name.
func (s *Store) OnPoint(fn func(point string) error) {
	_ = s.commitAlways(context.Background(), func(*tx) error {
		s.hook = func(point hookPoint) error { return fn(string(point)) }
		return nil
	})
}

// Commits returns how many transactions were committed.
func (s *Store) Commits() int64 { return s.commits.Load() }

// Drafts returns how many rotations are in memory only.
func (s *Store) Drafts() int {
	s.drafts.mu.Lock()
	defer s.drafts.mu.Unlock()
	if len(s.drafts.all) != s.drafts.order.Len() {
		return -1
	}
	return len(s.drafts.all)
}

// Sightings returns for how many devices the latest sighting is remembered and
// how many sightings are not written.
func (s *Store) Sightings() (latest, unwritten int) {
	s.sightings.mu.Lock()
	defer s.sightings.mu.Unlock()
	return len(s.sightings.latest), s.sightings.waiting
}

// Remember sets how many latest sightings are remembered, and how many may wait.
func (s *Store) Remember(latest, unwritten int) {
	s.sightings.mu.Lock()
	defer s.sightings.mu.Unlock()
	s.sightings.past, s.sightings.room = latest, unwritten
}

// SegmentSize sets how long the files of the audit's copy may grow.
func (s *Store) SegmentSize(n int64) {
	s.copier.mu.Lock()
	defer s.copier.mu.Unlock()
	s.copier.segment = n
}

// Copying takes up the files in dir, as opening the store does, and calls fn
// while nothing but Verify copies to them. The store was opened without files.
func (s *Store) Copying(dir string, fn func()) error {
	s.cfg.AuditDir = dir
	c, err := newCopier(s)
	if err != nil {
		return err
	}
	s.copier = c
	fn()
	s.copier = nil
	if c.file != nil {
		return c.file.Close()
	}
	return nil
}

// Write runs statements in the writer's transaction, as no operation would.
func (s *Store) Write(ctx context.Context, texts ...string) error {
	return s.commit(ctx, func(t *tx) error {
		for _, text := range texts {
			if err := t.change(text); err != nil {
				return err
			}
		}
		return nil
	})
}

// Carry has the writer run fn; its error comes after wrote statements.
func (s *Store) Carry(ctx context.Context, text string, fn func() error) error {
	return s.commit(ctx, func(t *tx) error {
		if text != "" {
			if err := t.change(text); err != nil {
				return err
			}
		}
		return fn()
	})
}

// Query returns the one value of a query.
func Query[T any](ctx context.Context, s *Store, text string, args ...any) (v T, err error) {
	err = s.view(ctx, func(q querier) (err error) {
		v, err = value[T](q.row(text, args...))
		return err
	})
	return v, err
}

// Queued returns how many operations wait for the writer.
func (s *Store) Queued() int { return len(s.queue) }

// Pragma returns a setting of the connection that writes.
func Pragma(ctx context.Context, s *Store, name string) (string, error) {
	return commitFor(ctx, s, func(t *tx) (string, error) {
		return value[string](t.row("PRAGMA " + name))
	})
}

// Plan returns how SQLite reads a page of certificates, a line a table.
func Plan(ctx context.Context, s *Store, query certificate.Query) (plan []string, err error) {
	err = s.view(ctx, func(q querier) error {
		text, args, err := statement(q, query)
		if err != nil {
			return err
		}
		plan, err = collect(q, func(row scanner) (line string, err error) {
			var id, parent, unused int
			return line, row.Scan(&id, &parent, &unused, &line)
		}, `EXPLAIN QUERY PLAN `+text, append(args, 1)...)
		return err
	})
	return plan, err
}

// UnknownToReplay reports whether a replay stops at rows of a kind.
func UnknownToReplay(kind string) bool {
	defer func() { _ = recover() }() // it is known, and needs a transaction
	err := (&tx{}).again(Event{Kind: kind})
	return err != nil && strings.HasPrefix(err.Error(), "this version of certvendor does not know")
}

// Line returns an event as the audit's files have it.
func Line(e Event) []byte { return e.line() }

// Object returns a map as the store keeps it.
func Object(m map[string]string) string { return object(m) }

// NoteMany writes so many events in one commit.
func (s *Store) NoteMany(ctx context.Context, n int) error {
	return s.commit(ctx, func(t *tx) error {
		for range n {
			if err := t.audit(Event{Kind: "test"}); err != nil {
				return err
			}
		}
		return nil
	})
}

// LeadQuietly makes a store with a Log lead without a word in its audit, which
// is then as that of a store without.
func LeadQuietly(ctx context.Context, s *Store) error {
	latest, err := s.cfg.Log.Latest(ctx)
	if err != nil {
		return err
	}
	if latest.Log == "" {
		if err := s.beginLog(ctx); err != nil {
			return err
		}
	}
	_, err = s.Follow(ctx)
	s.leads.Store(err == nil)
	return err
}

// Rest waits until nobody writes: who asked for a commit is told of it a moment before.
func (s *Store) Rest() {
	s.turn.Lock()
	defer s.turn.Unlock()
}

// ReadThatFails has the writer run a read that fails, and that ends the transaction,
// as SQLite does where the disk fails.
func (s *Store) ReadThatFails(ctx context.Context) error {
	return s.commit(ctx, func(t *tx) error {
		if _, err := t.session.exec("ROLLBACK"); err != nil {
			return err
		}
		_, err := value[int64](t.row(`SELECT abs(-9223372036854775807 - 1)`))
		return err
	})
}
