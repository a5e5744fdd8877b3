package store_test

import (
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/registry"
)

func TestNewerStoreIsRefused(t *testing.T) {
	w := open(t)
	w.ok(w.Close())
	w.tamper(`UPDATE meta SET value = '99' WHERE key = 'schema_version'`)
	before := must[[]byte](t)(os.ReadFile(w.cfg.Path))
	_, err := store.Open(w.ctx, w.cfg)
	w.is(err, store.ErrNewer)
	if strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), "99") {
		t.Errorf("not one clear sentence: %v", err)
	}
	if after := must[[]byte](t)(os.ReadFile(w.cfg.Path)); string(before) != string(after) {
		t.Error("the file was changed")
	}
}

func TestForeignFileIsRefused(t *testing.T) {
	dir := t.TempDir()
	other := filepath.Join(dir, "other.db")
	db := must[*sql.DB](t)(sql.Open("sqlite", other))
	if _, err := db.Exec(`CREATE TABLE t (a)`); err != nil {
		t.Fatal(err)
	}
	db.Close()
	text := filepath.Join(dir, "text")
	if err := os.WriteFile(text, []byte(strings.Repeat("no database\n", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{other, text, filepath.Join(dir, "none", "store.db"), dir} {
		if s, err := store.Open(t.Context(), store.Config{Path: path, Instance: "one"}); err == nil {
			s.Close()
			t.Errorf("%s was opened", path)
		}
	}
}

const second = `ALTER TABLE devices ADD COLUMN note TEXT NOT NULL DEFAULT 'none'`

func TestMigrationAfterACopy(t *testing.T) {
	w := open(t)
	w.device("d1")
	w.ok(w.Close())
	steps := append(store.Migrations(), second)
	copied := fmt.Sprintf(".v%d.bak", len(steps)-1)
	if err := os.WriteFile(w.cfg.Path+copied, []byte("left by an earlier attempt"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		w.ok(store.Migrate(w.ctx, w.cfg.Path, steps))
	}
	db := must[*sql.DB](t)(sql.Open("sqlite", w.cfg.Path))
	defer db.Close()
	var note, version string
	w.ok(db.QueryRow(`SELECT note, (SELECT value FROM meta WHERE key = 'schema_version') FROM devices`).Scan(&note, &version))
	if note != "none" || version != strconv.Itoa(len(steps)) {
		t.Errorf("note %q, version %q", note, version)
	}
	if mode := must[os.FileInfo](t)(os.Stat(w.cfg.Path + copied)).Mode(); mode != 0o600 {
		t.Errorf("the copy has mode %s", mode)
	}
	w.cfg.Path += copied
	w.open()
	must[registry.Device](t)(w.Devices().Device(w.ctx, "d1"))
}

func TestMigrationThatFailsLeavesTheOldVersion(t *testing.T) {
	w := open(t)
	w.device("d1")
	w.ok(w.Close())
	steps := append(store.Migrations(), second+`; SELECT * FROM nowhere;`)
	if err := store.Migrate(w.ctx, w.cfg.Path, steps); err == nil {
		t.Fatal("it did not fail")
	}
	w.open()
	must[registry.Device](t)(w.Devices().Device(w.ctx, "d1"))
	n := must[int](t)(store.Query[int](w.ctx, w.Store, `SELECT count(*) FROM pragma_table_info('devices') WHERE name = 'note'`))
	if n != 0 {
		t.Error("half of the migration is there")
	}
}

func TestNewStoreHasNoCopy(t *testing.T) {
	w := open(t)
	w.ok(w.Close())
	w.cfg.Path = filepath.Join(t.TempDir(), "new.db")
	w.open()
	w.reopen()
	if mode := must[os.FileInfo](t)(os.Stat(w.cfg.Path)).Mode(); mode != 0o600 {
		t.Errorf("the file has mode %s", mode)
	}
	all := must[[]string](t)(filepath.Glob(w.cfg.Path + "*.bak*"))
	if len(all) != 0 {
		t.Errorf("copies %v", all)
	}
}

func TestOddPath(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a b?c#d%20")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	w := open(t, func(cfg *store.Config) { cfg.Path = filepath.Join(dir, "store.db") })
	w.ok(w.Close())
	w.ok(os.Remove(w.cfg.Path))
	w.open()
	w.device("d1")
	entries := must[[]os.DirEntry](t)(os.ReadDir(dir))
	if len(entries) != 3 {
		t.Errorf("files %v, want the store, its log and its index", entries)
	}
	if _, err := w.Devices().Device(w.ctx, "d2"); !errors.Is(err, registry.ErrUnknown) {
		t.Error(err)
	}
}
