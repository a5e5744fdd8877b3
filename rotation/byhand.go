package rotation

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/registry"
)

// Refused is why what a person asked for was not done, and what to do instead.
type Refused struct{ Why string }

func (r Refused) Error() string { return r.Why }

func refused(format string, args ...any) error { return Refused{fmt.Sprintf(format, args...)} }

// Abandon ends a device's open rotation, or its stale one, because a person
// says so. Nothing is taken away: its certificate stays as it is until a later
// rotation is proven. The device leaves the rotation group, and loses a job
// that it has not begun. Returns a Refused where no rotation is open, where the
// open one is proven, or where somebody is at work on it. Where an error comes
// with an abandoned rotation, leaving the group is left to the sweep.
func (c *Closer) Abandon(ctx context.Context, id registry.DeviceID) (Rotation, error) {
	h, err := c.Journal.Find(ctx, id)
	if err != nil {
		return Rotation{}, fmt.Errorf("abandon the rotation of %s: %w", id, err)
	}
	held, err := c.Inventory.Held(ctx, id)
	if err != nil {
		return Rotation{}, fmt.Errorf("abandon the rotation of %s: %w", id, err)
	}
	now := c.clock.Now()
	if err := h.mayAbandon(id, held, now); err != nil {
		return Rotation{}, err
	}
	r := *h.Current()
	r.State, r.ClosedAt, r.Lease, r.Behind = Abandoned, now, Lease{}, []Step{LeaveGroup}
	if r, err = c.Journal.Advance(ctx, Change{Rotation: r}); err != nil {
		return Rotation{}, changedMeanwhile(id, err)
	}
	return r, c.Settle(ctx, r)
}

// mayAbandon refuses to abandon what is not there or what the device uses.
func (h History) mayAbandon(id registry.DeviceID, held []certificate.Holding, now time.Time) error {
	r := h.Current()
	if r == nil {
		return refused("device %s: no rotation is open, so there is none to abandon: `certvendor rotation show %s` shows what there was", id, id)
	}
	own, _ := certificate.Find(held, r.Certificate)
	switch {
	case r.State == Proven || r.ShownBy(own.LastSeen):
		return refused("device %s: rotation %d is proven, for the device uses its certificate: let it finish (its ack, or "+
			"`certvendor rotation sweep`); after that `certvendor rotation undo %s` brings back what it replaced", id, r.Number, id)
	case now.Before(r.Lease.Until):
		return refused("device %s: a request is at work on rotation %d: try again in a minute", id, r.Number)
	}
	return nil
}

func changedMeanwhile(id registry.DeviceID, err error) error {
	if errors.Is(err, ErrChanged) {
		return refused("device %s: its rotation was changed at this moment: look at `certvendor rotation show %s`, and try again", id, id)
	}
	return err
}

// WhyUndone is what stands in a retirement that was closed by an undo.
const WhyUndone = "undone by a person"

// Undone is what became of the certificates that a rotation had replaced.
type Undone struct {
	Rotation Rotation
	Already  bool             // it was undone before, and nothing was done now
	Back     []certificate.ID // ACTIVE, and the device's
	Lost     []Lost           // not to be brought back
}

// Lost is a certificate that an undo cannot bring back.
type Lost struct {
	Certificate certificate.ID
	Why         string
}

// Undo brings back what the device's last finished rotation replaced: what was
// deactivated is ACTIVE again, and what was to be taken away is not, all in one
// commit. The rotation's own certificate stays ACTIVE too. What was deleted or
// revoked stays so. The retirements are closed for good: only a rotation that
// is proven after this replaces the certificates again, and only by the one
// rule. Returns a Refused where there is nothing to undo.
func (c *Closer) Undo(ctx context.Context, id registry.DeviceID) (Undone, error) {
	h, err := c.Journal.Find(ctx, id)
	if err != nil {
		return Undone{}, fmt.Errorf("undo the rotation of %s: %w", id, err)
	}
	r, err := h.toUndo(id)
	if err != nil || !r.UndoneAt.IsZero() {
		return Undone{Rotation: r, Already: true}, err
	}
	replaced, err := c.replacedBy(ctx, r, h)
	if err != nil {
		return Undone{}, err
	}
	if len(replaced) == 0 {
		return Undone{}, refused("device %s: rotation %d took nothing away, and is not going to", id, r.Number)
	}
	r.UndoneAt, r.Undone = c.clock.Now(), replaced
	if r, err = c.Journal.Advance(ctx, Change{Rotation: r, Undo: true}); err != nil {
		if !errors.Is(err, ErrNothingBack) {
			return Undone{}, changedMeanwhile(id, err)
		}
		return Undone{}, c.nothingBack(ctx, id, replaced)
	}
	undone := Undone{Rotation: r}
	undone.Back, undone.Lost, err = c.broughtBack(ctx, id, replaced, r.Undone)
	return undone, err
}

// toUndo returns the last rotation that was finished and may have replaced
// something.
func (h History) toUndo(id registry.DeviceID) (Rotation, error) {
	if r := h.Current(); r != nil && r.State == Proven {
		return Rotation{}, refused("device %s: rotation %d is proven and not finished: let it finish (its ack, or "+
			"`certvendor rotation sweep`), and undo it then", id, r.Number)
	}
	for _, r := range h.Rotations {
		if r.State == Finished && !r.Unproven {
			return r, nil
		}
	}
	return Rotation{}, refused("device %s: no rotation of it is finished, so nothing was taken away", id)
}

// replacedBy returns what the retirements of a rotation are about, without
// what was vended and never used: that stays away.
func (c *Closer) replacedBy(ctx context.Context, r Rotation, h History) ([]certificate.ID, error) {
	all, err := c.Retirements.Retirements(ctx, Query{Device: r.Device})
	if err != nil {
		return nil, fmt.Errorf("retirements of %s: %w", r.Device, err)
	}
	held, err := c.Inventory.Held(ctx, r.Device)
	if err != nil {
		return nil, fmt.Errorf("certificates of %s: %w", r.Device, err)
	}
	var replaced []certificate.ID
	for _, one := range all {
		own, known := certificate.Find(held, one.Certificate)
		vended := h.Of(one.Certificate)
		unused := known && own.LastSeen.IsZero() && vended != nil && !vended.IsProven() && !vended.Unproven
		if one.Rotation == r.Number && !unused {
			replaced = append(replaced, one.Certificate)
		}
	}
	return replaced, nil
}

// broughtBack says of each certificate whether it is the device's and ACTIVE,
// or why not. Those that are not written as undone the world could not bring back.
func (c *Closer) broughtBack(ctx context.Context, id registry.DeviceID, replaced, written []certificate.ID) (back []certificate.ID, lost []Lost, err error) {
	held, err := c.Inventory.Held(ctx, id)
	if err != nil {
		return nil, nil, fmt.Errorf("certificates of %s: %w", id, err)
	}
	for _, one := range replaced {
		h, ok := certificate.Find(held, one)
		switch {
		case !slices.Contains(written, one):
			lost = append(lost, Lost{one, "was revoked or deleted by somebody else, outside certvendor"})
		case !ok:
			lost = append(lost, Lost{one, "was deleted, or is another device's alone by now"})
		case h.Standing != certificate.Active:
			lost = append(lost, Lost{one, "is " + string(h.Standing)})
		case !c.clock.Now().Before(h.NotAfter):
			lost = append(lost, Lost{one, "has expired on " + h.NotAfter.UTC().Format(time.DateOnly)})
		default:
			back = append(back, one)
		}
	}
	return back, lost, nil
}

func (c *Closer) nothingBack(ctx context.Context, id registry.DeviceID, replaced []certificate.ID) error {
	_, lost, err := c.broughtBack(ctx, id, replaced, replaced)
	if err != nil {
		return err
	}
	var why []string
	for _, l := range lost {
		why = append(why, l.String())
	}
	return refused("device %s: nothing can be brought back (%s): `certvendor device add %s --out DIR --another` gives it one more",
		id, strings.Join(why, "; "), id)
}

func (l Lost) String() string { return fmt.Sprintf("%.12s %s", l.Certificate, l.Why) }

// undoneBefore returns what r replaces besides its own, because the last
// rotation before it was undone: what came back, and what had replaced that.
func undoneBefore(r Rotation, h History) []certificate.ID {
	for _, older := range h.Rotations {
		if older.Number >= r.Number || older.State != Finished || older.Unproven {
			continue
		}
		if older.UndoneAt.IsZero() || !r.ProvenAt.After(older.UndoneAt) {
			return nil
		}
		return append(slices.Clone(older.Undone), older.Certificate)
	}
	return nil
}
