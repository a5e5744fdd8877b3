package backendtest

import (
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/rotation"
	"github.com/certvendor/certvendor/vending"
)

// foretold is what a rehearsal said of a request that is about to be made.
type foretold struct {
	answer vending.Answer
	before map[certificate.ID]certificate.Standing
}

// foretell rehearses a request, and checks that this changes nothing. It
// returns nil for a request that cannot be asked about: one with a proof or
// another member, with a CSR that is not sound, or in a world that is made to
// fail.
func (d *Device) foretell(i *instance, over Cert, action protocol.Action, body string) *foretold {
	d.rig.t.Helper()
	q, ok := d.question(over, action, body)
	if !ok || d.rig.faults.any() {
		return nil
	}
	before := d.everything()
	answer := d.rig.oracle(i).Rehearse(d.rig.ctx, q)
	if after := d.everything(); !reflect.DeepEqual(before, after) {
		d.rig.t.Fatalf("%s: rehearsing has changed something:\n%+v\n%+v", step(d, string(action), over), before, after)
	}
	return &foretold{answer, standings(before.held)}
}

// question puts a request as one that can be rehearsed.
func (d *Device) question(over Cert, action protocol.Action, body string) (vending.Question, bool) {
	q := vending.Question{Caller: d.caller(over, certificate.Connection), Action: action}
	q.Device = d.ID
	var members map[string]string
	if body != "" && protocol.Decode([]byte(body), &members) != nil {
		return q, false
	}
	csr, byCSR := members["csr"]
	switch {
	case action == protocol.Ack || !byCSR:
		q.Package = action == protocol.Get
		return q, len(members) == 0
	case len(members) > 1:
		return q, false
	}
	request, err := certificate.ParseRequest(csr)
	if err != nil || request.CheckSignature() != nil ||
		request.CSR.Subject.CommonName != string(d.ID) || len(request.CSR.Subject.Names) > 1 || len(request.CSR.Extensions) > 0 {
		return q, false
	}
	q.Key = request.Key
	return q, true
}

// oracle is the instance's vendor without the faults between it and the world.
func (r *Rig) oracle(i *instance) *vending.Vendor {
	v, w := *i.handler.Vendor, r.world.Backend
	v.Registry, v.Inventory, v.Journal, v.Packages, v.Issuer = w.Registry, w.Inventory, w.Journal, w.Packages, w.Issuer
	v.Signs = w.Signs
	v.Closer = v.Closer.On(rotation.Ports{Retirements: w.Rotations})
	return &v
}

// agree holds what was foretold against what was answered, and against what
// became of the device's certificates.
func (d *Device) agree(f *foretold, reply Reply, what string) {
	d.rig.t.Helper()
	if f == nil || d.rig.faults.any() {
		return
	}
	var said Reply
	if said.Accepted = f.answer.Refusal == nil; !said.Accepted {
		said.Reason, said.Detail = f.answer.Refusal.Reason, f.answer.Refusal.Detail
	}
	if said.Accepted != reply.Accepted || said.Reason != reply.Reason || said.Detail != reply.Detail {
		d.rig.t.Fatalf("%s: answered %v, but it was rehearsed as %v", what, reply, said)
	}
	var lost, told []string
	after := standings(d.held())
	for id, standing := range f.before {
		if now := after[id]; now != standing && now != certificate.Active {
			lost = append(lost, string(id[:12]))
		}
	}
	for _, effect := range f.answer.Effects {
		for _, end := range []string{": deactivated", ": deleted", ": taken from this device alone, another holds it too"} {
			if id, ok := strings.CutSuffix(effect, end); ok {
				told = append(told, strings.TrimPrefix(id, "certificate "))
			}
		}
	}
	slices.Sort(lost)
	slices.Sort(told)
	if !slices.Equal(lost, told) {
		d.rig.t.Fatalf("%s: took away %v, but it was rehearsed as %v", what, lost, f.answer.Effects)
	}
	d.rig.foretold++
}

func standings(held []certificate.Holding) map[certificate.ID]certificate.Standing {
	all := map[certificate.ID]certificate.Standing{}
	for _, h := range held {
		all[h.ID] = h.Standing
	}
	return all
}

// everything is all that the world knows of a device.
type everything struct {
	held        []certificate.Holding
	rotations   []rotation.Rotation
	retirements []rotation.Retirement
	frozen      rotation.Freeze
	member      bool
}

func (d *Device) everything() everything {
	d.rig.t.Helper()
	e := everything{held: d.held(), rotations: d.rotations(), member: d.rig.members()[d.ID]}
	var err error
	e.retirements, err = d.rig.world.Backend.Rotations.Retirements(d.rig.ctx, rotation.Query{Device: d.ID})
	d.rig.must(err)
	e.frozen, err = d.rig.world.Backend.Brakes.Frozen(d.rig.ctx)
	d.rig.must(err)
	return e
}

// any reports whether anything is made to fail.
func (f *faults) any() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.dead || f.killAt > 0 || slices.Max(append(slices.Collect(maps.Values(f.failing)), 0)) > 0
}

// rehearsed are situations in which every plain request is rehearsed and then
// made, each in a world of its own.
var rehearsed = map[string]func(*Rig, *Device){
	"nothing_open":    func(*Rig, *Device) {},
	"vended":          func(_ *Rig, d *Device) { d.Take(d.First) },
	"vended_and_seen": func(r *Rig, d *Device) { r.must(d.Connect(d.Take(d.First))) },
	"superseded":      func(_ *Rig, d *Device) { d.Take(d.First); d.Take(d.First) },
	"acknowledged":    func(_ *Rig, d *Device) { d.Take(unseen); d.Ack(unseen).OK() },
	"finished":        func(_ *Rig, d *Device) { d.Ack(d.Take(d.First)).OK() },
	"finished_with_grace": func(r *Rig, d *Device) {
		r.Terms().Grace = 24 * time.Hour
		d.Ack(d.Take(d.First)).OK()
	},
	"gone_back": func(r *Rig, d *Device) {
		r.Terms().Grace = time.Hour
		d.Ack(d.Take(d.First)).OK()
		r.must(d.Connect(d.First))
		r.Advance(2 * time.Hour)
		r.Sweep()
	},
	"gone_back_and_replaced_again": func(r *Rig, d *Device) {
		r.Terms().Grace = time.Hour
		d.Ack(d.Take(d.First)).OK()
		r.must(d.Connect(d.First))
		r.Advance(2 * time.Hour)
		r.Sweep()
		r.Terms().Grace = 0
		d.Ack(d.Take(d.First)).OK()
	},
	"stale": func(r *Rig, d *Device) {
		d.Take(d.First)
		r.Advance(r.Terms().TTL + tick)
		r.Sweep()
	},
	"blocked": func(r *Rig, d *Device) { d.Take(d.First); r.must(r.world.Backend.Registrar.Block(r.ctx, d.ID, true)) },
	"removed": func(r *Rig, d *Device) { r.must(r.world.Backend.Registrar.Remove(r.ctx, d.ID)) },
	"frozen": func(r *Rig, d *Device) {
		d.Take(d.First)
		r.Freeze(rotation.Freeze{Vending: true, Retiring: true, Why: "a test"})
	},
	"too_many_keys": func(_ *Rig, d *Device) { d.Take(d.First); d.Take(d.First); d.Take(d.First) },
	"package":       func(_ *Rig, d *Device) { d.Packaged() },
	"package_open":  func(_ *Rig, d *Device) { d.Packaged(); d.GetPackage(d.First).OK() },
	"shared": func(r *Rig, d *Device) {
		e := r.Device("e")
		e.share(d.First)
		d.Take(d.First)
	},
}

func rehearseScenarios() []scenario {
	var all []scenario
	for name, arrange := range rehearsed {
		all = append(all, scenario{name, func(t *testing.T, open Open) { rehearseIn(t, open, arrange) }})
	}
	return append(all, scenario{"outlook_of_a_sweep", outlookOfSweep})
}

// outlookOfSweep holds what is said of retirements against what a sweep then
// does with them: all are due.
func outlookOfSweep(t *testing.T, open Open) {
	r := start(t, open, func(s *Setup) { s.Profile.Terms.Grace = time.Hour })
	arrange := map[string]func(*Device, Cert){
		"allowed":   func(d *Device, next Cert) { r.must(d.Connect(next)) },
		"gone_back": func(d *Device, _ Cert) { r.must(d.Connect(d.First)) },
		"not_seen":  func(*Device, Cert) {},
		"blocked": func(d *Device, next Cert) {
			r.must(d.Connect(next))
			r.must(r.world.Backend.Registrar.Block(r.ctx, d.ID, true))
		},
		"a_returned": func(d *Device, next Cert) { // first, as it sweeps
			r.must(d.Connect(d.First))
			r.Sweep()
			r.must(d.Connect(next))
		},
	}
	for _, name := range slices.Sorted(maps.Keys(arrange)) {
		d := r.Device(name)
		next := d.Take(d.First)
		d.Ack(next).OK()
		if name == "not_seen" {
			r.Advance(25 * time.Hour)
		}
	}
	r.Advance(2 * time.Hour)
	for _, d := range r.devices {
		next := d.disk[d.rotations()[0].Certificate]
		arrange[string(d.ID)](d, next)
	}
	said := map[*Device]vending.Outlook{}
	for _, d := range r.devices {
		all, err := r.oracle(r.primary).Outlooks(r.ctx, d.ID)
		r.must(err)
		if len(all) != 1 {
			t.Fatalf("%s: %d retirements, want one", d.ID, len(all))
		}
		said[d] = all[0]
	}
	r.Sweep()
	gone := 0
	for d, o := range said {
		is, _ := d.retirement(d.First)
		switch {
		case o.Kept == "" && is.Done.IsZero():
			t.Errorf("%s: the rule was said to allow it, and the sweep kept it: %s", d.ID, is.Why)
		case o.Kept != "" && !is.Done.IsZero():
			t.Errorf("%s: it was said to be kept because %s, and the sweep has done it", d.ID, o.Kept)
		case o.Kept != is.Why && is.Done.IsZero() && !is.Due.After(o.Due):
			t.Errorf("%s: kept because %q, and not because %q", d.ID, is.Why, o.Kept)
		case o.Kept == "":
			gone++
		}
	}
	if gone == 0 || gone == len(said) {
		t.Errorf("%d of %d were allowed: this shows nothing", gone, len(said))
	}
}

// rehearseIn makes every plain request over each certificate that the device
// has, and over an unknown one; askOf holds each against its rehearsal. After
// one that was accepted, the world is another one, and arranged anew.
func rehearseIn(t *testing.T, open Open, arrange func(*Rig, *Device)) {
	for next, all := 0, 1; next < all; {
		r := start(t, open, func(s *Setup) { s.Config.NewKeys = 3 })
		d := r.Device("d")
		arrange(r, d)
		asked, before := d.plainly(), r.foretold
		all = len(asked)
		first := next
		for accepted := false; next < all && !accepted; next++ {
			accepted = asked[next]().Accepted
		}
		if r.foretold-before != next-first {
			t.Fatalf("%d requests were made, and %d foretold", next-first, r.foretold-before)
		}
	}
}

// plainly returns the requests that a device could make now.
func (d *Device) plainly() []func() Reply {
	overs := []Cert{unseen}
	for _, h := range d.held() {
		overs = append(overs, d.disk[h.ID])
	}
	var all []func() Reply
	for _, over := range overs {
		all = append(all, func() Reply { return d.Ack(over) },
			func() Reply { return d.Get(over, NewKey()) }, func() Reply { return d.GetPackage(over) })
		for _, r := range d.rotations() {
			if key := d.disk[r.Certificate].Key; key != nil && r.Certificate != "" {
				all = append(all, func() Reply { return d.Get(over, key) })
			}
		}
	}
	return all
}
