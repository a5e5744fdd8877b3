package device

import (
	"context"
	"errors"
	"fmt"
	"testing"

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
	for _, flow := range []Flow{ByCSR, ByPackage} {
		t.Run(string(flow), func(t *testing.T) {
			n := 1
			for ; cutOnce(t, flow, n); n++ {
				if n > 100 {
					t.Fatal("no end of steps")
				}
			}
			if n < 10 {
				t.Errorf("only %d steps were cut after", n-1)
			}
		})
	}
}

// cutOnce cuts a rotation after its nth step, looks at the disk, and finishes
// it with a new agent. It returns false if there is no such step.
func cutOnce(t *testing.T, flow Flow, n int) (cut bool) {
	w := newWorld(t)
	cfg := w.provision()
	cfg.Flow = flow
	wantIssued := 1
	if flow == ByPackage {
		w.servePackage(t, nil)
		wantIssued = 0
	}
	w.queueJob("rotate-1", protocol.NewJobDocument(protocol.DefaultTopics()))
	a := open(t, cfg)
	ctx, steps := cutAfter(a, deadline(t), n)
	if err := a.RunOnce(ctx); err == nil {
		checkRotated(t, w, cfg, wantIssued)
		return false
	}
	if *steps < n {
		t.Fatalf("cut %d: the rotation ended after %d steps", n, *steps)
	}
	where := fmt.Sprintf("%s, cut after step %d", flow, n)
	after := open(t, cfg)
	if !w.takes(after.store.current) && !w.takes(after.store.candidate) {
		t.Fatalf("%s: no pair on disk that the broker takes", where)
	}
	// Once the candidate is in use there may be no job, and nothing to do.
	if w.finished == "" || after.store.state.Candidate != nil {
		if err := after.RunOnce(deadline(t)); err != nil {
			t.Fatalf("%s: %v", where, err)
		}
	}
	checkRotated(t, w, cfg, wantIssued)
	if len(w.updates) != 1 || w.updates[0].Status != protocol.JobSucceeded {
		t.Errorf("%s: job updates %+v", where, w.updates)
	}
	return true
}
