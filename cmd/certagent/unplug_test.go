package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// unplugAfter names, to this test binary alone, the line of its log after which
// a certagent is killed: every step is told before the next begins.
const unplugAfter = "CERTAGENT_TEST_UNPLUG_AFTER"

// unplugged is main with a log that kills.
func unplugged(line string) int {
	n, err := strconv.Atoi(line)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return exitUsage
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	p := program{out: os.Stdout, diagnostics: &fuse{lines: n, w: os.Stderr}}
	err = p.run(ctx, os.Args[1:])
	p.explain(err)
	return exitStatus(err)
}

// fuse kills the process after so many lines, which come one at a time.
type fuse struct {
	lines int
	w     io.Writer
}

func (f *fuse) Write(line []byte) (int, error) {
	n, err := f.w.Write(line)
	if f.lines--; f.lines == 0 {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // not one step more
	}
	return n, err
}

// unplugging is a device that begins a rotation and does not come to its end.
type unplugging struct {
	t     *testing.T
	v     *vendor
	b     box
	first standing
	mode  string
}

var unpluggingModes = []string{"job", "renewal", "fixed key"}

func newUnplugging(t *testing.T, mode string) unplugging {
	v := newVendor(t)
	more := "renew_jitter: 0\nafter_switch: [./reload]\n"
	switch mode {
	case "renewal":
		v.from, v.to = -70*time.Hour, 30*time.Hour
	case "fixed key":
		v.reuse = true
		more += "key: fixed\nkey_file: first.key\n"
	}
	u := unplugging{t: t, v: v, b: newBox(t, v, more), mode: mode}
	u.b.write("reload", "#!/bin/sh\necho $CERTAGENT_CERTIFICATE_ID >>"+u.b.path("reloaded"))
	u.first = u.b.status()
	if mode == "renewal" {
		v.script(func() { v.from, v.to = -time.Hour, 99*time.Hour })
	} else {
		v.queueJob("rotate-1")
	}
	return u
}

// settled reports whether everything has come to its end.
func (u unplugging) settled() bool {
	open := true
	u.v.script(func() { open = u.v.job != nil || u.v.open != "" || u.v.acks == 0 })
	if open {
		return false
	}
	now := u.b.status()
	return now.Unfinished == nil && u.v.onlyAccepts(now.CertificateID) && u.b.read("store/"+settledFile) == now.CertificateID
}

// recover looks at what the power cut left behind and starts the program anew.
func (u unplugging) recover(where string) {
	u.t.Helper()
	now := u.b.status()
	works := false
	u.v.script(func() {
		works = u.v.accepted[now.CertificateID] || now.Unfinished != nil && u.v.accepted[now.Unfinished.CertificateID]
	})
	if !works {
		u.t.Fatalf("%s: no pair that the broker takes: %+v", where, now)
	}
	c := u.b.command("run")
	log, ended := u.b.start(c)
	u.t.Cleanup(func() {
		if u.t.Failed() {
			u.t.Logf("%s: %s", where, log)
		}
	})
	eventually(u.t, "it runs and everything is settled, after a cut at "+where, func() bool {
		return strings.Contains(log.String(), "msg=connected") && u.settled()
	})
	terminate(u.t, c, ended)
	now = u.b.status()
	if now.CertificateID == u.first.CertificateID || len(u.v.vended) != 1 {
		u.t.Errorf("%s: %d keys certified, status %+v, log %s", where, len(u.v.vended), now, log)
	}
	if !strings.HasSuffix(u.b.read("reloaded"), now.CertificateID+"\n") {
		u.t.Errorf("%s: reloaded %q", where, u.b.read("reloaded"))
	}
	if (len(u.v.updates) == 1) == (u.mode == "renewal") {
		u.t.Errorf("%s: job updates %+v", where, u.v.updates)
	}
}

func TestUnpluggedAtEachStep(t *testing.T) {
	for _, mode := range unpluggingModes {
		t.Run(mode, func(t *testing.T) {
			line := 1
			for ; unplugAt(t, mode, line); line++ {
				if line > 50 {
					t.Fatal("no end of steps")
				}
			}
			if line < 9 {
				t.Errorf("only %d steps", line-1)
			}
		})
	}
}

// unplugAt cuts the power after a line of the log. It returns false if the
// rotation came to its end before.
func unplugAt(t *testing.T, mode string, line int) bool {
	u := newUnplugging(t, mode)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(self, "run", "--config", u.b.path("agent.yaml"))
	c.Env = append(os.Environ(), fmt.Sprint(unplugAfter, "=", line))
	log, ended := u.b.start(c)
	done := make(chan error, 1)
	eventually(t, "it is cut or settled", func() bool {
		select {
		case err := <-ended:
			done <- err
			return true
		default:
			return strings.Contains(log.String(), `msg="after switch"`) && u.settled()
		}
	})
	if len(done) == 0 {
		// It may be cut while it is asked to end.
		if err := c.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Fatal(err)
		}
		err := <-ended
		if err == nil {
			return false
		}
		done <- err
	}
	if c.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("it ended with %v: %s", <-done, log)
	}
	lines := strings.Split(strings.TrimSpace(log.String()), "\n")
	if len(lines) != line {
		t.Fatalf("cut after %d lines, not %d: %s", len(lines), line, log)
	}
	_, step, _ := strings.Cut(lines[line-1], "msg=")
	t.Logf("cut at %.50s", step)
	u.recover(step)
	return true
}

// The power is cut while a request is under way: the vendor has heard it, and
// has or has not done what it asks. Nobody hears the answer.
func TestUnpluggedWhileTheVendorIsAsked(t *testing.T) {
	for _, mode := range unpluggingModes {
		for _, request := range []string{"/$next/get", "/start-next", "/" + pump + "/get", "/rotate-1/update", "/" + pump + "/ack"} {
			if mode == "renewal" && (request == "/start-next" || request == "/rotate-1/update") {
				continue // there is no job
			}
			for _, answered := range []bool{false, true} {
				name := strings.NewReplacer("/", " ", "$", "").Replace(request) // a shell reads the directory's name
				t.Run(fmt.Sprintf("%s,%s, done %t", mode, name, answered), func(t *testing.T) {
					unplugUpon(t, mode, request, answered)
				})
			}
		}
	}
}

func unplugUpon(t *testing.T, mode, request string, answered bool) {
	u := newUnplugging(t, mode)
	c := u.b.command("run")
	_, ended := u.b.start(c)
	gone := make(chan struct{})
	go func() { <-ended; close(gone) }()
	var once sync.Once
	u.v.script(func() {
		u.v.heard = func(topic string, now bool) {
			if now == answered && strings.HasSuffix(topic, request) {
				once.Do(func() {
					_ = c.Process.Kill()
					<-gone
				})
			}
		}
	})
	<-gone
	u.recover(request)
}
