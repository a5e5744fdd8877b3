package backendtest

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/rotation"
)

// randomLives is how many random lives are played, and randomSteps how long
// each is.
const (
	randomLives = 24
	randomSteps = 60
)

// randomScenarios let devices do anything at all, in any order, with replies
// lost, processes killed and time going by. Nothing is asserted but what holds
// after every step: removals are justified, the device still works, one key
// has one certificate. At the end of its life every device becomes sensible,
// and must rotate. A seed that fails is in the name of its test.
func randomScenarios() []scenario {
	var all []scenario
	for seed := range uint64(randomLives) {
		all = append(all, scenario{fmt.Sprintf("seed_%02d", seed), func(t *testing.T, open Open) { randomLife(t, open, seed) }})
	}
	return all
}

// life is a device that does anything.
type life struct {
	*Device
	rig  *Rig
	rand *rand.Rand
	keys []Cert // every key it ever asked with, and what came of it
	// waiting are the packages that were put for it.
	waiting []Cert
	slot    bool // it has one slot, and overwrites what it has
}

func randomLife(t *testing.T, open Open, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 1))
	r := start(t, open, func(s *Setup) {
		terms := &s.Profile.Terms
		terms.Grace = pick(random, 0, time.Hour, 48*time.Hour)
		terms.Recent = pick(random, time.Hour, 24*time.Hour)
		terms.TTL = pick(random, 2*time.Hour, 720*time.Hour)
		terms.Previous = pick(random, certificate.Deactivate, certificate.Delete, certificate.Keep)
		terms.Retire = pick(random, rotation.Replaced, rotation.All)
		s.Later = random.IntN(2) == 0
	})
	t.Logf("terms: %+v", *r.Terms())
	l := &life{Device: r.Device("random"), rig: r, rand: random, slot: random.IntN(2) == 0}
	l.keys = []Cert{l.First}
	for range randomSteps {
		l.step()
		if t.Failed() {
			return
		}
	}
	l.recover()
}

// pick returns one of its arguments.
func pick[T any](r *rand.Rand, all ...T) T { return all[r.IntN(len(all))] }

func (l *life) step() {
	switch l.rand.IntN(18) {
	case 0, 1:
		_ = l.Connect(l.any())
	case 2, 3, 4:
		l.ask(l.over(), Cert{Key: NewKey()})
	case 5, 6:
		l.ask(l.over(), pick(l.rand, l.keys...))
	case 7, 8:
		l.Ack(l.over())
	case 9:
		l.Ack(l.over(), "previousCertificateId", string(pick(l.rand, l.keys...).ID))
	case 10:
		if c := pick(l.rand, l.keys...); c.Nonce != "" {
			l.Prove(c)
		}
	case 11, 12:
		l.rig.Sweep()
	case 13:
		l.rig.Advance(pick(l.rand, time.Minute, 20*time.Minute, 2*time.Hour, 30*time.Hour))
	case 14:
		l.rig.Settled()
		l.rig.Sweep()
	case 16:
		l.waiting = append(l.waiting, l.Packaged())
	case 17:
		l.unpack(l.over())
	case 15:
		if l.rand.IntN(3) == 0 {
			l.rig.Crash()
		}
	}
}

// any returns a certificate of the disk.
func (l *life) any() Cert {
	var all []Cert
	for _, c := range l.keys {
		if _, ok := l.disk[c.ID]; ok {
			all = append(all, c)
		}
	}
	return pick(l.rand, all...)
}

// over returns what a request is made over: a certificate that the world lets
// in, or sometimes nothing that the world could see.
func (l *life) over() Cert {
	c := l.any()
	if l.rand.IntN(4) == 0 {
		return unseen
	}
	if l.Standing(c) != certificate.Active {
		return unseen
	}
	return c
}

// ask asks with a key; every third reply is lost on its way.
func (l *life) ask(over, with Cert) {
	reply := l.Get(over, with.Key)
	if !reply.Accepted || l.rand.IntN(3) == 0 {
		return
	}
	c := reply.OK()
	l.keep(c)
}

// unpack asks for a package; every third reply is lost on its way.
func (l *life) unpack(over Cert) {
	reply := l.GetPackage(over)
	if !reply.Accepted || l.rand.IntN(3) == 0 {
		return
	}
	for _, c := range l.waiting {
		if c.ID == reply.ID {
			l.fetch(reply.Location, c)
			l.keep(c)
		}
	}
}

func (l *life) keep(c Cert) {
	l.keys = append(l.keys, c)
	if l.slot {
		l.Overwrite(c)
	} else {
		l.Store(c)
	}
}

// recover ends a life as a sensible device: it connects with what works, asks
// for a new key, connects with that, acks, and its old ones may go.
func (l *life) recover() {
	r := l.rig
	r.t.Helper()
	r.Crash()
	r.Advance(25 * time.Hour) // whatever lease, quiet time or limit there was
	working := l.anyWorking()
	r.must(l.Connect(working))
	next := l.Take(working)
	r.must(l.Connect(next))
	l.Ack(next).OK()
	l.Overwrite(next)
	for range 4 {
		r.Advance(r.Terms().Grace + r.Terms().Settle + tick)
		r.must(l.Connect(next))
		r.Sweep()
	}
	l.Want(certificate.Active, next)
	if r.Terms().Previous != certificate.Keep && l.Standing(working) == certificate.Active {
		r.t.Fatalf("%.8s, which was replaced, is still active: %s", working.ID, l.why(working))
	}
}

func (l *life) anyWorking() Cert {
	for _, c := range l.keys {
		if _, ok := l.disk[c.ID]; ok && l.Standing(c) == certificate.Active {
			return c
		}
	}
	l.rig.t.Fatal("nothing works")
	return Cert{}
}

// why returns what is written about why a certificate was not taken away.
func (d *Device) why(c Cert) string {
	r, ok := d.retirement(c)
	if !ok {
		return "no retirement is written"
	}
	return r.Why
}
