package storetest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// Dump returns every row of every table of the store at path, a line each, in an
// order that does not depend on how they came there. Nobody writes to the store
// meanwhile.
func Dump(ctx context.Context, path string) (lines []string, err error) {
	address := url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: "_pragma=busy_timeout(10000)"}
	db, err := sql.Open("sqlite", address.String())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	db.SetMaxOpenConns(1)
	tables, err := column(ctx, db, `SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name`)
	for _, table := range tables {
		columns, err := column(ctx, db, `SELECT 'quote("' || name || '")' FROM pragma_table_info(?) ORDER BY cid`, table)
		if err != nil {
			return nil, err
		}
		row := strings.Join(columns, ` || ', ' || `)
		rows, err := column(ctx, db, `SELECT `+row+` FROM "`+table+`" ORDER BY 1`)
		if err != nil {
			return nil, fmt.Errorf("table %s: %w", table, err)
		}
		for _, text := range rows {
			lines = append(lines, table+": "+text)
		}
	}
	return lines, err
}

func column(ctx context.Context, db *sql.DB, query string, args ...any) (all []string, err error) {
	rows, err := db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			return nil, err
		}
		all = append(all, text)
	}
	return all, rows.Err()
}
