package vending

import (
	"context"
	"errors"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/rotation"
)

// getPackage answers a get without a CSR: the open rotation's package again,
// or else the one that waits for the device, activated and with a new link.
func (v *Vendor) getPackage(ctx context.Context, a admission) (protocol.GetAccepted, error) {
	a, err := v.awaitLease(ctx, a, func(r rotation.Rotation) bool { return r.ByPackage })
	if err != nil {
		return protocol.GetAccepted{}, err
	}
	current := a.history.Current()
	if current != nil && current.ByPackage && v.isUsable(a, *current) && !v.isReplaced(ctx, a, *current) {
		return v.linkAgain(ctx, a, *current)
	}
	c, err := v.findPackage(ctx, a)
	if err != nil {
		return protocol.GetAccepted{}, err
	}
	next := v.intend(a, "")
	next.ByPackage, next.Key, next.Certificate = true, c.Key, c.ID
	opened, err := v.open(ctx, a, opening{Rotation: next})
	if err != nil {
		return protocol.GetAccepted{}, err
	}
	switch err := v.Inventory.Activate(ctx, a.Device, c.ID); {
	case errors.Is(err, certificate.ErrDistrusted):
		return protocol.GetAccepted{}, v.giveUp(ctx, opened.Rotation,
			explain(protocol.NoPackage, "the CA of the package's certificate was retired, create a new one"))
	case err != nil:
		return protocol.GetAccepted{}, v.giveUp(ctx, opened.Rotation, reject(protocol.ActivationFailed, err))
	}
	location, err := v.Packages.Link(ctx, a.Device, c.ID)
	if err != nil {
		return protocol.GetAccepted{}, v.giveUp(ctx, opened.Rotation, reject(protocol.LinkFailed, err))
	}
	r, err := v.Journal.Advance(ctx, vended(opened.Rotation, v.Now()))
	if err != nil {
		return protocol.GetAccepted{}, v.giveUp(ctx, opened.Rotation, lost(err))
	}
	return acceptedPackage(r, location), nil
}

// isReplaced reports whether an operator has put another package in the place
// of the open rotation's, which counts as another key.
func (v *Vendor) isReplaced(ctx context.Context, a admission, r rotation.Rotation) bool {
	p, err := v.Packages.Find(ctx, a.Device)
	return err == nil && !p.Spent && p.Certificate != r.Certificate
}

// findPackage returns the certificate of the package that waits for the
// device, if it is one that may be activated for it.
func (v *Vendor) findPackage(ctx context.Context, a admission) (certificate.Certificate, error) {
	p, err := v.Packages.Find(ctx, a.Device)
	switch {
	case errors.Is(err, ErrNoPackage):
		return certificate.Certificate{}, reject(protocol.NoPackage, err)
	case errors.Is(err, ErrNoCertificateID):
		return certificate.Certificate{}, reject(protocol.NoCertificateID, err)
	case err != nil:
		return certificate.Certificate{}, later(0, err)
	case p.Spent:
		return certificate.Certificate{}, explain(protocol.NoPackage, "the package was used, create a new one")
	}
	c := a.holding(p.Certificate)
	switch {
	case c == nil:
		return certificate.Certificate{}, explain(protocol.NoPackage, "the package's certificate is not this device's")
	case !v.Now().Before(c.NotAfter):
		return certificate.Certificate{}, explain(protocol.NoPackage, "the package's certificate has expired")
	case c.Standing != certificate.Inactive && c.Standing != certificate.Active:
		return certificate.Certificate{}, explain(protocol.NoPackage, "the package's certificate was withdrawn")
	}
	return *c, v.mayVendPackage(a, c.ID)
}

// mayVendPackage treats a package as its key: what gave way to another
// rotation does not come back, and what was used is used.
func (v *Vendor) mayVendPackage(a admission, id certificate.ID) error {
	r := a.history.Of(id)
	switch {
	case r == nil, r.State == rotation.Abandoned, r.State.Open(), r.State == rotation.Stale:
		return nil
	case v.justSuperseded(*r):
		return later(supersededQuiet, nil)
	}
	return explain(protocol.NoPackage, "the package was superseded or used, create a new one")
}

// linkAgain answers with a new link to the open rotation's package.
func (v *Vendor) linkAgain(ctx context.Context, a admission, r rotation.Rotation) (protocol.GetAccepted, error) {
	if held, _ := certificate.Find(a.held, r.Certificate); held.Standing != certificate.Active {
		return protocol.GetAccepted{}, explain(protocol.NoPackage, "the package's certificate was withdrawn")
	}
	location, err := v.Packages.Link(ctx, a.Device, r.Certificate)
	if err != nil {
		return protocol.GetAccepted{}, reject(protocol.LinkFailed, err)
	}
	if err := v.askedAgain(ctx, a, r); err != nil {
		return protocol.GetAccepted{}, err
	}
	return acceptedPackage(r, location), nil
}

func acceptedPackage(r rotation.Rotation, location string) protocol.GetAccepted {
	return protocol.GetAccepted{
		DeviceID: string(r.Device), Action: protocol.Get,
		CertificateID: string(r.Certificate), Location: location,
	}
}
