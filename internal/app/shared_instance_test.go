package app_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/certvendor/certvendor/internal/control"
	"github.com/certvendor/certvendor/internal/loopback"
)

// buildProgram returns the program itself.
func buildProgram(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "certvendor")
	if text, err := exec.Command("go", "build", "-o", program, "../../cmd/certvendor").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, text)
	}
	return program
}

// instance is a daemon in a process of its own.
type instance struct {
	t            *testing.T
	program, dir string
	metrics      string
	cmd          *exec.Cmd
	ended        chan error
	client       *control.Client
}

func newInstance(t *testing.T, program, name, more string) *instance {
	t.Helper()
	dir, err := os.MkdirTemp("", "cv") // short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	i := &instance{t: t, program: program, dir: dir}
	if i.metrics, err = loopback.Address(); err != nil {
		t.Fatal(err)
	}
	text := `backend: aws
control: {socket: s}
metrics: {listen: "` + i.metrics + `"}
policy: {mode: inherit}
rotation: {grace: 0s, settle: 1s, sweep_every: 500ms}
vending: {new_keys: 1000/1h}
aws:
  data: data-` + name + `
  journal: {table: certvendor, lease: 2s}
  region: eu-west-1
  quota_share: 1
  quotas: [RegisterCertificate=1000, UpdateCertificate=1000, DescribeCertificate=1000, ListPrincipalThings=1000]
  ` + more
	if err := os.WriteFile(filepath.Join(dir, "config.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	i.client = control.Dial(filepath.Join(dir, "s"))
	t.Cleanup(func() {
		if i.ended != nil {
			i.kill()
		}
		i.client.Close()
		if t.Failed() {
			t.Logf("instance %s:\n%s", name, i.log())
		}
		_ = os.RemoveAll(dir)
	})
	return i
}

func (i *instance) start() {
	i.t.Helper()
	log, err := os.OpenFile(filepath.Join(i.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		i.t.Fatal(err)
	}
	defer log.Close()
	cmd, ended := exec.Command(i.program, "serve", "--config", filepath.Join(i.dir, "config.yaml")), make(chan error, 1)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), "RULE_KEY="+sharedKey)
	if err := cmd.Start(); err != nil {
		i.t.Fatal(err)
	}
	go func() { ended <- cmd.Wait() }()
	i.cmd, i.ended = cmd, ended
}

func (i *instance) kill() {
	i.t.Helper()
	if len(i.ended) > 0 {
		i.t.Errorf("the daemon has ended by itself:\n%s", i.log())
	}
	_ = i.cmd.Process.Kill()
	<-i.ended
	i.ended = nil
}

// pause stops the process while meanwhile runs, after which it finds that it does
// not lead any more, and ends.
func (i *instance) pause(meanwhile func()) {
	i.t.Helper()
	if err := i.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		i.t.Fatal(err)
	}
	meanwhile()
	if err := i.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		i.t.Fatal(err)
	}
	select {
	case err := <-i.ended:
		i.ended = nil
		if text := i.log(); err == nil || !strings.Contains(text, "lost the store") && !strings.Contains(text, "lease to lead has ended") {
			i.t.Errorf("the daemon ended with %v:\n%s", err, text)
		}
	case <-time.After(patience):
		i.t.Fatal("the daemon goes on, though another one leads")
	}
}

func (i *instance) terminate() {
	i.t.Helper()
	if err := i.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		i.t.Fatal(err)
	}
	if err := <-i.ended; err != nil {
		i.t.Errorf("the daemon ended with %v:\n%s", err, i.log())
	}
	i.ended = nil
}

func (i *instance) log() string {
	text, err := os.ReadFile(filepath.Join(i.dir, "log"))
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-6000):])
}

// leading waits until one instance is ready, and fails if both say so.
func leading(t *testing.T, all []*instance) (leader *instance) {
	t.Helper()
	eventually(t, "one instance leads", func() bool {
		ready := slices.DeleteFunc(slices.Clone(all), func(i *instance) bool { return i.client.Ready(t.Context()) != nil })
		if len(ready) > 1 {
			t.Fatal("both are ready")
		}
		if len(ready) == 1 {
			leader = ready[0]
		}
		return leader != nil
	})
	return leader
}
