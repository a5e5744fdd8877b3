package vending

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

// stage is one device's part of the world, as a rehearsal leaves it: read from
// the world when it is first asked for, and changed only here. Its ports hold
// no port of the world's, so that none of them can change anything.
type stage struct {
	v       *Vendor
	id      registry.DeviceID
	history *rotation.History
	held    []certificate.Holding
	isRead  bool                  // held is
	due     []rotation.Retirement // what a sweep has to look at
	noted   []rotation.Retirement // what became of them
	effects []string
}

func (s *stage) effect(format string, args ...any) {
	s.effects = append(s.effects, fmt.Sprintf(format, args...))
}

func short(id certificate.ID) string { return string(id[:min(len(id), 12)]) }

func until(t time.Time) string { return t.UTC().Format(time.RFC3339) }

type stagedJournal struct{ *stage }

func (s stagedJournal) Find(ctx context.Context, id registry.DeviceID) (rotation.History, error) {
	if s.history == nil {
		h, err := s.v.Journal.Find(ctx, id)
		if err != nil {
			return h, err
		}
		s.history = &h
	}
	return rotation.History{Rotations: slices.Clone(s.history.Rotations)}, nil
}

func (s stagedJournal) Open(ctx context.Context, next rotation.Rotation, givesWay *rotation.Rotation) (rotation.Rotation, error) {
	if givesWay != nil {
		if _, err := s.Advance(ctx, rotation.Change{Rotation: *givesWay}); err != nil {
			return next, err
		}
	}
	h, err := s.Find(ctx, next.Device)
	if err != nil {
		return next, err
	}
	s.effect("rotation %d is opened", next.Number)
	s.history = &rotation.History{Rotations: append([]rotation.Rotation{next}, h.Rotations...)}
	return next, nil
}

func (s stagedJournal) Advance(ctx context.Context, c rotation.Change) (rotation.Rotation, error) {
	h, err := s.Find(ctx, c.Rotation.Device)
	if err != nil {
		return c.Rotation, err
	}
	at := slices.IndexFunc(h.Rotations, func(r rotation.Rotation) bool { return r.Number == c.Rotation.Number })
	if at < 0 {
		return c.Rotation, rotation.ErrChanged
	}
	if was := h.Rotations[at].State; was != c.Rotation.State && c.Rotation.State != rotation.Issued {
		s.effect("rotation %d becomes %s", c.Rotation.Number, c.Rotation.State)
	}
	h.Rotations[at] = c.Rotation
	s.history = &h
	if c.Certificate != nil {
		s.held = append(s.held, certificate.Holding{Certificate: *c.Certificate, Device: s.id, Attached: s.v.Now()})
	}
	for _, r := range c.Retirements {
		if r.Due.After(s.v.Now()) {
			s.effect("certificate %s: to %s from %s on", short(r.Certificate), r.Mode, until(r.Due))
		}
	}
	return c.Rotation, nil
}

func (s stagedJournal) Due(_ context.Context, h rotation.Horizon) (rotation.Work, error) {
	if h.After >= s.id {
		return rotation.Work{}, nil
	}
	return rotation.Work{Retirements: slices.Clone(s.due)}, nil
}

func (s stagedJournal) Note(_ context.Context, r rotation.Retirement) error {
	s.noted = append(s.noted, r)
	switch {
	case r.Why != "":
		s.effect("certificate %s: kept, %s", short(r.Certificate), r.Why)
	case r.Done.IsZero() && r.Deactivated.IsZero():
		s.effect("certificate %s: its grace starts anew, until %s", short(r.Certificate), until(r.Due))
	}
	return nil
}

type stagedInventory struct{ *stage }

func (s stagedInventory) Held(ctx context.Context, id registry.DeviceID) ([]certificate.Holding, error) {
	if !s.isRead {
		held, err := s.v.Inventory.Held(ctx, id)
		if err != nil {
			return nil, err
		}
		s.held, s.isRead = slices.Clone(held), true
	}
	return slices.Clone(s.held), nil
}

// find returns where a certificate is in what the device holds, or
// ErrNotHeld.
func (s stagedInventory) find(ctx context.Context, id certificate.ID) (*certificate.Holding, error) {
	if _, err := s.Held(ctx, s.id); err != nil {
		return nil, err
	}
	for i := range s.held {
		if s.held[i].ID == id {
			return &s.held[i], nil
		}
	}
	return nil, certificate.ErrNotHeld
}

// Register finds what the journal has entered with its rotation.
func (s stagedInventory) Register(context.Context, registry.DeviceID, certificate.Certificate) error {
	return nil
}

func (s stagedInventory) Activate(ctx context.Context, _ registry.DeviceID, id certificate.ID) error {
	h, err := s.find(ctx, id)
	if err != nil || h.Standing == certificate.Active {
		return err
	}
	h.Standing = certificate.Active
	s.effect("certificate %s: made ACTIVE", short(id))
	return nil
}

func (s stagedInventory) Seen(ctx context.Context, seen certificate.Sighting) error {
	h, err := s.find(ctx, seen.Certificate)
	switch {
	case err != nil:
		return err
	case h.Standing != certificate.Active:
		return certificate.ErrNotActive
	}
	// It comes after every sighting that was recorded before.
	if latest, ok := certificate.Latest(s.held); ok && !seen.At.After(latest.LastSeen) {
		seen.At = latest.LastSeen.Add(time.Nanosecond)
	}
	h.LastSeen, h.Evidence = seen.At, seen.Evidence
	return nil
}

func (s stagedInventory) Retire(ctx context.Context, r certificate.Removal) error {
	held, err := s.Held(ctx, r.Device)
	if err != nil {
		return err
	}
	if err := r.Allowed(held); err != nil {
		return err
	}
	h, err := s.find(ctx, r.Certificate)
	switch {
	case err != nil:
		return nil // taken from the device already
	case h.Shared:
		s.effect("certificate %s: taken from this device alone, another holds it too", short(h.ID))
	case r.Mode == certificate.Delete:
		s.effect("certificate %s: deleted", short(h.ID))
	case h.Standing != certificate.Active:
		return nil // another rotation has replaced it too, and was first
	default:
		h.Standing = certificate.Inactive
		s.effect("certificate %s: deactivated", short(h.ID))
		return nil
	}
	s.held = slices.DeleteFunc(s.held, func(h certificate.Holding) bool { return h.ID == r.Certificate })
	return nil
}

type stagedIssuer struct{ *stage }

func (s stagedIssuer) Issue(ctx context.Context, o certificate.Order) (certificate.Certificate, error) {
	if s.v.Signs != nil {
		end, err := s.v.Signs(ctx)
		if err != nil {
			return certificate.Certificate{}, err
		}
		if end.Before(o.NotAfter) {
			o.NotAfter = end
		}
	}
	s.effect("a new certificate, valid until %s", until(o.NotAfter))
	return certificate.Certificate{ID: certificate.IDOf(random()), NotBefore: o.NotBefore, NotAfter: o.NotAfter}, nil
}

type stagedPackages struct{ *stage }

func (s stagedPackages) Find(ctx context.Context, id registry.DeviceID) (Package, error) {
	return s.v.Packages.Find(ctx, id)
}

// Link makes a link and drops it: it is how one learns that the file is there.
func (s stagedPackages) Link(ctx context.Context, id registry.DeviceID, c certificate.ID) (string, error) {
	if _, err := s.v.Packages.Link(ctx, id, c); err != nil {
		return "", err
	}
	s.effect("a link to the package of certificate %s", short(c))
	return "", nil
}

func (s stagedPackages) Put(context.Context, registry.DeviceID, certificate.ID, []byte) error {
	return nil
}

func (s stagedPackages) Spend(context.Context, registry.DeviceID, certificate.ID) error { return nil }

type stagedRegistry struct{ *stage }

func (s stagedRegistry) Device(ctx context.Context, id registry.DeviceID) (registry.Device, error) {
	return s.v.Registry.Device(ctx, id)
}

func (s stagedRegistry) SetAttributes(context.Context, registry.DeviceID, map[string]string) error {
	return nil
}

type stagedBrakes struct{ *stage }

func (s stagedBrakes) Frozen(ctx context.Context) (rotation.Freeze, error) {
	return s.v.Brakes.Frozen(ctx)
}

func (s stagedBrakes) SetFrozen(ctx context.Context, change func(*rotation.Freeze)) (rotation.Freeze, error) {
	frozen, err := s.Frozen(ctx)
	change(&frozen)
	return frozen, err
}

type stagedLimits struct{ *stage }

func (s stagedLimits) Peek(id registry.DeviceID) (time.Duration, bool)  { return s.v.Limits.Peek(id) }
func (s stagedLimits) Allow(id registry.DeviceID) (time.Duration, bool) { return s.v.Limits.Peek(id) }

type stagedGroup struct{}

func (stagedGroup) Add(context.Context, registry.DeviceID) error { return nil }

func (stagedGroup) Remove(context.Context, registry.DeviceID, time.Time) error { return nil }

func (stagedGroup) Members(context.Context, registry.DeviceID, int) ([]rotation.Member, error) {
	return nil, nil
}
