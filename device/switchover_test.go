package device

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/certvendor/certvendor/protocol"
)

// An ack has the vendor take the old certificate away. Whoever connects with
// Current must have another one by then, also where the switch cannot be
// written; and where it can be, the device goes on.
func TestFullDiskHoldsBackTheAck(t *testing.T) {
	w := newWorld(t)
	cfg := w.provision()
	mend := func() {}
	cfg.Event = func(e Event) {
		if e.Kind == CandidateConnected {
			mend = jam(t, cfg)
		}
	}
	a := open(t, cfg)
	if err := a.Rotate(deadline(t)); err == nil {
		t.Fatal("rotated on a disk that takes nothing")
	}
	if w.acks != 0 || !w.takes(pair{chain: chainOf(a.Current().Leaf)}) {
		t.Errorf("acked %d times, with nothing written", w.acks)
	}
	mend()
	cfg.Event = nil
	if err := open(t, cfg).Rotate(deadline(t)); err != nil {
		t.Fatal(err)
	}
	checkRotated(t, w, cfg, 1)
}

// The disk fills up between the switch and its end.
func TestDiskThatIsFullAfterTheSwitchKeepsTheNewCertificate(t *testing.T) {
	w := newWorld(t)
	cfg := w.provision()
	mend := func() {}
	cfg.Event = func(e Event) {
		if e.Kind == Acknowledged {
			mend = jam(t, cfg)
		}
	}
	a := open(t, cfg)
	if err := a.Rotate(deadline(t)); err == nil {
		t.Fatal("rotated on a disk that takes nothing")
	}
	for _, a := range []*Agent{a, open(t, cfg)} {
		if !w.takes(pair{chain: chainOf(a.Current().Leaf)}) {
			t.Error("Current is a certificate that the broker does not take any more")
		}
	}
	if i := inspected(t, cfg); i.CertificateID != w.finished || i.Unfinished == nil || i.Unfinished.Stage != StageSwitched || i.Obtained.IsZero() {
		t.Errorf("%+v, unfinished %+v", i, i.Unfinished)
	}
	mend()
	cfg.Event = nil
	if err := open(t, cfg).Rotate(deadline(t)); err != nil {
		t.Fatal(err)
	}
	checkRotated(t, w, cfg, 1)
}

// Nobody will ever hear the ack. The vendor knows by the connections, and may
// take the old certificate away.
func TestRotationEndsWithoutAnAckInTheEnd(t *testing.T) {
	w := newWorld(t)
	seen := new(diary)
	cfg := w.provision()
	cfg.Event = seen.note
	w.script(func() { w.denySub = "cdf/certificates/" + deviceUnderTest + "/ack/+" })
	for _, connections := range []int{4, maxUnacked - 1 - 4} { // it is started anew meanwhile
		cfg.Retry.Attempts = connections
		if err := open(t, cfg).Rotate(deadline(t)); err == nil {
			t.Fatal("ended without an ack")
		}
	}
	a := open(t, cfg)
	if !w.takes(a.store.current) || !a.store.switched() || seen.count(CandidateConnected) != maxUnacked-1 {
		t.Errorf("after %d connections: %+v", seen.count(CandidateConnected), a.store.state.Candidate)
	}
	if err := a.Rotate(deadline(t)); err != nil {
		t.Fatal(err)
	}
	if told := seen.of(Promoted); len(told) != 1 || told[0].Err == nil || len(w.issued) != 1 || seen.count(Switched) != 1 {
		t.Errorf("told of the promotion: %+v", told)
	}
	if again := open(t, cfg); again.store.state.Candidate != nil || !again.store.current.chain[0].Equal(w.issued[0]) {
		t.Error("the new certificate is not the only one in use")
	}
}

// The broker took the candidate once, and then no more.
func TestDeviceGoesBackToTheOldPairWhileThereIsNoAck(t *testing.T) {
	w := newWorld(t)
	cfg := w.provision()
	w.script(func() { w.denySub = "cdf/certificates/" + deviceUnderTest + "/ack/+" })
	a := open(t, cfg)
	old := a.Current()
	cfg.Retry.Attempts = 2
	if err := open(t, cfg).Rotate(deadline(t)); err == nil {
		t.Fatal("ended without an ack")
	}
	a = open(t, cfg)
	if a.Current().Leaf.Equal(old.Leaf) {
		t.Error("Current is the old certificate after the switch")
	}
	w.script(func() { w.refuse = func(_, id string) bool { return strings.HasSuffix(id, candidateSuffix) } })
	if err := a.Rotate(deadline(t)); !errors.Is(err, ErrCandidate) {
		t.Fatalf("got %v", err)
	}
	if !a.Current().Leaf.Equal(old.Leaf) || inspected(t, cfg).CertificateID != idOf(pair{chain: chainOf(old.Leaf)}) {
		t.Error("Current is not the old certificate again")
	}
}

// switchedTo returns a device whose candidate is in use and not acked.
func switchedTo(t *testing.T) (*world, Config) {
	w := newWorld(t)
	cfg := w.provision()
	cfg.Retry.Attempts = 1
	w.script(func() {
		w.onAck = func(int) (any, bool) { return protocol.Rejected{Message: protocol.NotAllowed}, false }
	})
	if err := open(t, cfg).Rotate(deadline(t)); !isReason(err, protocol.NotAllowed) {
		t.Fatal(err)
	}
	w.script(func() { w.onAck = nil })
	cfg.Retry.Attempts = 4
	return w, cfg
}

func TestOldPairThatCannotBeReadIsNotMissed(t *testing.T) {
	w, cfg := switchedTo(t)
	seen := new(diary)
	cfg.Event = seen.note
	if err := os.Remove(filepath.Join(pairPath(cfg.Directory, 1), keyFile)); err != nil {
		t.Fatal(err)
	}
	a := open(t, cfg)
	if !a.Current().Leaf.Equal(w.issued[0]) || seen.count(DirectoryTrouble) != 1 {
		t.Errorf("told %+v", seen.events)
	}
	if err := a.Rotate(deadline(t)); err != nil {
		t.Fatal(err)
	}
	checkRotated(t, w, cfg, 2)
}

// A secure element may be busy for a moment: a pair in use is not dropped.
func TestPairInUseThatCannotBeReadStays(t *testing.T) {
	w, cfg := switchedTo(t)
	path := filepath.Join(pairPath(cfg.Directory, 2), keyFile)
	if err := os.Rename(path, path+".away"); err != nil {
		t.Fatal(err)
	}
	a := open(t, cfg)
	if a.store.state.Candidate == nil || !w.takes(pair{chain: chainOf(a.Current().Leaf)}) {
		t.Error("not back on the old pair with the new one kept")
	}
	if err := os.Rename(path+".away", path); err != nil {
		t.Fatal(err)
	}
	if err := a.Rotate(deadline(t)); err != nil {
		t.Fatal(err)
	}
	checkRotated(t, w, cfg, 1)
	if idOf(pair{chain: chainOf(a.Current().Leaf)}) != w.finished {
		t.Error("Current is not the certificate in use")
	}
}
