package aws

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

// speaks notes that a device spoke over a certificate that is not ACTIVE here: AWS
// lets it, because it was not told yet, and is not to be told then, by whichever
// process.
func (i *Inventory) speaks(ctx context.Context, s certificate.Sighting) error {
	marked, err := i.marks.Has(ctx, s.Certificate)
	if err != nil || !marked {
		return err
	}
	at := s.At
	if at.IsZero() {
		at = i.now()
	}
	return i.marks.Speak(ctx, s.Certificate, at)
}

// wentBack returns a rotation.Kept if a device works with a certificate whose
// removal is recorded and of which AWS has not heard: between the two it may have
// lost what it was proven to have. The one rule decided at another moment.
func (i *Inventory) wentBack(ctx context.Context, device registry.DeviceID, id certificate.ID) error {
	back, err := i.marks.Spoken(ctx, id)
	if err != nil {
		return err
	}
	held, err := i.rows.Held(ctx, device)
	if err != nil {
		return err
	}
	var other time.Time // when it was seen on another one
	see := func(on certificate.ID, at time.Time) {
		switch _, own := certificate.Find(held, on); {
		case on == id && at.After(back):
			back = at
		case on != id && own && at.After(other):
			other = at
		}
	}
	for _, h := range held {
		// What was seen at a time that has not come yet was so by a clock that ran
		// ahead: nobody knows whether it was later.
		if h.ID != id && !h.LastSeen.After(i.now()) {
			see(h.ID, h.LastSeen)
		}
	}
	if i.presence != nil {
		callers, _, err := i.presence.Of(ctx, device)
		if err != nil && !errors.Is(err, ErrNoTable) {
			return err
		}
		for _, c := range callers {
			see(c.Certificate, c.At)
		}
	}
	if back.IsZero() || other.After(back) {
		return nil
	}
	return rotation.Kept{
		Why: fmt.Sprintf("the device was last seen on certificate %s, at %s, which is retired and of which AWS IoT was not told: `rotation undo %s`, if it has lost its new one",
			id, back.UTC().Format(time.RFC3339), device),
		Reverted: true,
	}
}

// formerHoldersCame returns a rotation.Kept for a certificate that is about to be made
// INACTIVE, if a device works with it from which it was taken while others held it
// too: AWS has it detached from that thing, which need not keep it from connecting.
func (i *Inventory) formerHoldersCame(ctx context.Context, r certificate.Removal) error {
	at, err := i.rows.Place(ctx, r.Device, r.Certificate)
	if err != nil || i.presence == nil || at.Standing != certificate.Active || at.Holders != 1 {
		return err
	}
	former, err := i.rows.FormerHolders(ctx, r.Certificate)
	if err != nil {
		return err
	}
	for _, device := range former {
		err := i.wentBack(ctx, device, r.Certificate)
		if errors.As(err, &rotation.Kept{}) {
			return rotation.Kept{Why: fmt.Sprintf("device %s, from which it was taken, has connected with it since: `rotation undo %s`, if it has lost its own",
				device, device)}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// mayBeTold returns a rotation.Kept for a removal that is recorded already, and that
// AWS may not have heard of, if somebody works with the certificate since: its device,
// or another thing that somebody has given it to. A person who revokes is not asked.
func (i *Inventory) mayBeTold(ctx context.Context, device registry.DeviceID, id certificate.ID) error {
	at, err := i.rows.Place(ctx, device, id)
	switch {
	case err != nil:
		return err
	case !at.Was, at.Begun, at.Standing == certificate.Revoked, at.Held && at.Standing == certificate.Active:
		return nil
	}
	if err := i.wentBack(ctx, device, id); err != nil || at.Standing == certificate.Active {
		return err // the others that hold it keep it
	}
	return i.wasGivenAway(ctx, id)
}

// wasGivenAway returns a rotation.Kept if AWS has a certificate attached to a thing
// that never had it here. One from which it was taken here is about to be detached.
func (i *Inventory) wasGivenAway(ctx context.Context, id certificate.ID) error {
	things, err := i.thingsOf(ctx, id)
	for _, thing := range things {
		device, unnamed := registry.ParseDeviceID(thing)
		if unnamed != nil {
			continue
		}
		at, err := i.rows.Place(ctx, device, id)
		if err != nil {
			return err
		}
		if !at.Was {
			return keptFor(thing)
		}
	}
	return err
}

// keptFor says that a certificate is another thing's too.
func keptFor(thing string) rotation.Kept {
	return rotation.Kept{Why: fmt.Sprintf("AWS IoT has it attached to thing %s too, which does not hold it here: detach it there when that thing works without it",
		thing)}
}
