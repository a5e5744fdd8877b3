package rotation

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/registry"
)

// Spender deletes a package that was used.
type Spender interface {
	// Spend deletes the package's file and remembers that it was used.
	// Idempotent.
	Spend(context.Context, registry.DeviceID, certificate.ID) error
}

// Ports are what a Closer works on.
type Ports struct {
	Journal     Journal
	Retirements Catalogue
	Inventory   certificate.Inventory
	Revoker     certificate.Revoker
	Group       Group
	Registry    registry.Store
	Packages    Spender
	Brakes      Brakes
	Pruner      Pruner  // nil: the journal keeps all
	Witness     Witness // nil: a sighting and what it proves are two commits
}

// Closer brings rotations to their end: it proves and finishes them, carries
// out retirements by the one rule, and does what is left behind a reply. It is
// safe for concurrent use; where two work on one rotation, the journal decides
// and the other gets ErrChanged.
type Closer struct {
	Ports
	clock   *Clock
	terms   func(profile string) Terms
	started time.Time

	mu       sync.Mutex
	removals []time.Time // within the last hour
}

// NewCloser returns a closer. Removals by its sweep wait for Terms.Settle from
// now on, so that devices are seen before anything of theirs is judged.
func NewCloser(ports Ports, clock *Clock, terms func(profile string) Terms) *Closer {
	return &Closer{Ports: ports, clock: clock, terms: terms, started: clock.Now()}
}

// Remember tells the circuit breaker when the process before this one removed
// certificates. It is called before any is removed.
func (c *Closer) Remember(removals []time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.removals = append(c.removals, removals...)
}

// Prove writes that the device was seen on r's certificate. It does nothing
// else: retirements are written when the rotation is finished.
func (c *Closer) Prove(ctx context.Context, r Rotation, evidence certificate.Evidence, at time.Time) (Rotation, error) {
	return c.Journal.Advance(ctx, provenAt(r, evidence, at))
}

func provenAt(r Rotation, evidence certificate.Evidence, at time.Time) Change {
	r.State, r.Evidence, r.ProvenAt = Proven, evidence, at
	return Change{Rotation: r}
}

// Show records a sighting on r's certificate and, by the same commit, what Prove
// would write. ErrChanged where the world cannot, or somebody else has changed r.
// With an error nothing is recorded, whichever of the two has failed.
func (c *Closer) Show(ctx context.Context, r Rotation, seen certificate.Sighting, at time.Time) error {
	if c.Witness == nil {
		return ErrChanged
	}
	_, err := c.Witness.Witness(ctx, seen, provenAt(r, seen.Evidence, at))
	return err
}

// Finish ends a proven rotation: in one commit with what it replaces, as
// retirements that are due after the grace. The caller has set how and when r
// was proven. Nothing is removed yet.
func (c *Closer) Finish(ctx context.Context, r Rotation, h History) (Rotation, []Retirement, error) {
	held, err := c.Inventory.Held(ctx, r.Device)
	if err != nil {
		return r, nil, fmt.Errorf("finish rotation %d of %s: %w", r.Number, r.Device, err)
	}
	now := c.clock.Now()
	r.State, r.ClosedAt, r.Lease = Finished, now, Lease{}
	r.Behind = behind(r, h)
	owed := c.terms(r.Profile).owed(r, h, held, now)
	ending := &Ending{Attributes: c.attributes(r, h, held), Leaves: leaves(r)}
	r, err = c.Journal.Advance(ctx, Change{Rotation: r, Retirements: owed, Ending: ending})
	return r, owed, err
}

// Acknowledge writes an ack of which nobody knows over which certificate it
// came: the device leaves the group, and nothing is removed.
func (c *Closer) Acknowledge(ctx context.Context, r Rotation) (Rotation, error) {
	r.State, r.AckedAt = Acknowledged, c.clock.Now()
	r.Behind = behind(r, History{})
	return c.Journal.Advance(ctx, Change{Rotation: r})
}

// behind returns what is left to do when a rotation is finished or
// acknowledged.
func behind(r Rotation, h History) []Step {
	if r.State == Finished && len(spent(r, h)) > 0 {
		return []Step{Attributes, Package, LeaveGroup}
	}
	return []Step{Attributes, LeaveGroup}
}

// spent returns the certificates of the packages that a finished rotation has
// used up: its own, and those that gave way before it.
func spent(r Rotation, h History) []certificate.ID {
	var ids []certificate.ID
	for _, over := range append(leftBehind(r, h), r) {
		if over.ByPackage {
			ids = append(ids, over.Certificate)
		}
	}
	return ids
}

// RetireNow carries out those retirements that are due at once, as an ack does
// with no grace. What may not be removed is noted and left to the sweep.
func (c *Closer) RetireNow(ctx context.Context, retirements []Retirement) error {
	var errs []error
	for _, r := range retirements {
		if r.Done.IsZero() && !r.Due.After(c.clock.Now()) {
			_, err := c.retire(ctx, r)
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// retire is the only caller of Inventory.Retire, as Revoke is the only one of
// Revoker.Revoke. It asks the one rule at the
// moment of the removal, and notes the outcome either way. It reports whether
// something was removed.
func (c *Closer) retire(ctx context.Context, r Retirement) (removed bool, err error) {
	h, err := c.Journal.Find(ctx, r.Device)
	if err != nil {
		return false, fmt.Errorf("retire %s of %s: %w", r.Certificate, r.Device, err)
	}
	terms := c.terms(profileOf(h, r))
	if err := c.stopped(ctx, r.Device, terms); err != nil {
		return false, c.putOff(ctx, r, Kept{Why: err.Error(), Reverted: r.Reverted})
	}
	mode, reverted := firstHalf(r), r.Reverted
	err = c.Inventory.Retire(ctx, certificate.Removal{
		Device: r.Device, Certificate: r.Certificate, Mode: mode, Rotation: r.Rotation,
		Allowed: func(held []certificate.Holding) error {
			facts := Facts{Retirement: r, Held: held, History: h, Now: c.clock.Now(),
				Recent: terms.Recent, Grace: terms.Grace, Window: terms.Window, SeenSince: terms.SeenSince}
			if err := c.clock.Steady(); err != nil {
				return Kept{Why: err.Error(), Reverted: reverted} // it jumped while this waited
			}
			if err := facts.Allowed(); err != nil || !reverted {
				return err
			}
			return facts.graceAnew()
		},
	})
	var kept Kept
	var again graceAnew
	switch {
	case errors.As(err, &again):
		r.Reverted, r.Due, r.Why = false, again.due, ""
		return false, c.Journal.Note(ctx, r)
	case errors.As(err, &kept) && kept.Void:
		r.Why, r.Reverted, r.Done = kept.Why, false, c.clock.Now()
		return false, c.Journal.Note(ctx, r)
	case errors.As(err, &kept):
		return false, c.putOff(ctx, r, kept)
	case errors.Is(err, ErrChanged):
		return false, nil // a person has undone the rotation meanwhile
	case err != nil:
		return false, fmt.Errorf("retire %s of %s: %w", r.Certificate, r.Device, err)
	}
	return true, c.removed(ctx, r, mode)
}

// firstHalf returns what is to be done now: deleting is deactivating, then
// deleting.
func firstHalf(r Retirement) certificate.Mode {
	if r.Mode == certificate.Delete && !r.Deactivated.IsZero() {
		return certificate.Delete
	}
	return certificate.Deactivate
}

func (c *Closer) removed(ctx context.Context, r Retirement, mode certificate.Mode) error {
	now := c.clock.Now()
	if r.Deactivated.IsZero() {
		r.Deactivated = now
		c.count(now)
	}
	if mode == r.Mode {
		r.Done = now
	}
	r.Why, r.Reverted = "", false
	return c.Journal.Note(ctx, r)
}

// putOff notes why nothing was removed, if that is news.
func (c *Closer) putOff(ctx context.Context, r Retirement, kept Kept) error {
	if r.Why == kept.Why && r.Reverted == kept.Reverted {
		return nil
	}
	r.Why, r.Reverted = kept.Why, kept.Reverted
	return c.Journal.Note(ctx, r)
}

// graceAnew says that the device has come back from the certificate it had
// gone back to: its grace starts again.
type graceAnew struct{ due time.Time }

func (graceAnew) Error() string { return "the grace starts anew" }

func (f Facts) graceAnew() error {
	latest, _ := certificate.Latest(f.Held)
	if due := latest.LastSeen.Add(f.Grace); due.After(f.Now) {
		return graceAnew{due}
	}
	return nil
}

// stopped says why nothing may be removed from the device now, whatever the
// rule says.
func (c *Closer) stopped(ctx context.Context, id registry.DeviceID, terms Terms) error {
	if err := c.clock.Steady(); err != nil {
		return err
	}
	device, err := c.Registry.Device(ctx, id)
	switch {
	case errors.Is(err, registry.ErrUnknown):
		return errors.New("the device is not in the registry any more")
	case err != nil:
		return fmt.Errorf("the registry does not answer: %w", err)
	case device.Blocked:
		return errors.New("the device is blocked")
	}
	frozen, err := c.Brakes.Frozen(ctx)
	switch {
	case err != nil:
		return fmt.Errorf("read what is frozen: %w", err)
	case frozen.Retiring:
		return fmt.Errorf("retiring is frozen (%s); `certvendor thaw retiring` lets it go on", frozen.RetiringWhy())
	}
	return c.checkBreaker(ctx, terms)
}

// checkBreaker freezes retiring when more was removed within an hour than any
// healthy fleet would.
func (c *Closer) checkBreaker(ctx context.Context, terms Terms) error {
	if c.countSince(c.clock.Now().Add(-time.Hour)) < terms.MaxRetirePerHour {
		return nil
	}
	why := fmt.Sprintf("circuit breaker: %d certificates retired within an hour", terms.MaxRetirePerHour)
	_, err := c.Brakes.SetFrozen(ctx, func(f *Freeze) { f.StopRetiring(why, c.clock.Now()) })
	if err != nil {
		return fmt.Errorf("freeze retiring: %w", err)
	}
	return errors.New(why)
}

func (c *Closer) count(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.removals = append(c.removals, now)
}

func (c *Closer) countSince(since time.Time) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.removals = slices.DeleteFunc(c.removals, func(t time.Time) bool { return t.Before(since) })
	return len(c.removals)
}

func profileOf(h History, r Retirement) string {
	for _, rotation := range h.Rotations {
		if rotation.Number == r.Rotation {
			return rotation.Profile
		}
	}
	return ""
}

// RetireReturned goes on with those of a device's retirements that were put
// off because it had gone back, now that it speaks over the new certificate
// again. It changes nothing for a device that never went back.
func (c *Closer) RetireReturned(ctx context.Context, id registry.DeviceID) error {
	retirements, err := c.Retirements.Retirements(ctx, Query{Device: id, Open: true})
	if err != nil {
		return fmt.Errorf("retirements of %s: %w", id, err)
	}
	reverted := slices.DeleteFunc(retirements, func(r Retirement) bool { return !r.Reverted })
	return c.RetireNow(ctx, reverted)
}
