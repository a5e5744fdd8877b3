package backendtest

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/rotation"
)

// brakeScenarios are about removals that the rule allows and that are stopped
// all the same.
func brakeScenarios() []scenario {
	return []scenario{
		{"breaker_freezes_and_thaws", retireBreaker},
		{"frozen_retiring_thaws", retireFrozen},
		{"blocked_device_stands_still", retireBlocked},
		{"device_that_left_the_registry_stands_still", retireRemoved},
		{"clock_that_jumped_stops_removals", retireClock},
	}
}

func retireBreaker(t *testing.T, open Open) {
	r := start(t, open, func(s *Setup) { s.Profile.Terms.MaxRetirePerHour = 2 })
	var all []*Device
	var on []Cert
	for i := range 4 {
		d, next := r.rotated(deviceName(i))
		all, on = append(all, d), append(on, next)
	}
	for _, d := range all[:2] {
		d.Want(certificate.Inactive, d.First)
	}
	for _, d := range all[2:] {
		d.Want(certificate.Active, d.First)
		d.WantStates(rotation.Finished)
	}
	frozen, err := r.world.Backend.Brakes.Frozen(r.ctx)
	r.must(err)
	if !frozen.Retiring || frozen.Vending || !strings.Contains(frozen.Why, "breaker") {
		t.Fatalf("frozen %+v", frozen)
	}
	r.Advance(2 * time.Hour) // time alone does not thaw it
	r.Sweep()
	all[2].Want(certificate.Active, all[2].First)
	r.Freeze(rotation.Freeze{})
	for i, d := range all {
		r.must(d.Connect(on[i]))
	}
	r.Sweep()
	for _, d := range all {
		d.Want(certificate.Inactive, d.First)
	}
}

// Freeze makes f what is frozen.
func (r *Rig) Freeze(f rotation.Freeze) {
	_, err := r.world.Backend.Brakes.SetFrozen(r.ctx, func(frozen *rotation.Freeze) { *frozen = f })
	r.must(err)
}

func deviceName(i int) string { return fmt.Sprintf("many-%04d", i) }

func retireFrozen(t *testing.T, open Open) {
	r := start(t, open)
	r.Freeze(rotation.Freeze{Retiring: true, Why: "a test", At: r.clock.Now()})
	d, next := r.rotated("d")
	d.Want(certificate.Active, d.First)
	r.Crash()
	r.Settled()
	r.must(d.Connect(next))
	r.Sweep()
	d.Want(certificate.Active, d.First)
	if kept, _ := d.retirement(d.First); !strings.Contains(kept.Why, "frozen") {
		t.Errorf("retirement %+v", kept)
	}
	r.Freeze(rotation.Freeze{})
	r.Sweep()
	d.Want(certificate.Inactive, d.First)
}

func retireBlocked(t *testing.T, open Open) {
	r := start(t, open, grace(time.Hour))
	d, next := r.rotated("d")
	e := r.Device("e")
	then := e.Take(e.First)
	r.must(r.world.Backend.Registrar.Block(r.ctx, d.ID, true))
	r.must(r.world.Backend.Registrar.Block(r.ctx, e.ID, true))
	if got := d.Get(next, NewKey()).Refused(protocol.NotAllowed).Detail; got != "blocked" {
		t.Errorf("detail %q", got)
	}
	e.Ack(then).Refused(protocol.NotAllowed)
	r.Settled()
	r.Advance(2 * time.Hour)
	r.Sweep()
	r.Settled()
	r.Sweep()
	d.Want(certificate.Active, d.First, next)
	e.Want(certificate.Active, e.First, then)
	e.WantStates(rotation.Vended)
	r.must(r.world.Backend.Registrar.Block(r.ctx, d.ID, false))
	r.must(r.world.Backend.Registrar.Block(r.ctx, e.ID, false))
	r.must(d.Connect(next))
	r.Sweep()
	d.Want(certificate.Inactive, d.First)
	e.Ack(then).OK()
}

func retireRemoved(t *testing.T, open Open) {
	r := start(t, open, grace(time.Hour))
	d, next := r.rotated("d")
	r.must(r.world.Backend.Registrar.Remove(r.ctx, d.ID))
	r.Settled()
	r.Advance(2 * time.Hour)
	r.Sweep()
	d.Want(certificate.Active, d.First, next)
	d.Get(next, NewKey()).Refused(protocol.NotAllowed)
	r.must(r.world.Backend.Registrar.Add(r.ctx, d.ID, nil))
	r.must(d.Connect(next))
	r.Sweep()
	d.Want(certificate.Inactive, d.First)
}

func retireClock(t *testing.T, open Open) {
	for _, jump := range []time.Duration{48 * time.Hour, -2 * time.Hour} {
		r := start(t, open, func(s *Setup) {
			s.Profile.Terms.Grace, s.Profile.Terms.Recent = time.Hour, 1000*time.Hour
		})
		d, next := r.rotated("d")
		r.Settled()
		r.Sweep() // has looked at the clock
		r.clock.Jump(jump)
		r.must(d.Connect(next))
		r.Advance(2 * time.Hour)
		r.clock.Jump(jump)
		r.Sweep()
		d.Want(certificate.Active, d.First)
		e := r.Device("e")
		r.Terms().Grace = 0
		then := e.Take(e.First) // vending goes on
		e.Ack(then).OK()
		e.Want(certificate.Active, e.First)
		r.Advance(30 * time.Minute)
		r.Sweep()
		d.Want(certificate.Active, d.First)
		r.Advance(40 * time.Minute) // it was steady for an hour
		r.must(d.Connect(next))
		r.must(e.Connect(then))
		r.Sweep()
		if jump > 0 {
			d.Want(certificate.Inactive, d.First)
			e.Want(certificate.Inactive, e.First)
		}
		r.clock.Jump(-jump)
		r.Sweep()
	}
}
