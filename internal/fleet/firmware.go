package fleet

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/device"
)

// Firmware is a way to behave.
type Firmware string

// The kinds of firmware.
const (
	// Agent is package device: it keeps the old pair until the new one works.
	Agent Firmware = "agent"
	// CDF is firmware written for the CDF Certificate Vendor: one key slot,
	// overwritten when the new certificate arrives; one ack, never repeated,
	// never proven; a refused get is repeated with another key, whatever the
	// vendor says about when.
	CDF Firmware = "cdf"
	// EarlyAcker is CDF firmware that first acks over the old connection,
	// expects to be refused, and then does it properly. It fails if it is not.
	EarlyAcker Firmware = "early-acker"
	// Impersonator is an Agent that first tries to speak for Device.Victim. It
	// fails if it can.
	Impersonator Firmware = "impersonator"
)

func (d Device) validate(o Options) error {
	switch d.Firmware {
	case Agent, Impersonator:
		if o.Directory == "" {
			return fmt.Errorf("device %s: its firmware needs a directory", d.Name)
		}
		if d.Firmware == Impersonator && (d.Victim == "" || d.Victim == d.Name) {
			return fmt.Errorf("device %s: an impersonator needs another device as its victim", d.Name)
		}
	case CDF, EarlyAcker:
		if d.Flow == device.ByPackage {
			return fmt.Errorf("device %s: firmware %s knows no packages", d.Name, d.Firmware)
		}
	default:
		return fmt.Errorf("device %s: unknown firmware %q", d.Name, d.Firmware)
	}
	if d.Plan == nil {
		return nil
	}
	if d.Firmware != Agent && d.Firmware != CDF {
		return fmt.Errorf("device %s: firmware %s takes no plan", d.Name, d.Firmware)
	}
	if o.Operator == nil || o.Directory == "" {
		return fmt.Errorf("device %s: a device with a plan needs an operator and a directory", d.Name)
	}
	return nil
}

// play lets one device run until it has rotated, failed or ctx has ended.
func (o Options) play(ctx context.Context, d Device) Result {
	r := Result{Device: d.Name, Firmware: d.Firmware}
	first, err := tls.X509KeyPair(d.Certificate, d.Key)
	if err != nil {
		r.Err = fmt.Errorf("device %s: read its first certificate: %w", d.Name, err)
		return r
	}
	r.old, r.current = first, first
	if err := o.behave(ctx, d, &r); err != nil {
		r.Err = fmt.Errorf("device %s: %w", d.Name, err)
	}
	r.OldID, r.NewID = idOf(r.old), idOf(r.current)
	r.Rotated = r.OldID != r.NewID
	if r.Err == nil && !r.Rotated {
		r.Err = fmt.Errorf("device %s: %w", d.Name, errUnchanged)
	}
	return r
}

var errUnchanged = errors.New("ended with the certificate it began with")

func (o Options) behave(ctx context.Context, d Device, r *Result) error {
	if d.Plan != nil {
		return o.live(ctx, d, r)
	}
	switch d.Firmware {
	case CDF, EarlyAcker:
		return o.playCDF(ctx, d, r)
	case Impersonator:
		if err := o.impersonate(ctx, d, r); err != nil {
			return err
		}
	}
	return o.playAgent(ctx, d, r)
}

func idOf(c tls.Certificate) certificate.ID { return certificate.IDOf(c.Certificate[0]) }
