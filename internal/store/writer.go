package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"modernc.org/sqlite"

	"github.com/certvendor/certvendor/rotation"
)

const (
	queueLength = 1024
	// flushEvery is how long a repeated sighting may stay unwritten.
	flushEvery = 2 * time.Second
)

// hookPoint is where the hook is called.
type hookPoint string

const (
	beforeCommit hookPoint = "before commit"
	afterRecord  hookPoint = "after record" // in the Log, where there is one
	afterCommit  hookPoint = "after commit"
)

// operation is what one caller asks the writer for.
type operation struct {
	// run checks, then writes. It may be run again in another transaction
	// when the batch it was in is rolled back, so it keeps nothing outside.
	run func(*tx) error
	// finish is told the outcome, on the writer's goroutine, before the
	// caller is. Nil: nothing.
	finish func(error)
	done   chan error
	always bool // also of a copy that does not lead
}

// tx is the transaction that is open, as an operation sees it.
type tx struct {
	*session
	now      time.Time
	instance string
	tells    func(kind string) bool // which notices are wanted
	wrote    bool
	chains   map[string]int64 // those known to be committed, by what they hold
	head     head             // of the audit, as this transaction leaves it
	records  []record         // of the audit, in order
	entered  int              // how many of them are written
	replays  bool             // what is done has its event already: none is made for it
	after    []func()         // called once it is committed
	touch    map[string]touch // of the texts known so far
	touched  touchedRows
	counted  map[rotation.State]int // how many more rotations are in a state; see count

	// Of a store that is shared: what was carried out, and where this
	// transaction leaves the copy.
	recording  *recording
	seq, epoch int64
	schema     int
	follows    bool // what is carried out is in the log
	takesOver  bool
	unrecorded bool
}

func (t *tx) exec(text string, args ...any) (int64, error) {
	t.touches(text)
	return t.carry(text, args)
}

// carry carries a statement out, and records it where the store is shared.
func (t *tx) carry(text string, args []any) (int64, error) {
	t.wrote = true
	n, err := t.session.exec(text, args...)
	if err == nil && t.recording != nil {
		err = t.recording.add(text, args, n)
	}
	return n, err
}

// change is exec for a statement whose count of rows does not matter.
func (t *tx) change(text string, args ...any) error {
	_, err := t.exec(text, args...)
	return err
}

// committed has fn called after the commit, on the writer's goroutine.
func (t *tx) committed(fn func()) { t.after = append(t.after, fn) }

// commit has the writer carry out run and returns when it is durable.
func (s *Store) commit(ctx context.Context, run func(*tx) error) error {
	return s.commitThen(ctx, run, nil)
}

// commitFor is commit for an operation that returns something. It is not read
// if the caller did not wait for the outcome.
func commitFor[T any](ctx context.Context, s *Store, run func(*tx) (T, error)) (T, error) {
	var made T
	err := s.commit(ctx, func(t *tx) (err error) {
		made, err = run(t)
		return err
	})
	if err != nil {
		var none T
		return none, err
	}
	return made, nil
}

// commitThen is commit with a word about the outcome, whichever it is, and
// whether or not the caller still waits.
func (s *Store) commitThen(ctx context.Context, run func(*tx) error, finish func(error)) error {
	return s.await(ctx, &operation{run: run, finish: finish, done: make(chan error, 1)})
}

// commitAlways is commit, also of a copy that does not lead.
func (s *Store) commitAlways(ctx context.Context, run func(*tx) error) error {
	return s.await(ctx, &operation{run: run, done: make(chan error, 1), always: true})
}

func (s *Store) await(ctx context.Context, op *operation) error {
	if err := s.enqueue(ctx, op); err != nil {
		op.answer(err)
		return err
	}
	select {
	case err := <-op.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-s.stopped:
	}
	select {
	case err := <-op.done:
		return err
	default:
		return ErrClosed
	}
}

func (s *Store) enqueue(ctx context.Context, op *operation) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.cfg.Log != nil && !op.always && !s.leads.Load() {
		return ErrFollows
	}
	select {
	case <-s.closing:
		return ErrClosed
	default:
	}
	s.waiting.Add(1)
	select {
	case s.queue <- op:
		return nil
	case <-ctx.Done():
		s.waiting.Add(-1)
		return ctx.Err()
	case <-s.closing:
		s.waiting.Add(-1)
		return ErrClosed
	}
}

func (op *operation) answer(err error) {
	if op.finish != nil {
		op.finish(err)
	}
	op.done <- err
}

// writer owns the one connection that writes. It is used by whoever has the turn:
// its own goroutine, nearly always.
type writer struct {
	*session
	s      *Store
	head   head // of the audit, as committed
	chains map[string]int64
	touch  map[string]touch
	broken error // nothing is written any more

	seq, epoch int64 // of a store that is shared, as committed
	schema     int
}

func newWriter(ctx context.Context, s *Store) (*writer, error) {
	session, err := newSession(s.life, s.written)
	if err != nil {
		return nil, err
	}
	session.ctx = context.WithoutCancel(s.life)
	w := &writer{session: session, s: s, chains: map[string]int64{}, touch: map[string]touch{}}
	if w.head, err = readHead(w); err != nil {
		return nil, errors.Join(fmt.Errorf("read the end of the audit: %w", err), session.close())
	}
	if s.cfg.Log != nil {
		err = w.readPlace()
	}
	if err != nil {
		return nil, errors.Join(err, session.close())
	}
	return w, nil
}

// loop takes whatever is queued, never waiting for more, and carries it out in
// one transaction.
func (w *writer) loop() {
	defer close(w.s.stopped)
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	for {
		select {
		case op := <-w.s.queue:
			w.carryQueued(op)
		case <-tick.C:
			w.carryQueued()
		case <-w.s.sightings.full:
			w.carryQueued()
		case <-w.s.closing:
			w.last()
			return
		}
	}
}

// last carries out what was queued before the store was closed.
func (w *writer) last() {
	for {
		select {
		case op := <-w.s.queue:
			w.carryQueued(op)
		default:
			w.carryQueued()
			w.s.turn.Lock()
			defer w.s.turn.Unlock()
			w.close() //nolint:errcheck // nothing is left to be written
			return
		}
	}
}

// carryQueued carries out what was taken from the queue with all else that is there
// when it is its turn.
func (w *writer) carryQueued(taken ...*operation) {
	w.s.turn.Lock()
	defer w.s.turn.Unlock()
	if len(taken) > 0 {
		taken = w.batch(taken)
		w.s.waiting.Add(-int64(len(taken)))
	}
	w.carry(taken)
}

func (w *writer) batch(ops []*operation) []*operation {
	for len(ops) < queueLength {
		select {
		case op := <-w.s.queue:
			ops = append(ops, op)
		default:
			return ops
		}
	}
	return ops
}

// carry carries out a batch with the sightings that were not written yet. When
// something fails that was not foreseen, each operation gets a transaction of
// its own, so that one does not fail for another's sake.
func (w *writer) carry(ops []*operation) {
	flush := w.s.sightings.flush()
	if flush != nil {
		ops = append([]*operation{flush}, ops...)
	}
	if len(ops) == 0 {
		return
	}
	outcomes, err := w.transact(ops)
	if err != nil && len(ops) > 1 && w.broken == nil {
		for _, op := range ops {
			outcome, err := w.transact([]*operation{op})
			op.answer(errors.Join(outcome[0], err))
		}
		return
	}
	for i, op := range ops {
		if err != nil {
			op.answer(err)
			continue
		}
		op.answer(outcomes[i])
	}
}

// transact runs the operations in one transaction. It returns the outcome of
// each; or an error, when nothing was written at all.
func (w *writer) transact(ops []*operation) ([]error, error) {
	outcomes := make([]error, len(ops))
	if w.broken != nil {
		return outcomes, w.broken
	}
	started := time.Now()
	if err := w.begin(); err != nil {
		return outcomes, err
	}
	t := w.transaction()
	wrote := false
	for i, op := range ops {
		t.wrote = false
		outcomes[i] = op.run(t)
		wrote = wrote || t.wrote
		if outcomes[i] != nil && (t.wrote || mayHaveEnded(outcomes[i])) {
			return w.undo(ops, outcomes, outcomes[i])
		}
	}
	if !wrote {
		return w.undo(ops, outcomes, nil)
	}
	if err := w.finish(t); err != nil {
		return w.undo(ops, outcomes, err)
	}
	if w.s.cfg.Observe != nil && !t.follows && !t.unrecorded {
		w.s.cfg.Observe(time.Since(started), len(ops))
	}
	return outcomes, nil
}

// mayHaveEnded reports whether a failure may have rolled the transaction back by
// itself, as SQLite does where a disk that is full, or fails, keeps it from going on:
// a read does that too. Whatever was written after that would be committed at once,
// statement by statement.
func mayHaveEnded(err error) bool {
	var failure *sqlite.Error
	return errors.As(err, &failure)
}

func (w *writer) transaction() *tx {
	t := &tx{
		session: w.session, now: w.s.now(), instance: w.s.cfg.Instance, tells: w.s.cfg.Tells, chains: w.chains, head: w.head,
		touch: w.touch, seq: w.seq, epoch: w.epoch, schema: w.schema,
	}
	if w.s.cfg.Log != nil {
		t.recording = &recording{}
	}
	return t
}

// begin opens a transaction, also after one that could not be rolled back.
func (w *writer) begin() error {
	_, err := w.exec("BEGIN IMMEDIATE")
	if err == nil {
		return nil
	}
	if _, rolled := w.exec("ROLLBACK"); rolled == nil {
		_, err = w.exec("BEGIN IMMEDIATE")
	}
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	return nil
}

// finish commits, and passes on what waits for the commit.
func (w *writer) finish(t *tx) error {
	if err := errors.Join(t.writeCounts(), t.writeEvents()); err != nil {
		return err
	}
	if err := w.call(beforeCommit); err != nil {
		return err
	}
	if err := w.share(t); err != nil {
		return err
	}
	if err := w.end(t.touched); err != nil {
		return w.commitFailed(err)
	}
	w.head, w.seq, w.epoch, w.schema = t.head, t.seq, t.epoch, t.schema
	w.s.seq.Store(w.seq)
	w.s.commits.Add(1)
	if err := w.call(afterCommit); err != nil {
		return err
	}
	for _, fn := range t.after {
		fn()
	}
	if w.s.copier != nil {
		w.s.copier.hand(t.records)
	}
	return nil
}

// end commits. Nothing is found in memory meanwhile of what is changed.
func (w *writer) end(changes touchedRows) error {
	w.s.memory.change(changes)
	_, err := w.exec("COMMIT")
	w.s.memory.changed(err == nil)
	return err
}

// undo rolls back. The outcome of a single operation is its own error, which
// is not to be told twice.
func (w *writer) undo(ops []*operation, outcomes []error, cause error) ([]error, error) {
	if _, err := w.exec("ROLLBACK"); err != nil && w.broken == nil && cause == nil {
		return outcomes, fmt.Errorf("roll back: %w", err)
	}
	if len(ops) == 1 && outcomes[0] != nil {
		return outcomes, nil
	}
	return outcomes, cause
}

func (w *writer) call(point hookPoint) error {
	if w.s.hook == nil {
		return nil
	}
	w.broken = w.s.hook(point)
	return w.broken
}
