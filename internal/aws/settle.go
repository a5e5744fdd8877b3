package aws

import (
	"context"
	"errors"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/service/iot/types"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

const settlePage = 100

// Settle brings to an end what a crash or an outage has cut off between the
// store and AWS: each certificate that is marked, and that nobody is at work
// on, is made to stand at AWS as the store has it. It goes on with the next
// when one fails, and may run at any time.
func (i *Inventory) Settle(ctx context.Context) error {
	var errs []error
	var after certificate.ID
	for ctx.Err() == nil {
		page, err := i.marks.List(ctx, after, settlePage)
		if err != nil || len(page) == 0 {
			return errors.Join(append(errs, err)...)
		}
		for _, m := range page {
			after = m.Certificate
			errs = append(errs, i.settle(ctx, m))
		}
	}
	return errors.Join(append(errs, ctx.Err())...)
}

func (i *Inventory) settle(ctx context.Context, m store.Mark) error {
	if !i.enterWork(m.Certificate, true) {
		return nil
	}
	conform := i.conform
	if !m.Since.After(i.restored) {
		conform = i.heed
	}
	err := conform(ctx, m)
	if errors.Is(err, errAtWork) {
		return i.end(ctx, m.Certificate, false)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("settle certificate %s of device %s: %w", m.Certificate, m.Device, err),
			i.end(ctx, m.Certificate, false))
	}
	return i.end(ctx, m.Certificate, true)
}

// errAtWork says that a request is about to vend a certificate: what AWS was told
// of it holds.
var errAtWork = errors.New("a request is at work on it")

// conform makes a certificate stand at AWS as the store has it.
func (i *Inventory) conform(ctx context.Context, m store.Mark) error {
	at, err := i.rows.Place(ctx, m.Device, m.Certificate)
	switch {
	case err != nil:
		return err
	case at.AtWork:
		return errAtWork
	}
	if !at.Known || at.Begun || at.Holders == 0 && at.Standing == certificate.Active {
		if spared, err := i.isSpared(ctx, m.Certificate); spared || err != nil {
			return err
		}
	}
	switch {
	case !at.Known, at.Standing == certificate.Deleted:
		if err := i.mayBeTold(ctx, m.Device, m.Certificate); err != nil {
			return err
		}
		return i.remove(ctx, m.Certificate) // it never left the process, or is gone
	case at.Begun, at.Holders == 0 && at.Standing == certificate.Active:
		return unlessGone(i.setStatus(ctx, m.Certificate, types.CertificateStatusInactive))
	}
	if err := i.mayBeTold(ctx, m.Device, m.Certificate); err != nil {
		return err
	}
	if err := unlessGone(i.setStatus(ctx, m.Certificate, statusOf(at.Standing))); err != nil {
		return err
	}
	return i.conformHolders(ctx, m.Certificate)
}

// conformHolders attaches a certificate to the things that hold it, and
// detaches it from those that it was taken from.
func (i *Inventory) conformHolders(ctx context.Context, id certificate.ID) error {
	holders, err := i.rows.Holders(ctx, id)
	if err != nil {
		return err
	}
	for _, device := range holders {
		if err := unlessGone(i.attach(ctx, device, id)); err != nil {
			return err
		}
	}
	things, err := i.thingsOf(ctx, id)
	if err != nil {
		return err
	}
	for _, thing := range things {
		at, err := i.rows.Place(ctx, registry.DeviceID(thing), id)
		if err != nil {
			return err
		}
		if at.Was && !at.Held {
			if err := i.detach(ctx, thing, id); err != nil {
				return err
			}
		}
	}
	return nil
}

// Journal is the store's, where undoing a rotation brings back at AWS first
// what it had replaced.
type Journal struct {
	store.Journal
	inventory *Inventory
}

var _ rotation.Journal = Journal{}

// Advance implements rotation.Journal.
func (j Journal) Advance(ctx context.Context, c rotation.Change) (rotation.Rotation, error) {
	if !c.Undo {
		return j.Journal.Advance(ctx, c)
	}
	var ends []func(bool) error
	finish := func(done bool) error {
		var errs []error
		for _, end := range ends {
			errs = append(errs, end(done))
		}
		return errors.Join(errs...)
	}
	for _, id := range c.Rotation.Undone {
		end, err := j.inventory.begin(ctx, c.Rotation.Device, id)
		if err != nil {
			return c.Rotation, errors.Join(err, finish(false))
		}
		if err := j.inventory.bringBack(ctx, c.Rotation.Device, id); err != nil {
			// One that is REVOKED at AWS is not to become INACTIVE there.
			return c.Rotation, errors.Join(err, end(errors.Is(err, certificate.ErrRevoked)), finish(false))
		}
		ends = append(ends, end)
	}
	r, err := j.Journal.Advance(ctx, c)
	return r, errors.Join(err, finish(err == nil))
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
