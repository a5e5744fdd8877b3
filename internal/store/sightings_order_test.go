package store_test

import (
	"context"
	"testing"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/rotation"
)

// A connection with the new certificate is refused because its sighting could
// not be committed in time. The device goes back to the old one, whose sighting
// is a repeat and counts at once. When the disk goes on, the sighting of the
// refused connection must not come behind that of the accepted one: by it the
// certificate that the device is on would be taken away.
func TestSightingThatWasGivenUpComesBehindNoLaterOne(t *testing.T) {
	w := open(t)
	live := func(ctx context.Context, c certificate.ID, at time.Time) error {
		return w.Certificates().Seen(ctx, certificate.Sighting{Device: "d1", Certificate: c, At: at, Evidence: certificate.Presence, Live: true})
	}
	old := w.register("d1", "old")
	w.ok(live(w.ctx, old.ID, start))
	r, next := w.vend("d1", "new", nil)

	release := w.hold() // the disk does not answer
	ctx, cancel := context.WithCancel(w.ctx)
	refused := make(chan error, 1)
	go func() { refused <- live(ctx, next.ID, w.clock.add(time.Second)) }()
	eventually(t, "the sighting waits", func() bool { return w.Queued() == 1 })
	cancel() // the CONNECT took too long
	if <-refused == nil {
		t.Fatal("the connection was accepted")
	}
	w.ok(live(w.ctx, old.ID, w.clock.add(time.Minute))) // accepted, and the device stays on it
	release()
	w.register("d2", "behind it") // what waited is carried out

	if latest, _ := certificate.Latest(w.held("d1")); latest.ID != old.ID {
		t.Errorf("the device is on %s and its latest sighting is on %s", old.Subject, latest.Subject)
	}
	// What the sweep makes of it, a quarter of an hour later, with a grace of none.
	h := w.find("d1")
	if own := w.holding("d1", next.ID); h.Current().ShownBy(own.LastSeen) {
		r = *h.Current()
		r.State, r.Evidence, r.ProvenAt = rotation.Proven, own.Evidence, own.LastSeen
		w.advance(rotation.Change{Rotation: r})
	}
	facts := rotation.Facts{
		Retirement: rotation.Retirement{Device: "d1", Certificate: old.ID, Rotation: r.Number, Mode: certificate.Deactivate},
		Held:       w.held("d1"), History: w.find("d1"), Now: w.clock.add(16 * time.Minute), Recent: 24 * time.Hour,
	}
	if err := facts.Allowed(); err == nil {
		t.Error("the one rule takes the certificate away that the device is connected with")
	}
}
