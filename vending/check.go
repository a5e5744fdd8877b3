package vending

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

// supersededQuiet is how long a request with what was superseded is taken for a
// late duplicate, which is not worth an alarm.
const supersededQuiet = 10 * time.Minute

// justSuperseded reports whether a request with a rotation's key, or package, may be
// a late duplicate; before it was superseded too, by a clock that was set back since,
// but not for as long as that ran ahead.
func (v *Vendor) justSuperseded(r rotation.Rotation) bool {
	return r.State == rotation.Superseded && v.Now().Sub(r.ClosedAt).Abs() < supersededQuiet
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
	if err := v.mayBringKey(a); err != nil {
		return opening{}, certificate.Order{}, err
	}
	if err := v.verify(csr); err != nil {
		return opening{}, certificate.Order{}, refuseCSR(err)
	}
	subject, err := a.profile.Naming.Subject(csr, certificate.Names{
		Device: a.Device, Caller: a.holding(a.Certificate), Previous: a.previous(named), Known: v.isKnown(ctx),
	})
	if err != nil {
		return opening{}, certificate.Order{}, refuseCSR(err)
	}
	policies, err := v.policies(ctx, a, named, a.Certificate)
	if err != nil {
		return opening{}, certificate.Order{}, err
	}
	now := v.Now()
	order := certificate.Order{
		Device: a.Device, Key: csr.CSR.PublicKey, RawSubject: subject, Request: csr.CSR, Asked: request.ACMPCA,
		NotBefore: now.Add(-v.config.Backdate), NotAfter: now.Add(a.profile.Validity),
	}
	next := v.intend(a, named)
	next.Key = csr.Key
	return opening{Rotation: next, policies: policies}, order, nil
}

// policies returns those of a new certificate, see Policy.For; what is inherited is
// what the certificate has at this moment.
func (v *Vendor) policies(ctx context.Context, a admission, named, over certificate.ID) ([]string, error) {
	held := a.held
	source, is := inheritFrom(named, over, held)
	if is && v.Policies != nil && a.profile.Policy.Mode == PolicyInherit {
		names, err := v.Policies(ctx, source.ID)
		if err != nil {
			return nil, refusePolicies(err)
		}
		source.Policies, held = names, slices.Clone(held)
		held[slices.IndexFunc(held, func(h certificate.Holding) bool { return h.ID == source.ID })] = source
	}
	names, err := a.profile.Policy.For(named, over, held)
	if err != nil {
		return nil, reject(protocol.PolicyFailed, err)
	}
	return names, nil
}

// mayBringKey refuses a device that has brought too many new keys lately.
func (v *Vendor) mayBringKey(a admission) error {
	if v.newKeysLeft(a) > 0 {
		return nil
	}
	return &Error{
		Reason: protocol.TooManyRequests, Detail: "too many new keys",
		Wait: v.config.NewKeysPer / time.Duration(v.config.NewKeys),
	}
}

func (v *Vendor) newKeysLeft(a admission) int {
	now := v.Now()
	return v.config.NewKeys - a.history.NewKeys(now.Add(-v.config.NewKeysPer), now)
}

// mayUseKey refuses a key that was used: one whose certificate was proven or
// seen, or that another device ever had. A superseded key never opens again,
// but for a device that has one key for ever, and no other rotation open; nor
// does one of which a certificate was revoked.
func (v *Vendor) mayUseKey(ctx context.Context, a admission, key certificate.KeyID) error {
	r := a.history.Keyed(key)
	if r != nil && r.State == rotation.Superseded {
		switch {
		case v.justSuperseded(*r):
			return later(supersededQuiet, nil)
		case !a.profile.ReuseKey || a.history.Current() != nil:
			return explain(protocol.CSRRejected, "key superseded, make a new one")
		}
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
		case h.Standing == certificate.Revoked:
			return explain(protocol.CSRRejected, "the key was revoked, make a new one")
		case h.Device != a.Device && (r == nil || h.Device != ""):
			return explain(protocol.CSRRejected, "the key belongs to another device")
		case !a.profile.ReuseKey && (!h.LastSeen.IsZero() || r == nil):
			return explain(protocol.CSRRejected, "the key was used before")
		}
	}
	return nil
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
