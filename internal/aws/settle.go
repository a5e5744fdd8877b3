package aws

import (
	"context"
	"errors"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/service/iot/types"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/registry"
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
		return i.deactivate(ctx, m.Certificate)
	}
	if err := i.mayBeTold(ctx, m.Device, m.Certificate); err != nil {
		return err
	}
	if err := i.stand(ctx, m.Certificate, at.Standing); err != nil {
		return err
	}
	return i.conformHolders(ctx, m.Certificate)
}

// stand makes a certificate stand at AWS as it does here, unless it is gone there.
// One that somebody has made REVOKED there stays so.
func (i *Inventory) stand(ctx context.Context, id certificate.ID, standing certificate.Standing) error {
	switch standing {
	case certificate.Active:
		if err := i.activate(ctx, id); !errors.Is(err, certificate.ErrRevoked) {
			return unlessGone(err)
		}
		return nil
	case certificate.Revoked:
		return unlessGone(i.setStatus(ctx, id, types.CertificateStatusRevoked))
	}
	return i.deactivate(ctx, id)
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
