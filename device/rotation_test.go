package device

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/certvendor/certvendor/protocol"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// diary collects events.
type diary struct {
	mu     sync.Mutex
	events []Event
}

func (d *diary) note(e Event) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.events = append(d.events, e)
}

func (d *diary) of(kind EventKind) []Event {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(d.events), func(e Event) bool { return e.Kind != kind })
}

func open(t *testing.T, cfg Config) *Agent {
	t.Helper()
	a, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// checkRotated fails unless the device ended on the newest certificate, alone
// on its disk, and the broker takes only that.
func checkRotated(t *testing.T, w *world, cfg Config, wantIssued int) {
	t.Helper()
	a := open(t, cfg)
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.issued) != wantIssued {
		t.Errorf("%d certificates were issued, want %d", len(w.issued), wantIssued)
	}
	if id := idOf(a.store.current); id != w.finished || !w.accepted[id] || len(w.accepted) != 1 {
		t.Errorf("in use: %.8s, acknowledged: %.8s, taken by the broker: %v", id, w.finished, w.accepted)
	}
	entries, err := os.ReadDir(filepath.Join(cfg.Directory, pairsDirectory))
	if err != nil || len(entries) != 1 {
		t.Errorf("pairs left on disk: %v, %v", entries, err)
	}
}

func TestJobIsCarriedOut(t *testing.T) {
	w := newWorld(t)
	var seen diary
	cfg := w.provision()
	cfg.Event = seen.note
	w.queueJob("rotate-1", protocol.NewJobDocument(protocol.DefaultTopics()))
	a := open(t, cfg)
	before := a.Current()
	if err := a.RunOnce(deadline(t)); err != nil {
		t.Fatal(err)
	}
	checkRotated(t, w, cfg, 1)
	if diff := cmp.Diff([]string{"get", "SUCCEEDED", "ack"}, w.log); diff != "" {
		t.Error("order of events at the vendor:", diff)
	}
	if a.Current().Leaf.Equal(before.Leaf) || len(a.Current().Certificate) != 2 {
		t.Error("Current is not the new certificate with its chain")
	}
	if n := len(seen.of(Promoted)); n != 1 {
		t.Errorf("told %d times of the promotion", n)
	}
	for _, name := range []string{keyFile, certificateFile} {
		info, err := os.Stat(filepath.Join(a.store.pairPath(2), name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
}

func TestRunFollowsJobsAndLostConnections(t *testing.T) {
	w := newWorld(t)
	var seen diary
	cfg := w.provision()
	cfg.Event = seen.note
	a := open(t, cfg)
	ctx, cancel := context.WithCancel(deadline(t))
	done := make(chan error)
	go func() { done <- a.Run(ctx) }()
	for round := 1; round <= 2; round++ {
		eventually(t, func() bool { return len(seen.of(Connected)) >= round })
		if cl, ok := w.broker.Clients.Get(deviceUnderTest); ok {
			cl.Stop(errors.New("cut by the test"))
		}
		eventually(t, func() bool { return len(seen.of(Disconnected)) >= round })
		w.queueJob("rotate", protocol.NewJobDocument(protocol.DefaultTopics()))
		w.script(func() { w.job.ExecutionNumber = int64(round) })
		eventually(t, func() bool { return len(seen.of(Promoted)) == round })
	}
	if err := a.Rotate(ctx); !errors.Is(err, ErrBusy) {
		t.Errorf("Rotate beside Run: %v", err)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Run ended with %v", err)
	}
	checkRotated(t, w, cfg, 2)
}

func eventually(t *testing.T, holds func() bool) {
	t.Helper()
	for range 6000 {
		if holds() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("did not come about within a minute")
}

func TestLostAnswersAreAskedForAgainWithTheSameKey(t *testing.T) {
	w := newWorld(t)
	cfg := w.provision()
	w.script(func() {
		w.onGet = func(n int) (any, bool) { return nil, n > 2 }
		w.onAck = func(n int) (any, bool) {
			if n == 1 {
				w.answerAck(w.open, nil) // taken, but the reply is lost
			}
			return nil, n > 1
		}
	})
	if err := open(t, cfg).Rotate(deadline(t)); err != nil {
		t.Fatal(err)
	}
	checkRotated(t, w, cfg, 1)
	if w.gets != 3 || w.keys[0] == "" || w.keys[0] != w.keys[2] {
		t.Errorf("%d gets; same key: %t", w.gets, w.keys[0] == w.keys[2])
	}
	if w.acks != 2 {
		t.Errorf("%d acks", w.acks)
	}
}

func TestRetryAfterIsHonoured(t *testing.T) {
	w := newWorld(t)
	var seen diary
	cfg := w.provision()
	cfg.Event = seen.note
	w.script(func() {
		w.onGet = func(n int) (any, bool) {
			switch n {
			case 1:
				return protocol.Rejected{Message: protocol.TooManyRequests, RetryAfter: 1}, false
			case 2: // as the original: no time given
				return protocol.Rejected{Message: protocol.RegistryFailed}, false
			}
			return nil, true
		}
	})
	if err := open(t, cfg).Rotate(deadline(t)); err != nil {
		t.Fatal(err)
	}
	checkRotated(t, w, cfg, 1)
	waits := seen.of(Waiting)
	if len(waits) != 2 || waits[0].Pause < time.Second || waits[1].Pause > cfg.Retry.Max {
		t.Errorf("waits: %+v", waits)
	}
}

func TestFinalRefusalFailsTheJobAndKeepsTheOldPair(t *testing.T) {
	w := newWorld(t)
	cfg := w.provision()
	w.queueJob("rotate-1", protocol.NewJobDocument(protocol.DefaultTopics()))
	w.script(func() {
		w.onGet = func(int) (any, bool) {
			return protocol.Rejected{Message: protocol.NotAllowed, Detail: "blocked"}, false
		}
	})
	a := open(t, cfg)
	err := a.RunOnce(deadline(t))
	var refused *Refused
	if !errors.As(err, &refused) || refused.Reason != protocol.NotAllowed || refused.Detail != "blocked" {
		t.Fatalf("got %v", err)
	}
	if len(w.updates) != 1 || w.updates[0].Status != protocol.JobFailed || w.updates[0].StatusDetails["reason"] != string(protocol.NotAllowed) {
		t.Errorf("job updates: %+v", w.updates)
	}
	again := open(t, cfg)
	if again.store.state.Candidate != nil || !w.takes(again.store.current) {
		t.Error("the old pair is not what is left")
	}
}

func TestAnswerForAnotherKeyIsPassedOver(t *testing.T) {
	w := newWorld(t)
	cfg := w.provision()
	stranger := w.leaf(deviceUnderTest, newKey(t).Public())
	w.script(func() {
		w.onGet = func(n int) (any, bool) {
			switch n {
			case 1:
				return protocol.GetAccepted{Certificate: string(encodeChain(chainOf(stranger)))}, false
			case 2:
				return protocol.GetAccepted{Certificate: "no PEM"}, false
			case 3:
				return protocol.Rejected{Message: protocol.NotAllowed, ClientToken: "somebody else's"}, false
			}
			return nil, true
		}
	})
	if err := open(t, cfg).Rotate(deadline(t)); err != nil {
		t.Fatal(err)
	}
	checkRotated(t, w, cfg, 1)
}

func TestCandidateThatIsNotTakenIsGivenUp(t *testing.T) {
	w := newWorld(t)
	cfg := w.provision()
	w.queueJob("rotate-1", protocol.NewJobDocument(protocol.DefaultTopics()))
	w.script(func() { w.refuse = func(_, id string) bool { return strings.HasSuffix(id, candidateSuffix) } })
	a := open(t, cfg)
	if err := a.RunOnce(deadline(t)); !errors.Is(err, ErrCandidate) {
		t.Fatalf("got %v", err)
	}
	if w.acks != 0 || len(w.updates) != 1 || w.updates[0].Status != protocol.JobFailed {
		t.Errorf("%d acks, job updates %+v", w.acks, w.updates)
	}
	if again := open(t, cfg); again.store.state.Candidate != nil || !w.takes(again.store.current) {
		t.Error("the old pair is not what is left")
	}
	w.script(func() { w.refuse = nil })
	if err := a.Rotate(deadline(t)); err != nil {
		t.Fatal(err)
	}
	checkRotated(t, w, cfg, 2)
}

func TestCandidateIsKeptWhileNobodyIsServed(t *testing.T) {
	w := newWorld(t)
	cfg := w.provision()
	cfg.Event = func(e Event) {
		if e.Kind == CertificateStored {
			w.script(func() { w.refuse = func(string, string) bool { return true } })
			for _, cl := range w.broker.Clients.GetAll() {
				if !cl.Net.Inline {
					cl.Stop(errors.New("cut by the test"))
				}
			}
		}
	}
	if err := open(t, cfg).Rotate(deadline(t)); err == nil {
		t.Fatal("rotated without a broker")
	}
	cfg.Event = nil
	a := open(t, cfg)
	if c := a.store.state.Candidate; c == nil || !c.Issued {
		t.Fatalf("candidate: %+v", c)
	}
	w.script(func() { w.refuse = nil })
	if err := a.Rotate(deadline(t)); err != nil {
		t.Fatal(err)
	}
	checkRotated(t, w, cfg, 1)
	if w.gets != 1 {
		t.Errorf("%d gets", w.gets)
	}
}

func TestVendorThatCannotSeeCertificatesIsGivenAProof(t *testing.T) {
	for _, always := range []bool{false, true} {
		w := newWorld(t)
		cfg := w.provision()
		cfg.Proof, cfg.NamePrevious = always, true
		w.script(func() { w.blind = true })
		if err := open(t, cfg).Rotate(deadline(t)); err != nil {
			t.Fatal(err)
		}
		checkRotated(t, w, cfg, 1)
		if want := map[bool]int{false: 2, true: 1}[always]; w.acks != want {
			t.Errorf("proof always %t: %d acks, want %d", always, w.acks, want)
		}
	}
}

func TestAckThatFindsNoRotationKeepsTheNewCertificate(t *testing.T) {
	w := newWorld(t)
	cfg := w.provision()
	w.script(func() {
		w.onAck = func(int) (any, bool) { return protocol.Rejected{Message: protocol.NoOpenRotation}, false }
	})
	a := open(t, cfg)
	if err := a.Rotate(deadline(t)); !isReason(err, protocol.NoOpenRotation) {
		t.Fatalf("got %v", err)
	}
	if again := open(t, cfg); again.store.state.Candidate != nil || !again.store.current.chain[0].Equal(w.issued[0]) {
		t.Error("the new certificate is not in use")
	}
}

func TestBlockedDuringAckIsTriedAgainLater(t *testing.T) {
	w := newWorld(t)
	cfg := w.provision()
	w.script(func() {
		w.onAck = func(int) (any, bool) { return protocol.Rejected{Message: protocol.NotAllowed}, false }
	})
	if err := open(t, cfg).Rotate(deadline(t)); !isReason(err, protocol.NotAllowed) {
		t.Fatalf("got %v", err)
	}
	w.script(func() { w.onAck = nil })
	if err := open(t, cfg).Rotate(deadline(t)); err != nil {
		t.Fatal(err)
	}
	checkRotated(t, w, cfg, 1)
}

func TestSupersededKeyIsReplaced(t *testing.T) {
	w := newWorld(t)
	cfg := w.provision()
	w.script(func() { w.onGet = func(int) (any, bool) { return nil, false } })
	if err := open(t, cfg).Rotate(deadline(t)); !errors.Is(err, ErrNoAnswer) {
		t.Fatalf("got %v", err)
	}
	asked := w.gets
	w.script(func() {
		w.onGet = func(n int) (any, bool) {
			return protocol.Rejected{Message: protocol.CSRRejected, Detail: "key superseded, make a new one"}, n > asked+1
		}
	})
	if err := open(t, cfg).Rotate(deadline(t)); err != nil {
		t.Fatal(err)
	}
	checkRotated(t, w, cfg, 1)
	if w.keys[0] == w.keys[len(w.keys)-1] {
		t.Error("the refused key was used again")
	}
}
