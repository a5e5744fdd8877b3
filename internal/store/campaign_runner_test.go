package store_test

import (
	"context"
	"fmt"
	"testing"
	"time"
	"unsafe"

	"github.com/certvendor/certvendor/campaign"
	"github.com/certvendor/certvendor/jobs"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

// runs is a world with a campaign of three devices that are online, and its
// runner.
type runs struct {
	*world
	runner *campaign.Runner
	began  time.Time     // with a monotonic reading
	moved  time.Duration // by how much the clock was set
}

func newRuns(t *testing.T, change func(*campaign.Spec)) *runs {
	r := &runs{world: open(t), began: time.Now()}
	c, members := spring()
	change(&c.Spec)
	for i := range members {
		members[i].Wave = 0
		r.device(members[i].Device)
		r.register(members[i].Device, "first of "+string(members[i].Device))
	}
	r.apply(c, members)
	r.start(r.Group())
	return r
}

func (r *runs) start(group rotation.Group) {
	r.runner = campaign.NewRunner(campaign.Ports{
		Store: r.Campaigns(), Roll: r.Campaigns(), Watch: r.Campaigns(), Group: group, Now: r.now,
		Hold: func(context.Context) string { return "" }, LetIn: func() {},
	})
}

// now returns the time as the runtime does: with a monotonic reading beside it, of
// which neither sleep nor a clock that is set is a part. Only the kernel makes such
// a value otherwise, for Add moves both: the seconds stand from bit 30 on in the
// first word (src/time/time.go), the nanoseconds below.
func (r *runs) now() time.Time {
	wall := r.clock.Now()
	t := r.began.Add(wall.Sub(start) - r.moved)
	word := (*uint64)(unsafe.Pointer(&t))
	*word += uint64(wall.Unix()-t.Unix())<<30 + uint64(wall.Nanosecond()) - uint64(t.Nanosecond())
	return t
}

// sleep has the machine sleep, or its clock set forward or back.
func (r *runs) sleep(by time.Duration) {
	r.clock.add(by)
	r.moved += by
}

// round lets a second pass, and has the runner look.
func (r *runs) round() campaign.Campaign {
	r.t.Helper()
	r.clock.add(time.Second)
	r.ok(r.runner.Round(r.ctx))
	c, err := r.Campaigns().Find(r.ctx, "spring")
	r.ok(err)
	return c
}

func (r *runs) become(state campaign.State) {
	r.t.Helper()
	c, err := r.Campaigns().Find(r.ctx, "spring")
	r.ok(err)
	c.State = state
	if saved, err := r.Campaigns().Save(r.ctx, c); err != nil || !saved {
		r.t.Fatalf("saved %t, %v", saved, err)
	}
}

func quick(s *campaign.Spec) { s.PerMinute = 60_000 }

// TestWhatIsPreparedHoldsNobody: what a process that died was writing keeps no
// device out of a campaign, or it could not be applied again.
func TestWhatIsPreparedHoldsNobody(t *testing.T) {
	r := newRuns(t, quick)
	r.ok(r.Write(r.ctx, `UPDATE campaigns SET state = 'preparing'`))
	r.ok(r.Campaigns().Candidates(r.ctx, nil, func(c campaign.Candidate) {
		if c.Campaign != "" {
			t.Errorf("%s is in %s", c.Device, c.Campaign)
		}
	}))
}

// TestNobodyIsLetIntoWhatDoesNotRun: an operator may have paused or ended a
// campaign after the runner had read it.
func TestNobodyIsLetIntoWhatDoesNotRun(t *testing.T) {
	r := newRuns(t, quick)
	for _, state := range []campaign.State{campaign.Paused, campaign.AtGate, campaign.Canceled} {
		r.become(state)
		if taken, err := r.Campaigns().Take(r.ctx, "spring", 9, nil, 9); err != nil || len(taken) > 0 {
			t.Errorf("%s: let in %v, %v", state, taken, err)
		}
	}
}

// TestRotatedMeanwhile: who has rotated since the campaign was applied is not
// made to rotate again; who had before is.
func TestRotatedMeanwhile(t *testing.T) {
	r := newRuns(t, func(s *campaign.Spec) { quick(s); s.MaxInFlight = 1 })
	r.ensure(job)
	r.clock.add(time.Second)
	r.rotates("d2")
	r.round()
	r.wantReleased(9, "d1")
	r.clock.add(2 * time.Hour) // d1 is asleep, and holds up nobody
	r.round()
	r.round()
	if got := r.tally(); got != "map[0:map[added:2 skipped:1]]" {
		t.Error(got)
	}
}

// TestAsleepWithTheMachine: while the machine slept, or where its clock was set,
// no device was silent.
func TestAsleepWithTheMachine(t *testing.T) {
	for name, away := range map[string]time.Duration{"asleep, or set forward": 48 * time.Hour, "set back and forward": -48 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			r := newRuns(t, quick)
			r.round() // its pace lets one in at first
			r.round()
			for _, id := range []registry.DeviceID{"d1", "d2", "d3"} {
				r.vend(id, "next of "+string(id), nil)
			}
			if r.round(); r.tally() != "map[0:map[vended:3]]" {
				t.Fatal(r.tally())
			}
			r.sleep(away)
			if c := r.round(); c.State != campaign.Running || r.tally() != "map[0:map[vended:3]]" {
				t.Errorf("the campaign is %s: %s, %s", c.State, c.Why, r.tally())
			}
			if away < 0 {
				r.sleep(-away)
				r.round()
			}
			for range 61 { // they are listened to, minute by minute
				r.clock.add(59 * time.Second)
				r.round()
			}
			if c := r.round(); c.State != campaign.Aborted {
				t.Errorf("the campaign is %s: %s, %s", c.State, c.Why, r.tally())
			}
		})
	}
}

// unadded is a group that a process died before it could add to.
type unadded struct{ rotation.Group }

func (unadded) Add(context.Context, registry.DeviceID) error { return nil }

// TestLostBeforeAPause: who was let in by a process that died before it could
// add it to the group is added when the campaign goes on, also where it was
// paused meanwhile.
func TestLostBeforeAPause(t *testing.T) {
	r := newRuns(t, quick)
	r.start(unadded{r.Group()})
	r.round()
	if r.round(); r.tally() != "map[0:map[added:3]]" {
		t.Fatal(r.tally())
	}
	r.become(campaign.Paused)
	r.start(r.Group())
	r.round()
	r.become(campaign.Running)
	r.round()
	if members := must[[]rotation.Member](t)(r.Group().Members(r.ctx, "", 9)); len(members) != 3 {
		t.Errorf("%d of 3 are in the group", len(members))
	}
}

// TestInTwoCampaigns: who waits for its job in two campaigns keeps it when one
// of them ends, whichever it is, and leaves the group with the other.
func TestInTwoCampaigns(t *testing.T) {
	for _, ends := range [][]string{{"spring", "summer"}, {"summer", "spring"}} {
		t.Run(ends[0]+" ends", func(t *testing.T) {
			r := newRuns(t, quick)
			summer, members := spring()
			summer.Name = "summer"
			quick(&summer.Spec)
			for i := range members {
				members[i].Wave = 0
			}
			r.apply(summer, members)
			r.round()
			r.round()
			for left, name := range ends {
				if members := must[[]rotation.Member](t)(r.Group().Members(r.ctx, "", 9)); len(members) != 3 {
					t.Fatalf("%d of 3 are in the group after %d campaigns have ended", len(members), left)
				}
				c := must[campaign.Campaign](t)(r.Campaigns().Find(r.ctx, name))
				c.State, c.Ended = campaign.Canceled, r.clock.Now()
				r.ok(r.runner.Withdraw(r.ctx, c))
				if saved, err := r.Campaigns().Save(r.ctx, c); err != nil || !saved {
					t.Fatalf("saved: %t, %v", saved, err)
				}
				r.round()
			}
			if members := must[[]rotation.Member](t)(r.Group().Members(r.ctx, "", 9)); len(members) != 0 {
				t.Errorf("%d are in the group, and no campaign goes on", len(members))
			}
		})
	}
}

// TestWhoWaitsForItsJobIsNotOffline: a wave whose devices could not be asked yet, for
// the group is full or its job was canceled, shows nothing, and opens no gate. One
// that was asked and is not heard of holds up nobody.
func TestWhoWaitsForItsJobIsNotOffline(t *testing.T) {
	for name, c := range map[string]struct {
		canceled bool
		others   int // that wait
	}{"the group is full": {}, "of many": {others: 20}, "the job was canceled": {canceled: true}} {
		t.Run(name, func(t *testing.T) {
			r := newRuns(t, func(s *campaign.Spec) { quick(s); s.Gates = campaign.Manual; s.MaxInFlight = 1 })
			r.ok(r.Write(r.ctx, `UPDATE campaign_members SET wave = 1 WHERE device <> 'd1'`,
				`UPDATE tallies SET n = 1 WHERE what = 'campaign spring'`,
				`INSERT INTO tallies VALUES ('campaign spring', '1 pending', 2)`))
			job := r.ensure(jobs.New("group", protocol.DefaultTopics()))
			hours := func(want campaign.State) {
				t.Helper()
				var c campaign.Campaign
				for range 130 {
					r.clock.add(59 * time.Second)
					c = r.round()
				}
				if c.State != want || r.tally() != "map[0:map[added:1] 1:map[pending:2]]" {
					t.Fatalf("the campaign is %s: %s, %s; want %s", c.State, c.Why, r.tally(), want)
				}
			}
			r.round()
			for i := range c.others {
				r.member(registry.DeviceID(fmt.Sprintf("other-%d", i)))
			}
			if c.canceled {
				r.wantReleased(1, "d1")
				r.ok(r.Jobs().Cancel(r.ctx, job.ID))
				hours(campaign.Running)
				r.ensure(job)
				r.ok(r.Jobs().Resume(r.ctx, job.ID))
			}
			hours(campaign.Running)
			r.wantReleased(1, "d1")
			if c := r.round(); c.State != campaign.Running {
				t.Fatalf("asked a second ago, and the campaign is %s: %s", c.State, c.Why)
			}
			hours(campaign.AtGate)
		})
	}
}

// TestHoldsByItsWindow: a campaign holds while the windows of those who wait are closed,
// and not where nobody waits any more.
func TestHoldsByItsWindow(t *testing.T) {
	at := func(d time.Duration) string { return start.Add(d).UTC().Format("15:04") }
	r := newRuns(t, func(s *campaign.Spec) {
		quick(s)
		s.Window = campaign.Window{From: at(time.Hour), To: at(5 * time.Hour)}
	})
	r.ok(r.Write(r.ctx, `UPDATE campaign_members SET zone = ''`))
	if r.round(); r.runner.Holding("spring") != "no window is open" {
		t.Errorf("before the window it holds: %q", r.runner.Holding("spring"))
	}
	r.clock.add(time.Hour)
	for range 3 {
		r.round()
	}
	if why := r.runner.Holding("spring"); why != "" || r.tally() != "map[0:map[added:3]]" {
		t.Errorf("in the window, %s, it holds: %q", r.tally(), why)
	}
}
