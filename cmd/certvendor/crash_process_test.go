package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/certvendor/certvendor/internal/control"
	"github.com/certvendor/certvendor/internal/loopback"
)

// process is a daemon in a process of its own, and its world on disk.
type process struct {
	t      *testing.T
	dir    string
	broker string
	cmd    *exec.Cmd
	ended  chan error // of the process that runs
	client *control.Client
}

// newProcess writes the configuration of a daemon that is not started yet.
func newProcess(t *testing.T) *process {
	t.Helper()
	d := &process{t: t, dir: t.TempDir(), broker: lastingAddress(t)}
	text := fmt.Sprintf(`control: {socket: s}
metrics: {listen: ""}
rotation: {grace: 0s, settle: 1s, sweep_every: 200ms, per_minute: 1000000}
standalone:
  data: data
  broker: {listen: %q}
  packages: {listen: %q}
`, d.broker, lastingAddress(t))
	if err := os.WriteFile(filepath.Join(d.dir, "config.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if d.ended != nil {
			d.kill()
		}
	})
	return d
}

// configure puts lines in place of the one of the configuration that begins so.
func (d *process) configure(begins, lines string) {
	d.t.Helper()
	path := filepath.Join(d.dir, "config.yaml")
	text, err := os.ReadFile(path)
	if err != nil {
		d.t.Fatal(err)
	}
	_, after, ok := strings.Cut(string(text), "\n"+begins)
	if !ok {
		d.t.Fatalf("no line begins with %q in %s", begins, text)
	}
	before := strings.TrimSuffix(string(text), begins+after)
	_, after, _ = strings.Cut(after, "\n")
	if err := os.WriteFile(path, []byte(before+lines+"\n"+after), 0o600); err != nil {
		d.t.Fatal(err)
	}
}

// lastingAddress returns an address that stays free while the daemon is down.
func lastingAddress(t *testing.T) string {
	t.Helper()
	address, err := loopback.Address()
	if err != nil {
		t.Fatal(err)
	}
	return address
}

// certvendor returns the program itself, as TestMain has put it on the path.
func (d *process) certvendor(args ...string) *exec.Cmd {
	return exec.Command("certvendor", append(args, "--config", filepath.Join(d.dir, "config.yaml"))...)
}

func (d *process) start() {
	d.t.Helper()
	log, err := os.OpenFile(filepath.Join(d.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		d.t.Fatal(err)
	}
	defer log.Close()
	cmd, ended := d.certvendor("serve"), make(chan error, 1)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	go func() { ended <- cmd.Wait() }() // kill or terminate waits for it
	d.cmd, d.ended, d.client = cmd, ended, control.Dial(filepath.Join(d.dir, "s"))
}

// ready waits until the daemon answers.
func (d *process) ready() {
	d.t.Helper()
	for limit := time.Now().Add(patience); d.client.Ready(d.t.Context()) != nil; time.Sleep(5 * time.Millisecond) {
		if len(d.ended) > 0 || time.Now().After(limit) {
			d.t.Fatalf("the daemon is not ready:\n%s", d.log())
		}
	}
}

// kill ends the daemon without a word to it.
func (d *process) kill() {
	d.t.Helper()
	if len(d.ended) > 0 {
		d.t.Errorf("the daemon has ended by itself:\n%s", d.log())
	}
	_ = d.cmd.Process.Kill()
	<-d.ended
	d.ended = nil
	d.client.Close()
}

// terminate ends the daemon as a service manager does.
func (d *process) terminate() {
	d.t.Helper()
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		d.t.Fatal(err)
	}
	if err := <-d.ended; err != nil {
		d.t.Errorf("the daemon ended with %v:\n%s", err, d.log())
	}
	d.ended = nil
	d.client.Close()
}

// log returns the end of what the daemons have written.
func (d *process) log() string {
	text, err := os.ReadFile(filepath.Join(d.dir, "log"))
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-4000):])
}
