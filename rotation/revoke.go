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
			return refused("device %s would have no working certificate left: `--brick %s` revokes it all the same", device, device)
		},
	})
}

// Bricks reports whether revoking certificates would leave their device without
// one that works, although it has one now. What was vended and never seen in
// use does not count as one it has: its device may never have received it.
func (c *Closer) Bricks(held []certificate.Holding, revoked ...certificate.ID) bool {
	now := c.clock.Now()
	had, left := false, false
	for _, h := range held {
		if h.Standing != certificate.Active || !now.Before(h.NotAfter.Add(c.terms("").Window)) {
			continue
		}
		if slices.Contains(revoked, h.ID) {
			had = true
			continue
		}
		given := h.Kind != certificate.Rotated && h.Kind != certificate.Packaged
		left = left || (given || !h.LastSeen.IsZero()) && now.Before(h.NotAfter)
	}
	return had && !left
}
