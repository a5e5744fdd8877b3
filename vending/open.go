package vending

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"slices"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/rotation"
)

// opening is a rotation about to be opened, and what its certificate is to
// carry.
type opening struct {
	rotation.Rotation
	policies []string
}

func (o opening) issued(c certificate.Certificate) rotation.Change {
	r := o.Rotation
	r.State, r.Certificate = rotation.Issued, c.ID
	return rotation.Change{Rotation: r, Certificate: &c}
}

func vended(r rotation.Rotation, now time.Time) rotation.Change {
	r.State, r.VendedAt, r.Lease = rotation.Vended, now, rotation.Lease{}
	return rotation.Change{Rotation: r}
}

// intend returns the device's next rotation, under this process's lease.
func (v *Vendor) intend(a admission, named certificate.ID) rotation.Rotation {
	now := v.Now()
	return rotation.Rotation{
		Device: a.Device, Number: a.history.Next(), State: rotation.Intended,
		Over: a.Certificate, Named: named, Held: activeOf(a.held), Nonce: newNonce(),
		Profile: a.profile.Name, Opened: now,
		Lease: rotation.Lease{Instance: v.config.Instance, Until: now.Add(rotation.LeaseTime)},
	}
}

// newNonce returns 32 random bytes, base64url without padding.
func newNonce() string {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails, by its contract
	return base64.RawURLEncoding.EncodeToString(b)
}

// open makes room for a new rotation and enters it. What is open gives way by
// what the caller proves: spoken over its own certificate it is finished
// first, and so it is when it was proven before; spoken over an older one, or
// nobody knows which, it is superseded, and its certificate kept.
func (v *Vendor) open(ctx context.Context, a admission, next opening) (opening, error) {
	var givesWay *rotation.Rotation
	if current := a.history.Current(); current != nil {
		if current.Key == next.Key && !current.State.Ready() {
			return v.takeOver(ctx, *current, next)
		}
		over := a.Certificate != "" && a.Certificate == current.Certificate
		switch {
		case over || current.State == rotation.Proven:
			if err := v.finish(ctx, a, *current, over); err != nil {
				return next, err
			}
		default:
			givesWay = v.givesWay(*current)
		}
	}
	opened, err := v.Journal.Open(ctx, next.Rotation, givesWay)
	if err != nil {
		return next, lost(err)
	}
	next.Rotation = opened
	return next, nil
}

// takeOver goes on with a rotation for the same key that was begun and left
// before its certificate was ready.
func (v *Vendor) takeOver(ctx context.Context, left rotation.Rotation, next opening) (opening, error) {
	left.Lease = next.Lease
	r, err := v.Journal.Advance(ctx, rotation.Change{Rotation: left})
	if err != nil {
		return next, lost(err)
	}
	next.Rotation = r
	return next, nil
}

func (v *Vendor) givesWay(r rotation.Rotation) *rotation.Rotation {
	if r.State == rotation.Acknowledged {
		r.State, r.Unproven = rotation.Finished, true
		if r.ByPackage {
			r.Behind = append(slices.Clone(r.Behind), rotation.Package)
		}
	} else {
		r.State = rotation.Superseded
	}
	r.ClosedAt, r.Lease = v.Now(), rotation.Lease{}
	return &r
}

// finish ends a rotation whose device has moved on, as an ack would have.
func (v *Vendor) finish(ctx context.Context, a admission, r rotation.Rotation, seen bool) error {
	if seen && !r.IsProven() {
		r.ProvenAt, r.Evidence = v.Now(), a.Evidence
	}
	_, owed, err := v.Closer.Finish(ctx, r, a.history)
	if err != nil {
		return lost(err)
	}
	if err := v.Closer.RetireNow(ctx, owed); err != nil {
		return later(0, err)
	}
	return nil
}

// leasePoll is how often a request looks whether another instance is done.
const leasePoll = 50 * time.Millisecond

// awaitLease returns once no other instance is at work for the device, with
// what is known of it then. A request that belongs to that work waits for its
// outcome as long as a reply may take; any other is sent away at once.
func (v *Vendor) awaitLease(ctx context.Context, a admission, belongs func(rotation.Rotation) bool) (admission, error) {
	busy := later(time.Second, errors.New("another instance is at work on the rotation"))
	deadline := time.NewTimer(v.config.OutcomeDeadline)
	defer deadline.Stop()
	poll := time.NewTicker(leasePoll)
	defer poll.Stop()
	for {
		current := a.history.Current()
		if current == nil || !current.Lease.Held(v.config.Instance, v.Now()) {
			return a, nil
		}
		if !belongs(*current) {
			return a, busy
		}
		select {
		case <-poll.C:
		case <-deadline.C:
			return a, busy
		case <-ctx.Done():
			return a, later(time.Second, ctx.Err())
		}
		if err := v.look(ctx, &a); err != nil {
			return a, err
		}
	}
}

// giveUp ends this process's lease on work that failed, and returns why it
// failed. If even that cannot be written, the lease runs out by itself.
func (v *Vendor) giveUp(ctx context.Context, r rotation.Rotation, why error) error {
	r.Lease = rotation.Lease{}
	_, _ = v.Journal.Advance(context.WithoutCancel(ctx), rotation.Change{Rotation: r})
	return why
}
