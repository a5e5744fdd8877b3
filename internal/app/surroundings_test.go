package app_test

import (
	"io"
	"net/http"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/certvendor/certvendor/internal/config"
	"github.com/certvendor/certvendor/internal/control"
	"github.com/certvendor/certvendor/protocol"
)

// fill makes the disk as good as full: no file of this process may grow. It
// returns what makes room again.
func fill(t *testing.T) func() {
	t.Helper()
	signal.Ignore(syscall.SIGXFSZ) // so that the limit is an error of the write
	var was syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &was); err != nil {
		t.Fatal(err)
	}
	full := syscall.Rlimit{Cur: 1, Max: was.Max}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &full); err != nil {
		t.Fatal(err)
	}
	room := func() {
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &was); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(room)
	return room
}

func (w *world) readyz() (status int, body string) {
	w.Helper()
	answer, err := http.Get("http://" + w.app.MetricsAddr() + "/readyz")
	if err != nil {
		w.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		w.Fatal(err)
	}
	return answer.StatusCode, string(text)
}

// becomes waits until /readyz has the status, and returns what it says.
func (w *world) becomes(status int) string {
	w.Helper()
	for limit := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		got, body := w.readyz()
		if got == status {
			return body
		}
		if time.Now().After(limit) {
			w.Fatalf("/readyz stays %d: %s", got, body)
		}
	}
}

// TestDiskFull shows that a full disk refuses requests for now, loses nothing,
// and that the daemon recovers by itself.
func TestDiskFull(t *testing.T) {
	w := start(t, nil)
	pump := w.actor(t, "pump")
	over := w.open(t, "pump", "pump", pump.old)
	w.becomes(http.StatusOK)
	room := fill(t)
	request := body(t, "csr", newCSR(t, newKey(t), "pump"))
	over.refusedAs(protocol.TryAgainLater, protocol.Get, request)
	if why := w.becomes(http.StatusServiceUnavailable); !strings.Contains(why, "the store cannot be written") {
		t.Errorf("/readyz says %q", why)
	}
	room()
	w.becomes(http.StatusOK)
	accepted, reply := over.ask(protocol.Get, request)
	if !accepted {
		t.Fatalf("after the disk had room again: %s", reply)
	}
	again, same := over.ask(protocol.Get, request)
	if !again || string(same) != string(reply) {
		t.Errorf("the same request got another answer: %s", same)
	}
	if _, err := w.client.VerifyAudit(t.Context()); err != nil {
		t.Error(err)
	}
}

// What is frozen for reasons of its own is said with its own reason.
func TestReadyzSaysWhyEachIsFrozen(t *testing.T) {
	w := start(t, func(*config.Config) {})
	for _, one := range []struct {
		what control.What
		why  string
	}{{control.What{Vending: true}, "refusals"}, {control.What{Retiring: true}, "a doubt"}} {
		if _, err := w.client.Freeze(t.Context(), one.what, one.why); err != nil {
			t.Fatal(err)
		}
	}
	const want = "ready\nvending is frozen: refusals; retiring is frozen: a doubt\n"
	if status, text := w.readyz(); status != http.StatusOK || text != want {
		t.Errorf("/readyz says %d %q, want %q", status, text, want)
	}
}
