package vending

import (
	"context"
	"errors"
	"slices"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

// admission is what both answers begin with: a device that may speak, and all
// that is known of it.
type admission struct {
	Caller
	device  registry.Device
	profile Profile
	held    []certificate.Holding
	history rotation.History
}

// admit lets a request in: its device is known and not blocked, and its
// caller is bound to the device.
func (v *Vendor) admit(ctx context.Context, caller Caller) (admission, error) {
	a := admission{Caller: caller, profile: v.config.Profiles[0]}
	var err error
	if a.device, err = v.registered(ctx, caller.Device); err != nil {
		return a, err
	}
	if err := notBlocked(a.device); err != nil {
		return a, err
	}
	if err := v.look(ctx, &a); err != nil {
		return a, err
	}
	return a, v.bind(a)
}

// registered refuses a device that the registry does not know.
func (v *Vendor) registered(ctx context.Context, id registry.DeviceID) (registry.Device, error) {
	device, err := v.Registry.Device(ctx, id)
	switch {
	case errors.Is(err, registry.ErrUnknown):
		return device, reject(protocol.NotAllowed, err)
	case err != nil:
		return device, reject(protocol.RegistryFailed, err)
	}
	return device, nil
}

func notBlocked(device registry.Device) error {
	if device.Blocked {
		return explain(protocol.NotAllowed, "blocked")
	}
	return nil
}

// look reads the device's rotations and certificates.
func (v *Vendor) look(ctx context.Context, a *admission) (err error) {
	if a.history, err = v.Journal.Find(ctx, a.Device); err != nil {
		return later(0, err)
	}
	if a.held, err = v.Inventory.Held(ctx, a.Device); err != nil {
		return later(0, err)
	}
	return nil
}

// bind refuses a certificate that is not this device's. What the journal
// vended to it is, and so is what the inventory says it holds. Expiry is not
// asked again: a connection outlives its certificate and may still rotate.
func (v *Vendor) bind(a admission) error {
	if a.Certificate == "" {
		return nil // unknown; nothing will be removed on its word
	}
	holding, held := certificate.Find(a.held, a.Certificate)
	attached := held && holding.Standing == certificate.Active
	byName := a.CommonName == string(a.Device)
	switch {
	case held && !attached:
		return explain(protocol.NotBound, "the certificate is not active")
	case attached && v.config.Binding != ByCommonName:
		return nil
	case v.vendedTo(a):
		return nil
	case byName && v.config.Binding != Attached:
		return nil
	}
	return explain(protocol.NotBound, "the certificate is not one of this device's")
}

// vendedTo reports whether the caller's certificate is the open rotation's or
// the last finished one's: a world may know that before its inventory shows it.
func (v *Vendor) vendedTo(a admission) bool {
	return slices.ContainsFunc([]*rotation.Rotation{a.history.Current(), a.history.LastFinished()},
		func(r *rotation.Rotation) bool { return r != nil && r.Certificate == a.Certificate })
}

// Heard records that the device speaks over a certificate now, whatever it
// says and whatever it is answered. It comes before Get and Ack. An error is an
// *Error, and the answer.
func (v *Vendor) Heard(ctx context.Context, caller Caller) error {
	if caller.Certificate == "" {
		return nil
	}
	err := v.seen(ctx, caller)
	switch {
	case errors.Is(err, certificate.ErrNotActive):
		return reject(protocol.NotBound, err)
	case errors.Is(err, certificate.ErrNotHeld):
		return nil // admitted by its common name
	case err != nil:
		return later(0, err)
	}
	return nil
}

// seen records that a device uses a certificate: at this moment, or when its
// bus says that it did.
func (v *Vendor) seen(ctx context.Context, c Caller) error {
	return v.Inventory.Seen(ctx, v.sighting(c))
}

func (v *Vendor) sighting(c Caller) certificate.Sighting {
	s := certificate.Sighting{Device: c.Device, Certificate: c.Certificate, At: c.At, Evidence: c.Evidence}
	if s.At.IsZero() {
		s.At, s.Live = v.Now(), true
	}
	return s
}

// named checks the previous certificate that a device names: it must be one
// that it holds.
func (a admission) named(id string) (certificate.ID, error) {
	if id == "" {
		return "", nil
	}
	parsed, err := certificate.ParseID(id)
	if err != nil {
		return "", explain(protocol.PreviousNotHeld, err.Error())
	}
	if _, ok := certificate.Find(a.held, parsed); !ok {
		return "", explain(protocol.PreviousNotHeld, "the device does not hold the certificate it names")
	}
	return parsed, nil
}

// holding returns what the inventory says of one of the device's certificates,
// or nil.
func (a admission) holding(id certificate.ID) *certificate.Certificate {
	if h, ok := certificate.Find(a.held, id); ok {
		return &h.Certificate
	}
	return nil
}

// Present answers a connection: the device must be known and the certificate
// one that it holds and that is active, or the connection is refused. A rotation whose
// certificate is seen this way is proven, and nothing else is done.
func (v *Vendor) Present(ctx context.Context, caller Caller) error {
	device, err := v.Registry.Device(ctx, caller.Device)
	if err != nil {
		return err
	}
	if !device.Blocked && v.show(ctx, caller) {
		return nil
	}
	if err := v.seen(ctx, caller); err != nil {
		return err
	}
	history, err := v.Journal.Find(ctx, caller.Device)
	if err != nil || device.Blocked {
		return nil // the sighting is durable: the sweep will prove it
	}
	if r := history.Current(); shownBy(caller, r) {
		v.prove(ctx, caller, *r)
	}
	return nil
}

// show records a connection that proves a rotation, with the proof. False where
// it proves none, and where that failed: nothing is recorded then, and the sighting
// alone says whether the device is let in.
func (v *Vendor) show(ctx context.Context, caller Caller) bool {
	history, err := v.Journal.Find(ctx, caller.Device)
	if err != nil {
		return false
	}
	r := history.Current()
	return shownBy(caller, r) && v.Closer.Show(ctx, *r, v.sighting(caller), v.Now()) == nil
}

// admits is Present without the proof: the sighting is recorded, and nothing is
// made of it.
func (v *Vendor) admits(ctx context.Context, caller Caller) error {
	if _, err := v.Registry.Device(ctx, caller.Device); err != nil {
		return err
	}
	return v.seen(ctx, caller)
}

// shownBy reports whether the caller, speaking over the rotation's certificate,
// proves the rotation by it.
func shownBy(caller Caller, r *rotation.Rotation) bool {
	if r == nil || caller.Certificate == "" || r.Certificate != caller.Certificate {
		return false
	}
	if !caller.At.IsZero() && !r.ShownBy(caller.At) {
		return false // it is told late of what was before
	}
	return r.State == rotation.Vended || r.State == rotation.Acknowledged || r.State == rotation.Stale
}

// prove writes that the caller speaks over the rotation's certificate. If that
// fails the sighting is still on record, and the sweep will write it.
func (v *Vendor) prove(ctx context.Context, caller Caller, r rotation.Rotation) {
	_, _ = v.Closer.Prove(ctx, r, caller.Evidence, v.Now())
}
