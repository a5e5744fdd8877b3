// Package storetest fills stores with many devices, for tests and benchmarks
// of what becomes of a large fleet.
package storetest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/certvendor/certvendor/internal/store"
)

// Fill makes n devices in the store at path, which nobody else has open. Each
// is as it is after its first rotation: it has a name, an attribute, its first
// certificate, which is INACTIVE, the one it rotated to, which it was seen on,
// and the rotation. Certificates last a year, and expire one after the other
// in the year after now. Their ids are in no order and nobody has the keys. What
// the audit would say of them is left out.
func Fill(ctx context.Context, path string, n int, now time.Time) error {
	// The store makes its own schema.
	s, err := store.Open(ctx, store.Config{Path: path, Instance: "fill"})
	if err != nil {
		return err
	}
	if err := s.Close(); err != nil {
		return err
	}
	address := url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: url.Values{"_pragma": {
		"synchronous(OFF)", "cache_size(-400000)", "temp_store(MEMORY)", "locking_mode(EXCLUSIVE)", "journal_mode(OFF)",
	}}.Encode()}
	db, err := sql.Open("sqlite", address.String())
	if err != nil {
		return err
	}
	db.SetMaxOpenConns(1)
	return errors.Join(fill(ctx, db, n, now), db.Close())
}

func fill(ctx context.Context, db *sql.DB, n int, now time.Time) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // after a commit it does nothing
	again, err := dropIndexesAndTriggers(ctx, tx)
	if err != nil {
		return err
	}
	for _, text := range append(statements(n, now), again...) {
		if _, err := tx.ExecContext(ctx, text); err != nil {
			return fmt.Errorf("%.60s: %w", text, err)
		}
	}
	return tx.Commit()
}

// dropIndexesAndTriggers drops what is cheaper to make in the end than to keep
// meanwhile, and returns the statements that make it.
func dropIndexesAndTriggers(ctx context.Context, tx *sql.Tx) (again []string, err error) {
	rows, err := tx.QueryContext(ctx, `SELECT type, name, sql FROM sqlite_schema WHERE type IN ('index', 'trigger') AND sql IS NOT NULL`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var drop []string
	for rows.Next() {
		var kind, name, text string
		if err := rows.Scan(&kind, &name, &text); err != nil {
			return nil, err
		}
		drop, again = append(drop, `DROP `+kind+` "`+name+`"`), append(again, text)
	}
	for _, text := range drop {
		if _, err := tx.ExecContext(ctx, text); err != nil {
			return nil, err
		}
	}
	return again, rows.Err()
}

const year = 365 * 24 * time.Hour

func statements(n int, now time.Time) []string {
	count := fmt.Sprintf(`WITH RECURSIVE count(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM count WHERE i < %d) `, n)
	name := `printf('device-%07d', i)`
	nanos, step := now.UnixNano(), max(int64(year.Seconds())/int64(n), 1)
	made := []string{
		`INSERT INTO chains (ders) SELECT x'0161' WHERE NOT EXISTS (SELECT 1 FROM chains)`,
		count + fmt.Sprintf(`INSERT INTO devices SELECT %s, 0, %d FROM count`, name, nanos),
		count + `INSERT INTO attributes SELECT ` + name + `, 'site', printf('site-%d', i % 100) FROM count`,
	}
	for _, c := range []struct{ standing, kind string }{{"INACTIVE", "first"}, {"ACTIVE", "rotated"}} {
		made = append(made, count+fmt.Sprintf(`INSERT INTO certificates (id, der, chain, key, key_type, serial, subject, issuer,
				not_before, not_after, standing, kind, policies, created, holders)
			SELECT lower(hex(randomblob(32))), zeroblob(480), (SELECT min(id) FROM chains), lower(hex(randomblob(32))), 'p256',
				lower(hex(randomblob(20))), 'CN=' || %s, 'CN=certvendor issuing CA 0f1e2d3c', %d + i * %d, %d + i * %d, '%s', '%s', '["certvendor-device"]', %d, 1
			FROM count`, name, now.Add(-year).Unix(), step, now.Unix(), step, c.standing, c.kind, nanos))
	}
	return append(made,
		fmt.Sprintf(`INSERT INTO holdings (device, certificate, attached, seen, evidence, standing, not_after,
				issuer, chain, key_type, not_before)
			SELECT substr(subject, 4), id, %[1]d, %[1]d + rowid, 'connection', standing, not_after,
				issuer, chain, key_type, not_before FROM certificates
			WHERE subject GLOB 'CN=device-*' ORDER BY 1, 2`, nanos),
		fmt.Sprintf(`INSERT INTO rotations (device, number, state, by_package, key, certificate, over, named, held, nonce, profile,
				evidence, unproven, behind, opened, vended_at, acked_at, proven_at, closed_at, lease_instance, lease_until,
				version, since, woken)
			SELECT substr(subject, 4), 1, 'finished', 0, key, id, lower(hex(randomblob(32))), '', '["' || lower(hex(randomblob(32))) || '"]',
				lower(hex(randomblob(21))), 'default', 'presence', 0, '', %[1]d, %[1]d, %[1]d, %[1]d, %[1]d, '', 0, 6, 0, 0
			FROM certificates WHERE subject GLOB 'CN=device-*' AND standing = 'ACTIVE' ORDER BY 1`, nanos),
		fmt.Sprintf(`INSERT INTO tallies VALUES ('rotation', 'finished', %d) ON CONFLICT (what, state) DO UPDATE SET n = n + excluded.n`, n),
	)
}
