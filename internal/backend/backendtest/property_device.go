package backendtest

import (
	"crypto"
	"slices"

	"pgregory.net/rapid"

	"github.com/certvendor/certvendor/certificate"
)

// life is a model device that does anything at all, within what its firmware
// can do. One with a slot overwrites its certificate with the next on receipt,
// and speaks on over the connection it has; one without keeps the old one until
// the new one was acked.
type life struct {
	*Device
	fleet   *fleet
	slot    bool
	conn    Cert          // what its connection speaks with; zero: it has none
	key     crypto.Signer // what it asks with now
	own     []Cert        // everything it ever had, oldest first
	waiting []Cert        // packages that were put for it
	sent    []mail        // what may come again, or late
	blocked bool
}

// mail is a request as it may be sent again: an ack, a get for a key, or else a
// get for the package.
type mail struct {
	key   crypto.Signer
	ack   bool
	named certificate.ID
}

// fate is what becomes of a message and its reply.
type fate int

const (
	arrives fate = iota
	replyLost
	late // it may be delivered later, or never
)

// hold gives the device a certificate that another one has too. One with a slot
// connects with it at once: it has no other.
func (l *life) hold(c Cert) {
	h := l.fleet.known()[c.ID].Certificate
	l.fleet.must(l.fleet.world.Backend.Inventory.Register(l.fleet.ctx, l.ID, h))
	l.put(Cert{ID: c.ID, Key: c.Key, PEM: c.PEM})
	if l.slot {
		l.fleet.must(l.Connect(c))
		l.conn = c
	}
}

// put writes a certificate to the disk, as the firmware does.
func (l *life) put(c Cert) {
	if !slices.ContainsFunc(l.own, func(o Cert) bool { return o.ID == c.ID }) {
		l.own = append(l.own, c)
	}
	if l.slot {
		l.Overwrite(c)
		return
	}
	l.Store(c)
}

// onDisk returns what is on the disk, oldest first.
func (l *life) onDisk() []Cert {
	return slices.DeleteFunc(slices.Clone(l.own), func(c Cert) bool { _, ok := l.disk[c.ID]; return !ok })
}

// working returns what is on the disk and can be connected with.
func (l *life) working() []Cert {
	return slices.DeleteFunc(l.onDisk(), func(c Cert) bool { return l.Standing(c) != certificate.Active })
}

// over returns what the device speaks over: its connection, for which it
// connects if it has none, or sometimes nothing that the world could see.
func (l *life) over(draw *rapid.T) Cert {
	if l.conn.ID != "" && l.Standing(l.conn) != certificate.Active {
		l.conn = Cert{} // the broker has ended it
	}
	if l.conn.ID == "" {
		if all := l.working(); len(all) > 0 && l.Connect(all[len(all)-1]) == nil {
			l.conn = all[len(all)-1]
		}
	}
	if rarely(draw, "unseen", 8) {
		return unseen
	}
	return l.conn
}

func (l *life) get(draw *rapid.T) {
	m := mail{key: l.key}
	switch kind := rapid.IntRange(0, 5).Draw(draw, "key"); {
	case kind < 3 || l.key == nil:
		l.key = NewKey()
		m.key = l.key
	case kind == 5:
		l.key = one(draw, "older", l.own...).Key
		m.key = l.key
	}
	l.send(draw, m)
}

func (l *life) unpack(draw *rapid.T) {
	if rarely(draw, "put", 2) {
		l.waiting = append(l.waiting, l.Packaged())
	}
	l.send(draw, mail{})
}

// ack names no certificate that the device still needs.
func (l *life) ack(draw *rapid.T) {
	m := mail{ack: true}
	if rarely(draw, "named", 3) {
		_, stored := l.disk[l.conn.ID]
		for _, c := range l.own {
			if _, there := l.disk[c.ID]; c.ID != l.conn.ID && (stored && !l.slot || !there) {
				m.named = c.ID
			}
		}
	}
	l.send(draw, m)
}

// send sends a message, which may come late, and its reply may be lost.
func (l *life) send(draw *rapid.T, m mail) {
	l.sent = append(l.sent, m)
	if len(l.sent) > 8 {
		l.sent = l.sent[1:]
	}
	if f := one(draw, "fate", arrives, arrives, arrives, replyLost, late); f != late {
		l.deliver(draw, m, f)
	}
}

// again delivers what was sent before, over the connection there is now.
func (l *life) again(draw *rapid.T) {
	if len(l.sent) == 0 {
		return
	}
	l.deliver(draw, one(draw, "message", l.sent...), one(draw, "fate", arrives, replyLost))
}

func (l *life) deliver(draw *rapid.T, m mail, f fate) {
	over := l.over(draw)
	var reply Reply
	switch {
	case m.ack && m.named != "":
		reply = l.Ack(over, "previousCertificateId", string(m.named))
	case m.ack:
		reply = l.Ack(over)
	case m.key != nil:
		reply = l.Get(over, m.key)
	default:
		reply = l.GetPackage(over)
	}
	if reply.Accepted && f == arrives {
		l.take(draw, m, over, reply)
	}
}

// take does what the firmware does with a reply. One for a key that it has
// given up since is of no use to it.
func (l *life) take(draw *rapid.T, m mail, over Cert, reply Reply) {
	switch {
	case m.ack:
		if _, stored := l.disk[over.ID]; stored && rapid.Bool().Draw(draw, "drop the others") {
			l.Overwrite(over)
		}
	case m.key != nil:
		if m.key == l.key {
			l.put(reply.OK())
		}
	default:
		for _, c := range l.waiting {
			if c.ID == reply.ID {
				l.fetch(reply.Location, c)
				l.put(c)
			}
		}
	}
}

// rotate does what firmware is meant to do, as far as it comes.
func (l *life) rotate(draw *rapid.T) {
	l.key = NewKey()
	l.send(draw, mail{key: l.key})
	stages := rapid.IntRange(0, 3).Draw(draw, "stages")
	if all := l.working(); stages > 0 && len(all) > 0 && l.Connect(all[len(all)-1]) == nil {
		l.conn = all[len(all)-1]
	}
	if stages > 1 {
		l.send(draw, mail{ack: true})
	}
	if stages > 2 {
		l.connect(draw) // it may go back
	}
}

// prove proves what is on the disk, where a nonce came with it.
func (l *life) prove(draw *rapid.T) {
	if all := l.onDisk(); len(all) > 0 {
		if c := one(draw, "certificate", all...); c.Nonce != "" {
			l.Prove(c)
		}
	}
}

// connect connects with anything on the disk, and ends the connection it had.
func (l *life) connect(draw *rapid.T) {
	l.conn = Cert{}
	if rarely(draw, "stay away", 6) {
		return
	}
	if all := l.onDisk(); len(all) > 0 {
		if c := one(draw, "certificate", all...); l.Connect(c) == nil {
			l.conn = c
		}
	}
}

// rollBack connects, and throws away what it did not connect with.
func (l *life) rollBack(draw *rapid.T) {
	if rarely(draw, "really", 2) {
		l.connect(draw)
		if l.conn.ID != "" {
			l.Overwrite(l.conn)
		}
	}
}

// anyWorking returns what a sensible device connects with. To one on which
// everything has expired an operator gives another.
func (l *life) anyWorking() Cert {
	l.fleet.t.Helper()
	if all := l.working(); len(all) > 0 {
		return all[len(all)-1]
	}
	c := l.Given(certificate.Adopted)
	l.own = append(l.own, c)
	return c
}

// why returns what is written about why a certificate was not taken away.
func (d *Device) why(c Cert) string {
	r, ok := d.retirement(c)
	if !ok {
		return "no retirement is written"
	}
	return r.Why
}
