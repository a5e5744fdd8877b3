package backendtest

import (
	"errors"

	"pgregory.net/rapid"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/rotation"
)

// rare is what does not happen every day: the process dies or its store fails,
// or an operator does something.
func (f *fleet) rare(draw *rapid.T) {
	l := one(draw, "device", f.lives...)
	one(draw, "what",
		f.freeze, l.block, l.group, l.abandonIt, l.undoIt, l.revokeIt, l.given, l.sharing, f.fault, f.die, f.restart,
	)(draw)
}

// freeze stops vending or retiring, or lets both go on.
func (f *fleet) freeze(draw *rapid.T) {
	kind := rapid.IntRange(0, 4).Draw(draw, "frozen")
	f.Freeze(rotation.Freeze{Vending: kind == 3, Retiring: kind == 4, Why: "a test", At: f.clock.Now()})
}

func (l *life) block(*rapid.T) {
	l.blocked = !l.blocked
	l.fleet.must(l.fleet.world.Backend.Registrar.Block(l.fleet.ctx, l.ID, l.blocked))
}

func (l *life) group(draw *rapid.T) {
	group := l.fleet.world.Backend.Group
	if rapid.Bool().Draw(draw, "leave") {
		l.fleet.must(group.Remove(l.fleet.ctx, l.ID, l.fleet.clock.Now()))
		return
	}
	l.fleet.must(group.Add(l.fleet.ctx, l.ID))
}

// abandonIt ends the open rotation, after which its key may get another
// certificate.
func (l *life) abandonIt(*rapid.T) {
	ended, err := l.fleet.primary.closer.Abandon(l.fleet.ctx, l.ID)
	l.fleet.unlessRefused(err)
	if err == nil {
		l.reissued[ended.Key] = true
		l.fleet.t.Logf("%s: %d is abandoned", l.ID, ended.Number)
	}
}

// undoIt brings back what the last finished rotation replaced.
func (l *life) undoIt(*rapid.T) {
	undone, err := l.fleet.primary.closer.Undo(l.fleet.ctx, l.ID)
	l.fleet.unlessRefused(err)
	if err == nil {
		l.fleet.t.Logf("%s: %d is undone, %.8s are back", l.ID, undone.Rotation.Number, undone.Back)
	}
}

// revokeIt revokes something that the device has, unless that would leave some
// device without a certificate that works. What it keeps must go on working.
func (l *life) revokeIt(draw *rapid.T) {
	if all := l.onDisk(); len(all) > 1 {
		l.fleet.unlessRefused(l.fleet.Revoke(one(draw, "revoked", all...)))
	}
}

// unlessRefused takes a refusal of what a person asks for as an answer.
func (r *Rig) unlessRefused(err error) {
	r.t.Helper()
	if !errors.As(err, new(rotation.Refused)) {
		r.must(err)
	}
}

// given is a certificate that an operator gives the device by hand.
func (l *life) given(*rapid.T) {
	before := l.onDisk()
	c := l.Given(certificate.Adopted)
	l.put(c)
	l.fleet.t.Logf("%s is given %.8s, beside %d", l.ID, c.ID, len(before))
}

// sharing gives the device what another one has, unless that came in a package:
// judge.go takes one that none of the device's own rotations vended for waiting.
func (l *life) sharing(draw *rapid.T) {
	if other := one(draw, "of", l.fleet.lives...); other != l {
		for _, c := range other.working() {
			if l.fleet.known()[c.ID].Kind != certificate.Packaged {
				l.hold(c)
				return
			}
		}
	}
}

// fault lets one operation of the store fail once.
func (f *fleet) fault(draw *rapid.T) {
	f.faults.fail(one(draw, "operation",
		"open", "advance", "note", "register", "activate", "seen", "retire", "attributes", "leave", "link", "spend", "issue"), 1)
	f.atWork(draw)
	f.faults.failing = map[string]int{}
}

// die kills the process at one of its next operations, and starts it again.
func (f *fleet) die(draw *rapid.T) {
	f.faults.killAt = f.faults.count + rapid.IntRange(1, 12).Draw(draw, "at")
	f.faults.after = rapid.Bool().Draw(draw, "after")
	f.atWork(draw)
	f.faults.killAt = 0
	if f.faults.isDead() {
		f.restart(draw)
	}
}

// atWork has the process do something that a connection is not needed for
// anew: where a CONNECT fails, the device was not let in.
func (f *fleet) atWork(draw *rapid.T) {
	l := one(draw, "for", f.lives...)
	one(draw, "work", l.get, l.ack, l.unpack, func(*rapid.T) { f.Sweep() })(draw)
}

func (f *fleet) restart(*rapid.T) {
	f.Crash()
	for _, l := range f.lives {
		l.conn = Cert{}
	}
}
