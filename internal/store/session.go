package store

import (
	"context"
	"database/sql"
	"errors"
)

// readers is how many connections read at the same time.
const readers = 8

// atMost ends a query of so many rows. SQLite looks at a bare parameter of LIMIT
// to choose its plan, and plans anew for every value, at about the price of the
// query itself; it does not look into an expression.
const atMost = ` LIMIT ?+0`

// session is one connection with the statements prepared on it, used by one
// goroutine at a time.
type session struct {
	ctx  context.Context // of the transaction that is open
	conn *sql.Conn
	made map[string]*sql.Stmt
}

// querier reads within one snapshot: a read transaction or the writer's own.
type querier interface {
	query(text string, args ...any) (*sql.Rows, error)
	row(text string, args ...any) scanner
}

// scanner is one row.
type scanner interface{ Scan(into ...any) error }

func newSession(ctx context.Context, db *sql.DB) (*session, error) {
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	return &session{ctx: ctx, conn: conn, made: map[string]*sql.Stmt{}}, nil
}

// close gives the connection back, without its statements: one that is left
// open would keep the file open.
func (s *session) close() error {
	var all []error
	for _, stmt := range s.made {
		all = append(all, stmt.Close())
	}
	return errors.Join(append(all, s.conn.Close())...)
}

// prepared returns the statement for a text. The texts are the program's own,
// and those put together from the fields of a query have few forms, so they
// are kept for ever.
func (s *session) prepared(text string) (*sql.Stmt, error) {
	if stmt, ok := s.made[text]; ok {
		return stmt, nil
	}
	stmt, err := s.conn.PrepareContext(s.ctx, text)
	if err == nil {
		s.made[text] = stmt
	}
	return stmt, err
}

func (s *session) query(text string, args ...any) (*sql.Rows, error) {
	stmt, err := s.prepared(text)
	if err != nil {
		return nil, err
	}
	return stmt.QueryContext(s.ctx, args...)
}

func (s *session) row(text string, args ...any) scanner {
	stmt, err := s.prepared(text)
	if err != nil {
		return noRow{err}
	}
	return stmt.QueryRowContext(s.ctx, args...)
}

func (s *session) exec(text string, args ...any) (int64, error) {
	stmt, err := s.prepared(text)
	if err != nil {
		return 0, err
	}
	result, err := stmt.ExecContext(s.ctx, args...)
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

// noRow is the row of a statement that could not be prepared.
type noRow struct{ err error }

func (r noRow) Scan(...any) error { return r.err }

// collect reads all rows of a query with scan.
func collect[T any](q querier, scan func(scanner) (T, error), text string, args ...any) ([]T, error) {
	rows, err := q.query(text, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []T
	for rows.Next() {
		one, err := scan(rows)
		if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, rows.Err()
}

// walk calls see with every row of a query.
func walk(q querier, see func(scanner) error, text string, args ...any) error {
	rows, err := q.query(text, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := see(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// single reads the one row of a query with scan; false if there is none.
func single[T any](q querier, scan func(scanner) (T, error), text string, args ...any) (T, bool, error) {
	one, err := scan(q.row(text, args...))
	if errors.Is(err, sql.ErrNoRows) {
		return one, false, nil
	}
	return one, err == nil, err
}

// value reads a row of one column.
func value[T any](row scanner) (T, error) {
	var v T
	err := row.Scan(&v)
	return v, err
}

// openReaders opens the sessions that read.
func (s *Store) openReaders(ctx context.Context) error {
	for range readers {
		r, err := newSession(ctx, s.read)
		if err != nil {
			return err
		}
		s.idle <- r
		s.opened++
	}
	return nil
}

// look runs a read of one short statement, which sees the last commit. Once it
// has begun it is not broken off: it takes less than what breaking off costs.
func (s *Store) look(ctx context.Context, read func(querier) error) error {
	r, err := s.borrow(ctx)
	if err != nil {
		return err
	}
	defer func() { s.idle <- r }()
	r.ctx = context.WithoutCancel(ctx)
	return read(r)
}

// view runs a read of several statements, or of many rows, within one snapshot,
// that of the last commit.
func (s *Store) view(ctx context.Context, read func(querier) error) error {
	r, err := s.borrow(ctx)
	if err != nil {
		return err
	}
	defer func() { s.idle <- r }()
	return r.snapshot(ctx, read)
}

// open returns an error where nothing may be read any more.
func (s *Store) open(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case <-s.closing:
		return ErrClosed
	default:
		return nil
	}
}

// borrow waits for a session that nobody uses.
func (s *Store) borrow(ctx context.Context) (*session, error) {
	if err := s.open(ctx); err != nil {
		return nil, err
	}
	select {
	case r := <-s.idle:
		return r, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (s *session) snapshot(ctx context.Context, read func(querier) error) error {
	s.ctx = context.WithoutCancel(ctx)
	if _, err := s.exec("BEGIN"); err != nil {
		return err
	}
	s.ctx = ctx
	err := read(s)
	s.ctx = context.WithoutCancel(ctx)
	_, ended := s.exec("COMMIT")
	return errors.Join(err, ended)
}

// closeReaders waits for the sessions in use and gives up all of them.
func (s *Store) closeReaders() error {
	var all []error
	for range s.opened {
		r := <-s.idle
		all = append(all, r.close())
	}
	return errors.Join(append(all, s.read.Close())...)
}
