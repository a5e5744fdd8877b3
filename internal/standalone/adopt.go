package standalone

import (
	"context"
	"crypto/x509"
	"errors"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/registry"
)

// adopt takes in a certificate that this CA issued for the device, and of which
// the store was restored to before the row that gave it to the device: the
// device may have nothing else. What is on record as retired stays so.
//
// The files of the audit run some moments behind the store, so a restore never
// knows that it has the last row.
func (w *World) adopt(ctx context.Context, device registry.DeviceID, leaf *x509.Certificate) error {
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != certificate.URNPrefix+string(device) {
		return nil
	}
	issuer := w.ca.issuedBy(leaf)
	if issuer == nil {
		return nil
	}
	c, err := certificate.New(leaf.Raw, issuer.Chain)
	if err != nil {
		return err
	}
	adopted, err := w.store.Certificates().Adopt(ctx, device, c, w.restored)
	if errors.Is(err, registry.ErrUnknown) {
		return nil // the receiver says so
	}
	if adopted {
		w.config.Log.Warn().Str("device", string(device)).Str("certificate", string(c.ID)).
			Msg("adopted a certificate that was vended after the last row that the store was restored up to")
	}
	return err
}
