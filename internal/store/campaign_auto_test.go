package store_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/certvendor/certvendor/campaign"
	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/backend/backendtest"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

// additions is the rotation group, with when each device was added.
type additions struct {
	rotation.Group
	w  *world
	at map[registry.DeviceID][]time.Time
}

func (a *additions) Add(ctx context.Context, id registry.DeviceID) error {
	a.at[id] = append(a.at[id], a.w.clock.Now())
	return a.Group.Add(ctx, id)
}

// renewal has devices enter a third of their certificate's lifetime before its
// end.
func renewal(w *world, change ...func(*campaign.Spec)) *campaign.Renewal {
	s := campaign.Spec{Name: campaign.AutoName, Choose: campaign.Choice{All: true}}
	for _, f := range change {
		f(&s)
	}
	return &campaign.Renewal{
		Spec: s.WithDefaults(), Except: []string{"rotate=never"}, Window: time.Hour,
		Until: func(context.Context) (time.Time, error) { return w.clock.Now().AddDate(3, 0, 0), nil },
	}
}

// autoRunner is what a daemon begins with.
func (w *world) autoRunner(a *additions, r *campaign.Renewal) *campaign.Runner {
	a.w, a.Group = w, w.Group()
	if a.at == nil {
		a.at = map[registry.DeviceID][]time.Time{}
	}
	return campaign.NewRunner(campaign.Ports{
		Store: w.Campaigns(), Roll: w.Campaigns(), Watch: w.Campaigns(), Group: a, Entrance: w.Campaigns(), Renewal: r, Now: w.clock.Now,
		Hold: func(context.Context) string { return "" }, LetIn: func() {},
	})
}

// short enters a device with a certificate for a day.
func (w *world) short(id registry.DeviceID, attributes map[string]string) certificate.Certificate {
	w.t.Helper()
	w.ok(w.Devices().Add(w.ctx, id, attributes))
	c := fake("first of " + string(id))
	c.NotBefore, c.NotAfter = w.clock.Now().Truncate(time.Second), w.clock.Now().Truncate(time.Second).Add(24*time.Hour)
	w.ok(w.Certificates().Register(w.ctx, id, c))
	return c
}

// rotates has a device go through a whole rotation to a certificate for three
// years.
func (w *world) rotates(id registry.DeviceID) {
	w.t.Helper()
	name := fmt.Sprintf("next of %s at %s", id, w.clock.Now())
	r, c := w.vend(id, name, nil)
	w.ok(w.seen(id, c.ID, w.clock.Now()))
	r.State, r.Evidence, r.ProvenAt = rotation.Proven, certificate.Connection, w.clock.Now()
	r = w.advance(rotation.Change{Rotation: r})
	r.State, r.ClosedAt = rotation.Finished, w.clock.Now()
	w.advance(rotation.Change{Rotation: r})
	w.ok(w.Group().Remove(w.ctx, id, time.Time{}))
}

// A thousand certificates that end at one moment are replaced one after the
// other, at the pace, each well before its end, and none twice, although the
// daemon is started anew in between.
func TestThousandEndOnOneDay(t *testing.T) {
	const step = 12 * time.Second
	fleet, pace := 1000, 10
	if backendtest.RaceDetector {
		fleet, pace = 200, 2
	}
	w := open(t)
	var working sync.WaitGroup
	for i := range fleet {
		working.Go(func() { w.short(registry.DeviceID(fmt.Sprintf("d%03d", i)), nil) })
	}
	working.Wait()
	begins := w.clock.Now()
	ends := begins.Add(24 * time.Hour)
	var group additions
	rule := renewal(w, func(s *campaign.Spec) { s.PerMinute = pace })
	runner := w.autoRunner(&group, rule)
	done := 0
	for round := 0; w.clock.Now().Before(ends); round++ {
		if w.clock.Now().Sub(begins) < 15*time.Hour+50*time.Minute && round%100 > 0 {
			w.clock.add(step)
			continue // nothing is due, which a look now and then shows
		}
		if round == 5200 {
			w.reopen()
			runner = w.autoRunner(&group, rule)
		}
		w.ok(runner.Round(w.ctx))
		for id, at := range group.at {
			if len(at) == 1 && at[0].Equal(w.clock.Now()) {
				w.rotates(id)
				done++
			}
		}
		if done == fleet {
			break
		}
		w.clock.add(step)
	}
	if len(group.at) != fleet {
		t.Fatalf("%d of %d devices were let in before their end", len(group.at), fleet)
	}
	minutes, hours := map[int]int{}, map[int]int{}
	for id, at := range group.at {
		if len(at) > 1 {
			t.Errorf("%s was let in at %s", id, at)
		}
		since := at[0].Sub(ends.Add(-8 * time.Hour))
		if since < 0 || since > 4*time.Hour+10*time.Minute {
			t.Errorf("%s was let in %s after the beginning of its time", id, since)
		}
		minutes[int(since/time.Minute)]++
		hours[min(int(since/time.Hour), 3)]++
	}
	for minute, n := range minutes {
		if n > pace+1 {
			t.Errorf("%d were let in in minute %d", n, minute)
		}
	}
	for hour := range 4 {
		if n := hours[hour]; n < fleet/5 || n > fleet*3/10 {
			t.Errorf("%d of %d were let in in hour %d", n, fleet, hour)
		}
	}
	// Nobody is let in again: what they have lasts.
	for range 10 {
		w.clock.add(time.Hour)
		w.ok(runner.Round(w.ctx))
	}
	if tally, err := w.Campaigns().Tally(w.ctx, campaign.AutoName); err != nil || tally[0][campaign.Passed] != fleet {
		t.Errorf("%v, %v", tally, err)
	}
}

// rounds lets so much time pass, with a round every minute.
func (w *world) rounds(r *campaign.Runner, d time.Duration) {
	w.t.Helper()
	for end := w.clock.Now().Add(d); w.clock.Now().Before(end); w.clock.add(time.Minute) {
		w.ok(r.Round(w.ctx))
	}
}

func (w *world) standing(id registry.DeviceID) (standing campaign.Standing, why string) {
	w.t.Helper()
	members, err := w.Campaigns().Members(w.ctx, campaign.AutoName, -1, 100)
	w.ok(err)
	for _, m := range members {
		if m.Device == id {
			return m.Standing, m.Why
		}
	}
	return "", ""
}

// inAnother puts a device into a campaign that an operator has paused.
func (w *world) inAnother(id registry.DeviceID) {
	w.t.Helper()
	c := campaign.Campaign{Spec: campaign.Spec{Name: "spring", Choose: campaign.Choice{All: true}}.WithDefaults(), Devices: 1, Applied: w.clock.Now()}
	w.apply(c, []campaign.Member{{Device: id, Standing: campaign.Pending}})
	c, err := w.Campaigns().Find(w.ctx, c.Name)
	w.ok(err)
	c.State = campaign.Paused
	_, err = w.Campaigns().Save(w.ctx, c)
	w.ok(err)
}

// TestWhoIsNotLetIn has a device of each kind that stays out, beside two that
// do not, until all their certificates have ended.
func TestWhoIsNotLetIn(t *testing.T) {
	w := open(t)
	w.short("plain", map[string]string{"rotate": "always"})
	w.short("never", map[string]string{"rotate": "never"})
	w.short("blocked", nil)
	w.ok(w.Devices().Block(w.ctx, "blocked", true))
	w.short("grouped", nil)
	w.ok(w.Group().Add(w.ctx, "grouped"))
	w.short("rotated", nil)
	w.rotates("rotated")
	w.short("went-back", nil)
	old := w.held("went-back")[0].ID
	w.rotates("went-back")
	w.clock.add(time.Minute)
	w.ok(w.seen("went-back", old, w.clock.Now())) // its new one it may have lost
	w.device("none")
	long := w.device("long")
	w.register(long, "for three years")
	var group additions
	runner := w.autoRunner(&group, renewal(w))
	w.rounds(runner, 25*time.Hour)
	if len(group.at) != 2 || len(group.at["plain"]) == 0 || len(group.at["went-back"]) == 0 {
		t.Errorf("were let in: %v", group.at)
	}
}

// TestJobThatHasEnded has a device in the group whose job an operator gave it, and
// which it failed: nobody asks anything of it any more, so it is let in like any
// other, and gets another job.
func TestJobThatHasEnded(t *testing.T) {
	w := open(t)
	w.ensure(job)
	w.short("lamp", nil)
	w.ok(w.Group().Add(w.ctx, "lamp"))
	w.wantReleased(9, "lamp")
	w.set("lamp", protocol.JobFailed)
	var group additions
	w.rounds(w.autoRunner(&group, renewal(w)), 21*time.Hour)
	if len(group.at["lamp"]) != 1 {
		t.Errorf("were let in: %v", group.at)
	}
	w.wantReleased(9, "lamp")
}

// TestForgottenElsewhere has a device wait in a campaign that an operator has paused,
// and forgotten: that keeps it out for the first half of the time before its end.
func TestForgottenElsewhere(t *testing.T) {
	w := open(t)
	w.short("lamp", nil)
	w.inAnother("lamp")
	var group additions
	runner := w.autoRunner(&group, renewal(w))
	w.rounds(runner, 20*time.Hour)
	if len(group.at) != 0 {
		t.Errorf("was let in: %v", group.at)
	}
	w.rounds(runner, time.Hour)
	if len(group.at["lamp"]) != 1 {
		t.Errorf("were let in: %v", group.at)
	}
}

// TestGoneBack has two devices go back to the certificate that they had before. Who
// stays there is let in before that ends; who comes to the new one again is not.
func TestGoneBack(t *testing.T) {
	w := open(t)
	for _, id := range []registry.DeviceID{"stays", "returns"} {
		old := w.short(id, nil)
		w.rotates(id)
		w.clock.add(time.Minute)
		w.ok(w.seen(id, old.ID, w.clock.Now()))
	}
	var group additions
	runner := w.autoRunner(&group, renewal(w))
	w.rounds(runner, 15*time.Hour)
	w.ok(w.seen("returns", w.find("returns").Rotations[0].Certificate, w.clock.Now()))
	w.rounds(runner, 9*time.Hour)
	if len(group.at) != 1 || len(group.at["stays"]) == 0 {
		t.Errorf("were let in: %v", group.at)
	}
}

// Nobody is let in who would gain nothing: the CA ends when its certificate does.
func TestNothingIsGained(t *testing.T) {
	w := open(t)
	end := w.short("lamp", nil).NotAfter
	rule := renewal(w)
	rule.Until = func(context.Context) (time.Time, error) { return end, nil }
	var group additions
	w.rounds(w.autoRunner(&group, rule), 25*time.Hour)
	rule.Until = func(context.Context) (time.Time, error) { return time.Time{}, errors.New("the CA has ended") }
	w.rounds(w.autoRunner(&group, rule), time.Hour)
	if len(group.at) != 0 {
		t.Errorf("was let in: %v", group.at)
	}
}

// Who is waiting for its turn and needs it no more drops out when its turn
// comes; and nobody has a turn while the campaign holds.
func TestWaitingDropOut(t *testing.T) {
	w := open(t)
	for _, id := range []registry.DeviceID{"plain", "itself", "blocked", "grouped", "elsewhere"} {
		w.short(id, nil)
	}
	var group additions
	runner := w.autoRunner(&group, renewal(w))
	runner.Hold = func(context.Context) string { return "vending is frozen" }
	w.rounds(runner, 21*time.Hour)
	if len(group.at) != 0 || runner.Holding(campaign.AutoName) != "vending is frozen" {
		t.Fatalf("while it holds, for %q: %v", runner.Holding(campaign.AutoName), group.at)
	}
	if standing, _ := w.standing("itself"); standing != campaign.Pending {
		t.Fatalf("it does not wait, but is %q", standing)
	}
	w.rotates("itself")
	w.ok(w.Devices().Block(w.ctx, "blocked", true))
	w.ok(w.Group().Add(w.ctx, "grouped"))
	w.inAnother("elsewhere")
	runner.Hold = func(context.Context) string { return "" }
	w.rounds(runner, 10*time.Minute)
	if len(group.at) != 1 || len(group.at["plain"]) != 1 {
		t.Errorf("were let in: %v", group.at)
	}
	for id, want := range map[registry.DeviceID]string{
		"itself": "it began a rotation by itself", "blocked": "blocked, or removed",
		"grouped": "somebody else put it into the rotation group", "elsewhere": "it is in another campaign",
	} {
		if standing, why := w.standing(id); standing != campaign.Skipped || why != want {
			t.Errorf("%s is %s, %q", id, standing, why)
		}
	}
}

// TestAutoStops has three devices fail: it stops, over a restart too, and takes
// those out of the group that were vended nothing. An operator resumes it, and
// what has failed before does not count again.
func TestAutoStops(t *testing.T) {
	w := open(t)
	for i := range 5 {
		w.short(registry.DeviceID(fmt.Sprintf("d%d", i)), nil)
	}
	var group additions
	told := ""
	runner := w.autoRunner(&group, renewal(w))
	runner.Told = func(c campaign.Campaign) { told += fmt.Sprintf("%s %s: %s\n", c.Name, c.State, c.Why) }
	w.rounds(runner, 20*time.Hour+10*time.Minute)
	if len(group.at) != 5 {
		t.Fatalf("were let in: %v", group.at)
	}
	for _, id := range []registry.DeviceID{"d0", "d1", "d2"} {
		runner.Refused(id, "CSR_REJECTED")
	}
	w.rounds(runner, 2*time.Minute)
	const stopped = "auto stopped: 3 of 3 devices failed\n"
	if told != stopped {
		t.Errorf("told %q", told)
	}
	w.reopen()
	runner = w.autoRunner(&group, renewal(w))
	w.rounds(runner, 30*time.Minute)
	c, err := w.Campaigns().Find(w.ctx, campaign.AutoName)
	if w.ok(err); c.State != campaign.Stopped || c.Why != "3 of 3 devices failed" {
		t.Errorf("it is %s: %s", c.State, c.Why)
	}
	if n, err := w.Group().Count(w.ctx); err != nil || n != 0 || len(group.at["d3"]) != 1 {
		t.Errorf("%d in the group, %v; %v", n, err, group.at)
	}
	c.State, c.Why, c.Resumed = campaign.Running, "", w.clock.Now()
	if saved, err := w.Campaigns().Save(w.ctx, c); err != nil || !saved {
		t.Fatal(saved, err)
	}
	w.rounds(runner, 10*time.Minute)
	if standing, _ := w.standing("d3"); standing != campaign.Added || len(group.at["d3"]) != 2 || len(group.at["d0"]) != 1 {
		t.Errorf("after it was resumed, d3 is %s: %v", standing, group.at)
	}
	// A quarter of its time later a device that failed has another try, and
	// behind its end nobody is left in the group.
	w.rounds(runner, 2*time.Hour)
	if len(group.at["d0"]) != 2 {
		t.Errorf("it had no second try: %v", group.at)
	}
	w.clock.add(5 * time.Hour)
	w.rounds(runner, 2*time.Minute)
	if n, err := w.Group().Count(w.ctx); err != nil || n != 0 {
		t.Errorf("%d in the group after their end, %v", n, err)
	}
	if standing, why := w.standing("d4"); standing != campaign.Late || why != "not heard of before its certificate ended" {
		t.Errorf("d4 is %s, %q", standing, why)
	}
}

// Failures on our side make it hold for a while, and blame nobody.
func TestAutoHoldsForFaults(t *testing.T) {
	w := open(t)
	w.short("early", nil)
	var group additions
	runner := w.autoRunner(&group, renewal(w))
	w.rounds(runner, time.Minute)
	w.clock.add(19*time.Hour + 59*time.Minute)
	for range 5 {
		runner.Failed("NO_CA_KEY")
	}
	w.rounds(runner, 9*time.Minute)
	if got := runner.Holding(campaign.AutoName); len(group.at) != 0 || got != "requests fail on our side: NO_CA_KEY" {
		t.Errorf("holds for %q: %v", got, group.at)
	}
	w.rounds(runner, 3*time.Minute)
	if len(group.at) != 1 {
		t.Error("it has not gone on by itself")
	}
}

// A change of the configuration is taken over, and what was ended begins anew.
func TestAutoIsKept(t *testing.T) {
	w := open(t)
	keep := func(change func(*campaign.Spec)) campaign.Campaign {
		t.Helper()
		w.ok(w.Campaigns().Keep(w.ctx, renewal(w, change).Spec))
		c, err := w.Campaigns().Find(w.ctx, campaign.AutoName)
		w.ok(err)
		return c
	}
	c := keep(func(*campaign.Spec) {})
	if c.State != campaign.Running || c.PerMinute != campaign.DefaultPerMinute || c.By != "the configuration" {
		t.Errorf("%+v", c)
	}
	c.State, c.Why = campaign.Paused, "by an operator"
	if _, err := w.Campaigns().Save(w.ctx, c); err != nil {
		t.Fatal(err)
	}
	if c = keep(func(s *campaign.Spec) { s.PerMinute = 7 }); c.State != campaign.Paused || c.PerMinute != 7 {
		t.Errorf("%s, %d a minute", c.State, c.PerMinute)
	}
	c.State, c.Ended = campaign.Canceled, w.clock.Now()
	if _, err := w.Campaigns().Save(w.ctx, c); err != nil {
		t.Fatal(err)
	}
	if c = keep(func(*campaign.Spec) {}); c.State != campaign.Running || !c.Ended.IsZero() || c.Why != "" {
		t.Errorf("%+v", c)
	}
}

// TestHistoryOfAuto: the campaign of due certificates tells when it began, and when it
// began again after it had been switched off.
func TestHistoryOfAuto(t *testing.T) {
	w := open(t)
	spec := renewal(w).Spec
	w.ok(w.Campaigns().Keep(w.ctx, spec))
	c := must[campaign.Campaign](t)(w.Campaigns().Find(w.ctx, campaign.AutoName))
	c.State, c.Ended = campaign.Canceled, w.clock.add(time.Minute)
	must[bool](t)(w.Campaigns().Save(w.ctx, c))
	w.clock.add(time.Minute)
	w.ok(w.Campaigns().Keep(w.ctx, spec))
	w.ok(w.Campaigns().Keep(w.ctx, spec))
	var got []string
	for _, change := range must[campaign.Campaign](t)(w.Campaigns().Find(w.ctx, campaign.AutoName)).History {
		got = append(got, fmt.Sprintf("%s %s", change.State, change.At.Sub(start)))
	}
	if want := "[running 0s canceled 1m0s running 2m0s]"; fmt.Sprint(got) != want {
		t.Errorf("%v, want %s", got, want)
	}
}
