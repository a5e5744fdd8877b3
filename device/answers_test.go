package device

import (
	"errors"
	"testing"

	"github.com/certvendor/certvendor/protocol"
)

// An answer that belongs to something else leaves nothing in the one that fits: no
// trust anchors, no nonce, no link.
func TestAnAnswerThatIsPassedOverLeavesNothing(t *testing.T) {
	w, other := newWorld(t), newWorld(t)
	cfg := w.provision()
	stranger := w.leaf(deviceUnderTest, newKey(t).Public())
	w.script(func() {
		w.onGet = func(n int) (any, bool) {
			return protocol.GetAccepted{
				Certificate: string(encodeChain(chainOf(stranger))), TrustAnchors: string(encodeChain(chainOf(other.ca))),
			}, n > 1
		}
	})
	if err := open(t, cfg).Rotate(deadline(t)); err != nil {
		t.Fatal(err)
	}
	checkRotated(t, w, cfg, 1)
	if a := open(t, cfg); a.anchors.text != "" || w.trusted != "" {
		t.Errorf("took %q and acked %q", a.anchors.text, w.trusted)
	}
	w.servePackage(t, nil)
	w.script(func() {
		w.onGet = func(n int) (any, bool) {
			if n == 3 {
				return protocol.GetAccepted{Location: "https://127.0.0.1:1/"}, false
			}
			return protocol.GetAccepted{}, n > 4
		}
	})
	var seen diary
	cfg.Flow, cfg.Event = ByPackage, seen.note
	if err := open(t, cfg).Rotate(deadline(t)); err != nil {
		t.Fatal(err)
	}
	if waits := seen.of(Waiting); len(waits) != 2 || !errors.Is(waits[1].Err, ErrNoAnswer) {
		t.Errorf("waited for %+v", waits)
	}
}

// What gives no reason refuses nothing: neither the rotation nor its job ends by it.
func TestRefusalWithoutAReasonIsNoAnswer(t *testing.T) {
	w := newWorld(t)
	cfg := w.provision()
	w.queueJob("rotate-1", protocol.NewJobDocument(protocol.DefaultTopics()))
	w.script(func() {
		w.onGet = func(n int) (any, bool) { return protocol.Rejected{}, n > 1 }
		w.onAck = func(n int) (any, bool) { return protocol.Rejected{}, n > 1 }
	})
	if err := open(t, cfg).RunOnce(deadline(t)); err != nil {
		t.Fatal(err)
	}
	checkRotated(t, w, cfg, 1)
	if len(w.updates) != 1 || w.updates[0].Status != protocol.JobSucceeded {
		t.Errorf("job updates %+v", w.updates)
	}
}
