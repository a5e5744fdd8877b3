package aws

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
	"github.com/certvendor/certvendor/vending"
)

const (
	// lookAgain is how long it takes until a device is looked for again, of
	// whom nothing is to be taken away yet.
	lookAgain = 10 * time.Minute
	// justHeard is how long a device that spoke over a certificate need not be
	// looked for: an ack is followed by the removal that it brings about.
	justHeard = 10 * time.Second
	// presenceEvery is the pause between two looks at the devices that are to
	// be seen on a new certificate, presenceMost how many are looked for at a
	// time, and presencePage how many are listed.
	presenceEvery = time.Minute
	presenceMost  = 600
	presencePage  = 200
)

// look takes into the store what the table of presence knows of a device, and
// returns that. What is no certificate of its own is let go.
func (i *Inventory) look(ctx context.Context, device registry.DeviceID) ([]vending.Caller, error) {
	callers, more, err := i.presence.Of(ctx, device)
	if err != nil {
		return nil, err
	}
	own := false
	for _, c := range callers {
		err := i.Seen(ctx, certificate.Sighting{Device: c.Device, Certificate: c.Certificate, At: c.At, Evidence: c.Evidence})
		if err != nil && !errors.Is(err, certificate.ErrNotHeld) && !errors.Is(err, certificate.ErrNotActive) {
			return nil, err
		}
		own = own || !errors.Is(err, certificate.ErrNotHeld)
	}
	i.looked.put(device, struct{}{})
	if more && !own {
		return nil, rotation.Kept{Why: fmt.Sprintf("the newest %d connections under the device's name are with certificates of others: "+
			"nobody knows which of its own it was last on", newestRead)}
	}
	return callers, nil
}

// isHeard returns a rotation.Kept if the table of presence does not have the
// connection over which a device was seen last. It connects under another name then,
// with a certificate that it may share: that it has gone back would not be heard
// either.
func (i *Inventory) isHeard(ctx context.Context, device registry.DeviceID, callers []vending.Caller) error {
	held, err := i.rows.Held(ctx, device)
	if err != nil {
		return err
	}
	latest, seen := certificate.Latest(held)
	there := slices.ContainsFunc(callers, func(c vending.Caller) bool { return c.Certificate == latest.ID })
	if there || !seen || latest.Evidence == certificate.Proof {
		return nil
	}
	return rotation.Kept{Why: fmt.Sprintf("the table of presence does not have the device's connection with certificate %s: "+
		"its client id must begin with its name, or the certificate be attached to it alone", latest.ID)}
}

// lookBefore looks for the device once more before something is taken from it:
// it may have gone back, or come, and only what the store has recorded counts.
// Where nothing would be taken away it looks now and then.
func (i *Inventory) lookBefore(ctx context.Context, r certificate.Removal) error {
	if i.presence == nil {
		return nil
	}
	held, err := i.rows.Held(ctx, r.Device)
	if err != nil {
		return err
	}
	latest, seen := certificate.Latest(held)
	if seen && latest.Evidence == certificate.Connection && i.now().Sub(latest.LastSeen).Abs() < justHeard {
		return nil
	}
	keeps := r.Allowed(held)
	if _, lately := i.looked.get(r.Device); lately && keeps != nil {
		return nil
	}
	callers, err := i.look(ctx, r.Device)
	switch {
	case err != nil && keeps != nil:
		return keeps
	case errors.Is(err, ErrNoTable):
		return rotation.Kept{Why: err.Error()}
	case err != nil || keeps != nil:
		return err
	}
	return i.isHeard(ctx, r.Device, callers)
}

// watchPresence looks for devices that were vended a certificate and have not
// acked it: one that connects with it has it. It ends with ctx.
func (w *World) watchPresence(ctx context.Context) {
	tick := time.NewTicker(presenceEvery)
	defer tick.Stop()
	var after registry.DeviceID
	told := false // that there is no table
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		var err error
		after, err = w.lookAround(ctx, after)
		missing := errors.Is(err, ErrNoTable)
		if err != nil && ctx.Err() == nil && !(missing && told) {
			w.config.Log.Warn().Err(err).Msg("who has connected is left for later")
		}
		told = missing
	}
}

// lookAround looks for some devices, behind the one that was looked for last, and
// returns the last of them, or none when it has been round.
func (w *World) lookAround(ctx context.Context, after registry.DeviceID) (registry.DeviceID, error) {
	for n := 0; n < presenceMost; {
		page, err := w.store.Journal().Rotations(ctx, rotation.Query{Open: true, After: after, Limit: presencePage})
		if err != nil {
			return after, err
		}
		if len(page) == 0 {
			return "", nil
		}
		for _, r := range page {
			after = r.Device
			if _, lately := w.inventory.looked.get(r.Device); lately || !r.State.Ready() || r.IsProven() {
				continue
			}
			if err := w.lookFor(ctx, r); err != nil {
				return after, err
			}
			n++
		}
	}
	return after, nil
}

// lookFor looks for the device of a rotation, and warns if AWS IoT has refused it
// with its new certificate: it will come back with the old one for as long as it
// has that.
func (w *World) lookFor(ctx context.Context, r rotation.Rotation) error {
	if _, err := w.inventory.look(ctx, r.Device); err != nil {
		return err
	}
	refused, err := w.inventory.presence.Refused(ctx, r.Device, r.Certificate)
	if err != nil || refused.Before(r.VendedAt) {
		return err
	}
	held, err := w.inventory.rows.Held(ctx, r.Device)
	if err != nil {
		return err
	}
	if own, _ := certificate.Find(held, r.Certificate); own.LastSeen.Before(refused) {
		w.config.Log.Warn().Str("device", string(r.Device)).Str("certificate", string(r.Certificate)).Time("at", refused).
			Msg("AWS IoT does not let the device connect with its new certificate: does a policy of it allow that?")
	}
	return nil
}
