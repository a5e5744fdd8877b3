package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/certvendor/certvendor/internal/durable"
)

//go:embed migrations/*.sql
var scripts embed.FS

// migrations returns the scripts in order: the first makes version 1.
func migrations() []string {
	entries, err := scripts.ReadDir("migrations")
	if err != nil {
		panic("store: the migrations are linked in: " + err.Error())
	}
	var all []string
	for _, e := range entries { // sorted by name
		text, err := scripts.ReadFile("migrations/" + e.Name())
		if err != nil {
			panic("store: the migrations are linked in: " + err.Error())
		}
		all = append(all, string(text))
	}
	return all
}

// migrate brings the file to the newest version. A store that holds something
// is copied to <path>.v<N>.bak first, and each step is one transaction, so
// that a crash leaves a version behind that is whole.
func migrate(ctx context.Context, path string, steps []string) error {
	db := connect(path, 1)
	defer db.Close()
	version, err := schemaVersion(ctx, db)
	switch {
	case err != nil:
		return err
	case version > len(steps):
		return fmt.Errorf("%w: it has schema version %d, this one knows versions up to %d", ErrNewer, version, len(steps))
	case version == len(steps):
		return nil
	}
	if version > 0 {
		if err := copyTo(ctx, db, fmt.Sprintf("%s.v%d.bak", path, version)); err != nil {
			return fmt.Errorf("copy the store before its migration: %w", err)
		}
	}
	for ; version < len(steps); version++ {
		if err := step(ctx, db, steps[version], version+1); err != nil {
			return fmt.Errorf("migrate to schema version %d: %w", version+1, err)
		}
	}
	return nil
}

// schemaVersion returns 0 for a file that holds nothing yet.
func schemaVersion(ctx context.Context, db *sql.DB) (int, error) {
	var tables, ours int
	const count = `SELECT count(*), count(*) FILTER (WHERE name = 'meta') FROM sqlite_schema WHERE type = 'table'`
	if err := db.QueryRowContext(ctx, count).Scan(&tables, &ours); err != nil {
		return 0, err
	}
	if tables == 0 {
		return 0, nil
	}
	if ours == 0 {
		return 0, errors.New("the file is a database of something else")
	}
	var text string
	if err := db.QueryRowContext(ctx, `SELECT value FROM meta WHERE key = 'schema_version'`).Scan(&text); err != nil {
		return 0, fmt.Errorf("read schema version: %w", err)
	}
	return strconv.Atoi(text)
}

func step(ctx context.Context, db *sql.DB, script string, version int) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // after a commit it does nothing
	if version == 1 {
		script = "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;\n" + script
	}
	if _, err := tx.ExecContext(ctx, script); err != nil {
		return err
	}
	const note = `INSERT INTO meta VALUES ('schema_version', ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value`
	if _, err := tx.ExecContext(ctx, note, strconv.Itoa(version)); err != nil {
		return err
	}
	return tx.Commit()
}

// copyTo writes a whole copy of the store, the log included. It appears under
// its name only when it is complete and synced; an older copy of the same name
// is replaced. Of one that fails nothing stays: it may be for want of room.
func copyTo(ctx context.Context, db *sql.DB, path string) error {
	partial := path + ".part"
	if err := os.RemoveAll(partial); err != nil {
		return err
	}
	err := vacuumInto(ctx, db, partial)
	if err == nil {
		err = os.Rename(partial, path)
	}
	if err != nil {
		return errors.Join(err, os.RemoveAll(partial))
	}
	return durable.Sync(filepath.Dir(path))
}

// vacuumInto writes a file that must not be there, and syncs it.
func vacuumInto(ctx context.Context, db *sql.DB, path string) error {
	if err := create(path); err != nil {
		return err
	}
	if _, err := db.ExecContext(ctx, `VACUUM INTO ?`, path); err != nil {
		return err
	}
	return durable.Sync(path)
}
