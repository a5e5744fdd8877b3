package vending

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

// supersededQuiet is how long a request with a superseded key is taken for a
// late duplicate, which is not worth an alarm.
const supersededQuiet = 10 * time.Minute

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
	frozen, err := v.Brakes.Frozen(ctx)
	if err != nil || frozen.Vending {
		return protocol.GetAccepted{}, later(time.Minute, err)
	}
	if request.CSR == nil {
		return v.getPackage(ctx, a)
	}
	return v.getByCSR(ctx, a, request)
}

func (v *Vendor) getByCSR(ctx context.Context, a admission, request protocol.GetRequest) (protocol.GetAccepted, error) {
	csr, err := certificate.ParseRequest(*request.CSR)
	if err != nil {
		return protocol.GetAccepted{}, refuseCSR(err)
	}
	r := a.history.Keyed(csr.Key)
	if err := v.mayWorkOn(a.history.Current()); err != nil {
		return protocol.GetAccepted{}, err
	}
	if r != nil && r.Answers() && v.isRegistered(a, *r) {
		return v.vendAgain(ctx, a, *r)
	}
	next, order, err := v.check(ctx, a, csr, request)
	if err != nil {
		return protocol.GetAccepted{}, err
	}
	if next, err = v.open(ctx, a, next); err != nil {
		return protocol.GetAccepted{}, err
	}
	issued, err := v.issue(ctx, &next, order)
	if err != nil {
		return protocol.GetAccepted{}, v.giveUp(ctx, next.Rotation, err)
	}
	vended, err := v.Journal.Advance(ctx, vended(next.Rotation, v.Now()))
	if err != nil {
		return protocol.GetAccepted{}, v.giveUp(ctx, next.Rotation, lost(err))
	}
	return acceptedCSR(vended, issued), nil
}

// issue has the certificate signed and makes it one that the device can
// connect with; what has been done is in the journal before the next step.
func (v *Vendor) issue(ctx context.Context, next *opening, order certificate.Order) (certificate.Certificate, error) {
	c, err := v.Issuer.Issue(ctx, order)
	if err != nil {
		return c, refuseIssue(err)
	}
	c.Standing, c.Kind, c.Created, c.Policies = certificate.Active, certificate.Rotated, v.Now(), next.policies
	if next.Rotation, err = v.Journal.Advance(ctx, next.issued(c)); err != nil {
		return c, lost(err)
	}
	if err := v.Inventory.Register(ctx, order.Device, c); err != nil {
		return c, refuseRegister(err)
	}
	return c, nil
}

// giveUp ends this process's lease on work that failed, and returns why it
// failed. If even that cannot be written, the lease runs out by itself.
func (v *Vendor) giveUp(ctx context.Context, r rotation.Rotation, why error) error {
	r.Lease = rotation.Lease{}
	_, _ = v.Journal.Advance(context.WithoutCancel(ctx), rotation.Change{Rotation: r})
	return why
}

// check holds a request against every rule, cheapest first, and returns the
// rotation to open and the order for the issuer. It changes nothing.
func (v *Vendor) check(ctx context.Context, a admission, csr *certificate.Request, request protocol.GetRequest) (opening, certificate.Order, error) {
	named, err := a.named(request.PreviousCertificateID)
	if err != nil {
		return opening{}, certificate.Order{}, err
	}
	if err := v.mayUseKey(ctx, a, csr.Key); err != nil {
		return opening{}, certificate.Order{}, err
	}
	if a.history.NewKeys(v.Now().Add(-v.config.NewKeysPer)) >= v.config.NewKeys {
		return opening{}, certificate.Order{}, &Error{
			Reason: protocol.TooManyRequests, Detail: "too many new keys",
			Wait: v.config.NewKeysPer / time.Duration(v.config.NewKeys),
		}
	}
	if err := csr.CheckSignature(); err != nil {
		return opening{}, certificate.Order{}, refuseCSR(err)
	}
	subject, err := a.profile.Naming.Subject(csr, certificate.Names{
		Device: a.Device, Caller: a.holding(a.Certificate), Previous: a.previous(named), Known: v.isKnown(ctx),
	})
	if err != nil {
		return opening{}, certificate.Order{}, refuseCSR(err)
	}
	policies, err := a.profile.Policy.For(named, a.Certificate, a.held)
	if err != nil {
		return opening{}, certificate.Order{}, reject(protocol.PolicyFailed, err)
	}
	now := v.Now()
	order := certificate.Order{
		Device: a.Device, Key: csr.CSR.PublicKey, RawSubject: subject, Request: csr.CSR,
		NotBefore: now.Add(-v.config.Backdate), NotAfter: now.Add(a.profile.Validity),
	}
	next := v.intend(a, named)
	next.Key = csr.Key
	return opening{Rotation: next, policies: policies}, order, nil
}

// mayUseKey refuses a key that was used: one whose certificate was proven or
// seen, or that another device ever had. A superseded key never opens again.
func (v *Vendor) mayUseKey(ctx context.Context, a admission, key certificate.KeyID) error {
	r := a.history.Keyed(key)
	if r != nil && r.State == rotation.Superseded {
		if v.Now().Sub(r.ClosedAt) < supersededQuiet {
			return later(supersededQuiet, nil)
		}
		return explain(protocol.CSRRejected, "key superseded, make a new one")
	}
	if r != nil && r.State == rotation.Finished && !a.profile.ReuseKey {
		return explain(protocol.CSRRejected, "the key was used before")
	}
	holdings, err := v.Certificates.List(ctx, certificate.Query{Key: key})
	if err != nil {
		return later(0, err)
	}
	for _, h := range holdings {
		switch {
		case h.Device != a.Device && (r == nil || h.Device != ""):
			return explain(protocol.CSRRejected, "the key belongs to another device")
		case !a.profile.ReuseKey && (!h.LastSeen.IsZero() || r == nil):
			return explain(protocol.CSRRejected, "the key was used before")
		}
	}
	return nil
}

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

// mayWorkOn refuses while another instance is at work for this device.
func (v *Vendor) mayWorkOn(current *rotation.Rotation) error {
	if current != nil && current.Lease.Held(v.config.Instance, v.Now()) {
		return later(time.Second, errors.New("another instance is at work on the rotation"))
	}
	return nil
}

// isRegistered reports whether the rotation's certificate has come as far as
// the inventory.
func (v *Vendor) isRegistered(a admission, r rotation.Rotation) bool {
	_, ok := certificate.Find(a.held, r.Certificate)
	return ok && r.State.Ready()
}

// vendAgain answers the key of the open rotation with the certificate it has.
// A stale rotation comes back to life by it.
func (v *Vendor) vendAgain(ctx context.Context, a admission, r rotation.Rotation) (protocol.GetAccepted, error) {
	held, _ := certificate.Find(a.held, r.Certificate)
	if held.Standing != certificate.Active {
		return protocol.GetAccepted{}, explain(protocol.CSRRejected, "the certificate for this key was withdrawn, make a new key")
	}
	if r.State == rotation.Stale {
		if _, err := v.Journal.Advance(ctx, vended(r, v.Now())); err != nil {
			return protocol.GetAccepted{}, lost(err)
		}
	} else {
		v.proveIfSeen(ctx, a.Caller, &r)
	}
	return acceptedCSR(r, held.Certificate), nil
}

func acceptedCSR(r rotation.Rotation, c certificate.Certificate) protocol.GetAccepted {
	return protocol.GetAccepted{
		DeviceID: string(r.Device), Action: protocol.Get, CertificateID: string(c.ID),
		Certificate: c.PEM(), Chain: c.ChainPEM(), NotAfter: c.NotAfter.UTC().Format(time.RFC3339), Nonce: r.Nonce,
	}
}

// previous returns the certificate that is being replaced, or nil if that
// cannot be told.
func (a admission) previous(named certificate.ID) *certificate.Certificate {
	if c := a.holding(named); c != nil {
		return c
	}
	if c := a.holding(a.Certificate); c != nil {
		return c
	}
	if active := activeOf(a.held); len(active) == 1 {
		return a.holding(active[0])
	}
	return nil
}

func (v *Vendor) isKnown(ctx context.Context) func(registry.DeviceID) (bool, error) {
	return func(id registry.DeviceID) (bool, error) {
		_, err := v.Registry.Device(ctx, id)
		if errors.Is(err, registry.ErrUnknown) {
			return false, nil
		}
		return err == nil, err
	}
}
