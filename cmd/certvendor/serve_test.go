package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/certvendor/certvendor/internal/app"
	"github.com/certvendor/certvendor/internal/fleet"
)

// A service manager hears that the daemon is ready, that it lives and that it
// stops, in this order.
func TestServeTellsTheServiceManager(t *testing.T) {
	dir, err := os.MkdirTemp("", "cv")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	t.Setenv("NOTIFY_SOCKET", filepath.Join(dir, "notify"))
	t.Setenv("WATCHDOG_USEC", strconv.FormatInt((200*time.Millisecond).Microseconds(), 10))
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 1)
	go func() {
		ended <- serve(ctx, func(ctx context.Context, ready func(*app.App)) error {
			return app.Run(ctx, demoConfig(dir, 1), zerolog.Nop(), ready)
		})
	}()
	expect(t, manager, "READY=1")
	expect(t, manager, "WATCHDOG=1")
	expect(t, manager, "WATCHDOG=1")
	stop()
	for next := hear(t, manager); next != "STOPPING=1"; next = hear(t, manager) {
		if next != "WATCHDOG=1" {
			t.Fatalf("heard %q before the end", next)
		}
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func expect(t *testing.T, manager net.Conn, want string) {
	t.Helper()
	if got := hear(t, manager); got != want {
		t.Fatalf("heard %q, want %q", got, want)
	}
}

func hear(t *testing.T, manager net.Conn) string {
	t.Helper()
	if err := manager.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	buffer := make([]byte, 256)
	n, err := manager.Read(buffer)
	if err != nil {
		t.Fatal(err)
	}
	return string(buffer[:n])
}

// A demo that is stopped in the middle does not end well.
func TestDemoThatIsStopped(t *testing.T) {
	var out bytes.Buffer
	c := &cli{out: &out, errs: io.Discard}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.runDemo(ctx, 2); err == nil {
		t.Errorf("it ended well: %s", out.String())
	}
}

// A device counts only if it has rotated, was acknowledged, works with its new
// certificate and not with its old one.
func TestDemoJudges(t *testing.T) {
	devices := []fleet.Device{{Name: "good"}, {Name: "old"}, {Name: "mute"}, {Name: "lost"}, {Name: "both"}}
	report := fleet.Report{Took: time.Second, Results: []fleet.Result{
		{Device: "good", Rotated: true, Acked: true, Timing: fleet.Timing{Total: 100 * time.Millisecond}},
		{Device: "old", Rotated: true, Acked: true},
		{Device: "mute", Rotated: true},
		{Device: "lost", Err: errors.New("device lost: no answer")},
		{Device: "both", Err: errors.New("device both: no answer")},
	}}
	violations := []fleet.Violation{{Device: "old", Err: errors.New("the old certificate still connects")}, {Device: "both", Err: io.EOF}}
	got := demo{}.judge(report, devices, violations)
	want := summary{Devices: 5, Rotated: 1, Failed: 4, Seconds: 1, RotationsPerSecond: 1, P50Millis: 100, P99Millis: 100}
	if got.summary != want {
		t.Errorf("judged %+v, want %+v", got.summary, want)
	}
	var out bytes.Buffer
	got.words(&out)
	for _, want := range []string{"FAILED old: the old certificate still connects", "FAILED device lost: no answer", "1 of 5 devices rotated"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("does not say %q:\n%s", want, out.String())
		}
	}
}

func TestProgressIsForPeopleOnly(t *testing.T) {
	var out bytes.Buffer
	bar := newProgress(&out, "import", 2)
	bar.step()
	bar.clear()
	if out.Len() > 0 {
		t.Errorf("wrote %q where nobody watches", out.String())
	}
	bar = &progress{w: &out, what: "import", total: 2}
	bar.step()
	if !strings.Contains(out.String(), "import [###############...............] 1 of 2") {
		t.Errorf("wrote %q", out.String())
	}
}

func TestErrorsAreOneLine(t *testing.T) {
	if got := oneLine(errors.Join(io.EOF, io.ErrClosedPipe)); got != "EOF; io: read/write on closed pipe" {
		t.Errorf("got %q", got)
	}
}

// A replaced file is never half written, a created one never overwritten.
func TestFiles(t *testing.T) {
	dir := t.TempDir()
	key := filepath.Join(dir, "a.key")
	if err := create(key, []byte("one"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := create(key, []byte("two"), 0o600); err == nil {
		t.Error("overwrote a key")
	}
	for _, text := range []string{"one", "two"} {
		if err := replace(filepath.Join(dir, "ca.crt"), []byte(text)); err != nil {
			t.Fatal(err)
		}
		if got, _ := os.ReadFile(filepath.Join(dir, "ca.crt")); string(got) != text {
			t.Errorf("ca.crt holds %q, want %q", got, text)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}
