package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/registry"
)

// TestEveryKindIsReplayed reads the kinds out of the source, so that one that is
// added without a line in a replay is found.
func TestEveryKindIsReplayed(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "audit.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	kinds := 0
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || len(spec.Values) != 1 {
			return true
		}
		literal, ok := spec.Values[0].(*ast.BasicLit)
		if !ok || literal.Kind != token.STRING {
			return true
		}
		kind, err := strconv.Unquote(literal.Value)
		if err != nil || strings.Contains(kind, ",") {
			return true // not a kind
		}
		kinds++
		if store.UnknownToReplay(kind) {
			t.Errorf("a replay stops at rows of kind %q: give it a line in replay_again.go", kind)
		}
		return true
	})
	if kinds < 20 || !store.UnknownToReplay("no.such.kind") {
		t.Errorf("%d kinds were found: the test shows nothing", kinds)
	}
}

// replayed is a store whose audit is copied to files, and a copy of it from an
// earlier moment.
type replayed struct {
	*world
	copy, dir string
	row       int64
}

// rowsSince is how many rows beforeAndAfter writes after its copy: a chain, a
// certificate, its predecessor's end, and devices.
const rowsSince = 3 + 30

// beforeAndAfter makes a copy in the middle of a device's life.
func beforeAndAfter(t *testing.T, change ...func(*store.Store)) *replayed {
	t.Helper()
	r := &replayed{copy: filepath.Join(t.TempDir(), "copy.db"), dir: filepath.Join(t.TempDir(), "audit")}
	r.world = open(t, func(c *store.Config) { c.AuditDir = r.dir })
	for _, c := range change {
		c(r.Store)
	}
	r.device("d1")
	first := real(t, "first", start.AddDate(1, 0, 0))
	r.ok(r.Certificates().Register(r.ctx, "d1", first))
	copied, err := r.Copy(r.ctx, r.copy)
	r.ok(err)
	r.row = copied.Row
	r.clock.add(time.Minute)
	second := real(t, "second", start.AddDate(1, 0, 0))
	r.ok(r.Certificates().Register(r.ctx, "d1", second))
	r.ok(r.Certificates().Retire(r.ctx, removal("d1", first.ID, certificate.Deactivate)))
	for i := range 30 {
		r.device(registry.DeviceID(fmt.Sprintf("e%d", i)))
	}
	r.ok(r.Close())
	return r
}

// again opens the copy and replays.
func (r *replayed) again() (*store.Store, store.Replayed, error) {
	r.t.Helper()
	s, err := store.Open(context.Background(), store.Config{Path: r.copy, Instance: "two", Now: r.clock.Now})
	r.ok(err)
	r.t.Cleanup(func() { s.Close() })
	done, err := s.Replay(r.ctx, r.dir)
	return s, done, err
}

func TestReplayBringsBackNothingRetired(t *testing.T) {
	r := beforeAndAfter(t)
	s, done, err := r.again()
	if err != nil || done.Rows != rowsSince || done.Row != r.row+done.Rows {
		t.Fatalf("from row %d on: %+v, %v", r.row, done, err)
	}
	held, err := s.Certificates().Held(r.ctx, "d1")
	r.ok(err)
	if len(held) != 2 || held[0].Standing != certificate.Inactive || held[1].Standing != certificate.Active {
		t.Errorf("the device holds %d certificates after the replay, and the older one may not be active", len(held))
	}
	if rows, err := s.Audit().Verify(r.ctx); err != nil || rows != done.Row {
		t.Errorf("the audit after the replay: %d rows, %v", rows, err)
	}
	// What happens next is part of the same chain.
	r.ok(s.Devices().Add(r.ctx, "next", nil))
	if rows, err := s.Audit().Verify(r.ctx); err != nil || rows != done.Row+1 {
		t.Errorf("a row more: %d rows, %v", rows, err)
	}
}

func TestReplayAcrossFiles(t *testing.T) {
	r := beforeAndAfter(t, func(s *store.Store) { s.SegmentSize(3000) })
	files, err := filepath.Glob(filepath.Join(r.dir, "*"))
	r.ok(err)
	if len(files) < 3 {
		t.Fatalf("%d files", len(files))
	}
	if _, done, err := r.again(); err != nil || done.Rows != rowsSince {
		t.Errorf("%+v, %v", done, err)
	}
}

func TestReplayEndsAtATornLine(t *testing.T) {
	r := beforeAndAfter(t)
	text := r.audit()
	r.write(text[:len(text)-20])
	if _, done, err := r.again(); err != nil || done.Rows != rowsSince-1 {
		t.Errorf("%+v, %v", done, err)
	}
}

func (r *replayed) file() string { return filepath.Join(r.dir, "audit-00000000000000000001.jsonl") }

func (r *replayed) audit() []byte {
	r.t.Helper()
	text, err := os.ReadFile(r.file())
	r.ok(err)
	return text
}

func (r *replayed) write(text []byte) {
	r.t.Helper()
	r.ok(os.WriteFile(r.file(), text, 0o600))
}

// TestAlteredAuditIsNotReplayed shows that so far as the files hold they are
// followed, and no further.
func TestAlteredAuditIsNotReplayed(t *testing.T) {
	for name, alter := range map[string]func(*replayed, []byte) []byte{
		"a device's name": func(_ *replayed, text []byte) []byte { return bytes.Replace(text, []byte(`"e5"`), []byte(`"x5"`), 1) },
		"a row is gone": func(_ *replayed, text []byte) []byte {
			lines := bytes.SplitAfter(text, []byte("\n"))
			return bytes.Join(append(lines[:20:20], lines[21:]...), nil)
		},
		"a row twice": func(_ *replayed, text []byte) []byte {
			lines := bytes.SplitAfter(text, []byte("\n"))
			return bytes.Join(append(lines[:20:20], lines[19:]...), nil)
		},
		"a member more": func(_ *replayed, text []byte) []byte {
			return bytes.Replace(text, []byte(`"device":"e5"`), []byte(`"device":"e5","more":1`), 1)
		},
		"the row of the copy": func(r *replayed, text []byte) []byte {
			lines := bytes.SplitAfter(text, []byte("\n"))
			lines[r.row-1] = bytes.Replace(lines[r.row-1], []byte(`"hash":"`), []byte(`"hash":"00`), 1)
			return bytes.Join(lines, nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := beforeAndAfter(t)
			text := alter(r, r.audit())
			if bytes.Equal(text, r.audit()) {
				t.Fatal("nothing was altered")
			}
			r.write(text)
			s, done, err := r.again()
			if !errors.Is(err, store.ErrAltered) {
				t.Fatalf("%+v, %v", done, err)
			}
			if rows, err := s.Audit().Verify(r.ctx); err != nil || rows != done.Row || done.Rows >= rowsSince {
				t.Errorf("%+v; the store has %d rows that hold, %v", done, rows, err)
			}
		})
	}
}

func TestReplayWithoutFiles(t *testing.T) {
	for name, alter := range map[string]func(*replayed){
		"no directory": func(r *replayed) { r.ok(os.RemoveAll(r.dir)) },
		"no files":     func(r *replayed) { r.ok(os.Remove(r.file())) },
		"files that end too early": func(r *replayed) {
			r.write(bytes.Join(bytes.SplitAfter(r.audit(), []byte("\n"))[:r.row-1], nil))
		},
		"files that begin too late": func(r *replayed) {
			r.ok(os.Rename(r.file(), filepath.Join(r.dir, fmt.Sprintf("audit-%020d.jsonl", r.row+1))))
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := beforeAndAfter(t)
			alter(r)
			if _, done, err := r.again(); !errors.Is(err, store.ErrNoAudit) || done.Rows != 0 || done.Row != r.row {
				t.Errorf("%+v, %v", done, err)
			}
		})
	}
}

func TestReplayOfAnotherStoresAudit(t *testing.T) {
	r, other := beforeAndAfter(t), beforeAndAfter(t)
	r.dir = other.dir
	if _, done, err := r.again(); !errors.Is(err, store.ErrAltered) || done.Rows != 0 {
		t.Errorf("%+v, %v", done, err)
	}
}

func TestReplayWithNothingSince(t *testing.T) {
	r := beforeAndAfter(t)
	r.write(bytes.Join(bytes.SplitAfter(r.audit(), []byte("\n"))[:r.row], nil))
	if _, done, err := r.again(); err != nil || done.Rows != 0 || done.Row != r.row {
		t.Errorf("%+v, %v", done, err)
	}
}

// TestRestoredRemembers shows that neither a clock nor a second restore narrows
// what was lost.
func TestRestoredRemembers(t *testing.T) {
	w := open(t)
	w.device("d1")
	c := w.register("d1", "c1")
	w.ok(w.seen("d1", c.ID, start.Add(time.Hour)))
	w.ok(w.SetRestored(w.ctx, store.Restoration{At: start, Since: start.Add(-time.Hour), Lossy: true}, "lost", nil))
	first, err := w.Restored(w.ctx)
	w.ok(err)
	if !first.At.Equal(start.Add(time.Hour)) || !first.Lossy {
		t.Errorf("%+v", first)
	}
	frozen, err := w.Brakes().Frozen(w.ctx)
	w.ok(err)
	if !frozen.Retiring || frozen.Vending || frozen.Why != "lost" {
		t.Errorf("frozen: %+v", frozen)
	}
	w.ok(w.SetRestored(w.ctx, store.Restoration{At: start.Add(3 * time.Hour), Since: start.Add(2 * time.Hour)}, "again", nil))
	second, err := w.Restored(w.ctx)
	w.ok(err)
	if !second.At.Equal(start.Add(3*time.Hour)) || !second.Since.Equal(start.Add(-time.Hour)) || second.Lossy {
		t.Errorf("%+v", second)
	}
}

// TestReplayStopsWhereAFileInTheMiddleIsTorn shows that only the last file may end
// in the middle of a line: behind any other there are rows that would be lost.
func TestReplayStopsWhereAFileInTheMiddleIsTorn(t *testing.T) {
	r := beforeAndAfter(t, func(s *store.Store) { s.SegmentSize(3000) })
	files, err := filepath.Glob(filepath.Join(r.dir, "*"))
	r.ok(err)
	torn := files[len(files)-2]
	text, err := os.ReadFile(torn)
	r.ok(err)
	r.ok(os.WriteFile(torn, text[:len(text)-20], 0o600))
	_, done, err := r.again()
	if !errors.Is(err, store.ErrAltered) || done.Rows >= rowsSince {
		t.Errorf("%+v, %v", done, err)
	}
}

// TestReplayUpToARowThatIsNotKnown shows that all rows before one that cannot be
// carried out are.
func TestReplayUpToARowThatIsNotKnown(t *testing.T) {
	r := beforeAndAfter(t)
	r.open()
	r.ok(r.Audit().Note(r.ctx, "of.a.later.version", "", "", nil))
	r.ok(r.Close())
	s, done, err := r.again()
	if err == nil || errors.Is(err, store.ErrAltered) || done.Rows != rowsSince || done.Row != r.row+rowsSince {
		t.Fatalf("from row %d on: %+v, %v", r.row, done, err)
	}
	if rows, err := s.Audit().Verify(r.ctx); err != nil || rows != done.Row {
		t.Errorf("the audit after the replay: %d rows, %v", rows, err)
	}
}
