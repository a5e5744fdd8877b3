package store_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/registry"
)

// writers notes for each commit whether it is made by who asked for it.
func (w *world) writers() (here func() []bool) {
	w.t.Helper()
	var mu sync.Mutex
	var all []bool
	w.ok(w.OnCommit(w.ctx, func(after bool) error {
		stack := make([]byte, 64<<10)
		mu.Lock()
		defer mu.Unlock()
		if !after {
			all = append(all, strings.Contains(string(stack[:runtime.Stack(stack, false)]), "commitHere"))
		}
		return nil
	}))
	return func() []bool {
		mu.Lock()
		defer mu.Unlock()
		return all
	}
}

// wantWriters checks that there was one commit, and whether who asked for it made it.
func (w *world) wantWriters(here func() []bool, byWhoAsked bool) {
	w.t.Helper()
	if got := here(); !slices.Equal(got, []bool{byWhoAsked}) {
		w.t.Errorf("by who asked: %v, want one commit, and %t", got, byWhoAsked)
	}
}

func TestAVendAloneIsWrittenByWhoAsksForIt(t *testing.T) {
	w := open(t)
	w.device("d1")
	here := w.writers()
	w.Rest()
	w.ok(getOnce(w.ctx, w.Store, "d1"))
	w.wantWriters(here, true)
}

// Where another vend is under way, the two may share a commit.
func TestAVendBesideAnotherIsLeftToTheWriter(t *testing.T) {
	w := open(t)
	w.device("d1")
	w.device("d2")
	w.draft("d2", "c2", nil)
	here := w.writers()
	w.ok(getOnce(w.ctx, w.Store, "d1"))
	w.wantWriters(here, false)
}

// A vend that comes while another operation is at work goes behind all that waits.
func TestAVendAmongOthersIsWrittenWithThem(t *testing.T) {
	w := open(t)
	w.device("d1")
	here := w.writers()
	for i, err := range w.queued(3, func(i int) error {
		if i > 0 {
			return w.SetMeta(w.ctx, fmt.Sprint("key", i), "text")
		}
		return getOnce(w.ctx, w.Store, "d1")
	}) {
		if err != nil {
			t.Errorf("%d: %v", i, err)
		}
	}
	w.wantWriters(here, false)
}

func TestVendsTakeTurnsWithAllElse(t *testing.T) {
	w := open(t, func(cfg *store.Config) { cfg.AuditDir = filepath.Join(t.TempDir(), "audit") })
	const n = 40
	for i := range n {
		w.device(registry.DeviceID(fmt.Sprint("d", i)))
	}
	here := w.writers()
	w.many(2*n, func(i int) error {
		if i%2 > 0 {
			return w.SetMeta(w.ctx, fmt.Sprint("key", i), "text")
		}
		return getOnce(w.ctx, w.Store, registry.DeviceID(fmt.Sprint("d", i/2)))
	})
	w.Rest()
	w.ok(getOnce(w.ctx, w.Store, "d0"))
	for i := range n {
		if got := len(w.find(registry.DeviceID(fmt.Sprint("d", i))).Rotations); got == 0 {
			t.Errorf("device d%d has no rotation", i)
		}
	}
	if all := here(); len(all) == 0 || !all[len(all)-1] {
		t.Errorf("the last vend, alone, was not written by who asked for it: %v", all)
	}
}

// A panic while a vend is written ends the process, whoever recovers from a
// request's own: nothing goes on from a transaction that was left.
func TestAPanicWhileItIsWrittenEndsTheProcess(t *testing.T) {
	const within = "CERTVENDOR_TEST_PANIC"
	if os.Getenv(within) == "" {
		again := exec.Command(os.Args[0], "-test.run", "^"+t.Name()+"$")
		again.Env = append(os.Environ(), within+"=1", "TMPDIR="+t.TempDir()) // which is left
		out, err := again.CombinedOutput()
		if ended := (*exec.ExitError)(nil); !errors.As(err, &ended) || !strings.Contains(string(out), "panic: broken, while it was written") {
			t.Errorf("%v: %s", err, out)
		}
		return
	}
	w := open(t)
	w.device("d1")
	w.ok(w.OnCommit(w.ctx, func(bool) error { panic("broken") }))
	w.Rest() // the writer may have its turn still, a moment after it has answered
	defer func() { _ = recover() }()
	_ = getOnce(w.ctx, w.Store, "d1")
}
