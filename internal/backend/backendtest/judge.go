package backendtest

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

// watched is the world's inventory. Every removal that it makes is judged.
type watched struct {
	certificate.Inventory
	rig *Rig
}

func (w watched) Retire(ctx context.Context, r certificate.Removal) error {
	var before []certificate.Holding
	allowed := r.Allowed
	r.Allowed = func(held []certificate.Holding) error {
		before = slices.Clone(held)
		return allowed(held)
	}
	err := w.Inventory.Retire(ctx, r)
	if err == nil {
		if why := w.rig.judge(r, before); why != "" {
			w.rig.t.Errorf("%s: certificate %.8s was taken away by %s: %s", r.Device, r.Certificate, r.Mode, why)
		}
	}
	return err
}

// judge restates the one rule by what the device itself has done, of which the
// program knows only what it heard: it returns why a certificate should not
// have been taken away, or nothing.
func (r *Rig) judge(removal certificate.Removal, held []certificate.Holding) string {
	now, d := r.clock.Now(), r.device(removal.Device)
	target, ok := certificate.Find(held, removal.Certificate)
	order := r.order(d)
	switch {
	case !ok, target.Standing == certificate.Revoked:
		return "" // it was gone already
	case target.Kind == certificate.Birth:
		return "birth certificates are never retired"
	case target.Kind == certificate.Packaged && order[target.ID] == 0:
		return "it waits in a package"
	case !now.Before(target.NotAfter.Add(r.Terms().Window)):
		if last, _ := d.lastSeen(); last == target.ID {
			return "it has expired, but the device was last on it, and its connection may be open still"
		}
		return ""
	}
	why := r.notReplaced(d, target, held)
	if why != "" && r.provenFor(d, target.ID, removal.Mode, now) {
		return ""
	}
	return why
}

// notReplaced says what is missing of this: the device last connected, or
// asked, with a usable successor, and not long ago.
func (r *Rig) notReplaced(d *Device, target certificate.Holding, held []certificate.Holding) string {
	now, order := r.clock.Now(), r.order(d)
	last, at := d.lastSeen()
	successor, usable := certificate.Find(held, last)
	switch {
	case last == "":
		return "the device was never seen"
	case last == target.ID:
		return fmt.Sprintf("the device was last seen on it, %s ago", now.Sub(at))
	case order[last] <= order[target.ID]:
		return "the device was last seen on one that does not succeed it"
	case !usable || successor.Standing != certificate.Active || !now.Before(successor.NotAfter):
		return "its successor cannot be used"
	case now.Sub(at) > r.Terms().Recent && !successor.Connected:
		return fmt.Sprintf("its successor was last seen %s ago", now.Sub(at))
	}
	return ""
}

// provenFor is the exception: what a proof replaced may be deactivated a day
// after it, if it was not seen since.
func (r *Rig) provenFor(d *Device, target certificate.ID, mode certificate.Mode, now time.Time) bool {
	order, wait := r.order(d), max(r.Terms().Grace, 24*time.Hour)
	for id, at := range d.proofs {
		h, ok := certificate.Find(d.held(), id)
		if ok && h.Standing == certificate.Active && order[id] > order[target] && mode == certificate.Deactivate &&
			now.Sub(at) >= wait && !d.seen[target].After(at) {
			return true
		}
	}
	return false
}

// order returns which of the device's rotations vended each certificate last.
// What came some other way is older than all.
func (r *Rig) order(d *Device) map[certificate.ID]int64 {
	all, err := r.world.Backend.Rotations.Rotations(r.ctx, rotation.Query{Device: d.ID})
	if err != nil {
		r.t.Errorf("list rotations: %v", err)
	}
	order := map[certificate.ID]int64{}
	for _, rotation := range all {
		order[rotation.Certificate] = max(order[rotation.Certificate], rotation.Number)
	}
	return order
}

func (r *Rig) device(id registry.DeviceID) *Device {
	for _, d := range r.devices {
		if d.ID == id {
			return d
		}
	}
	r.t.Errorf("a certificate of %s was taken away, which no scenario knows", id)
	return r.stranger(string(id))
}

// lastSeen returns the certificate that the device used last, by its own
// account.
func (d *Device) lastSeen() (last certificate.ID, at time.Time) {
	for id, t := range d.seen {
		if t.After(at) {
			last, at = id, t
		}
	}
	return last, at
}
