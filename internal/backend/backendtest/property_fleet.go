package backendtest

import (
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

const year = 8760 * time.Hour

// fleet is a world with a device of each firmware that has a certificate of its
// own, and one of each that share one.
type fleet struct {
	*Rig
	lives []*life
	steps int
	jumps bool          // its clock is set now and then
	off   time.Duration // how far it was set, all in all
	back  bool          // it was set back
}

func newFleet(t *testing.T, draw *rapid.T, open Open) *fleet {
	f := &fleet{jumps: rapid.Bool().Draw(draw, "jumps")}
	f.Rig = start(t, open, func(s *Setup) {
		f.drawTerms(draw, s)
		s.Later = rapid.Bool().Draw(draw, "later")
		s.Config.RejectUnproven = rarely(draw, "reject unproven", 4)
	})
	t.Logf("terms: %+v", *f.Terms())
	for _, d := range []struct {
		name registry.DeviceID
		slot bool
	}{{"agent", false}, {"cdf", true}, {"shared-agent", false}, {"shared-cdf", true}} {
		l := &life{Device: f.Device(string(d.name)), fleet: f, slot: d.slot}
		l.own, l.conn = []Cert{l.First}, l.First
		f.lives = append(f.lives, l)
	}
	f.lives[3].hold(f.lives[2].First)
	return f
}

// drawTerms leaves a sighting fresh for ever where the clock is set back:
// nobody can say how old one is that was made by a wrong clock, and judge.go
// goes by the clock too.
func (f *fleet) drawTerms(draw *rapid.T, s *Setup) {
	terms := &s.Profile.Terms
	terms.Grace = one(draw, "grace", 0, time.Hour, 48*time.Hour)
	terms.Recent = one(draw, "recent", 24*time.Hour, time.Hour)
	terms.TTL = one(draw, "ttl", 720*time.Hour, 2*time.Hour)
	terms.Previous = one(draw, "previous", certificate.Deactivate, certificate.Delete, certificate.Keep)
	terms.Retire = one(draw, "retire", rotation.Replaced, rotation.All)
	if rarely(draw, "breaker", 4) {
		terms.MaxRetirePerHour = 3
	}
	if f.jumps {
		terms.Recent = 10 * year
		return
	}
	s.Profile.Validity = one(draw, "validity", s.Profile.Validity, 60*24*time.Hour)
}

// actions are what may happen next, and the check after each. What has two
// names is twice as likely.
func (f *fleet) actions() map[string]func(*rapid.T) {
	all := map[string]func(*rapid.T){
		"": f.check,
		"sweep": func(draw *rapid.T) {
			if rarely(draw, "now", 5) {
				f.primary.clock.Trust() // as `rotation sweep --now`
			}
			f.Sweep()
		},
		"wait": f.wait,
		"jump": f.jump,
		"rare": f.rare,
	}
	for name, act := range map[string]func(*life, *rapid.T){
		"get": (*life).get, "get_": (*life).get, "again": (*life).again, "ack": (*life).ack, "ack_": (*life).ack,
		"prove": (*life).prove, "connect": (*life).connect, "connect_": (*life).connect, "roll back": (*life).rollBack,
		"unpack": (*life).unpack, "rotate": (*life).rotate, "rotate_": (*life).rotate,
	} {
		all[name] = func(draw *rapid.T) { act(one(draw, "device", f.lives...), draw) }
	}
	return all
}

// check checks every device, not only the one that has just done something.
func (f *fleet) check(*rapid.T) {
	f.steps++
	for _, l := range f.lives {
		f.checkDevice(l.Device, "check", nil)
	}
	if f.t.Failed() {
		f.t.FailNow()
	}
}

func (f *fleet) wait(draw *rapid.T) {
	if rarely(draw, "set right", 3) {
		f.setRight()
	}
	f.Advance(one(draw, "wait", f.Terms().Settle+tick, time.Minute, 2*time.Hour, 30*time.Hour, 10*24*time.Hour))
	if rarely(draw, "and sweep", 2) {
		f.Sweep()
	}
}

// setRight lets everything go on that an operator or the breaker has stopped.
func (f *fleet) setRight() {
	f.Freeze(rotation.Freeze{})
	for _, l := range f.lives {
		l.blocked = false
		f.must(f.world.Backend.Registrar.Block(f.ctx, l.ID, false))
	}
}

// jump sets the clock, to no more than half a day behind and a year ahead: the
// CA of this world is a day old.
func (f *fleet) jump(draw *rapid.T) {
	by := one(draw, "by", 30*time.Second, 2*time.Minute, time.Hour, 24*time.Hour, year)
	if rapid.Bool().Draw(draw, "back") {
		by = -by
	}
	if off := f.off + by; !f.jumps || off < -12*time.Hour || off > year {
		f.Advance(tick)
		return
	}
	f.off, f.back = f.off+by, f.back || by < 0
	f.t.Logf("%s the clock is set by %s", f.clock.Now().Format("02 15:04:05"), by)
	for _, l := range f.lives {
		l.giveUpExpired()
	}
	f.clock.Jump(by)
	for _, l := range f.lives {
		l.notLater(f.clock.Now())
	}
	f.Advance(tick)
}

// giveUpExpired expects nothing more of what has expired by the clock, even if
// that is set back.
func (l *life) giveUpExpired() {
	for id, c := range l.disk {
		if !l.fleet.clock.Now().Before(c.notAfter()) {
			l.fleet.unruly[id] = true
		}
	}
}

// notLater keeps the order of what the device did, by a clock that was set
// back: what comes now comes later.
func (l *life) notLater(now time.Time) {
	var ahead []time.Time
	for _, times := range []map[certificate.ID]time.Time{l.seen, l.proofs} {
		for at := range maps.Values(times) {
			if !at.Before(now) {
				ahead = append(ahead, at)
			}
		}
	}
	slices.SortFunc(ahead, time.Time.Compare)
	ahead = slices.CompactFunc(ahead, time.Time.Equal)
	for _, times := range []map[certificate.ID]time.Time{l.seen, l.proofs} {
		for id, at := range times {
			if n, found := slices.BinarySearchFunc(ahead, at, time.Time.Compare); found {
				times[id] = now.Add(time.Duration(n - len(ahead))) // by nanoseconds
			}
		}
	}
}

// recover ends a life: nothing is stopped any more, and every device connects
// with what works, asks for a new key, connects with that, acks, and its old
// ones may go.
func (f *fleet) recover() {
	f.t.Helper()
	f.t.Logf("%s every device becomes sensible", f.clock.Now().Format("02 15:04:05"))
	f.Terms().MaxRetirePerHour = 1000
	f.setRight()
	f.Crash()
	f.Advance(25 * time.Hour) // whatever lease, quiet time or limit there was
	was, is := map[*life]Cert{}, map[*life]Cert{}
	for _, l := range f.lives {
		was[l] = l.anyWorking()
		f.must(l.Connect(was[l]))
		is[l] = l.Take(was[l])
		f.must(l.Connect(is[l]))
		l.Ack(is[l]).OK()
		l.Overwrite(is[l])
	}
	for range 4 {
		f.Advance(f.Terms().Grace + f.Terms().Settle + tick)
		for _, l := range f.lives {
			f.must(l.Connect(is[l]))
		}
		f.Sweep()
	}
	for _, l := range f.lives {
		l.Want(certificate.Active, is[l])
		// By a clock that was set back, the sighting may lie in the future yet.
		if !f.back && f.Terms().Previous != certificate.Keep && l.Standing(was[l]) == certificate.Active {
			f.t.Fatalf("%s: %.8s, which was replaced, is still active: %s", l.ID, was[l].ID, l.why(was[l]))
		}
	}
}
