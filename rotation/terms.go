package rotation

import (
	"fmt"
	"slices"
	"time"

	"github.com/certvendor/certvendor/certificate"
)

// Scope says which certificates a proven rotation replaces.
type Scope string

// The scopes of a retirement.
const (
	Replaced Scope = "replaced" // the one the get came over, or the one the device named
	All      Scope = "all"      // all that was ACTIVE on the device when the rotation opened
)

// Terms are the part of a profile that says what becomes of rotations.
type Terms struct {
	Previous certificate.Mode
	Retire   Scope
	Grace    time.Duration // between the proof and the removal
	TTL      time.Duration // after which a vended rotation is called stale
	Settle   time.Duration // between a proof without an ack, or a start, and removals
	Recent   time.Duration // how fresh the sighting on the successor must be
	Window   time.Duration // how long after its expiry the broker takes a certificate
	Keep     time.Duration // how long a finished rotation stays in the journal; 0: for ever
	// SeenSince is when the world was restored from a backup: sightings before
	// it justify no removal, for later ones may have been lost. Zero: never.
	SeenSince time.Time
	// MaxRetirePerHour is the circuit breaker: more removals within an hour
	// freeze retiring until an operator thaws it.
	MaxRetirePerHour int
	// Status is what the registry is told of a device besides its certificate when
	// a rotation ends. Without a name nothing is.
	Status Attribute
}

// Attribute is one of a device's in the registry.
type Attribute struct{ Name, Value string }

// DefaultStatus is what the CDF Certificate Vendor writes.
var DefaultStatus = Attribute{"status", "active"}

// Validate reports the first term that makes no sense.
func (t Terms) Validate() error {
	switch {
	case !slices.Contains([]certificate.Mode{certificate.Keep, certificate.Deactivate, certificate.Delete}, t.Previous):
		return fmt.Errorf("rotation.previous: %q is none of keep, deactivate, delete", t.Previous)
	case t.Retire != Replaced && t.Retire != All:
		return fmt.Errorf("rotation.retire: %q is neither replaced nor all", t.Retire)
	case t.Grace < 0 || t.Settle < 0 || t.Window < 0:
		return fmt.Errorf("rotation: grace, settle and broker.expired are not negative")
	case t.TTL <= 0 || t.Recent <= 0:
		return fmt.Errorf("rotation: ttl and recent are more than zero")
	case t.Keep < 0:
		return fmt.Errorf("rotation.keep: must not be negative")
	case t.MaxRetirePerHour <= 0:
		return fmt.Errorf("rotation.max_retire_per_hour: must be at least 1")
	}
	return nil
}

// owed returns the retirements that finishing r brings: what it replaces, and
// everything unproven that it leaves behind, with what those had replaced in
// their turn. They are written once, in the commit that finishes r.
func (t Terms) owed(r Rotation, h History, held []certificate.Holding, now time.Time) []Retirement {
	var owed []Retirement
	add := func(id certificate.ID, mode certificate.Mode) {
		holding, ok := certificate.Find(held, id)
		known := slices.ContainsFunc(owed, func(o Retirement) bool { return o.Certificate == id })
		if !ok || known || id == r.Certificate || mode == certificate.Keep || !retirable(holding) {
			return
		}
		owed = append(owed, t.retirement(r, id, mode, now))
	}
	replaced := t.replaced(r)
	for _, left := range leftBehind(r, h) {
		// What nobody was ever seen on does not stay open, with keep neither.
		mode := t.Previous
		if own, _ := certificate.Find(held, left.Certificate); mode == certificate.Keep && own.LastSeen.IsZero() {
			mode = certificate.Deactivate
		}
		add(left.Certificate, mode)
		replaced = append(replaced, t.replaced(left)...)
	}
	for _, id := range append(replaced, undoneBefore(r, h)...) {
		add(id, t.Previous)
	}
	return owed
}

func (t Terms) retirement(r Rotation, id certificate.ID, mode certificate.Mode, now time.Time) Retirement {
	grace := t.Grace
	if r.Evidence == certificate.Proof {
		mode, grace = certificate.Deactivate, max(grace, MinProofGrace)
	}
	return Retirement{
		Device: r.Device, Certificate: id, Rotation: r.Number, Mode: mode,
		Evidence: r.Evidence, ProvenAt: r.ProvenAt, Due: now.Add(grace),
	}
}

// replaced returns what one rotation replaces, by scope.
func (t Terms) replaced(r Rotation) []certificate.ID {
	switch {
	case t.Retire == All:
		return slices.Clone(r.Held)
	case r.Named != "":
		return []certificate.ID{r.Named}
	case r.Over != "":
		return []certificate.ID{r.Over}
	}
	return nil
}

// leftBehind returns the device's rotations before r, down to the last that
// was proven and finished, that gave way, went stale or were abandoned with a
// certificate for a key of the device's own.
func leftBehind(r Rotation, h History) []Rotation {
	var left []Rotation
	for _, older := range h.Rotations {
		if older.Number >= r.Number {
			continue
		}
		if older.State == Finished && !older.Unproven {
			break
		}
		// A package whose rotation was abandoned waits for its device again.
		abandoned := older.State == Abandoned && older.Certificate != "" && !older.ByPackage
		if older.State == Superseded || older.State == Stale || abandoned {
			left = append(left, older)
		}
	}
	return left
}

// retirable keeps birth certificates and packages that wait for their device
// out of the list.
func retirable(h certificate.Holding) bool {
	return h.Kind != certificate.Birth && h.Standing == certificate.Active
}
