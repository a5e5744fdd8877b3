package aws

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

// Journal is the store's, where undoing a rotation brings back at AWS first
// what it had replaced.
type Journal struct {
	store.Journal
	inventory *Inventory
}

var _ rotation.Journal = Journal{}

// Advance implements rotation.Journal. What somebody has REVOKED or deleted at AWS
// is not to come back, and keeps nothing else from it: see comeback.
func (j Journal) Advance(ctx context.Context, c rotation.Change) (rotation.Rotation, error) {
	if !c.Undo {
		return j.Journal.Advance(ctx, c)
	}
	b, err := j.inventory.bringAllBack(ctx, c.Rotation)
	if err == nil && len(b.back) == 0 {
		err = b.nothing(c.Rotation.Device)
	}
	if err != nil {
		return c.Rotation, errors.Join(err, b.finish(false))
	}
	c.Rotation.Undone = b.back
	r, err := j.Journal.Advance(ctx, c)
	return r, errors.Join(err, b.finish(err == nil))
}

// comeback is what undoing a rotation has done at AWS, of which the store is about
// to hear. Each certificate that it brings back is marked.
type comeback struct {
	back []certificate.ID
	lost []string // what AWS has made of the others
	ends []func(done bool) error
}

// finish ends the marks. Those that are not done are Settle's, which makes AWS
// again what the store says.
func (b *comeback) finish(done bool) error {
	var errs []error
	for _, end := range b.ends {
		errs = append(errs, end(done))
	}
	return errors.Join(errs...)
}

func (b *comeback) nothing(device registry.DeviceID) error {
	return rotation.Refused{Why: fmt.Sprintf("device %s: nothing can be brought back (%s): `certvendor device add %s --out DIR --another` gives it one more",
		device, strings.Join(b.lost, "; "), device)}
}

// bringAllBack brings back at AWS what a rotation had replaced. With an error some
// of it may be, and is to be finished all the same.
func (i *Inventory) bringAllBack(ctx context.Context, r rotation.Rotation) (*comeback, error) {
	b := &comeback{}
	for _, id := range r.Undone {
		end, err := i.begin(ctx, r.Device, id)
		if err != nil {
			return b, err
		}
		why := ""
		switch err := i.bringBack(ctx, r.Device, id); {
		case errors.Is(err, certificate.ErrRevoked):
			why = "is REVOKED at AWS IoT"
		case isNotFound(err) && !errors.Is(err, certificate.ErrNotAttached):
			why = "was deleted at AWS IoT"
		case err != nil:
			return b, errors.Join(err, end(false))
		default:
			b.back, b.ends = append(b.back, id), append(b.ends, end)
			continue
		}
		b.lost = append(b.lost, fmt.Sprintf("%.12s %s", id, why))
		if err := end(true); err != nil { // it is not to become INACTIVE there
			return b, err
		}
		if err := i.hear(ctx, id); err != nil {
			i.log.Warn().Str("device", string(r.Device)).Err(err).Msg("a certificate that does not come back stays in the store as it was")
		}
	}
	return b, nil
}

// bringBack makes a certificate at AWS what undoing is about to make it in the
// store.
func (i *Inventory) bringBack(ctx context.Context, device registry.DeviceID, id certificate.ID) error {
	at, err := i.rows.Place(ctx, device, id)
	switch {
	case err != nil:
		return err
	case at.Standing != certificate.Active && at.Standing != certificate.Inactive,
		at.Standing == certificate.Inactive && !at.Held && at.Holders > 0, !at.Was:
		return nil // the store will not bring it back
	}
	if err := i.activate(ctx, id); err != nil {
		return refuse(nil, err)
	}
	if !at.Held {
		return i.attach(ctx, device, id)
	}
	return nil
}
