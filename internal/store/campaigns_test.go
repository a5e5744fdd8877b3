package store_test

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/certvendor/certvendor/campaign"
	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/registry"
)

// spring returns a campaign of three devices, the first of them its canary.
func spring() (campaign.Campaign, []campaign.Member) {
	c := campaign.Campaign{Spec: campaign.Spec{Name: "spring", Choose: campaign.Choice{All: true}}.WithDefaults(), Devices: 3, By: "somebody", Applied: start}
	var members []campaign.Member
	for i, zone := range []string{"", "Europe/Berlin", ""} {
		members = append(members, campaign.Member{
			Device: registry.DeviceID(fmt.Sprintf("d%d", i+1)), Place: i, Wave: min(i, 1), Standing: campaign.Pending, Zone: zone,
		})
	}
	return c, members
}

func (w *world) apply(c campaign.Campaign, members []campaign.Member) bool {
	w.t.Helper()
	made, err := w.Campaigns().Apply(w.ctx, c, members)
	w.ok(err)
	return made
}

func (w *world) tally() string {
	w.t.Helper()
	tally, err := w.Campaigns().Tally(w.ctx, "spring")
	w.ok(err)
	return fmt.Sprint(tally)
}

const allPending = "map[0:map[pending:1] 1:map[pending:2]]"

func TestCampaignIsAppliedOnce(t *testing.T) {
	w := open(t)
	c, members := spring()
	if !w.apply(c, members) || w.apply(c, members) {
		t.Error("not made once")
	}
	other := c
	other.PerMinute = 1
	if _, err := w.Campaigns().Apply(w.ctx, other, members); !errors.Is(err, campaign.ErrDiffers) {
		t.Errorf("another spec: %v", err)
	}
	w.reopen()
	found, err := w.Campaigns().Find(w.ctx, "spring")
	w.ok(err)
	if found.State != campaign.Running || found.Devices != 3 || found.By != "somebody" || found.PerMinute != c.PerMinute || found.Applied.IsZero() {
		t.Errorf("%+v", found)
	}
	if got := w.tally(); got != allPending {
		t.Error(got)
	}
	if _, err := w.Campaigns().Find(w.ctx, "autumn"); !errors.Is(err, campaign.ErrUnknown) {
		t.Errorf("autumn: %v", err)
	}
}

// What a process that died was writing is written anew, and counted once.
func TestCampaignThatWasBegun(t *testing.T) {
	w := open(t)
	c, members := spring()
	w.apply(c, members[:2])
	w.ok(w.Write(w.ctx, `UPDATE campaigns SET state = 'preparing'`))
	if all, err := w.Campaigns().List(w.ctx); err != nil || len(all) > 0 {
		t.Errorf("shows %v, %v", all, err)
	}
	if !w.apply(c, members) {
		t.Error("not made")
	}
	if got := w.tally(); got != allPending {
		t.Error(got)
	}
}

func TestMembersAreLetIn(t *testing.T) {
	w := open(t)
	c, members := spring()
	for _, m := range members {
		w.device(m.Device)
		w.register(m.Device, "first of "+string(m.Device))
	}
	w.apply(c, members)
	take := func(wave int, zones []string) (names string) {
		taken, err := w.Campaigns().Take(w.ctx, "spring", wave, zones, 10)
		w.ok(err)
		for _, m := range taken {
			names += string(m.Device) + " "
		}
		return names
	}
	if got := take(0, nil); got != "d1 " {
		t.Errorf("of wave 0: %s", got)
	}
	if got := take(1, []string{""}); got != "d3 " {
		t.Errorf("of a zone: %s", got)
	}
	if got := take(1, []string{}); got != "" {
		t.Errorf("of no zone: %s", got)
	}
	zones, err := w.Campaigns().Zones(w.ctx, "spring")
	if w.ok(err); fmt.Sprint(zones) != "[Europe/Berlin]" {
		t.Errorf("zones %v", zones)
	}
	w.clock.add(time.Minute)
	r, next := w.vend("d1", "next", nil)
	w.ok(w.seen("d1", next.ID, w.clock.add(time.Second)))
	w.ok(w.Group().Add(w.ctx, "d3"))
	w.ok(w.Devices().Block(w.ctx, "d3", true))
	w.reopen() // all of it is durable
	seen, err := w.Campaigns().InProgress(w.ctx, "spring", -1, 10)
	w.ok(err)
	if len(seen) != 2 || seen[0].Device != "d1" || seen[1].Device != "d3" {
		t.Fatalf("in progress: %+v", seen)
	}
	one, three := seen[0], seen[1]
	if one.Rotation.Number != r.Number || one.Rotation.Certificate != next.ID || one.LastSeen != next.ID || one.Before != 0 || one.Asked || one.Blocked {
		t.Errorf("d1: %+v", one)
	}
	if three.Rotation.Number != 0 || !three.Asked || !three.Blocked || three.Removed {
		t.Errorf("d3: %+v", three)
	}
	one.Standing, one.Why = campaign.Passed, ""
	w.ok(w.Campaigns().Mark(w.ctx, "spring", []campaign.Noted{{Member: one.Member, Turn: one.Turn}}))
	if got := w.tally(); got != "map[0:map[passed:1] 1:map[added:1 pending:1]]" {
		t.Error(got)
	}
}

func TestCampaignIsSavedAsItWasRead(t *testing.T) {
	w := open(t)
	c, members := spring()
	w.apply(c, members)
	read, err := w.Campaigns().Find(w.ctx, "spring")
	w.ok(err)
	read.State, read.Why = campaign.Paused, "a test"
	if saved, err := w.Campaigns().Save(w.ctx, read); err != nil || !saved {
		t.Fatalf("%t, %v", saved, err)
	}
	read.State = campaign.Running
	if saved, err := w.Campaigns().Save(w.ctx, read); err != nil || saved {
		t.Errorf("an older one was saved: %t, %v", saved, err)
	}
	now, err := w.Campaigns().Find(w.ctx, "spring")
	if w.ok(err); now.State != campaign.Paused || now.Why != "a test" {
		t.Errorf("%+v", now)
	}
}

func TestCandidates(t *testing.T) {
	w := open(t)
	w.ok(w.Devices().Add(w.ctx, "d1", map[string]string{"site": "berlin", "model": "x"}))
	w.device("d2")
	w.device("d3")
	first := w.register("d1", "first")
	w.ok(w.seen("d1", first.ID, w.clock.add(time.Second)))
	w.vend("d2", "open", nil)
	w.ok(w.Group().Add(w.ctx, "d3"))
	w.ok(w.Devices().Block(w.ctx, "d3", true))
	many := fake("many policies")
	for i := range certificate.MostPolicies {
		many.Policies = append(many.Policies, fmt.Sprint("policy-", i))
	}
	w.ok(w.Certificates().Register(w.ctx, w.device("d4"), many))
	c, members := spring()
	w.apply(c, members[2:])
	var all []campaign.Candidate
	w.ok(w.Campaigns().Candidates(w.ctx, []string{"site"}, func(c campaign.Candidate) { all = append(all, c) }))
	if len(all) != 4 {
		t.Fatalf("%+v", all)
	}
	one, two, three, four := all[0], all[1], all[2], all[3]
	if fmt.Sprint(one.Attributes) != "map[site:berlin]" || len(one.Active) != 1 || one.Active[0].ID != first.ID || one.Active[0].Seen.IsZero() || one.Policies != nil || one.Open != "" {
		t.Errorf("d1: %+v", one)
	}
	if two.Open != "vended" || two.Grouped || two.Campaign != "" {
		t.Errorf("d2: %+v", two)
	}
	if !three.Blocked || !three.Grouped || !three.Asked || three.Campaign != "spring" || len(three.Active) != 0 {
		t.Errorf("d3: %+v", three)
	}
	if len(four.Active) != 1 || !slices.Equal(four.Policies, many.Policies) {
		t.Errorf("d4: %+v", four)
	}
}

// TestWhoIsLookedAt: a member is looked at when its time has come, and when
// something has become of its device, also in between.
func TestWhoIsLookedAt(t *testing.T) {
	w := open(t)
	c, members := spring()
	for _, m := range members {
		w.device(m.Device)
		w.register(m.Device, "first of "+string(m.Device))
	}
	w.apply(c, members)
	_, err := w.Campaigns().Take(w.ctx, "spring", 1, nil, 10)
	w.ok(err)
	due := func(now time.Time) (all []campaign.Sight) {
		t.Helper()
		for after := (campaign.Turn{Look: math.MinInt64}); ; {
			page, err := w.Campaigns().Due(w.ctx, "spring", now, after, 1)
			w.ok(err)
			if len(page) == 0 {
				return all
			}
			all, after = append(all, page...), page[0].Turn
		}
	}
	later := w.clock.Now().Add(time.Hour)
	note := func(seen []campaign.Sight) {
		t.Helper()
		var found []campaign.Noted
		for _, s := range seen {
			found = append(found, campaign.Noted{Member: s.Member, Turn: s.Turn, Next: later})
		}
		w.ok(w.Campaigns().Mark(w.ctx, "spring", found))
	}
	want := func(what string, names ...registry.DeviceID) {
		t.Helper()
		var got []registry.DeviceID
		for _, s := range due(w.clock.Now()) {
			got = append(got, s.Device)
		}
		slices.Sort(got)
		if !slices.Equal(got, names) {
			t.Errorf("%s: %v are looked at, not %v", what, got, names)
		}
	}
	want("let in", "d1", "d2", "d3")
	note(due(w.clock.Now()))
	want("noted")
	_, next := w.vend("d1", "next", nil)
	want("vended", "d1")
	before := due(w.clock.Now())
	w.ok(w.seen("d1", next.ID, w.clock.add(time.Second)))
	note(before)
	want("seen after it was looked at", "d1")
	note(due(w.clock.Now()))
	w.ok(w.Devices().Block(w.ctx, "d2", true))
	w.ok(w.Devices().Remove(w.ctx, "d3"))
	want("blocked and removed", "d2", "d3")
	note(due(w.clock.Now()))
	w.ok(w.Campaigns().Wake(w.ctx, []registry.DeviceID{"d2", "nobody"}))
	want("woken", "d2")
	note(due(w.clock.Now()))
	w.reopen()
	want("an hour before")
	w.clock.add(2 * time.Hour)
	want("their time has come", "d1", "d2", "d3")
	overdue, err := w.Campaigns().Overdue(w.ctx, "spring", w.clock.Now())
	if w.ok(err); fmt.Sprint(overdue) != "map[0:1 1:2]" {
		t.Errorf("overdue %v", overdue)
	}
	overdue, err = w.Campaigns().Overdue(w.ctx, "spring", start)
	if w.ok(err); len(overdue) != 0 {
		t.Errorf("overdue before they were let in: %v", overdue)
	}
}
