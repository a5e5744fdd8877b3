package backendtest

import (
	"testing"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/rotation"
)

// keyScenarios are about a device that asks with another key than before.
func keyScenarios() []scenario {
	return []scenario{
		{"another_key_over_the_new_certificate_finishes", otherKeyOverNew},
		{"another_key_over_an_older_certificate_supersedes", otherKeyOverOlder},
		{"another_key_over_nothing_known_keeps_both", otherKeyUnknown},
		{"another_key_after_presence_never_supersedes", otherKeyProven},
		{"another_key_after_an_unproven_ack_closes_it", otherKeyAcknowledged},
		{"late_duplicate_of_a_superseded_key", lateDuplicate},
		{"superseded_key_of_a_device_that_has_one_for_ever", supersededOnlyKey},
		{"abandoned_key_opens_again", abandonedKey},
		{"abandoned_key_that_was_seen_is_used", abandonedSeenKey},
		{"key_of_another_device_is_refused_for_ever", foreignKey},
		{"new_keys_are_limited_and_repeats_are_free", newKeysLimited},
		{"new_keys_by_a_clock_that_ran_ahead_do_not_count", newKeysClockAhead},
		{"superseded_key_by_a_clock_that_ran_ahead", supersededClockAhead},
	}
}

func otherKeyOverNew(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	one := d.Take(d.First)
	two := d.Take(one)
	d.WantStates(rotation.Vended, rotation.Finished)
	d.Want(certificate.Inactive, d.First)
	d.Want(certificate.Active, one, two)
	d.Ack(two).OK()
	d.Want(certificate.Inactive, one)
	d.WantStates(rotation.Finished, rotation.Finished)
}

func otherKeyOverOlder(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	one := d.Take(d.First)
	two := d.Take(d.First)
	d.WantStates(rotation.Vended, rotation.Superseded)
	d.Want(certificate.Active, d.First, one, two)
	d.Ack(one).Refused(protocol.NotProven)
	d.Ack(two).OK()
	d.Want(certificate.Inactive, d.First, one)
	d.WantStates(rotation.Finished, rotation.Superseded)
}

func otherKeyUnknown(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	one := d.Take(unseen)
	two := d.Take(unseen)
	d.WantStates(rotation.Vended, rotation.Superseded)
	d.Want(certificate.Active, d.First, one, two)
	r.must(d.Connect(one)) // the second reply was lost
	d.WantStates(rotation.Vended, rotation.Superseded)
	three := d.Take(one)
	r.must(d.Connect(three))
	d.Ack(three).OK()
	d.Want(certificate.Inactive, one, two)
}

func otherKeyProven(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	one := d.Take(d.First)
	r.must(d.Connect(one))
	d.WantStates(rotation.Proven)
	two := d.Take(d.First) // it has gone back, and asks from there
	d.WantStates(rotation.Vended, rotation.Finished)
	d.Want(certificate.Active, d.First, one, two)
	if kept, ok := d.retirement(d.First); !ok || !kept.Reverted {
		t.Errorf("retirement %+v, want it put off as reverted", kept)
	}
	d.Ack(two).OK()
	d.Want(certificate.Inactive, d.First)
}

func otherKeyAcknowledged(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	one := d.Take(unseen)
	d.Ack(unseen).OK()
	d.WantStates(rotation.Acknowledged)
	if again := d.Get(unseen, one.Key).OK(); again.PEM != one.PEM {
		t.Error("another certificate for the acknowledged key")
	}
	two := d.Take(unseen)
	d.WantStates(rotation.Vended, rotation.Finished)
	d.Get(unseen, one.Key).Refused(protocol.CSRRejected)
	d.Ack(two).OK()
	d.Want(certificate.Active, one, two, d.First)
}

func lateDuplicate(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	key := NewKey()
	one := d.Get(d.First, key).OK()
	d.Store(one)
	two := d.Take(d.First)
	reply := d.Get(d.First, key).Refused(protocol.TryAgainLater)
	if reply.RetryAfter < 60 {
		t.Errorf("retryAfter %d", reply.RetryAfter)
	}
	r.Advance(11 * time.Minute)
	if got := d.Get(d.First, key).Refused(protocol.CSRRejected).Detail; got != "key superseded, make a new one" {
		t.Errorf("detail %q", got)
	}
	d.Get(one, key).Refused(protocol.CSRRejected)
	d.WantStates(rotation.Vended, rotation.Superseded)
	d.Want(certificate.Active, d.First, one, two)
	d.Ack(two).OK()
	d.Get(two, key).Refused(protocol.CSRRejected)
}

// supersededOnlyKey: a device with a key in a secure element cannot make a new
// one. Once nothing else is open, its key may have another certificate.
func supersededOnlyKey(t *testing.T, open Open) {
	r := start(t, open, func(s *Setup) { s.Profile.ReuseKey = true })
	d := r.Device("d")
	key := NewKey()
	one := d.Get(d.First, key).OK()
	two := d.Take(d.First)
	r.Advance(11 * time.Minute)
	d.Get(d.First, key).Refused(protocol.CSRRejected)
	d.Ack(two).OK()
	d.Want(certificate.Inactive, d.First, one)
	for id := range d.vended {
		d.reissued[id] = true
	}
	again := d.Get(two, key).OK()
	d.Store(again)
	d.Ack(again).OK()
	d.Want(certificate.Active, again)
	d.Want(certificate.Inactive, two)
}

// abandon ends the open rotation as a person does.
func (d *Device) abandon() {
	d.rig.t.Helper()
	one := d.rotations()[0]
	one.State, one.ClosedAt = rotation.Abandoned, d.rig.clock.Now()
	_, err := d.rig.world.Backend.Journal.Advance(d.rig.ctx, rotation.Change{Rotation: one})
	d.rig.must(err)
}

func abandonedKey(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	one := d.Take(d.First)
	d.abandon()
	for id := range d.vended {
		d.reissued[id] = true
	}
	two := d.Get(d.First, one.Key).OK()
	d.Store(two)
	d.WantStates(rotation.Vended, rotation.Abandoned)
	d.Ack(two).OK()
	d.Want(certificate.Active, two)
}

func abandonedSeenKey(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	one := d.Take(d.First)
	r.must(d.Connect(one))
	d.abandon()
	d.Get(one, one.Key).Refused(protocol.CSRRejected)
	d.WantStates(rotation.Abandoned)
}

func foreignKey(t *testing.T, open Open) {
	r := start(t, open, func(s *Setup) { s.Profile.Terms.Previous = certificate.Delete })
	d, e := r.Device("d"), r.Device("e")
	next := d.Take(d.First)
	e.Get(e.First, next.Key).Refused(protocol.CSRRejected)
	e.Get(e.First, d.First.Key).Refused(protocol.CSRRejected)
	d.Ack(next).OK()
	r.Settled()
	r.must(d.Connect(next))
	r.Sweep()
	d.Want("", d.First)
	e.Get(e.First, d.First.Key).Refused(protocol.CSRRejected)
	e.WantStates()
}

func newKeysLimited(t *testing.T, open Open) {
	r := start(t, open, func(s *Setup) { s.Config.NewKeys = 3 })
	d := r.Device("d")
	d.Get(d.First, d.First.Key).Refused(protocol.CSRRejected) // brings no certificate, counts for nothing
	var last Cert
	for range 3 {
		last = d.Take(d.First)
	}
	reply := d.Get(d.First, NewKey()).Refused(protocol.TooManyRequests)
	if reply.RetryAfter <= 0 {
		t.Error("it does not say when to try again")
	}
	for range 5 {
		d.Get(d.First, last.Key).OK()
	}
	d.Ack(last).OK()
	d.Get(last, NewKey()).Refused(protocol.TooManyRequests)
	r.Advance(25 * time.Hour)
	d.Take(last)
}

// newKeysClockAhead: once the clock is put right, a device is not kept waiting for
// as long as it ran ahead: its certificate ends before that.
func newKeysClockAhead(t *testing.T, open Open) {
	const ahead = 365 * 24 * time.Hour
	r := start(t, open, func(s *Setup) { s.Config.NewKeys = 3 })
	d := r.Device("d")
	r.clock.Jump(ahead)
	for range 3 {
		d.Take(d.First)
	}
	d.Get(d.First, NewKey()).Refused(protocol.TooManyRequests)
	r.clock.Jump(-ahead)
	for range 3 {
		d.Take(d.First)
	}
	d.Get(d.First, NewKey()).Refused(protocol.TooManyRequests)
}

// supersededClockAhead: nor is it told for so long to try a key again that never
// opens.
func supersededClockAhead(t *testing.T, open Open) {
	const ahead = 365 * 24 * time.Hour
	r := start(t, open)
	d := r.Device("d")
	r.clock.Jump(ahead)
	one := d.Take(d.First)
	d.Take(d.First)
	d.Get(d.First, one.Key).Refused(protocol.TryAgainLater)
	r.clock.Jump(-ahead)
	d.Get(d.First, one.Key).Refused(protocol.CSRRejected)
}
