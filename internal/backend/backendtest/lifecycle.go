package backendtest

import (
	"testing"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/rotation"
)

func lifecycleScenarios() []scenario {
	return []scenario{
		{"twenty_rotations_of_one_device", lifeLong},
		{"case_90_power_cut_between_accepted_and_ack", lifePowerCut},
		{"expired_caller_on_an_open_connection_still_rotates", lifeExpiredCaller},
		{"csr_and_package_by_turns", lifeByTurns},
		{"firmware_with_one_slot_that_acks_once", lifeOneSlot},
		{"device_removed_and_added_again", lifeRemoved},
		{"more_rotations_than_the_journal_returns", lifeHistory},
	}
}

func lifeLong(t *testing.T, open Open) {
	r := start(t, open, scope(rotation.All, certificate.Delete))
	d := r.Device("d")
	on := d.First
	for i := range 20 {
		d.join()
		next := d.Take(on)
		r.must(d.Connect(next))
		d.Ack(next).OK()
		d.Drop(on)
		d.wantLeft(next)
		r.Settled()
		r.must(d.Connect(next))
		r.Sweep()
		d.Want("", on)
		if i%7 == 3 {
			r.Crash()
		}
		on = next
	}
	if n := len(d.held()); n != 1 {
		t.Errorf("the device holds %d certificates, want 1", n)
	}
	if n := len(r.known()); n != 21 {
		t.Errorf("%d certificates are on record, want 21", n)
	}
}

func lifeExpiredCaller(t *testing.T, open Open) {
	r := start(t, open, func(s *Setup) { s.Profile.Validity = 24 * time.Hour })
	d := r.Device("d")
	r.Advance(25 * time.Hour)
	next := d.Take(d.First)
	r.must(d.Connect(next))
	d.Ack(next).OK()
	d.WantStates(rotation.Finished)
}

func lifeByTurns(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	on := d.First
	for range 3 {
		waiting := d.Packaged()
		d.Unpack(on, waiting)
		r.must(d.Connect(waiting))
		d.Ack(waiting).OK()
		d.Want(certificate.Inactive, on)
		d.Drop(on)
		next := d.Take(waiting)
		r.must(d.Connect(next))
		d.Ack(next).OK()
		d.Want(certificate.Inactive, waiting)
		d.Drop(waiting)
		on = next
	}
}

// lifeOneSlot is the original's firmware: it overwrites what it has on
// receipt, acks once over whatever connection is open, and never again.
func lifeOneSlot(t *testing.T, open Open) {
	r := start(t, open, grace(168*time.Hour))
	d := r.Device("d")
	on := d.First
	for range 5 {
		next := d.Get(on, NewKey()).OK()
		d.Overwrite(next)
		d.Ack(on) // too early
		r.must(d.Connect(next))
		for range 10 {
			r.Advance(24 * time.Hour)
			r.must(d.Connect(next))
			r.Sweep()
		}
		d.Want(certificate.Inactive, on)
		on = next
	}
}

func lifeRemoved(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	d.join()
	next := d.Take(d.First)
	r.must(r.world.Backend.Registrar.Remove(r.ctx, d.ID))
	if r.members()["d"] {
		t.Error("it is still in the group")
	}
	r.must(r.world.Backend.Registrar.Add(r.ctx, d.ID, nil))
	if again := d.Get(d.First, next.Key).OK(); again.PEM != next.PEM {
		t.Error("another certificate for the same key")
	}
	d.Ack(next).OK()
	d.wantLeft(next)
}

// lifeHistory: a first certificate is retired, and an old key is refused,
// however many rotations lie in between.
func lifeHistory(t *testing.T, open Open) {
	r := start(t, open, scope(rotation.Replaced, certificate.Deactivate))
	d := r.Device("d")
	one := d.Take(d.First)
	d.Ack(one).OK()
	on := one
	rotations := rotation.HistoryLimit + 5
	if RaceDetector || r.world.Slow {
		rotations = 20
	}
	for range rotations {
		next := d.Get(on, NewKey()).OK()
		d.Overwrite(next)
		d.Ack(next).OK()
		d.got, d.confirmed = nil, 0
		on = next
	}
	if d.Get(on, one.Key).Accepted {
		t.Error("a key that was used is accepted again")
	}
	if d.Get(on, d.First.Key).Accepted {
		t.Error("the first key is accepted again")
	}
	active := 0
	for _, h := range d.held() {
		if h.Standing == certificate.Active {
			active++
		}
	}
	if active != 1 {
		t.Errorf("%d certificates are active, want 1", active)
	}
}

// lifePowerCut: the device loses its power after it was vended a certificate,
// and before it has stored it or acked: the old one works, and it goes on.
func lifePowerCut(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	d.join()
	key := NewKey()
	lost := d.Get(d.First, key).OK()
	r.Advance(time.Hour)
	r.must(d.Connect(d.First))
	r.Sweep()
	d.Want(certificate.Active, d.First, lost)
	next := d.Get(d.First, key).OK()
	if next.PEM != lost.PEM {
		t.Error("another certificate for the same key")
	}
	d.Store(next)
	d.Ack(next).OK()
	d.Want(certificate.Active, next)
	d.wantLeft(next)
}
