package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/certvendor/certvendor/protocol"
)

// binary is built once for all tests, the way it is shipped.
var binary = sync.OnceValues(func() (string, error) {
	path := filepath.Join(os.TempDir(), fmt.Sprintf("certagent-test-%d", os.Getpid()))
	build := exec.Command("go", "build", "-o", path, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return path, nil
})

// TestMain is also a certagent that loses its power: see unplug_test.go.
func TestMain(m *testing.M) {
	if line := os.Getenv(unplugAfter); line != "" {
		os.Exit(unplugged(line))
	}
	status := m.Run()
	_ = os.Remove(filepath.Join(os.TempDir(), fmt.Sprintf("certagent-test-%d", os.Getpid())))
	os.Exit(status)
}

// box is a directory with everything one device has.
type box struct {
	t         *testing.T
	directory string
}

// newBox returns the box of an enrolled device; more is added to its
// configuration.
func newBox(t *testing.T, v *vendor, more string) box {
	t.Helper()
	b := box{t: t, directory: t.TempDir()}
	v.firstPair(b.directory)
	b.write("agent.yaml", "device: pump-7\nbroker: "+v.address+"\nca: roots.pem\ndirectory: store\n"+more)
	b.enrol("first.pem", "first.key")
	return b
}

// enrol puts the first pair in place; its key, unless the configuration names one.
func (b box) enrol(certificate, key string) {
	b.t.Helper()
	args := []string{"--certificate", b.path(certificate)}
	if !strings.Contains(b.read("agent.yaml"), "key_file:") {
		args = append(args, "--key", b.path(key))
	}
	if out, status := b.call("enrol", args...); status != 0 {
		b.t.Fatalf("enrol: %d, %s", status, out)
	}
}

func (b box) path(name string) string { return filepath.Join(b.directory, name) }

func (b box) write(name, text string) {
	b.t.Helper()
	if err := os.WriteFile(b.path(name), []byte(text), 0o700); err != nil {
		b.t.Fatal(err)
	}
}

func (b box) read(name string) string {
	text, err := os.ReadFile(b.path(name))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		b.t.Fatal(err)
	}
	return string(text)
}

// command prepares a call, from another directory than the configuration's.
func (b box) command(verb string, args ...string) *exec.Cmd {
	b.t.Helper()
	path, err := binary()
	if err != nil {
		b.t.Fatal(err)
	}
	c := exec.Command(path, append([]string{verb, "--config", b.path("agent.yaml")}, args...)...)
	c.Dir = b.t.TempDir()
	return c
}

// call runs a command to its end and returns what it wrote, to both.
func (b box) call(verb string, args ...string) (out string, status int) {
	b.t.Helper()
	c := b.command(verb, args...)
	text, err := c.CombinedOutput()
	if err != nil && !errors.As(err, new(*exec.ExitError)) {
		b.t.Fatal(err)
	}
	return string(text), c.ProcessState.ExitCode()
}

func (b box) status() (s standing) {
	b.t.Helper()
	out, status := b.call("status", "--json")
	if err := json.Unmarshal([]byte(out), &s); err != nil || status != 0 {
		b.t.Fatalf("status: %d, %v, %s", status, err, out)
	}
	return s
}

// start runs a command until the test ends or kills it; log is its standard
// error.
func (b box) start(c *exec.Cmd) (log *transcript, ended chan error) {
	b.t.Helper()
	log, ended = new(transcript), make(chan error, 1)
	c.Stderr = log
	if err := c.Start(); err != nil {
		b.t.Fatal(err)
	}
	gone := make(chan struct{})
	go func() { ended <- c.Wait(); close(gone) }()
	b.t.Cleanup(func() { _ = c.Process.Kill(); <-gone })
	return log, ended
}

type transcript struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *transcript) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *transcript) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for range 6000 {
		if holds() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("within a minute it never came that %s", what)
}

func TestOnceRotates(t *testing.T) {
	v := newVendor(t)
	b := newBox(t, v, "after_switch: [./reload, new]\n")
	b.write("reload", "#!/bin/sh\necho \"$1 $CERTAGENT_CERTIFICATE_ID\" >>"+b.path("reloaded")+"\ncat $CERTAGENT_CERTIFICATE $CERTAGENT_KEY >"+b.path("copy"))
	before := b.status()
	if before.Device != pump || before.Subject != "CN="+pump || before.Expired || before.Unfinished != nil || !v.onlyAccepts(before.CertificateID) {
		t.Errorf("after enrol: %+v", before)
	}
	log, status := b.call("once")
	if status != 0 {
		t.Fatalf("once: %d, %s", status, log)
	}
	after := b.status()
	if after.CertificateID == before.CertificateID || !v.onlyAccepts(after.CertificateID) {
		t.Errorf("in use: %s; the broker takes %v", after.CertificateID, v.accepted)
	}
	if got, want := b.read("reloaded"), "new "+after.CertificateID+"\n"; got != want {
		t.Errorf("after the switch: %q, want %q", got, want)
	}
	if c := b.read("copy"); strings.Count(c, "BEGIN CERTIFICATE") != 2 || !strings.Contains(c, "BEGIN PRIVATE KEY") {
		t.Error("the command did not find certificate and key")
	}
	for _, kind := range []string{"connected", "key made", "certificate stored", "candidate connected", "acknowledged", "promoted"} {
		if !strings.Contains(log, kind) {
			t.Errorf("the log has no %q: %s", kind, log)
		}
	}
	checkNoSecrets(t, v, b, log)
}

// checkNoSecrets looks for keys, requests and certificates, also in parts.
func checkNoSecrets(t *testing.T, v *vendor, b box, log string) {
	t.Helper()
	secrets := []string{"BEGIN", nonce}
	texts := b.read("copy") + b.read("first.key") + b.read("first.pem")
	for _, get := range v.gets {
		texts += *get.CSR
	}
	for line := range strings.Lines(texts) {
		if line = strings.TrimSpace(line); len(line) > 20 {
			secrets = append(secrets, line)
		}
	}
	for _, secret := range secrets {
		if strings.Contains(log, secret) {
			t.Errorf("the log holds %q", secret)
		}
	}
}

func TestEnrolHappensOnce(t *testing.T) {
	v := newVendor(t)
	b := newBox(t, v, "")
	before := b.status()
	v.firstPair(b.directory) // another one
	out, status := b.call("enrol", "--certificate", b.path("first.pem"), "--key", b.path("first.key"))
	if status != 1 || !strings.Contains(out, "already holds a certificate") || b.status() != before {
		t.Errorf("second enrol: %d, %s", status, out)
	}
	if err := os.RemoveAll(b.path("store")); err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{"run", "once", "status"} {
		if out, status := b.call(verb); status != 1 || !strings.Contains(out, "certagent enrol") {
			t.Errorf("%s before enrol: %d, %s", verb, status, out)
		}
	}
	if out, status := b.call("enrol", "--certificate", b.path("first.pem")); status != exitUsage || !strings.Contains(out, "needs --key") {
		t.Errorf("enrol without --key: %d, %s", status, out)
	}
	out, status = b.call("enrol", "--certificate", b.path("first.pem"), "--key", b.path("first.pem"))
	if status != 1 || strings.Contains(out, "BEGIN") {
		t.Errorf("enrol without a key: %d, %s", status, out)
	}
}

func TestRefusalIsExitStatusOne(t *testing.T) {
	v := newVendor(t)
	b := newBox(t, v, "")
	before := b.status()
	v.script(func() {
		v.onGet = func() (any, bool) {
			return protocol.Rejected{Message: protocol.NotAllowed, Detail: "blocked"}, false
		}
	})
	out, status := b.call("once", "--json")
	if status != 1 || b.status() != before {
		t.Errorf("once: %d, %s", status, out)
	}
	var last struct{ Level, Msg, Err string }
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &last); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if last.Level != "ERROR" || !strings.Contains(last.Err, string(protocol.NotAllowed)+" (blocked)") {
		t.Errorf("last line: %+v", last)
	}
}

func TestKilledRotationIsShownAndFinished(t *testing.T) {
	v := newVendor(t)
	b := newBox(t, v, "")
	before := b.status()
	v.script(func() { v.onGet = func() (any, bool) { return nil, false } })
	c := b.command("once")
	_, ended := b.start(c)
	eventually(t, "the device asks", func() (asked bool) {
		v.script(func() { asked = len(v.gets) > 0 })
		return asked
	})
	if err := c.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-ended
	now := b.status()
	if now.Unfinished == nil || !strings.HasPrefix(now.Unfinished.Stage, "key made") || now.CertificateID != before.CertificateID {
		t.Errorf("status: %+v", now)
	}
	if out, _ := b.call("status"); !strings.Contains(out, "unfinished   key made") || !strings.Contains(out, before.CertificateID) {
		t.Errorf("status: %s", out)
	}
	v.script(func() { v.onGet = nil })
	if out, status := b.call("once"); status != 0 {
		t.Fatalf("once: %d, %s", status, out)
	}
	if now = b.status(); now.Unfinished != nil || !v.onlyAccepts(now.CertificateID) || len(v.vended) != 1 {
		t.Errorf("status: %+v, %d certificates vended", now, len(v.vended))
	}
}

func TestRunFollowsJobs(t *testing.T) {
	v := newVendor(t)
	b := newBox(t, v, "after_switch: [./reload]\n")
	b.write("reload", "#!/bin/sh\ntest -e "+b.path("ready")+" && echo reloaded >>"+b.path("reloaded"))
	notices := listen(t)
	first := b.status()
	c := b.command("run", "--json")
	c.Env = append(os.Environ(), "NOTIFY_SOCKET="+notices.path, "WATCHDOG_USEC=30000")
	log, ended := b.start(c)
	eventually(t, "it is ready and fed", func() bool {
		return notices.has("READY=1") && notices.has("WATCHDOG=1") && strings.Contains(log.String(), `"msg":"connected"`)
	})
	if out, status := b.call("once"); status != 1 || !strings.Contains(out, "another certagent") {
		t.Errorf("once beside run: %d, %s", status, out)
	}
	v.queueJob("rotate-1")
	eventually(t, "the command was run, and all is done", func() bool {
		return strings.Contains(log.String(), `"msg":"after switch"`) && strings.Contains(log.String(), `"msg":"promoted"`)
	})
	second := b.status()
	if second.CertificateID == first.CertificateID || !v.onlyAccepts(second.CertificateID) {
		t.Errorf("in use: %s; the broker takes %v", second.CertificateID, v.accepted)
	}
	if len(v.updates) != 1 || v.updates[0].Status != protocol.JobSucceeded {
		t.Errorf("job updates: %+v", v.updates)
	}
	terminate(t, c, ended)
	eventually(t, "it has told that it stops", func() bool { return notices.has("STOPPING=1") })
	if text := b.read("reloaded"); text != "" {
		t.Errorf("reloaded: %q", text)
	}

	// What failed is run at the next start, and after that no more.
	b.write("ready", "")
	for range 2 {
		c = b.command("run")
		log, ended = b.start(c)
		eventually(t, "it is connected and has reloaded", func() bool {
			return b.read("reloaded") != "" && strings.Contains(log.String(), "msg=connected") &&
				b.read("store/"+settledFile) == second.CertificateID
		})
		terminate(t, c, ended)
	}
	if b.read("reloaded") != "reloaded\n" {
		t.Errorf("the command was run too often: %q", b.read("reloaded"))
	}
}

func terminate(t *testing.T, c *exec.Cmd, ended chan error) {
	t.Helper()
	if err := c.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("after SIGTERM: %v", err)
	}
}

// notices collects what the service manager is told.
type notices struct {
	path string
	all  transcript
}

func listen(t *testing.T) *notices {
	t.Helper()
	directory, err := os.MkdirTemp("", "notify") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	n := &notices{path: filepath.Join(directory, "socket")}
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: n.path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		buffer := make([]byte, 4096)
		for {
			size, err := socket.Read(buffer)
			if err != nil {
				return
			}
			fmt.Fprintf(&n.all, "%s\n", buffer[:size])
		}
	}()
	t.Cleanup(func() { _ = socket.Close(); <-gone; _ = os.RemoveAll(directory) })
	return n
}

func (n *notices) has(text string) bool { return strings.Contains(n.all.String(), text+"\n") }
