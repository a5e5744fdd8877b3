package store_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/certvendor/certvendor/campaign"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
)

// year is how far the clock ran ahead.
const year = 365 * 24 * time.Hour

// TestAutoAfterAClockThatRanAhead: once it is put right, what was written meanwhile
// keeps nobody out until its certificate has ended.
func TestAutoAfterAClockThatRanAhead(t *testing.T) {
	const ahead = 20 * time.Hour
	w := open(t)
	var group additions
	runner := w.autoRunner(&group, renewal(w, func(s *campaign.Spec) { s.Abort.AtLeast = 9 }))
	w.short("failed", nil)
	w.ok(w.seen("begun", w.short("begun", nil).ID, w.clock.Now()))
	w.clock.add(3*time.Hour + ahead)
	w.rounds(runner, 5*time.Minute)
	runner.Refused("failed", "CSR_REJECTED")
	w.vend("begun", "next of begun", nil)
	w.rounds(runner, 5*time.Minute)
	if len(group.at["failed"]) != 1 || len(group.at["begun"]) != 1 {
		t.Fatalf("were let in: %v", group.at)
	}
	w.clock.add(-ahead)
	w.rounds(runner, 19*time.Hour)
	if len(group.at["failed"]) < 2 || len(group.at["begun"]) < 2 {
		t.Errorf("were let in: %v", group.at)
	}
}

// TestAutoGoesOnAfterAClockThatRanAhead: what failed meanwhile does not count when
// the operator has resumed it.
func TestAutoGoesOnAfterAClockThatRanAhead(t *testing.T) {
	w := open(t)
	w.ok(w.Campaigns().Keep(w.ctx, renewal(w).Spec))
	w.clock.add(year)
	var due []campaign.Entry
	var failed []campaign.Noted
	for i := range 5 {
		due = append(due, campaign.Entry{Device: w.device(registry.DeviceID(fmt.Sprint("d", i))), Expires: w.clock.Now()})
		failed = append(failed, campaign.Noted{Member: campaign.Member{Place: i, Standing: campaign.Failed, Since: w.clock.Now()}})
	}
	w.ok(w.Campaigns().Enter(w.ctx, campaign.AutoName, due))
	w.ok(w.Campaigns().Mark(w.ctx, campaign.AutoName, failed))
	recent := func() int {
		return must[map[campaign.Standing]int](t)(w.Campaigns().Recent(w.ctx, campaign.AutoName, w.clock.Now().Add(-time.Hour), 99))[campaign.Failed]
	}
	if n := recent(); n != 5 {
		t.Errorf("%d have failed lately, want 5", n)
	}
	w.clock.add(-year)
	if n := recent(); n != 0 {
		t.Errorf("%d have failed lately by the clock that is right, want none", n)
	}
}

// TestCampaignAfterAClockThatRanAhead: who was let in meanwhile and is asleep takes
// no place, and who has rotated meanwhile, or had a job that failed, is a device like
// any other.
func TestCampaignAfterAClockThatRanAhead(t *testing.T) {
	r := newRuns(t, func(s *campaign.Spec) { quick(s); s.MaxInFlight = 1; s.Abort.AtLeast = 9 })
	r.ensure(job)
	r.sleep(year)
	r.rotates("d2")
	r.ok(r.Group().Add(r.ctx, "d3"))
	r.wantReleased(9, "d3")
	r.set("d3", protocol.JobFailed)
	r.ok(r.Group().Remove(r.ctx, "d3", time.Time{}))
	if r.round(); r.tally() != "map[0:map[added:1 pending:2]]" {
		t.Fatal(r.tally())
	}
	r.wantReleased(9, "d1")
	r.sleep(-year)
	for range 3 { // the first of them makes room for the next
		for range 2 * 62 {
			r.clock.add(59 * time.Second)
			r.round()
			must[[]registry.DeviceID](t)(r.Jobs().Release(r.ctx, 9))
		}
	}
	if got := r.tally(); got != "map[0:map[added:3]]" {
		t.Error(got)
	}
}

// TestJudgedAfterAClockThatRanAhead: who was proven meanwhile passes after the soak,
// who was vended a certificate and is silent fails.
func TestJudgedAfterAClockThatRanAhead(t *testing.T) {
	r := newRuns(t, func(s *campaign.Spec) { quick(s); s.Soak, s.Abort.AtLeast = time.Hour, 9 })
	r.sleep(year)
	r.round()
	r.round()
	r.rotates("d1")
	r.vend("d2", "next of d2", nil)
	if r.round(); r.tally() != "map[0:map[added:1 proven:1 vended:1]]" {
		t.Fatal(r.tally())
	}
	r.sleep(-year)
	for range 2 * 62 {
		r.clock.add(59 * time.Second)
		r.round()
	}
	if got := r.tally(); got != "map[0:map[added:1 failed:1 passed:1]]" {
		t.Error(got)
	}
}
