package backendtest

import (
	"testing"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/rotation"
)

func sweepScenarios() []scenario {
	return []scenario{
		{"case_98_vended_and_never_acked_is_stale_and_kept", sweepStale},
		{"stale_then_seen_in_use", staleThenSeen},
		{"stale_then_acked", staleThenAcked},
		{"stale_then_proven_by_signature", staleThenProof},
		{"stale_then_the_same_key", staleThenSameKey},
		{"stale_then_the_same_key_over_its_own_certificate", staleThenOwn},
		{"stale_then_the_same_key_beside_a_connection", staleThenSameKeyBeside},
		{"stale_then_another_key", staleThenOther},
		{"stale_then_another_key_over_its_own_certificate", staleThenOtherOverOwn},
		{"stale_package_is_linked_again", stalePackage},
		{"sweep_finishes_what_presence_proved", sweepFinishes},
		{"sweep_does_nothing_when_nothing_is_due", sweepIdle},
		{"sweep_does_not_touch_what_is_leased", sweepLeased},
		{"sweep_goes_on_with_the_next_device", sweepGoesOn},
		{"sweep_pages_through_many_devices", sweepPages},
		{"frozen_vending_thaws", frozenVending},
	}
}

func ttl(d time.Duration) func(*Setup) {
	return func(s *Setup) { s.Profile.Terms.TTL = d }
}

// stale returns a device whose rotation is stale, and its certificate.
func stale(t *testing.T, open Open) (*Rig, *Device, Cert) {
	t.Helper()
	r := start(t, open, ttl(time.Hour))
	d := r.Device("d")
	next := d.Take(d.First)
	r.Advance(2 * time.Hour)
	if swept := r.Sweep(); swept.Stale != 1 {
		t.Fatalf("swept %+v", swept)
	}
	d.WantStates(rotation.Stale)
	d.Want(certificate.Active, d.First, next)
	return r, d, next
}

func sweepStale(t *testing.T, open Open) {
	r, d, next := stale(t, open)
	r.often()
	r.Crash()
	r.often()
	d.Want(certificate.Active, d.First, next)
	d.WantStates(rotation.Stale)
	counts, err := r.world.Backend.Rotations.Counts(r.ctx)
	r.must(err)
	if counts.States[rotation.Stale] != 1 {
		t.Errorf("counted %+v", counts)
	}
}

func staleThenSeen(t *testing.T, open Open) {
	r, d, next := stale(t, open)
	r.must(d.Connect(next))
	d.WantStates(rotation.Proven)
	r.Settled()
	r.Sweep()
	d.WantStates(rotation.Finished)
	r.Sweep()
	d.Want(certificate.Inactive, d.First)
}

func staleThenAcked(t *testing.T, open Open) {
	_, d, next := stale(t, open)
	d.Ack(d.First).Refused(protocol.NotProven)
	d.Ack(next).OK()
	d.WantStates(rotation.Finished)
	d.Want(certificate.Inactive, d.First)
}

func staleThenProof(t *testing.T, open Open) {
	_, d, next := stale(t, open)
	d.Prove(next).OK()
	d.WantStates(rotation.Finished)
}

func staleThenSameKey(t *testing.T, open Open) {
	_, d, next := stale(t, open)
	if again := d.Get(d.First, next.Key).OK(); again.PEM != next.PEM || again.Nonce != next.Nonce {
		t.Error("another answer for the same key")
	}
	d.WantStates(rotation.Vended)
	d.Ack(next).OK()
	d.Want(certificate.Inactive, d.First)
}

// staleThenOwn: a get over its own certificate is a sign of life too.
func staleThenOwn(t *testing.T, open Open) {
	r, d, next := stale(t, open)
	if again := d.Get(next, next.Key).OK(); again.PEM != next.PEM {
		t.Error("another answer for the same key")
	}
	r.Sweep()
	d.WantStates(rotation.Proven)
	r.Settled()
	r.Sweep()
	d.WantStates(rotation.Finished)
}

// staleThenSameKeyBeside: the device connects with its new certificate while an
// earlier get of its, delivered late, brings the rotation back to life. That
// the connection's proof came too late for the journal must not lose it.
func staleThenSameKeyBeside(t *testing.T, open Open) {
	r, d, next := stale(t, open)
	r.faults.fail("advance", 1)
	r.must(d.Connect(next))
	d.WantStates(rotation.Stale)
	d.Get(d.First, next.Key).OK()
	d.WantStates(rotation.Vended)
	r.Sweep()
	d.WantStates(rotation.Proven)
	r.must(d.Connect(next))
	r.Settled()
	r.Sweep()
	d.WantStates(rotation.Finished)
	r.Sweep()
	d.Want(certificate.Inactive, d.First)
}

func staleThenOther(t *testing.T, open Open) {
	r, d, next := stale(t, open)
	two := d.Take(d.First)
	d.WantStates(rotation.Vended, rotation.Superseded)
	d.Want(certificate.Active, d.First, next, two)
	d.Get(d.First, next.Key).Refused(protocol.TryAgainLater)
	d.Ack(two).OK()
	d.Want(certificate.Inactive, d.First, next)
	r.Sweep()
}

func staleThenOtherOverOwn(t *testing.T, open Open) {
	_, d, next := stale(t, open)
	two := d.Take(next)
	d.WantStates(rotation.Vended, rotation.Finished)
	d.Want(certificate.Inactive, d.First)
	d.Want(certificate.Active, next, two)
}

func stalePackage(t *testing.T, open Open) {
	r := start(t, open, ttl(time.Hour))
	d := r.Device("d")
	waiting := d.Packaged()
	d.Unpack(d.First, waiting)
	r.Advance(2 * time.Hour)
	r.Sweep()
	d.WantStates(rotation.Stale)
	d.Unpack(d.First, waiting)
	d.WantStates(rotation.Vended)
	d.Ack(waiting).OK()
	d.Want(certificate.Inactive, d.First)
}

func sweepFinishes(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	next := d.Take(d.First)
	r.must(d.Connect(next))
	r.Advance(10 * time.Minute)
	r.Sweep()
	d.WantStates(rotation.Proven)
	r.Settled()
	if swept := r.Sweep(); swept.Finished != 1 {
		t.Errorf("swept %+v", swept)
	}
	r.Sweep()
	d.Want(certificate.Inactive, d.First)
	d.wantLeft(next)
}

func sweepIdle(t *testing.T, open Open) {
	r := start(t, open)
	d, e := r.Device("d"), r.Device("e")
	next := d.Take(d.First)
	d.Ack(next).OK()
	e.Take(e.First)
	r.Settled()
	r.Sweep()
	for range 3 {
		if swept := r.Sweep(); swept != (rotation.Swept{}) {
			t.Errorf("swept %+v when nothing was due", swept)
		}
	}
}

func sweepLeased(t *testing.T, open Open) {
	r := start(t, open, ttl(10*time.Second))
	d := r.Device("d")
	_, goOn := d.atWork(CSR(NewKey(), "d"))
	r.Advance(30 * time.Second)
	r.Sweep()
	goOn()
	d.WantStates(rotation.Vended)
}

func sweepGoesOn(t *testing.T, open Open) {
	r := start(t, open)
	a, b := r.Device("a"), r.Device("b")
	for _, d := range []*Device{a, b} {
		d.join()
		next := d.Take(d.First)
		r.must(d.Connect(next))
	}
	r.Settled()
	r.faults.fail("attributes", 1)
	r.Sweep() // a's attributes fail
	r.Sweep()
	r.Sweep()
	for _, d := range []*Device{a, b} {
		d.WantStates(rotation.Finished)
		d.Want(certificate.Inactive, d.First)
	}
	if len(r.members()) != 0 {
		t.Errorf("members: %v", r.members())
	}
}

// sweepPages has more devices due than a page of the sweep holds.
func sweepPages(t *testing.T, open Open) {
	devices := 520
	r := start(t, open, ttl(time.Hour))
	if r.world.Slow {
		devices = 50 // the pages are the store's, which others turn
	}
	c := r.Device("first").First
	for i := range devices {
		d := r.stranger(deviceName(i))
		r.must(r.world.Backend.Registrar.Add(r.ctx, d.ID, nil))
		_, err := r.world.Backend.Journal.Open(r.ctx, rotation.Rotation{
			Device: d.ID, Number: 1, State: rotation.Vended, Certificate: c.ID, Opened: r.clock.Now(), VendedAt: r.clock.Now(),
		}, nil)
		r.must(err)
	}
	r.devices = r.devices[:1]
	r.Advance(2 * time.Hour)
	if swept := r.Sweep(); swept.Stale != devices {
		t.Errorf("swept %+v, want %d stale", swept, devices)
	}
	if swept := r.Sweep(); swept != (rotation.Swept{}) {
		t.Errorf("swept %+v again", swept)
	}
}

func frozenVending(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	next := d.Take(d.First)
	r.Freeze(rotation.Freeze{Vending: true, Why: "a test", At: r.clock.Now()})
	for range 2 {
		if reply := d.Get(d.First, NewKey()).Refused(protocol.TryAgainLater); reply.RetryAfter < 30 {
			t.Errorf("retryAfter %d", reply.RetryAfter)
		}
		d.GetPackage(d.First).Refused(protocol.TryAgainLater)
		r.Crash() // it is durable
	}
	d.Ack(next).OK()
	d.Want(certificate.Inactive, d.First)
	r.Freeze(rotation.Freeze{})
	d.Take(next)
}
