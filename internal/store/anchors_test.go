package store_test

import (
	"testing"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/store"
)

// TestServerCAByAClockThatRanAhead: the servers' CAs stand in the order in which they
// came, or the one that was replaced would be shown again after the next start.
func TestServerCAByAClockThatRanAhead(t *testing.T) {
	const ahead = 365 * 24 * time.Hour
	w := open(t)
	turn := func(id certificate.ID) {
		w.ok(w.Anchors().Prepare(w.ctx, id, []byte(id)))
		w.ok(w.Anchors().Use(w.ctx, "any", 0))
	}
	w.clock.add(ahead)
	turn("first")
	w.clock.add(-ahead)
	turn("second")
	all := must[[]store.ServerAuthority](t)(w.Anchors().List(w.ctx))
	if len(all) != 2 || all[0].ID != "first" || all[1].ID != "second" {
		t.Errorf("in the order %v", all)
	}
}
