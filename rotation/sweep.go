package rotation

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/registry"
)

const (
	sweepPage = 500
	// pruneMost is how many finished rotations one sweep looks at, to find those
	// that may go.
	pruneMost = 1000
)

// Swept is what one sweep has done.
type Swept struct {
	Proven   int // rotations that a sighting had resolved
	Finished int
	Stale    int
	Settled  int // rotations whose steps behind are done now
	Retired  int // certificates taken away, or the second half of that
	Pruned   int // finished rotations that were kept long enough
}

// Sweep does what is due: it resolves what sightings have shown, finishes what
// is proven, marks what is stale, goes on with unfinished steps, and carries
// out the retirements that the one rule allows, and takes out what was kept
// long enough. It changes nothing when nothing is
// due, may run at any time and on several instances at once, and goes on with
// the next device when one fails; the error joins all failures.
func (c *Closer) Sweep(ctx context.Context) (Swept, error) {
	var swept Swept
	var errs []error
	terms := c.terms("")
	now := c.clock.Now()
	horizon := Horizon{Now: now, Vended: now.Add(-terms.TTL), Proven: now.Add(-terms.Settle), Limit: sweepPage}
	for ctx.Err() == nil {
		work, err := c.Journal.Due(ctx, horizon)
		if err != nil {
			return swept, errors.Join(append(errs, fmt.Errorf("what is due: %w", err))...)
		}
		if len(work.Rotations)+len(work.Retirements) == 0 {
			return swept, errors.Join(append(errs, c.prune(ctx, terms, &swept))...)
		}
		for _, r := range work.Rotations {
			errs = append(errs, ignoreChanged(c.advance(ctx, r, horizon, &swept)))
			horizon.After = max(horizon.After, r.Device)
		}
		for _, r := range work.Retirements {
			errs = append(errs, c.retireDue(ctx, r, terms, &swept))
			horizon.After = max(horizon.After, r.Device)
		}
	}
	return swept, errors.Join(append(errs, ctx.Err())...)
}

// prune takes out what is finished long ago.
func (c *Closer) prune(ctx context.Context, terms Terms, swept *Swept) (err error) {
	if c.Pruner == nil || terms.Keep == 0 || c.clock.Steady() != nil {
		return nil
	}
	swept.Pruned, err = c.Pruner.Prune(ctx, c.clock.Now().Add(-terms.Keep), pruneMost)
	return err
}

// retireDue does a retirement once the devices have had time to be seen again
// after a start.
func (c *Closer) retireDue(ctx context.Context, r Retirement, terms Terms, swept *Swept) error {
	if wait := c.started.Add(terms.Settle).Sub(c.clock.Now()); wait > 0 {
		return c.putOff(ctx, r, Kept{
			Why:      fmt.Sprintf("the daemon started less than %s ago", terms.Settle),
			Reverted: r.Reverted,
		})
	}
	removed, err := c.retire(ctx, r)
	if removed {
		swept.Retired++
	}
	return err
}

// advance takes one rotation as far as it can go now.
func (c *Closer) advance(ctx context.Context, r Rotation, due Horizon, swept *Swept) error {
	device, err := c.Registry.Device(ctx, r.Device)
	switch {
	case err != nil && !errors.Is(err, registry.ErrUnknown):
		return fmt.Errorf("sweep %s: %w", r.Device, err)
	case device.Blocked:
		return nil // a blocked device's rotation stands still
	}
	switch r.State {
	case Vended, Acknowledged, Stale:
		if r, err = c.resolve(ctx, r, due, swept); err != nil {
			return err
		}
	case Intended, Issued:
		return c.abandonUnissued(ctx, r, due, swept)
	}
	if r.State == Proven && !r.ProvenAt.After(due.Proven) {
		h, err := c.Journal.Find(ctx, r.Device)
		if err != nil {
			return err
		}
		if r, _, err = c.Finish(ctx, r, h); err != nil {
			return err
		}
		swept.Finished++
	}
	if len(r.Behind) == 0 {
		return nil
	}
	swept.Settled++
	return c.Settle(ctx, r)
}

// resolve proves a rotation whose certificate was seen, and calls one stale
// that was vended too long ago.
func (c *Closer) resolve(ctx context.Context, r Rotation, due Horizon, swept *Swept) (Rotation, error) {
	held, err := c.Inventory.Held(ctx, r.Device)
	if err != nil {
		return r, fmt.Errorf("sweep %s: %w", r.Device, err)
	}
	own, _ := certificate.Find(held, r.Certificate)
	switch {
	case r.ShownBy(own.LastSeen):
		swept.Proven++
		return c.Prove(ctx, r, own.Evidence, own.LastSeen)
	case r.State == Vended && !r.VendedAt.After(due.Vended):
		swept.Stale++
		r.State = Stale
		return c.Journal.Advance(ctx, Change{Rotation: r})
	}
	return r, nil
}

// abandonUnissued ends what was begun long ago, never reached a device and is
// nobody's work any more. What was signed for it is kept, as everything stale.
func (c *Closer) abandonUnissued(ctx context.Context, r Rotation, due Horizon, swept *Swept) error {
	if r.Opened.After(due.Vended) || due.Now.Before(r.Lease.Until) {
		return nil
	}
	swept.Stale++
	r.State, r.Lease = Stale, Lease{}
	if r.Certificate == "" {
		r.State, r.ClosedAt = Abandoned, due.Now
	}
	_, err := c.Journal.Advance(ctx, Change{Rotation: r})
	return err
}

// Settle does the steps that are left behind a rotation, in their order, and
// writes which are done. A step that fails stays for the next sweep.
func (c *Closer) Settle(ctx context.Context, r Rotation) error {
	h, err := c.Journal.Find(ctx, r.Device)
	if err != nil {
		return fmt.Errorf("rotation %d of %s: %w", r.Number, r.Device, err)
	}
	for _, step := range r.Behind {
		if err := c.do(ctx, step, r, h); err != nil {
			return fmt.Errorf("rotation %d of %s, step %s: %w", r.Number, r.Device, step, err)
		}
		r = r.Done(step)
	}
	_, err = c.Journal.Advance(ctx, Change{Rotation: r})
	return ignoreChanged(err)
}

func (c *Closer) do(ctx context.Context, step Step, r Rotation, h History) error {
	switch step {
	case Attributes:
		return c.writeAttributes(ctx, r, h)
	case Package:
		var errs []error
		for _, id := range spent(r, h) {
			errs = append(errs, c.Packages.Spend(ctx, r.Device, id))
		}
		return errors.Join(errs...)
	case LeaveGroup:
		return c.Group.Remove(ctx, r.Device, leaves(r))
	}
	return fmt.Errorf("no such step")
}

// leaves returns since when a device may have been a member of the group at most,
// to leave it behind a rotation.
func leaves(r Rotation) time.Time {
	if r.State == Abandoned {
		return r.ClosedAt // who abandons a rotation does not want another one begun
	}
	return r.Opened
}

// writeAttributes leaves the outcome in the registry.
func (c *Closer) writeAttributes(ctx context.Context, r Rotation, h History) error {
	held, err := c.Inventory.Held(ctx, r.Device)
	if err != nil {
		return err
	}
	attributes := c.attributes(r, h, held)
	if len(attributes) == 0 {
		return nil
	}
	err = c.Registry.SetAttributes(ctx, r.Device, attributes)
	if errors.Is(err, registry.ErrUnknown) {
		return nil // taken out of the registry meanwhile
	}
	return err
}

// attributes returns what the registry is told of a rotation's outcome: nothing
// if a newer rotation has told it of its own.
func (c *Closer) attributes(r Rotation, h History, held []certificate.Holding) map[string]string {
	for _, newer := range h.Rotations {
		if newer.Number > r.Number && (newer.State == Finished || newer.State == Acknowledged) {
			return nil
		}
	}
	own, ok := certificate.Find(held, r.Certificate)
	if !ok {
		return nil
	}
	attributes := map[string]string{
		"certificateId": string(r.Certificate),
		"certNotAfter":  own.NotAfter.UTC().Format(time.RFC3339),
	}
	if status := c.terms(r.Profile).Status; status.Name != "" {
		attributes[status.Name] = status.Value
	}
	return attributes
}

func ignoreChanged(err error) error {
	if errors.Is(err, ErrChanged) {
		return nil // somebody else is at work on it; the next sweep looks again
	}
	return err
}
