package standalone

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/certvendor/certvendor/internal/store"
)

// What a replay brings back. Left out is what no row of the audit holds: what
// was seen, how far steps and jobs were, leases, and why something waits.
var replayed = []string{
	`SELECT id, blocked, added FROM devices ORDER BY 1`,
	`SELECT device, name, value FROM attributes ORDER BY 1, 2`,
	`SELECT id, hex(ders) FROM chains ORDER BY 1`,
	`SELECT id, hex(der), chain, key, key_type, serial, subject, issuer, not_before, not_after, standing, kind, policies, holders
		FROM certificates ORDER BY 1`,
	`SELECT device, certificate, attached, detached FROM holdings ORDER BY 1, 2`,
	`SELECT device, number, state, by_package, key, certificate, over, named, held, nonce, profile, evidence, unproven,
		opened, vended_at, acked_at, proven_at, closed_at, since FROM rotations ORDER BY 1, 2`,
	`SELECT device, certificate, rotation, mode, evidence, proven_at, due, reverted, deactivated <> 0, done <> 0
		FROM retirements ORDER BY 1, 2, 3`,
	`SELECT device, since FROM members ORDER BY 1`,
	`SELECT device, certificate, created, spent FROM packages ORDER BY 1, 2`,
	`SELECT json_extract(value, '$.Vending'), json_extract(value, '$.Retiring'), json_extract(value, '$.Why')
		FROM meta WHERE key = 'frozen'`,
	`SELECT value FROM meta WHERE key = 'issuing_ca'`,
	`SELECT state, n FROM tallies WHERE what = 'rotation' AND n > 0 ORDER BY 1`,
	`SELECT seq, at, instance, kind, device, certificate, detail, hex(hash) FROM audit ORDER BY 1`,
}

// checkReplay has an empty store do all that the audit of a data directory
// says, and holds the two against each other. The world must be closed.
func checkReplay(t *testing.T, data string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), storeFile)
	if err := os.WriteFile(path, emptyStore(), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(context.Background(), store.Config{Path: path, Instance: "replay"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Replay(context.Background(), filepath.Join(data, auditDir)); err != nil {
		t.Errorf("%v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	was, is := opened(t, filepath.Join(data, storeFile)), opened(t, path)
	defer was.Close()
	defer is.Close()
	for _, query := range replayed {
		if diff := cmp.Diff(tableRows(t, was, query), tableRows(t, is, query)); diff != "" {
			t.Errorf("the audit does not hold all of it (-store +replay):\n%s\n%s", query, diff)
		}
	}
}

// emptyStore is a new store's file, made once.
var emptyStore = sync.OnceValue(func() []byte {
	dir, err := os.MkdirTemp("", "store")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, storeFile)
	s, err := store.Open(context.Background(), store.Config{Path: path, Instance: "one"})
	if err != nil {
		panic(err)
	}
	s.Close()
	text, err := os.ReadFile(path)
	if err != nil {
		panic(err)
	}
	return text
})

func opened(t *testing.T, path string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	return db
}

// tableRows reads a table as lines of text.
func tableRows(t *testing.T, db *sql.DB, query string) []string {
	t.Helper()
	found, err := db.Query(query)
	if err != nil {
		t.Fatal(err)
	}
	defer found.Close()
	columns, err := found.Columns()
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for found.Next() {
		values := make([]any, len(columns))
		for i := range values {
			values[i] = new(any)
		}
		if err := found.Scan(values...); err != nil {
			t.Fatal(err)
		}
		line := make([]string, len(columns))
		for i, v := range values {
			line[i] = fmt.Sprintf("%s=%v", columns[i], *v.(*any))
		}
		all = append(all, strings.Join(line, " "))
	}
	if err := found.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}
