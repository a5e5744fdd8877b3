package rotation

import (
	"context"
	"slices"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/registry"
)

// Revoking is what a person demands: that a certificate be dead, whatever the
// one rule says.
type Revoking struct {
	Certificate certificate.ID
	Reason      certificate.Reason
	Brick       []registry.DeviceID // may be left without a certificate that works
}

// Revoke is the only caller of Revoker.Revoke, and the one removal that the one
// rule does not decide: what decides is that a person has named the certificate
// and, for each device that it leaves without one that works, the device too.
// Neither a freeze nor a block nor the clock stops it. Returns a Refused, with
// nothing done, for a device that was not named.
func (c *Closer) Revoke(ctx context.Context, r Revoking) error {
	return c.Revoker.Revoke(ctx, certificate.Revocation{
		Certificate: r.Certificate, Reason: r.Reason,
		Allowed: func(device registry.DeviceID, held []certificate.Holding) error {
			if !c.Bricks(held, r.Certificate) || slices.Contains(r.Brick, device) {
				return nil
			}
			return refused("device %s may be left without a working certificate: `--brick %s` revokes it all the same", device, device)
		},
	})
}

// Bricks reports whether revoking certificates may leave their device without
// one that works, although it may have one now. All that is known of what a
// device has is the certificate on which it was seen last: it may have thrown
// away every other but its birth certificate. So it keeps one if it keeps one
// of these, and if nothing that is revoked may have taken its place there since.
func (c *Closer) Bricks(held []certificate.Holding, revoked ...certificate.ID) bool {
	for _, h := range held {
		if h.Kind == certificate.Birth && c.works(h) && !slices.Contains(revoked, h.ID) {
			return false
		}
	}
	latest, seen := c.kept(held, revoked)
	for _, h := range held {
		if slices.Contains(revoked, h.ID) && c.takes(h) && !(seen && isBehind(h, latest)) {
			return true
		}
	}
	return false
}

// takes reports whether the broker takes a certificate.
func (c *Closer) takes(h certificate.Holding) bool {
	return h.Standing == certificate.Active && c.clock.Now().Before(h.NotAfter.Add(c.terms("").Window))
}

// kept returns what the device was seen on last, or, if it was never seen, what
// it was given last; false if that is revoked or works no more.
func (c *Closer) kept(held []certificate.Holding, revoked []certificate.ID) (certificate.Holding, bool) {
	last, ok := certificate.Latest(held)
	if !ok {
		for _, h := range held {
			if h.IsGiven() && c.works(h) && !h.Attached.Before(last.Attached) {
				last, ok = h, true
			}
		}
	}
	return last, ok && c.works(last) && !slices.Contains(revoked, last.ID)
}

// works reports whether a certificate works without an exception being made.
func (c *Closer) works(h certificate.Holding) bool {
	return h.Standing == certificate.Active && c.clock.Now().Before(h.NotAfter)
}

// isBehind reports whether a device that was seen last on one certificate
// cannot have given it up for h: it had h before, or never used it although it
// could have. What was vended since may have overwritten the other at once.
func isBehind(h, latest certificate.Holding) bool {
	switch {
	case !h.LastSeen.IsZero(), h.Attached.Before(latest.Attached):
		return true
	}
	return h.IsGiven() && h.Attached.Before(latest.LastSeen)
}
