package store_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/certvendor/certvendor/internal/store"
)

// written stands for the audit's files as they were written: {n} is the line of
// row n, and the next file begins at |.
const written = "{1}{2}|{3}{4}|{5}"

// FuzzAuditFile holds that nothing but what was written passes for the audit's
// files, whether they are changed under a store that is open or before it is
// opened, and that opening takes no whole line away. With the lines put in,
// cut bytes at the place at are replaced by text.
func FuzzAuditFile(f *testing.F) {
	for _, files := range []string{
		written, "{1}{2}|{4}{3}|{5}", "{1}{2}|{3}{4}|{5}{5}", "{1}{2}|{3}{4}", "{1}|{2}{3}|{4}{5}", "|{1}{2}|{3}{4}{5}",
		"{1}{2}noise|{3}{4}|{5}", "{1}{2}|{3}{4}|{5}noise", "{1}{2}|{3}{4}|{5}noise\n", "{1}{2}|{3}{4}|{2}", "noise", "",
	} {
		f.Add(files, uint16(0), uint16(0), "")
	}
	f.Add(written, uint16(40), uint16(1), "X")
	f.Add(written, uint16(1000), uint16(2000), "")
	a := newAuditFiles(f)
	f.Fuzz(func(t *testing.T, files string, at, cut uint16, text string) {
		changed := a.render(files, int(at), int(cut), text)
		a.checkWhileOpen(t, changed)
		a.checkOpening(t, changed)
	})
}

// auditFiles are a store with five rows in its audit, and a directory for the
// files of its copy.
type auditFiles struct {
	*store.Store
	dir   string
	lines *strings.Replacer
	whole []string // the files as they were written
}

func newAuditFiles(f *testing.F) *auditFiles {
	const memory = "/dev/shm" // most of an input's time would go into syncs
	if _, err := os.Stat(memory); err == nil {
		f.Setenv("TMPDIR", memory)
	}
	path := filepath.Join(f.TempDir(), "store.db")
	s, err := store.Open(f.Context(), store.Config{Path: path, Instance: "one", Now: func() time.Time { return start }})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { s.Close() })
	a := &auditFiles{Store: s, dir: filepath.Join(f.TempDir(), "audit")}
	for _, err := range []error{
		s.Audit().Note(f.Context(), store.CAMade, "", "", map[string]string{"name": "issuing"}),
		s.Devices().Add(f.Context(), "d1", nil),
		s.Certificates().Register(f.Context(), "d1", fake("c1")), // two rows, one of them its chain's
		s.Audit().Note(f.Context(), "test", "d1", "", map[string]string{"odd": "ü<&>\n\x01{1}"}),
	} {
		if err != nil {
			f.Fatal(err)
		}
	}
	rows, err := a.verified(f, func() {})
	if err != nil || rows != 5 {
		f.Fatalf("%d rows hold, %v; want 5", rows, err)
	}
	var names []string
	for i, line := range strings.SplitAfterN(strings.Join(a.read(f), ""), "\n", 5) {
		names = append(names, fmt.Sprintf("{%d}", i+1), line)
	}
	a.lines = strings.NewReplacer(names...)
	a.whole = a.render(written, 0, 0, "")
	return a
}

// render returns the contents of the files that an input means.
func (a *auditFiles) render(files string, at, cut int, text string) []string {
	all := a.lines.Replace(files)
	at = min(at, len(all))
	return strings.SplitN(all[:at]+text+all[min(at+cut, len(all)):], "|", 6)
}

// write puts files of these contents, and no others, into the directory.
func (a *auditFiles) write(t testing.TB, contents []string) {
	t.Helper()
	for i := range 6 {
		name := filepath.Join(a.dir, fmt.Sprintf("audit-%020d.jsonl", 2*i+1))
		if i >= len(contents) {
			os.Remove(name) //nolint:errcheck // it need not be there
		} else if err := os.WriteFile(name, []byte(contents[i]), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// read returns the contents of the files, in order.
func (a *auditFiles) read(t testing.TB) (contents []string) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(a.dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		contents = append(contents, string(text))
	}
	return contents
}

// verified takes up the files, calls change, and verifies.
func (a *auditFiles) verified(t testing.TB, change func()) (rows int64, err error) {
	t.Helper()
	refused := a.Copying(a.dir, func() {
		change()
		rows, err = a.Audit().Verify(t.Context())
	})
	if refused != nil {
		return rows, refused
	}
	return rows, err
}

// namesRow is how every refusal says where the files went wrong.
var namesRow = regexp.MustCompile(`row \d|last row of `)

func (a *auditFiles) checkVerdict(t *testing.T, good bool, rows int64, err error) {
	t.Helper()
	switch {
	case good && (err != nil || rows != 5):
		t.Errorf("%d rows hold, %v", rows, err)
	case !good && err == nil:
		t.Error("tampering was not found")
	case !good && !namesRow.MatchString(err.Error()):
		t.Errorf("the refusal names no row: %v", err)
	}
}

// checkWhileOpen has the files change under a store that has copied all rows:
// any other text than what was copied is refused, and left as it is.
func (a *auditFiles) checkWhileOpen(t *testing.T, changed []string) {
	t.Helper()
	a.write(t, a.whole)
	rows, err := a.verified(t, func() { a.write(t, changed) })
	a.checkVerdict(t, strings.Join(changed, "") == strings.Join(a.whole, ""), rows, err)
	if after := a.read(t); !slices.Equal(after, changed) {
		t.Errorf("verifying changed the files\n%q\ninto\n%q", changed, after)
	}
}

// checkOpening has the files change before they are taken up: what a crash may
// leave is completed, and anything else is refused.
func (a *auditFiles) checkOpening(t *testing.T, changed []string) {
	t.Helper()
	a.write(t, changed)
	rows, err := a.verified(t, func() {})
	a.checkVerdict(t, a.torn(changed), rows, err)
	after := a.read(t)
	if err == nil && strings.Join(after, "") != strings.Join(a.whole, "") {
		t.Errorf("the files hold, and are\n%q", after)
	}
	if !strings.HasPrefix(wholeLines(after), wholeLines(changed)) {
		t.Errorf("opening changed\n%q\ninto\n%q", changed, after)
	}
}

// torn reports whether a crash may have left the files so: the first lines of
// what was written, and whatever behind the last of them.
func (a *auditFiles) torn(files []string) bool {
	last := len(files) - 1
	for last >= 0 && !strings.Contains(files[last], "\n") {
		last--
	}
	for _, file := range files[:max(last, 0)] {
		if file != "" && !strings.HasSuffix(file, "\n") {
			return false
		}
	}
	return strings.HasPrefix(strings.Join(a.whole, ""), wholeLines(files))
}

// wholeLines returns the lines that end in a line feed.
func wholeLines(files []string) string {
	var all strings.Builder
	for _, file := range files {
		all.WriteString(file[:strings.LastIndexByte(file, '\n')+1])
	}
	return all.String()
}
