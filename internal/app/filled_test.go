package app_test

import (
	"database/sql"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/certvendor/certvendor/internal/app"
	"github.com/certvendor/certvendor/internal/config"
	"github.com/certvendor/certvendor/internal/store/storetest"
)

// TestFilledStore holds what storetest writes against what real devices leave
// behind after a rotation: the same number of rows in each table, and in each
// column the same kind of value.
func TestFilledStore(t *testing.T) {
	const devices = 4
	w := start(t, func(c *config.Config) {
		if err := app.InitCA(t.Context(), *c); err != nil {
			t.Fatal(err)
		}
		if err := storetest.Fill(t.Context(), filepath.Join(c.Standalone.Data, "certvendor.db"), devices, time.Now()); err != nil {
			t.Fatal(err)
		}
	})
	w.rotateFleet(t, devices)
	eventually(t, "nothing is left to do behind the rotations", func() bool {
		if _, err := w.client.Sweep(t.Context(), false); err != nil {
			return false
		}
		status, err := w.client.Status(t.Context())
		return err == nil && status.Retirements == 0 && status.Members == 0
	})
	w.stop()
	db, err := sql.Open("sqlite", filepath.Join(w.config.Standalone.Data, "certvendor.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for table, device := range map[string]string{
		"devices": "id", "certificates": "substr(subject, 4)", "holdings": "device", "rotations": "device",
	} {
		filled := shapes(t, db, table, device+` GLOB 'device-*'`)
		real := shapes(t, db, table, device+` GLOB 'rotates-*'`)
		if diff := cmp.Diff(real, filled); diff != "" || len(real) < devices {
			t.Errorf("%s, real ones (-) and filled ones (+):\n%s", table, diff)
		}
	}
}

// said are the columns whose words count.
var said = []string{"standing", "kind", "state", "evidence", "key_type", "profile", "policies", "behind", "lease_instance"}

// shapes describes the rows of a table, sorted.
func shapes(t *testing.T, db *sql.DB, table, where string) []string {
	t.Helper()
	rows, err := db.Query(`SELECT * FROM ` + table + ` WHERE ` + where)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	names, err := rows.Columns()
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for rows.Next() {
		values, into := make([]any, len(names)), make([]any, len(names))
		for i := range values {
			into[i] = &values[i]
		}
		if err := rows.Scan(into...); err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		for i, name := range names {
			fmt.Fprintf(&b, "%s:%s ", name, shape(name, values[i]))
		}
		all = append(all, b.String())
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	slices.Sort(all)
	return all
}

func shape(name string, v any) string {
	switch v := v.(type) {
	case int64:
		return fmt.Sprint("number ", v != 0)
	case []byte:
		return fmt.Sprintf("some %d00 octets", (len(v)+50)/100)
	case string:
		if slices.Contains(said, name) || v == "" {
			return fmt.Sprintf("%q", v)
		}
		if name == "subject" { // as long as the device's name
			return v[:3]
		}
		return fmt.Sprintf("some %d0 letters", (len(v)+5)/10)
	}
	return fmt.Sprintf("%T", v)
}
