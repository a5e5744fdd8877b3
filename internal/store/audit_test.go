package store_test

import (
	"bytes"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/registry"
)

// audited opens a store whose audit is copied, with some events in it.
func audited(t *testing.T, events int) *world {
	t.Helper()
	w := open(t, func(cfg *store.Config) { cfg.AuditDir = filepath.Join(t.TempDir(), "audit") })
	w.notes(events)
	return w
}

func (w *world) notes(n int) {
	w.t.Helper()
	for i := range n {
		w.ok(w.Audit().Note(w.ctx, "test", "d1", "c1", map[string]string{"i": fmt.Sprint(i), "odd": "ü<&>\n\x01"}))
	}
}

// segments returns the files of the copy.
func (w *world) segments() []string {
	w.t.Helper()
	return must[[]string](w.t)(filepath.Glob(filepath.Join(w.cfg.AuditDir, "audit-*.jsonl")))
}

// lines returns the rows in the files.
func (w *world) lines() []string {
	w.t.Helper()
	var all []byte
	for _, name := range w.segments() {
		all = append(all, must[[]byte](w.t)(os.ReadFile(name))...)
	}
	return strings.Split(strings.TrimSuffix(string(all), "\n"), "\n")
}

func (w *world) wantHolds(rows int64) {
	w.t.Helper()
	if n, err := w.Audit().Verify(w.ctx); err != nil || n != rows {
		w.t.Errorf("%d rows hold, %v; want all %d", n, err, rows)
	}
}

func TestEventsAreWhatWasNoted(t *testing.T) {
	w := audited(t, 1)
	events := must[[]store.Event](t)(w.Audit().Timeline(w.ctx, "d1"))
	if len(events) != 1 || len(events[0].Hash) != 64 {
		t.Fatalf("events %+v", events)
	}
	events[0].Hash = ""
	want := store.Event{
		Seq: 1, At: start, Instance: "one", Kind: "test", Device: "d1", Certificate: "c1",
		Detail: map[string]string{"i": "0", "odd": "ü<&>\n\x01"},
	}
	if diff := cmp.Diff(want, events[0]); diff != "" {
		t.Error(diff)
	}
	if others := must[[]store.Event](t)(w.Audit().Timeline(w.ctx, "d2")); len(others) != 0 {
		t.Errorf("of another device: %+v", others)
	}
}

func TestWhatIsNotNoted(t *testing.T) {
	w := open(t)
	if w.Audit().Note(w.ctx, "", "", "", nil) == nil {
		t.Error("an event without a kind was noted")
	}
	secret := map[string]string{"key": "-----BEGIN PRIVATE KEY-----\nMC4CAQAw"}
	if err := w.Audit().Note(w.ctx, "test", "", "", secret); err == nil || strings.Contains(err.Error(), "MC4") {
		t.Errorf("PEM was noted, or told: %v", err)
	}
	w.wantHolds(0)
}

func TestNamesOfAnyBytesHold(t *testing.T) {
	w := audited(t, 0)
	c := fake("c1")
	c.Issuer, c.Serial = "CN=\xff\xfe\x00", "\xc3"
	w.ok(w.Certificates().Register(w.ctx, "d1", c))
	w.wantHolds(2) // its chain, and itself
}

func TestNewestEvent(t *testing.T) {
	w := open(t)
	newest := func() time.Time { return must[time.Time](t)(w.Audit().Newest(w.ctx)) }
	if at := newest(); !at.IsZero() {
		t.Errorf("the newest of none is at %s", at)
	}
	w.notes(1)
	at := w.clock.add(time.Hour)
	w.notes(1)
	if !newest().Equal(at) {
		t.Errorf("the newest is at %s, want %s", newest(), at)
	}
}

func TestAuditIsCopiedInOrder(t *testing.T) {
	w := audited(t, 0)
	w.SegmentSize(2000)
	w.many(200, func(i int) error {
		return w.Audit().Note(w.ctx, "test", registry.DeviceID(fmt.Sprint(i)), "", nil)
	})
	w.wantHolds(200)
	lines := w.lines()
	if len(lines) != 200 || len(w.segments()) < 10 {
		t.Fatalf("%d rows in %d files", len(lines), len(w.segments()))
	}
	for i, line := range lines {
		if !strings.HasPrefix(line, fmt.Sprintf(`{"seq":%d,`, i+1)) {
			t.Fatalf("row %d is %s", i+1, line)
		}
	}
	if behind, err := w.Audit().Copied(w.ctx); behind != 0 || err != nil {
		t.Errorf("%d behind, %v", behind, err)
	}
	for _, name := range w.segments() {
		if mode := must[os.FileInfo](t)(os.Stat(name)).Mode(); mode != 0o600 {
			t.Errorf("%s has mode %s", name, mode)
		}
	}
}

func TestCopyCatchesUpAtStart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "audit")
	w := open(t)
	w.notes(5)
	w.cfg.AuditDir = dir
	w.reopen()
	w.notes(2)
	w.reopen()
	w.wantHolds(7)
	if n := len(w.lines()); n != 7 {
		t.Errorf("%d rows in the files", n)
	}
}

func TestTornLineIsCompleted(t *testing.T) {
	for name, tear := range map[string]func(whole []byte) []byte{
		"in the middle of a line": func(whole []byte) []byte { return whole[:len(whole)-40] },
		"before its line feed":    func(whole []byte) []byte { return whole[:len(whole)-1] },
		"with noughts behind":     func(whole []byte) []byte { return append(whole[:len(whole)-40], make([]byte, 39)...) },
		"with much behind":        func(whole []byte) []byte { return append(whole[:len(whole)-40], make([]byte, 4000)...) },
		"with very much behind":   func(whole []byte) []byte { return append(whole[:len(whole)-40], make([]byte, 200_000)...) },
		"after whole lines": func(whole []byte) []byte {
			return whole[:bytes.LastIndexByte(whole[:len(whole)-1], '\n')+1]
		},
		"only a part of the first": func(whole []byte) []byte { return whole[:10] },
		"nothing was written":      func([]byte) []byte { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			w := audited(t, 5)
			w.ok(w.Close())
			segment := w.segments()[0]
			whole := must[[]byte](t)(os.ReadFile(segment))
			w.ok(os.WriteFile(segment, tear(slices.Clone(whole)), 0o600))
			w.open()
			w.wantHolds(5)
			if got := must[[]byte](t)(os.ReadFile(segment)); !bytes.Equal(got, whole) {
				t.Errorf("the file is now\n%s\nand was\n%s", got, whole)
			}
		})
	}
}

func TestLongRowsAreTakenUp(t *testing.T) {
	w := audited(t, 1)
	long := map[string]string{"text": strings.Repeat("x", 100_000)}
	for range 3 {
		w.ok(w.Audit().Note(w.ctx, "test", "d1", "", long))
		w.reopen()
	}
	w.notes(1)
	w.wantHolds(5)
}

// tamper changes the file of a store that is closed, and has no copy after that.
func (w *world) tamper(texts ...string) {
	w.t.Helper()
	w.shadow, w.cfg.Log = nil, nil
	db, err := sql.Open("sqlite", w.cfg.Path)
	w.ok(err)
	defer db.Close()
	for _, text := range texts {
		_, err := db.ExecContext(w.ctx, text)
		w.ok(err)
	}
}

func TestTamperingIsFound(t *testing.T) {
	replace := func(old, new string) func(*world) {
		return func(w *world) {
			w.t.Helper()
			name := w.segments()[0]
			text := must[[]byte](w.t)(os.ReadFile(name))
			changed := strings.Replace(string(text), old, new, 1)
			if changed == string(text) {
				w.t.Fatalf("%q is not in the file", old)
			}
			w.ok(os.WriteFile(name, []byte(changed), 0o600))
		}
	}
	statement := func(text string) func(*world) { return func(w *world) { w.tamper(text) } }
	for name, c := range map[string]struct {
		tamper func(*world)
		want   string
	}{
		"a row changed":         {statement(`UPDATE audit SET device = 'd2' WHERE seq = 3`), "row 3 "},
		"its time changed":      {statement(`UPDATE audit SET at = at + 1 WHERE seq = 3`), "row 3 "},
		"its detail changed":    {statement(`UPDATE audit SET detail = '{}' WHERE seq = 1`), "row 1 "},
		"its hash changed":      {statement(`UPDATE audit SET hash = zeroblob(32) WHERE seq = 2`), "row 2 "},
		"a row gone":            {statement(`DELETE FROM audit WHERE seq = 2`), "row 2 "},
		"the last row gone":     {statement(`DELETE FROM audit WHERE seq = 5`), "row 5 "},
		"all rows gone":         {statement(`DELETE FROM audit`), "row 1 "},
		"the first row gone":    {statement(`DELETE FROM audit WHERE seq = 1`), "row 1 "},
		"a line changed":        {replace(`"i":"2"`, `"i":"7"`), "row 3 "},
		"a line gone":           {func(w *world) { replace(w.lines()[1]+"\n", "")(w) }, "row 2 "},
		"a line twice":          {func(w *world) { replace(w.lines()[1]+"\n", w.lines()[1]+"\n"+w.lines()[1]+"\n")(w) }, "row 3 "},
		"the last line changed": {replace(`"i":"4"`, `"i":"7"`), "row 5 "},
		"a line added": {func(w *world) {
			replace(w.lines()[4]+"\n", w.lines()[4]+"\n"+strings.Replace(w.lines()[4], `"seq":5`, `"seq":6`, 1)+"\n")(w)
		}, "row 6 "},
		"the last line no row at all":  {func(w *world) { replace(w.lines()[4]+"\n", w.lines()[4]+"\nnoise\n")(w) }, ""},
		"the file of another instance": {replace(`"instance":"one"`, `"instance":"two"`), "row 1 "},
	} {
		t.Run(name, func(t *testing.T) {
			w := audited(t, 5)
			w.ok(w.Close())
			c.tamper(w)
			s, err := store.Open(w.ctx, w.cfg)
			if c.want == "" {
				if err == nil {
					s.Close()
					t.Fatal("it was opened")
				}
				return
			}
			w.ok(err)
			defer s.Close()
			n, err := s.Audit().Verify(w.ctx)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%d rows hold, %v; want an error about %s", n, err, c.want)
			}
		})
	}
}

func TestTamperingIsFoundWithoutFiles(t *testing.T) {
	for text, want := range map[string]string{
		`UPDATE audit SET device = 'd2' WHERE seq = 3`:        "row 3 ",
		`UPDATE audit SET hash = zeroblob(32) WHERE seq = 2`:  "row 2 ",
		`DELETE FROM audit WHERE seq = 2`:                     "row 2 ",
		`UPDATE audit SET seq = seq + 1 WHERE seq = 5`:        "row 5 ",
		`UPDATE audit SET hash = x'00' WHERE seq = 5`:         "row 5 ",
		`UPDATE audit SET instance = 'two' WHERE seq = 1`:     "row 1 ",
		`UPDATE audit SET detail = '{"i":"2"}' WHERE seq = 2`: "row 2 ",
	} {
		w := open(t)
		w.alone()
		w.notes(5)
		w.wantHolds(5)
		w.ok(w.Write(w.ctx, text))
		if _, err := w.Audit().Verify(w.ctx); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want an error about %s", text, err, want)
		}
	}
}

// A store that was brought back from an older copy must not go on in the files
// of a later life.
func TestFilesAheadOfTheStore(t *testing.T) {
	w := audited(t, 5)
	w.ok(w.Close())
	before := w.lines()
	w.tamper(`DELETE FROM audit WHERE seq > 2`)
	w.open()
	w.notes(4)
	eventually(t, "the copier says so", func() bool {
		_, err := w.Audit().Copied(w.ctx)
		return err != nil && strings.Contains(err.Error(), "row 5 ")
	})
	if diff := cmp.Diff(before, w.lines()); diff != "" {
		t.Error(diff)
	}
	if err := w.Close(); err == nil {
		t.Error("closed as if all was copied")
	}
}

func TestVerifyWhileTheStoreIsUsed(t *testing.T) {
	w := audited(t, 3)
	w.SegmentSize(5000)
	w.many(60, func(i int) error {
		if i%6 == 0 {
			_, err := w.Audit().Verify(w.ctx)
			return err
		}
		return w.Audit().Note(w.ctx, "test", "d1", "", nil)
	})
	w.wantHolds(53)
}

func TestCopyThatFailsIsTriedAgain(t *testing.T) {
	w := audited(t, 0)
	w.ok(os.RemoveAll(w.cfg.AuditDir))
	w.ok(os.WriteFile(w.cfg.AuditDir, nil, 0o600))
	w.notes(2)
	eventually(t, "the failure is told", func() bool {
		_, err := w.Audit().Copied(w.ctx)
		return err != nil
	})
	w.ok(os.Remove(w.cfg.AuditDir))
	w.ok(os.Mkdir(w.cfg.AuditDir, 0o700))
	w.notes(1)
	eventually(t, "the copy goes on", func() bool {
		behind, err := w.Audit().Copied(w.ctx)
		return err == nil && behind == 0
	})
	w.wantHolds(3)
}

// TestFilesThatAreNotTheAudits puts a copy of a file beside it, by another name. What
// is done then goes on in the audit's own file, where a restore looks for it.
func TestFilesThatAreNotTheAudits(t *testing.T) {
	w := audited(t, 5)
	w.ok(w.Close())
	own := w.segments()[0]
	text := must[[]byte](t)(os.ReadFile(own))
	beside := strings.TrimSuffix(own, ".jsonl") + "-copy.jsonl"
	w.ok(os.WriteFile(beside, text, 0o600))
	w.open()
	w.notes(2)
	w.wantHolds(7)
	if after := must[[]byte](t)(os.ReadFile(beside)); string(after) != string(text) {
		t.Error("it went on in the copy")
	}
}
