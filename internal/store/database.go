package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"

	_ "modernc.org/sqlite" // the driver

	"github.com/certvendor/certvendor/internal/durable"
)

// create makes the file for its owner alone; SQLite gives the log beside it
// the same mode. Its directory is synced, so that a new store does not vanish.
func create(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), durable.Sync(filepath.Dir(path)))
}

// Made reports whether the file at path holds a store, of whichever version: one
// that is not there, or in which there is nothing, does not.
func Made(ctx context.Context, path string) (bool, error) {
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) || err == nil && info.Size() == 0 {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	db := connect(path, 1)
	version, err := schemaVersion(ctx, db)
	return version > 0, errors.Join(err, db.Close())
}

// connect returns a pool of connections to the file, which it does not make.
// busy_timeout comes first: every later pragma may find the file locked.
func connect(path string, connections int, pragmas ...string) *sql.DB {
	values := url.Values{"mode": {"rw"}}
	for _, p := range append([]string{
		"busy_timeout(10000)", "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(1)",
		"temp_store(MEMORY)", "cache_size(-16000)", fmt.Sprintf("journal_size_limit(%d)", logKept),
	}, pragmas...) {
		values.Add("_pragma", p)
	}
	address := url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: values.Encode()}
	db, err := sql.Open("sqlite", address.String())
	if err != nil {
		panic("store: the driver is linked in: " + err.Error())
	}
	db.SetMaxOpenConns(connections)
	db.SetMaxIdleConns(connections)
	return db
}
