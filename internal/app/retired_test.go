package app_test

import (
	"testing"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/protocol"
)

// TestRetiredWithinASecond has a device ack over its new certificate, with no
// grace: its connection on the old one is closed, and the old one is refused,
// before it has the reply or soon after. How soon is for the reader; that it
// happens is tested.
func TestRetiredWithinASecond(t *testing.T) {
	w := start(t, nil)
	d := w.actor(t, "dev")
	old := w.open(t, "dev", "dev", d.old)
	second := w.open(t, "dev", "dev/second", d.old)
	d.get(t, old)
	next := w.open(t, "dev", "dev/candidate", d.next)
	w.unchanged(t, func(t *testing.T) {
		old.in(t).refusedAs(protocol.NotProven, protocol.Ack, "{}")
	})
	next.heard() // that refusal, as all connections of the device
	began := time.Now()
	if accepted, reply := next.ask(protocol.Ack, "{}"); !accepted {
		t.Fatalf("ack: %s", reply)
	}
	t.Logf("acked after %s", time.Since(began))
	old.ended()
	second.ended()
	t.Logf("connections on the old certificate closed after %s", time.Since(began))
	w.refusesConnect(t, d.old, "dev/third")
	t.Logf("the old certificate refused after %s", time.Since(began))
	next.quiet()
	w.settle(t)
	for _, c := range w.detail(t, "dev").Certificates {
		want := certificate.Active
		if string(c.ID) == d.oldID {
			want = certificate.Inactive
		}
		if c.Standing != want {
			t.Errorf("%s is %s, not %s", c.ID, c.Standing, want)
		}
	}
}
