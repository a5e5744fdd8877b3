package device

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/certvendor/certvendor/protocol"
)

var errCut = errors.New("power cut")

// cutAfter arms a power cut after the nth durable step of whatever the agent
// does, and returns a context that ends with it and the number of steps so far.
func cutAfter(a *Agent, ctx context.Context, n int) (context.Context, *int) {
	ctx, cut := context.WithCancel(ctx)
	steps := new(int)
	a.store.cut = func(string) error {
		if *steps++; *steps >= n {
			cut()
			return errCut
		}
		return nil
	}
	return ctx, steps
}

func TestPowerCutAfterEveryStep(t *testing.T) {
	for _, mode := range []string{"csr", "package", "fixed key", "renewal", "anchors"} {
		t.Run(mode, func(t *testing.T) {
			n := 1
			for ; cutOnce(t, mode, n); n++ {
				if n > 100 {
					t.Fatal("no end of steps")
				}
			}
			if n < 8 {
				t.Errorf("only %d steps were cut after", n-1)
			}
		})
	}
}

// cutWorld returns a world for the mode, with a device in it.
func cutWorld(t *testing.T, mode string) (w *world, cfg Config, wantIssued int) {
	w = newWorld(t)
	if mode == "renewal" {
		w.from, w.to = -70*time.Hour, 30*time.Hour
	}
	cfg, wantIssued = w.provision(), 1
	switch mode {
	case "package":
		cfg.Flow, wantIssued = ByPackage, 0
		w.servePackage(t, nil)
	case "fixed key":
		w.provisionFixed(&cfg)
	case "anchors":
		if err := os.WriteFile(filepath.Join(cfg.Directory, anchorsFile), encodeChain(chainOf(w.ca)), 0o600); err != nil {
			t.Fatal(err)
		}
		w.anchors = string(encodeChain([]*x509.Certificate{w.ca, newWorld(t).ca}))
	}
	if mode == "renewal" {
		cfg.RenewJitter = -1
		w.script(func() { w.from, w.to = -time.Hour, 99*time.Hour })
	} else {
		w.queueJob("rotate-1", protocol.NewJobDocument(protocol.DefaultTopics()))
	}
	return w, cfg, wantIssued
}

// rotateOnce lets the agent do what the mode is about, and reports whether it
// came to its end.
func rotateOnce(ctx context.Context, a *Agent, mode string) error {
	if mode != "renewal" {
		return a.RunOnce(ctx)
	}
	ctx, done := context.WithCancel(ctx)
	defer done()
	promoted := false
	a.cfg.Event = func(e Event) {
		if e.Kind == Promoted {
			promoted = true
			done()
		}
	}
	err := a.Run(ctx)
	if promoted {
		return nil
	}
	return err
}

// cutOnce cuts a rotation after its nth step, looks at the disk, and finishes
// it with a new agent. It returns false if there is no such step.
func cutOnce(t *testing.T, mode string, n int) (cut bool) {
	w, cfg, wantIssued := cutWorld(t, mode)
	a := open(t, cfg)
	ctx, steps := cutAfter(a, deadline(t), n)
	if err := rotateOnce(ctx, a, mode); err == nil {
		checkRotated(t, w, cfg, wantIssued)
		return false
	}
	if *steps < n {
		t.Fatalf("cut %d: the rotation ended after %d steps", n, *steps)
	}
	where := fmt.Sprintf("%s, cut after step %d", mode, n)
	after := open(t, cfg)
	if !w.takes(after.store.current) && !w.takes(after.store.candidate) {
		t.Fatalf("%s: no pair on disk that the broker takes", where)
	}
	// Once the candidate is in use there may be no job, and nothing to do.
	if w.finished == "" || after.store.state.Candidate != nil {
		if err := rotateOnce(deadline(t), after, mode); err != nil {
			t.Fatalf("%s: %v", where, err)
		}
	}
	checkRotated(t, w, cfg, wantIssued)
	// What was acked is on the disk, whenever the power went.
	if w.anchors != "" && (w.trusted != protocol.AnchorsSHA256(w.anchors) || open(t, cfg).anchors.text != w.anchors) {
		t.Errorf("%s: acked trust anchors %q", where, w.trusted)
	}
	if open(t, cfg).anchors.former != nil {
		t.Errorf("%s: the trust anchors before are kept", where)
	}
	if mode != "renewal" && (len(w.updates) != 1 || w.updates[0].Status != protocol.JobSucceeded) {
		t.Errorf("%s: job updates %+v", where, w.updates)
	}
	return true
}
