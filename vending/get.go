package vending

import (
	"context"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/rotation"
)

// Get answers a get: with a certificate for the CSR in it, or else with a link
// to the device's pre-created package. The same key, or the same package, is
// answered with the same certificate as long as its rotation is open. Any
// refusal is an *Error, and changes nothing of an open rotation.
func (v *Vendor) Get(ctx context.Context, caller Caller, request protocol.GetRequest) (protocol.GetAccepted, error) {
	if wait, ok := v.Limits.Allow(caller.Device); !ok {
		return protocol.GetAccepted{}, &Error{Reason: protocol.TooManyRequests, Wait: wait}
	}
	a, err := v.admit(ctx, caller)
	if err != nil {
		return protocol.GetAccepted{}, err
	}
	if err := v.notFrozen(ctx); err != nil {
		return protocol.GetAccepted{}, err
	}
	if err := v.approve(ctx, &a, protocol.Get); err != nil {
		return protocol.GetAccepted{}, err
	}
	var reply protocol.GetAccepted
	if request.CSR == nil {
		reply, err = v.getPackage(ctx, a)
	} else {
		reply, err = v.getByCSR(ctx, a, request)
	}
	if err == nil && v.Anchors != nil {
		reply.TrustAnchors = v.Anchors.Offer(ctx, caller.Device)
	}
	return reply, err
}

// notFrozen sends gets away while a person has stopped vending.
func (v *Vendor) notFrozen(ctx context.Context) error {
	frozen, err := v.Brakes.Frozen(ctx)
	if err != nil || frozen.Vending {
		return later(time.Minute, err)
	}
	return nil
}

func (v *Vendor) getByCSR(ctx context.Context, a admission, request protocol.GetRequest) (protocol.GetAccepted, error) {
	csr, err := v.parse(*request.CSR)
	if err != nil {
		return protocol.GetAccepted{}, refuseCSR(err)
	}
	if a, err = v.awaitLease(ctx, a, func(r rotation.Rotation) bool { return r.Key == csr.Key }); err != nil {
		return protocol.GetAccepted{}, err
	}
	if r := a.history.Keyed(csr.Key); r != nil && r.Answers() && v.isUsable(a, *r) {
		return v.vendAgain(ctx, a, *r)
	} else if r != nil && v.isSigned(a, *r) {
		return v.goOn(ctx, a, *r)
	}
	next, order, err := v.check(ctx, a, csr, request)
	if err != nil {
		return protocol.GetAccepted{}, err
	}
	if next, err = v.open(ctx, a, next); err != nil {
		return protocol.GetAccepted{}, err
	}
	order.Rotation = next.Number
	// Where issuing has no effect outside the store, what follows is one
	// commit: the last Advance writes it all (see rotation.Journal).
	issued, err := v.issue(ctx, &next, order)
	if err != nil {
		return protocol.GetAccepted{}, v.giveUp(ctx, next.Rotation, err)
	}
	r, err := v.Journal.Advance(ctx, vended(next.Rotation, v.Now()))
	if err != nil {
		return protocol.GetAccepted{}, v.giveUp(ctx, next.Rotation, lost(err))
	}
	return acceptedCSR(r, issued), nil
}

// issue has the certificate signed and makes it one that the device can
// connect with; what has been done is in the journal before the next step.
func (v *Vendor) issue(ctx context.Context, next *opening, order certificate.Order) (certificate.Certificate, error) {
	c, err := v.Issuer.Issue(ctx, order)
	if err != nil {
		return c, refuseIssue(err)
	}
	c.Standing, c.Kind, c.Created, c.Policies = certificate.Active, certificate.Rotated, v.Now(), next.policies
	r, err := v.Journal.Advance(ctx, next.issued(c))
	if err != nil {
		return c, lost(err)
	}
	next.Rotation = r
	if err := v.Inventory.Register(ctx, order.Device, c); err != nil {
		return c, refuseRegister(err)
	}
	return c, nil
}

// isUsable reports whether the rotation's certificate was vended, and has not
// expired since.
func (v *Vendor) isUsable(a admission, r rotation.Rotation) bool {
	held, ok := certificate.Find(a.held, r.Certificate)
	return ok && r.IsVended() && v.Now().Before(held.NotAfter)
}

// isSigned reports whether the rotation's certificate is durable and has not
// come any further: the world failed to make it known, or, where that is long ago
// and the rotation is stale, may have taken it for cut off.
func (v *Vendor) isSigned(a admission, r rotation.Rotation) bool {
	held, ok := certificate.Find(a.held, r.Certificate)
	left := r.State == rotation.Issued || r.State == rotation.Stale && !r.IsVended()
	return ok && left && held.Standing == certificate.Active && v.Now().Before(held.NotAfter)
}

// goOn vends a certificate that was signed for this key before: no second one
// is issued for it.
func (v *Vendor) goOn(ctx context.Context, a admission, left rotation.Rotation) (protocol.GetAccepted, error) {
	held, _ := certificate.Find(a.held, left.Certificate)
	left.State, left.Lease = rotation.Issued, rotation.Lease{Instance: v.config.Instance, Until: v.Now().Add(rotation.LeaseTime)}
	r, err := v.Journal.Advance(ctx, rotation.Change{Rotation: left})
	if err != nil {
		return protocol.GetAccepted{}, lost(err)
	}
	if err := v.Inventory.Register(ctx, a.Device, held.Certificate); err != nil {
		return protocol.GetAccepted{}, v.giveUp(ctx, r, refuseRegister(err))
	}
	opened := r
	if r, err = v.Journal.Advance(ctx, vended(r, v.Now())); err != nil {
		return protocol.GetAccepted{}, v.giveUp(ctx, opened, lost(err))
	}
	return acceptedCSR(r, held.Certificate), nil
}

// vendAgain answers the key of the open rotation with the certificate it has.
// A stale rotation comes back to life by it.
func (v *Vendor) vendAgain(ctx context.Context, a admission, r rotation.Rotation) (protocol.GetAccepted, error) {
	held, _ := certificate.Find(a.held, r.Certificate)
	if held.Standing != certificate.Active {
		return protocol.GetAccepted{}, explain(protocol.CSRRejected, "the certificate for this key was withdrawn, make a new key")
	}
	if err := v.askedAgain(ctx, a, r); err != nil {
		return protocol.GetAccepted{}, err
	}
	return acceptedCSR(r, held.Certificate), nil
}

// askedAgain writes what a repeated request shows: over the rotation's own
// certificate, that the device uses it; and that a stale rotation is alive.
func (v *Vendor) askedAgain(ctx context.Context, a admission, r rotation.Rotation) error {
	if a.Certificate == r.Certificate {
		if shownBy(a.Caller, &r) {
			v.prove(ctx, a.Caller, r)
		}
		return nil
	}
	if r.State != rotation.Stale {
		return nil
	}
	if _, err := v.Journal.Advance(ctx, vended(r, v.Now())); err != nil {
		return lost(err)
	}
	return nil
}

func acceptedCSR(r rotation.Rotation, c certificate.Certificate) protocol.GetAccepted {
	return protocol.GetAccepted{
		DeviceID: string(r.Device), Action: protocol.Get, CertificateID: string(c.ID),
		Certificate: c.PEM(), Chain: c.ChainPEM(), NotAfter: c.NotAfter.UTC().Format(time.RFC3339), Nonce: r.Nonce,
	}
}
