package aws

import (
	"context"
	"errors"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/service/iot/types"

	"github.com/certvendor/certvendor/certificate"
)

// Revoker revokes certificates in the store, and at AWS, where REVOKED is for
// good.
type Revoker struct {
	certificate.Revoker
	inventory *Inventory
}

// Revoke implements certificate.Revoker. When it fails after the store has
// recorded it, it may be repeated; Settle does that too.
func (r Revoker) Revoke(ctx context.Context, what certificate.Revocation) error {
	i := r.inventory
	holders, err := i.rows.Holders(ctx, what.Certificate)
	if err != nil {
		return err
	}
	for _, device := range holders[:min(1, len(holders))] {
		if _, err := i.learnHolders(ctx, device, what.Certificate); err != nil {
			return err
		}
	}
	if err := r.readOthers(ctx, what.Certificate); err != nil {
		return err
	}
	marked, err := i.marks.Has(ctx, what.Certificate)
	if err != nil {
		return err
	}
	end, err := i.begin(ctx, "", what.Certificate)
	if err != nil {
		return err
	}
	if err := r.Revoker.Revoke(ctx, what); err != nil {
		_ = end(!marked) // what it was refused for comes first
		return err
	}
	if err := unlessGone(i.setStatus(ctx, what.Certificate, types.CertificateStatusRevoked)); err != nil {
		return errors.Join(fmt.Errorf("revoke certificate %s: it is recorded, and AWS is told later: %w", what.Certificate, err), end(false))
	}
	return end(true)
}

// readOthers asks AWS what has become of the other certificates of who holds one:
// somebody else may have made them INACTIVE, so that this is a device's last.
// What was seen lately AWS lets connect.
func (r Revoker) readOthers(ctx context.Context, id certificate.ID) error {
	i := r.inventory
	holders, err := i.rows.Holders(ctx, id)
	if err != nil {
		return err
	}
	for _, device := range holders {
		held, err := i.rows.Held(ctx, device)
		if err != nil {
			return err
		}
		for _, h := range held {
			if h.ID == id || h.Standing != certificate.Active || i.now().Sub(h.LastSeen).Abs() < justSeen {
				continue
			}
			if err := i.hear(ctx, h.ID); err != nil {
				return err
			}
		}
	}
	return nil
}
