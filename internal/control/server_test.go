package control

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/rotation"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// post sends a body as it is, and returns status and answer.
func (w *world) post(path, body string) (int, string) {
	w.t.Helper()
	request, err := http.NewRequestWithContext(w.ctx, http.MethodPost, "http://x"+path, strings.NewReader(body))
	w.must(err)
	response, err := w.Client.http.Do(request)
	w.must(err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	w.must(err)
	return response.StatusCode, string(text)
}

func TestOddBodies(t *testing.T) {
	w := open(t)
	for name, tc := range map[string]struct {
		body   string
		status int
	}{
		"nothing":              {"", http.StatusBadRequest},
		"noise":                {"\x00\x01", http.StatusBadRequest},
		"a member nobody knew": {`{"name":"a","cssr":"x"}`, http.StatusBadRequest},
		"two values":           {`{"name":"a","csr":"x"}{}`, http.StatusBadRequest},
		"a wrong kind":         {`{"name":5}`, http.StatusBadRequest},
		"too much":             {`{"name":"` + strings.Repeat("a", maxBody) + `"}`, http.StatusRequestEntityTooLarge},
	} {
		if status, text := w.post("/v1/devices", tc.body); status != tc.status || !strings.HasPrefix(text, `{"error":"`) {
			t.Errorf("%s: got %d %.80s, want %d", name, status, text, tc.status)
		}
	}
	if status, _ := w.post("/v1/members", `{"names":["`+strings.Repeat(`a","`, batch)+`a"]}`); status != http.StatusBadRequest {
		t.Errorf("too many names: got %d", status)
	}
	if status, _ := w.post("/v1/nothing", `{}`); status != http.StatusNotFound {
		t.Errorf("an unknown path: got %d", status)
	}
	if len(w.notes) > 0 || w.count() > 0 {
		t.Errorf("odd bodies had an effect: %v", w.notes)
	}
}

func TestFreeze(t *testing.T) {
	w := open(t)
	both, err := w.Freeze(w.ctx, What{Vending: true}, "one")
	w.must(err)
	if !both.Vending || both.Retiring || both.Why != "one" {
		t.Errorf("froze %+v", both)
	}
	both, err = w.Freeze(w.ctx, What{Retiring: true}, "")
	w.must(err)
	if !both.Vending || !both.Retiring || !strings.HasPrefix(both.Why, "vending: one; retiring: frozen by uid ") {
		t.Errorf("froze %+v", both)
	}
	// What is frozen keeps its reason, unless another one is given for it.
	both, err = w.Freeze(w.ctx, What{Vending: true, Retiring: true}, "")
	w.must(err)
	if !strings.HasPrefix(both.Why, "vending: one; retiring: frozen by uid ") {
		t.Errorf("froze %+v", both)
	}
	both, err = w.Freeze(w.ctx, What{Retiring: true}, "two")
	w.must(err)
	if both.Why != "vending: one; retiring: two" {
		t.Errorf("froze %+v", both)
	}
	if _, err := w.Thaw(w.ctx, What{Vending: true}); err != nil {
		t.Fatal(err)
	}
	frozen, err := w.store.Brakes().Frozen(w.ctx)
	w.must(err)
	if frozen.Vending || !frozen.Retiring || frozen.Why != "two" || !frozen.At.Equal(both.At) {
		t.Errorf("the store has %+v", frozen)
	}
	left, err := w.Thaw(w.ctx, What{Retiring: true})
	w.must(err)
	if left.Vending || left.Retiring || left.Why != "" {
		t.Errorf("thawed to %+v", left)
	}
	_, err = w.Freeze(w.ctx, What{}, "")
	refused(t, err, http.StatusBadRequest, "neither")
}

func TestOperate(t *testing.T) {
	w := open(t)
	w.must(w.Ready(w.ctx))
	job, err := w.EnsureJob(w.ctx)
	w.must(err)
	if job.Group != "group" || !strings.Contains(job.Document, "RotateCertificates") {
		t.Errorf("ensured %+v", job)
	}
	again, err := w.Job(w.ctx)
	w.must(err)
	if again.ID != job.ID || again.State != "IN_PROGRESS" {
		t.Errorf("the job is %+v", again)
	}
	cas, roots, err := w.CAs(w.ctx)
	w.must(err)
	if len(cas) != 1 || roots != "roots" {
		t.Errorf("CAs %v and roots %q", cas, roots)
	}
	swept, err := w.Sweep(w.ctx, true)
	w.must(err)
	if swept.Retired != 1 || w.notes[len(w.notes)-1].Kind != "operator.trust_clock" {
		t.Errorf("swept %+v without trust", swept)
	}
	w.add("lamp")
	if n, err := w.VerifyAudit(w.ctx); err != nil || n == 0 {
		t.Errorf("verified %d events: %v", n, err)
	}
}

func TestAuditThatDoesNotHold(t *testing.T) {
	w := open(t, func(p *Ports) {
		p.VerifyAudit = func(context.Context) (int64, error) { return 7, errors.New("row 8 was changed") }
	})
	n, err := w.VerifyAudit(w.ctx)
	refused(t, err, http.StatusConflict, "row 8 was changed")
	if n != 7 {
		t.Errorf("%d events hold together, want 7", n)
	}
}

func TestNotReady(t *testing.T) {
	w := open(t, func(p *Ports) { p.Ready = func(context.Context) error { return errors.New("the store is full") } })
	refused(t, w.Ready(w.ctx), http.StatusServiceUnavailable, "the store is full")
	_, err := w.EnsureJob(w.ctx)
	w.must(err)
	status, err := w.Status(w.ctx)
	w.must(err)
	if status.NotReady != "the store is full" {
		t.Errorf("status says %q", status.NotReady)
	}
}

// An operator's act that cannot be recorded does not happen.
func TestNoActWithoutARecord(t *testing.T) {
	w := open(t, func(p *Ports) { p.Note = func(context.Context, Event) error { return errors.New("disk full") } })
	_, err := w.AddDevice(w.ctx, AddRequest{Name: "lamp", CSR: newCSR(t, newKey(t))})
	refused(t, err, http.StatusInternalServerError, "disk full")
	if w.count() > 0 {
		t.Error("a certificate was issued")
	}
}

// journal is a catalogue of what is given.
type journal struct {
	rotation.Catalogue
	rotations   []rotation.Rotation
	retirements []rotation.Retirement
}

func (j journal) Rotations(_ context.Context, q rotation.Query) ([]rotation.Rotation, error) {
	var page []rotation.Rotation
	for _, r := range j.rotations {
		if r.Device > q.After && (q.State == "" || r.State == q.State) {
			page = append(page, r)
		}
	}
	return page, nil
}

func (j journal) Retirements(_ context.Context, q rotation.Query) ([]rotation.Retirement, error) {
	var page []rotation.Retirement
	for _, r := range j.retirements {
		if r.Device > q.After && (!q.Open || r.Done.IsZero()) {
			page = append(page, r)
		}
	}
	return page, nil
}

func TestStuckSaysWhyAndWhatToType(t *testing.T) {
	past, future := time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	id := func(c string) certificate.ID { return certificate.ID(strings.Repeat(c, 64)) }
	w := open(t, func(p *Ports) {
		p.Rotations = journal{
			rotations: []rotation.Rotation{
				{Device: "a-stale", Number: 1, State: rotation.Stale, Certificate: id("a"), VendedAt: past},
				{Device: "b-open", Number: 1, State: rotation.Vended, VendedAt: past},
			},
			retirements: []rotation.Retirement{
				{Device: "blocked", Certificate: id("1"), Due: past, Why: "the device is blocked"},
				{Device: "done", Certificate: id("2"), Due: past, Done: past},
				{Device: "gone", Certificate: id("3"), Due: past, Why: "not in the registry"},
				{Device: "later", Certificate: id("4"), Due: future},
				{Device: "new", Certificate: id("5"), Due: past},
				{Device: "reverted", Certificate: id("6"), Due: future, Reverted: true, Why: "went back"},
			},
		}
	})
	for _, name := range []deviceID{"blocked", "later", "new", "reverted"} {
		w.must(w.store.Devices().Add(w.ctx, name, nil))
	}
	w.must(w.store.Devices().Block(w.ctx, "blocked", true))
	want := map[string]string{
		"blocked": "certvendor device unblock blocked", "gone": "certvendor device add gone --out DIR, if",
		"new": "certvendor rotation sweep", "reverted": "certvendor rotation show reverted", "a-stale": "certvendor rotation retry a-stale",
	}
	check := func() {
		t.Helper()
		found := map[string]Stuck{}
		for s, err := range w.Stuck(w.ctx) {
			w.must(err)
			found[s.Device] = s
		}
		if len(found) != len(want) {
			t.Errorf("stuck are %v", found)
		}
		for name, do := range want {
			if s := found[name]; !strings.HasPrefix(s.Do, do) || s.Why == "" {
				t.Errorf("%s: %q, because %q; want %q", name, s.Do, s.Why, do)
			}
		}
	}
	check()
	_, err := w.Freeze(w.ctx, What{Retiring: true}, "a test")
	w.must(err)
	want["new"], want["reverted"] = "certvendor thaw retiring", "certvendor thaw retiring"
	check()
}

func TestSocketPermissions(t *testing.T) {
	dir := filepath.Join(socketDir(t), "made")
	path := filepath.Join(dir, "s")
	listener := listen(t, Socket{Path: path})
	if got := permissions(t, path); got != 0o600 {
		t.Errorf("the socket has mode %#o", got)
	}
	if got := permissions(t, dir); got != 0o700 {
		t.Errorf("its directory has mode %#o", got)
	}
	// Somebody answers on it.
	if _, err := (Socket{Path: path}).listen(t.Context()); err == nil || !strings.Contains(err.Error(), "another certvendor answers") {
		t.Errorf("took a socket that is in use: %v", err)
	}
	// Nobody does any more, but it was left behind.
	listener.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	if err := listen(t, Socket{Path: path}).Close(); err != nil {
		t.Error(err)
	}
}

func TestSocketOfAGroup(t *testing.T) {
	group, err := user.LookupGroupId(strconv.Itoa(os.Getgid()))
	if err != nil {
		t.Skipf("this process's group has no name: %v", err)
	}
	dir := filepath.Join(socketDir(t), "made")
	path := filepath.Join(dir, "s")
	defer listen(t, Socket{Path: path, Group: group.Name}).Close()
	if got := permissions(t, path); got != 0o660 {
		t.Errorf("the socket has mode %#o", got)
	}
	if got := permissions(t, dir); got != 0o750 {
		t.Errorf("its directory has mode %#o", got)
	}
}

func TestSocketRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		prepare func(dir string) error
		group   string
		words   string
	}{
		"a file in its place":           {func(dir string) error { return os.WriteFile(filepath.Join(dir, "s"), []byte("x"), 0o600) }, "", "is not a socket"},
		"a directory anybody writes to": {func(dir string) error { return os.Chmod(dir, 0o777) }, "", "anybody may write"},
		"a group that is none":          {func(string) error { return nil }, "no-such-group-here", "control.group"},
		"a group that cannot enter":     {func(dir string) error { return os.Chmod(dir, 0o700) }, "root", "nobody but its owner can enter"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := socketDir(t)
			if err := tc.prepare(dir); err != nil {
				t.Fatal(err)
			}
			listener, err := (Socket{Path: filepath.Join(dir, "s"), Group: tc.group}).listen(t.Context())
			if err == nil {
				_ = listener.Close()
			}
			if err == nil || !strings.Contains(err.Error(), tc.words) {
				t.Errorf("got %v, want %q", err, tc.words)
			}
		})
	}
}

func listen(t *testing.T, s Socket) net.Listener {
	t.Helper()
	listener, err := s.listen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return listener
}

func permissions(t *testing.T, path string) os.FileMode {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Mode().Perm()
}

func TestShutdownWithoutServe(t *testing.T) {
	path := filepath.Join(socketDir(t), "s")
	s, err := Open(t.Context(), Socket{Path: path}, Remote{}, Ports{})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
	if err := s.Serve(); err != nil {
		t.Errorf("serving after the end: %v", err)
	}
}

func TestNobodyAnswers(t *testing.T) {
	err := Dial(filepath.Join(socketDir(t), "none")).Ready(t.Context())
	if err == nil || !strings.Contains(err.Error(), "start `certvendor serve`") {
		t.Errorf("got %v", err)
	}
}
