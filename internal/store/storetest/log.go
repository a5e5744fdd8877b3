package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/certvendor/certvendor/internal/store"
)

// Log is a store.Log in memory, which several stores of one process can share.
type Log struct {
	// Before and Behind are called before and behind an entry is recorded; an
	// error is what Append returns then. Optional.
	Before, Behind func(store.Entry) error

	mu      sync.Mutex
	entries []store.Entry
	latest  store.Snapshot
	copies  map[int64][]byte
	kept    int64 // the snapshot before the latest
}

var _ store.Log = (*Log)(nil)

// Append implements store.Log.
func (l *Log) Append(_ context.Context, e store.Entry) error {
	if l.Before != nil {
		if err := l.Before(e); err != nil {
			return err
		}
	}
	if err := l.append(e); err != nil || l.Behind == nil {
		return err
	}
	return l.Behind(e)
}

func (l *Log) append(e store.Entry) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch next := l.end() + 1; {
	case e.Seq < next:
		return store.ErrTaken
	case e.Seq > next:
		return fmt.Errorf("entry %d comes before entry %d", e.Seq, next)
	}
	e.Hash, e.Statements = slices.Clone(e.Hash), slices.Clone(e.Statements)
	l.entries = append(l.entries, e)
	return nil
}

func (l *Log) end() int64 {
	if len(l.entries) == 0 {
		return l.latest.Seq
	}
	return l.entries[len(l.entries)-1].Seq
}

// Entries returns what is recorded and not dropped.
func (l *Log) Entries() []store.Entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.entries)
}

// perPage is how many entries After returns at a time.
const perPage = 3

// After implements store.Log.
func (l *Log) After(_ context.Context, seq int64) ([]store.Entry, error) {
	var some []store.Entry
	for _, e := range l.Entries() {
		if e.Seq > seq && len(some) < perPage {
			some = append(some, e)
		}
	}
	return some, nil
}

// Latest implements store.Log.
func (l *Log) Latest(context.Context) (store.Snapshot, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.latest, nil
}

// Load implements store.Log.
func (l *Log) Load(_ context.Context, s store.Snapshot, w io.Writer) error {
	l.mu.Lock()
	text, ok := l.copies[s.Seq]
	l.mu.Unlock()
	if !ok {
		return errors.New("there is no such snapshot")
	}
	_, err := w.Write(text)
	return err
}

// Save implements store.Log.
func (l *Log) Save(_ context.Context, s store.Snapshot, r io.Reader) error {
	var text bytes.Buffer
	if _, err := io.Copy(&text, r); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.latest.Log != "" && s.Seq <= l.latest.Seq {
		return store.ErrTaken
	}
	if l.copies == nil {
		l.copies = map[int64][]byte{}
	}
	delete(l.copies, l.kept)
	l.kept, s.Size = l.latest.Seq, int64(text.Len())
	l.latest, l.copies[s.Seq] = s, text.Bytes()
	l.entries = slices.DeleteFunc(l.entries, func(e store.Entry) bool { return e.Seq <= l.kept })
	return nil
}
