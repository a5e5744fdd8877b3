package app_test

import (
	"context"
	"database/sql"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/certvendor/certvendor/internal/config"
	"github.com/certvendor/certvendor/internal/control"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/rotation"
)

// holdStore keeps the store's lock, as another program on the file would, so
// that every commit takes until release is called. That is what a disk that
// does not finish its syncs looks like to the rest of the daemon.
func (w *world) holdStore(t *testing.T) (release func()) {
	t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(w.config.Standalone.Data, "certvendor.db"))
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.WithoutCancel(t.Context())
	conn, err := db.Conn(ctx)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the lock is ours", func() bool {
		_, err := conn.ExecContext(ctx, "BEGIN IMMEDIATE")
		return err == nil
	})
	return func() {
		if _, err := conn.ExecContext(ctx, "ROLLBACK"); err != nil {
			t.Error(err)
		}
		if err := errors.Join(conn.Close(), db.Close()); err != nil {
			t.Error(err)
		}
	}
}

// impatient tells devices soon that an answer takes too long, and lets them
// ask as often as a test likes.
func impatient(c *config.Config) {
	c.Vending.Patience, c.Limits.Burst = 300*time.Millisecond, 1000
}

// longestCommit is less than the store waits for a lock before it fails.
const longestCommit = 8 * time.Second

// TestSlowDisk has a commit take longer than a request may. The device is told
// to come back, the work is finished behind, and the same request then gets
// what was made for it.
func TestSlowDisk(t *testing.T) {
	w := start(t, impatient)
	for _, name := range []string{"one", "two", "three", "four", "five"} {
		d := w.actor(t, name)
		over := w.open(t, name, name, d.old)
		request := body(t, "csr", newCSR(t, newKey(t), name))
		release := w.holdStore(t)
		began := time.Now()
		over.refusedAs(protocol.TryAgainLater, protocol.Get, request)
		t.Logf("told to come back after %s", time.Since(began))
		release()
		if time.Since(began) > longestCommit {
			continue // this machine is slower than the disk that was meant
		}
		var made string
		eventually(t, "the work is finished behind", func() bool {
			rotations := w.detail(t, name).Rotations
			if len(rotations) == 1 && rotations[0].State == rotation.Vended {
				made = string(rotations[0].Certificate)
			}
			return made != ""
		})
		accepted, reply := over.ask(protocol.Get, request)
		if !accepted || !strings.Contains(string(reply), made) {
			t.Errorf("the same request got %s, not %s", reply, made)
		}
		return
	}
	t.Skip("no commit was held for a short time only")
}

// TestStoreHeld has another program hold the store for as long as it takes
// until the daemon says that it cannot write.
func TestStoreHeld(t *testing.T) {
	w := start(t, impatient)
	d := w.actor(t, "pump")
	over := w.open(t, "pump", "pump", d.old)
	w.becomes(http.StatusOK)
	release := w.holdStore(t)
	request := body(t, "csr", newCSR(t, newKey(t), "pump"))
	over.refusedAs(protocol.TryAgainLater, protocol.Get, request)
	if why := w.becomes(http.StatusServiceUnavailable); !strings.Contains(why, "the store cannot be written") {
		t.Errorf("/readyz says %q", why)
	}
	over.refusedAs(protocol.TryAgainLater, protocol.Get, request) // still an answer
	release()
	w.becomes(http.StatusOK)
	w.answersSoon(t, over, request)
}

// answersSoon repeats a request, as its device would, until it is accepted; and
// then it has one answer. The history must hold.
func (w *world) answersSoon(t *testing.T, over *peer, request string) {
	t.Helper()
	var first []byte
	eventually(t, "the request is accepted", func() bool {
		accepted, reply := over.ask(protocol.Get, request)
		first = reply
		return accepted
	})
	if accepted, same := over.ask(protocol.Get, request); !accepted || string(same) != string(first) {
		t.Errorf("the same request got another answer: %s", same)
	}
	if rotations := w.detail(t, over.name).Rotations; len(rotations) != 1 {
		t.Errorf("%d rotations for one request", len(rotations))
	}
	if _, err := w.client.VerifyAudit(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestNothingCanBeWritten lets no write to any file succeed, as on a file
// system that went read-only. What was begun is whole or not there.
func TestNothingCanBeWritten(t *testing.T) {
	w := start(t, func(c *config.Config) { c.Limits.Burst = 1000 })
	pump, done := w.actor(t, "pump"), w.actor(t, "done")
	over := w.open(t, "pump", "pump", pump.old)
	old := w.open(t, "done", "done", done.old)
	done.get(t, old)
	next := w.open(t, "done", "done/candidate", done.next)
	room := fill(t)
	w.unchanged(t, func(t *testing.T) {
		request := body(t, "csr", newCSR(t, newKey(t), "pump"))
		over.in(t).refusedAs(protocol.TryAgainLater, protocol.Get, request)
		next.in(t).refusedAs(protocol.TryAgainLater, protocol.Ack, "{}")
		if _, err := w.client.CreatePackage(t.Context(), "pump"); err == nil {
			t.Error("a package was made where nothing can be written")
		}
		if _, err := w.client.AddDevice(t.Context(), control.AddRequest{Name: "new", CSR: newCSR(t, newKey(t), "new")}); err == nil {
			t.Error("a device was entered where nothing can be written")
		}
		room()
	})
	w.becomes(http.StatusOK)
	if accepted, reply := next.ask(protocol.Ack, "{}"); !accepted {
		t.Errorf("ack: %s", reply)
	}
	if _, err := w.client.CreatePackage(t.Context(), "pump"); err != nil {
		t.Error(err)
	}
	w.answersSoon(t, over, body(t, "csr", newCSR(t, newKey(t), "pump")))
	w.refusesConnect(t, done.old, "done")
}

// ownDisk says that the process has a mount namespace of its own.
const ownDisk = "SURROUNDINGS_OWN_DISK"

// TestFileSystemFull runs on a file system of 24 MiB until that has no room,
// and goes on when it has some. Mounting one takes a process of its own.
func TestFileSystemFull(t *testing.T) {
	if dir := os.Getenv(ownDisk); dir != "" {
		fileSystemFull(t, dir)
		return
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	again := exec.CommandContext(t.Context(), self, "-test.run=^TestFileSystemFull$", "-test.v")
	again.Env = append(os.Environ(), ownDisk+"="+t.TempDir())
	again.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	said, err := again.CombinedOutput()
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EACCES) || strings.Contains(string(said), "--- SKIP") {
		t.Skipf("nothing may be mounted here: %v", err)
	}
	if err != nil {
		t.Errorf("%v\n%s", err, said)
	}
}

func fileSystemFull(t *testing.T, dir string) {
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=24m"); err != nil {
		t.Skip(err)
	}
	w := start(t, func(c *config.Config) {
		c.Standalone.Data, c.Limits.Burst = filepath.Join(dir, "data"), 1000
	})
	pump := w.actor(t, "pump")
	over := w.open(t, "pump", "pump", pump.old)
	w.becomes(http.StatusOK)
	ballast := filepath.Join(dir, "ballast")
	f, err := os.Create(ballast)
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = f.Write(make([]byte, 4<<10))
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	// There may be room left in files that are there; it does not last.
	if why := w.becomes(http.StatusServiceUnavailable); !strings.Contains(why, "the store cannot be written") {
		t.Errorf("/readyz says %q", why)
	}
	request := body(t, "csr", newCSR(t, newKey(t), "pump"))
	over.refusedAs(protocol.TryAgainLater, protocol.Get, request)
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	w.becomes(http.StatusOK)
	w.answersSoon(t, over, request)
}
