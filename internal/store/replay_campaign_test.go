package store_test

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/certvendor/certvendor/campaign"
	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

// TestReplayedCampaign restores a campaign from a copy of which its devices
// know nothing any more: one has passed before it, one was let in and vended
// since, one was let in and left without a rotation, and one waits.
func TestReplayedCampaign(t *testing.T) {
	r := &replayed{copy: filepath.Join(t.TempDir(), "copy.db"), dir: filepath.Join(t.TempDir(), "audit")}
	r.world = open(t, func(c *store.Config) { c.AuditDir = r.dir })
	c, members := spring()
	members = append(members, campaign.Member{Device: "d4", Place: 3, Wave: 1, Standing: campaign.Pending})
	c.Devices = len(members)
	for _, m := range members {
		r.device(m.Device)
	}
	r.apply(c, members)
	letIn := func(wave, n int) {
		t.Helper()
		taken, err := r.Campaigns().Take(r.ctx, "spring", wave, nil, n)
		r.ok(err)
		for _, m := range taken {
			r.ok(r.Group().Add(r.ctx, m.Device))
		}
		r.clock.add(time.Minute)
	}
	save := func(change func(*campaign.Campaign)) {
		t.Helper()
		c, err := r.Campaigns().Find(r.ctx, "spring")
		r.ok(err)
		change(&c)
		if saved, err := r.Campaigns().Save(r.ctx, c); err != nil || !saved {
			t.Fatalf("saved %t, %v", saved, err)
		}
	}
	letIn(0, 1)
	r.vendReal("d1")
	seen, err := r.Campaigns().InProgress(r.ctx, "spring", -1, 1)
	r.ok(err)
	seen[0].Standing = campaign.Passed
	r.ok(r.Campaigns().Mark(r.ctx, "spring", []campaign.Noted{{Member: seen[0].Member, Turn: seen[0].Turn}}))
	_, err = r.Copy(r.ctx, r.copy)
	r.ok(err)

	save(func(c *campaign.Campaign) { c.Wave = 1 })
	letIn(1, 2)
	vended := r.vendReal("d2")
	r.ok(r.Group().Remove(r.ctx, "d2", time.Time{}))
	r.ok(r.Group().Remove(r.ctx, "d3", time.Time{}))
	save(func(c *campaign.Campaign) { c.State, c.Ended = campaign.Finished, r.clock.Now() }) // as if
	r.ok(r.Close())

	s, _, err := r.again()
	r.ok(err)
	r.ok(s.SetRestored(context.Background(), store.Restoration{At: r.clock.Now()}, "a test", nil))
	c, err = s.Campaigns().Find(r.ctx, "spring")
	if r.ok(err); c.State != campaign.Paused || c.Wave != 1 || c.Why != "the store was restored" {
		t.Errorf("the campaign is %s in wave %d: %s", c.State, c.Wave, c.Why)
	}
	tally, err := s.Campaigns().Tally(r.ctx, "spring")
	if r.ok(err); fmt.Sprint(tally) != "map[0:map[passed:1] 1:map[added:1 pending:1 skipped:1]]" {
		t.Errorf("its members: %v", tally)
	}
	after, err := s.Campaigns().InProgress(r.ctx, "spring", -1, 10)
	r.ok(err)
	if len(after) != 1 || after[0].Device != "d2" || after[0].Rotation.Certificate != vended.Certificate || after[0].Before != 0 {
		t.Errorf("in progress: %+v", after)
	}
}

// vendReal is vend with a certificate that a replay can read.
func (r *replayed) vendReal(id registry.DeviceID) rotation.Rotation {
	r.t.Helper()
	is := must[rotation.Rotation](r.t)(r.Journal().Open(r.ctx, r.intended(id, "next of "+string(id)), nil))
	c := real(r.t, "next of "+string(id), start.AddDate(1, 0, 0))
	is.State, is.Certificate = rotation.Issued, c.ID
	is = r.advance(rotation.Change{Rotation: is, Certificate: &c})
	r.ok(r.Certificates().Register(r.ctx, id, c))
	is.State, is.VendedAt, is.Lease = rotation.Vended, r.clock.Now(), rotation.Lease{}
	return r.advance(rotation.Change{Rotation: is})
}

// TestReplayedAbort: a campaign that ended since stays so, and whoever was
// vended nothing is late.
func TestReplayedAbort(t *testing.T) {
	r := &replayed{copy: filepath.Join(t.TempDir(), "copy.db"), dir: filepath.Join(t.TempDir(), "audit")}
	r.world = open(t, func(c *store.Config) { c.AuditDir = r.dir })
	c, members := spring()
	for _, m := range members {
		r.device(m.Device)
	}
	r.apply(c, members)
	_, err := r.Copy(r.ctx, r.copy)
	r.ok(err)
	r.clock.add(time.Minute)
	_, err = r.Campaigns().Take(r.ctx, "spring", 0, nil, 1)
	r.ok(err)
	r.ok(r.Group().Add(r.ctx, "d1"))
	c, err = r.Campaigns().Find(r.ctx, "spring")
	r.ok(err)
	c.State, c.Why, c.Ended, c.Acts = campaign.Aborted, "too many", r.clock.add(time.Minute), "an operator"
	_, err = r.Campaigns().Save(r.ctx, c)
	r.ok(err)
	r.ok(r.Close())

	s, _, err := r.again()
	r.ok(err)
	r.ok(s.SetRestored(context.Background(), store.Restoration{At: r.clock.Now()}, "a test", nil))
	is, err := s.Campaigns().Find(r.ctx, "spring")
	if r.ok(err); is.State != campaign.Aborted || is.Why != "too many" || !is.Ended.Equal(c.Ended) {
		t.Errorf("the campaign is %s since %s: %s", is.State, is.Ended, is.Why)
	}
	if n := len(is.History); n != 2 || is.History[1].State != campaign.Aborted || is.History[1].By != "an operator" || !is.History[1].At.Equal(c.Ended) {
		t.Errorf("its history: %+v", is.History)
	}
	tally, err := s.Campaigns().Tally(r.ctx, "spring")
	if r.ok(err); tally[0][campaign.Late] != 1 || tally[1][campaign.Pending] != 2 {
		t.Errorf("its members: %v", tally)
	}
}
