package store_test

import (
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/certvendor/certvendor/internal/store"
)

// TestEveryVersionIsMigrated begins with each older version, with rows in every table:
// none is lost or changed, and the schema is that of a new store.
func TestEveryVersionIsMigrated(t *testing.T) {
	steps := store.Migrations()
	const schema = `SELECT type || name || coalesce(sql, '') FROM sqlite_schema ORDER BY 1`
	want := texts(t, migrated(t, filepath.Join(t.TempDir(), "new.db"), steps), schema)
	for version := 1; version < len(steps); version++ {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "old.db")
			old := migrated(t, path, steps[:version])
			rows := fillAll(t, old)
			before := make([][]string, len(rows))
			for i, row := range rows {
				before[i] = texts(t, old, row)
			}
			old.Close()
			db := migrated(t, path, steps)
			for i, row := range rows {
				if diff := cmp.Diff(before[i], texts(t, db, row)); diff != "" || len(before[i]) == 0 {
					t.Errorf("%s: %s", row, diff)
				}
			}
			if diff := cmp.Diff(want, texts(t, db, schema)); diff != "" {
				t.Errorf("it is not as a new one: %s", diff)
			}
		})
	}
}

// migrated returns a store that was brought to the last of these versions.
func migrated(t *testing.T, path string, steps []string) *sql.DB {
	t.Helper()
	if _, err := os.Stat(path); err != nil {
		must[any](t)(nil, os.WriteFile(path, nil, 0o600))
	}
	must[any](t)(nil, store.Migrate(t.Context(), path, steps))
	db := must[*sql.DB](t)(sql.Open("sqlite", path))
	db.SetMaxOpenConns(1)
	t.Cleanup(func() { db.Close() })
	return db
}

// fillAll puts rows into every table, and returns queries for all that is in them.
func fillAll(t *testing.T, db *sql.DB) (rows []string) {
	t.Helper()
	triggers := texts(t, db, `SELECT sql FROM sqlite_schema WHERE type = 'trigger'`)
	for _, name := range texts(t, db, `SELECT name FROM sqlite_schema WHERE type = 'trigger'`) {
		must[sql.Result](t)(db.Exec(`DROP TRIGGER ` + name))
	}
	for _, table := range texts(t, db, `SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' AND name <> 'meta'`) {
		names := texts(t, db, `SELECT name FROM pragma_table_info(?)`, table)
		kinds := texts(t, db, `SELECT type FROM pragma_table_info(?)`, table)
		for i := range 3 {
			values := make([]string, len(names))
			for column, name := range names {
				values[column] = valueFor(name, kinds[column], i)
			}
			must[sql.Result](t)(db.Exec(`INSERT INTO ` + table + ` VALUES (` + strings.Join(values, ", ") + `)`))
		}
		names = slices.DeleteFunc(names, func(name string) bool { return name == "policy_count" }) // which a later one drops
		rows = append(rows, `SELECT quote("`+strings.Join(names, `") || ',' || quote("`)+`") FROM `+table+` ORDER BY 1`)
	}
	for _, text := range triggers {
		must[sql.Result](t)(db.Exec(text))
	}
	return rows
}

func valueFor(column, kind string, i int) string {
	switch {
	case kind == "INTEGER":
		return fmt.Sprint(i + 1)
	case kind == "BLOB":
		return fmt.Sprintf("x'0%d'", i)
	case column == "policies" || column == "history":
		return `'["p"]'`
	}
	return fmt.Sprintf("'v%d'", i)
}

// texts returns the rows of a query with one column.
func texts(t *testing.T, db *sql.DB, query string, args ...any) (all []string) {
	t.Helper()
	rows := must[*sql.Rows](t)(db.Query(query, args...))
	defer rows.Close()
	for rows.Next() {
		var text string
		must[any](t)(nil, rows.Scan(&text))
		all = append(all, text)
	}
	must[any](t)(nil, rows.Err())
	return all
}
