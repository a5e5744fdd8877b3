package rotation

import (
	"context"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/registry"
)

// Change is what one Advance writes: all of it, or nothing.
type Change struct {
	Rotation    Rotation                 // as it shall be, with the Version it was read at
	Certificate *certificate.Certificate // registered for the device by the same commit
	Retirements []Retirement             // written with it; one that exists already is left alone
	// Undo closes those retirements of the rotation for good whose
	// certificates are in Rotation.Undone, and makes these the device's and
	// ACTIVE again, but for what is deleted or revoked, or was given up by
	// another device that shares it.
	// If nothing is the device's and ACTIVE then, nothing is written, and
	// Advance returns ErrNothingBack, or a Refused that says why. What somebody
	// has revoked or deleted outside the store is not in Rotation.Undone of the
	// rotation that it returns.
	Undo bool
	// Ending is what the steps behind the rotation come to. A journal that
	// keeps the registry and the group as well does by the same commit those
	// of them, in their order, that nobody has to be told of, and returns the
	// rotation without these. Any other leaves all of them to Closer.Settle.
	Ending *Ending
}

// Ending is what the steps behind a rotation write.
type Ending struct {
	Attributes map[string]string // to the registry; none: a newer rotation has written its own
	Leaves     time.Time         // the group, if it is a member since before
}

// Work is what a sweep has to look at.
type Work struct {
	Rotations   []Rotation   // see Horizon
	Retirements []Retirement // due and not done, reverted ones too
}

// Horizon says what is due: rotations without a live lease that were vended
// (or intended, or issued) before Vended; that are vended, acknowledged or
// stale and whose certificate was seen since; that were proven before Proven;
// or that have steps left behind them; and the retirements due at Now. A page
// holds at most Limit of each, for devices after After.
type Horizon struct {
	Now    time.Time
	Vended time.Time
	Proven time.Time
	After  registry.DeviceID
	Limit  int
}

// Journal is the durable record of rotations. Every method is atomic and safe
// for concurrent use, also by several instances.
//
// Open and the Advances up to Vended may be kept in memory, and written by the
// Advance to Vended, where nothing outside the store happens in between: a
// crash then leaves no trace of what nobody has seen. A world in which issuing
// or registering has an effect outside makes each durable before it returns.
// An Advance to Intended or Issued without a lease gives the work up for now:
// what was only in memory is forgotten, as if it had never been opened.
type Journal interface {
	// Find returns what is known of a device; nothing known is no error.
	Find(context.Context, registry.DeviceID) (History, error)
	// Open enters a new rotation under its lease, and in the same commit
	// writes the one that gives way to it, if there is one, as the caller has
	// already changed it: superseded, or finished without proof. ErrChanged
	// if the number is taken, yet another rotation of the device is open, or
	// the one that gives way is not as it was read.
	Open(ctx context.Context, next Rotation, givesWay *Rotation) (Rotation, error)
	// Advance writes a change and returns the rotation with its new version.
	// ErrChanged if the rotation is not as it was read.
	Advance(context.Context, Change) (Rotation, error)
	// Due returns a page of what a sweep has to look at, by device. The next
	// page comes after the last device of this one; the last page is empty.
	Due(context.Context, Horizon) (Work, error)
	// Note writes what became of a retirement: put off, reverted, done.
	Note(context.Context, Retirement) error
}

// Witness is an inventory that keeps the journal beside it.
type Witness interface {
	// Witness is Inventory.Seen and Journal.Advance in one commit. Where either
	// returns an error, it does, and nothing is written. It may return
	// ErrChanged where Advance would not.
	Witness(context.Context, certificate.Sighting, Change) (Rotation, error)
}

// Pruner takes rotations out of the journal that nothing will ask for again.
type Pruner interface {
	// Prune looks at up to so many rotations that were finished before a time,
	// the next ones at every call, and takes out those of which a newer one of
	// the device is finished, with nothing left to do behind them and no
	// retirement of the device open. It returns how many went.
	Prune(ctx context.Context, before time.Time, most int) (int, error)
}

// Query selects rotations or retirements for a Catalogue.
type Query struct {
	Device registry.DeviceID
	State  State // rotations only
	Open   bool  // rotations: only open and stale ones; retirements: only those not done
	After  registry.DeviceID
	Limit  int // 0 is 1,000
}

// Catalogue lists the journal for operators, by device, newest rotation first.
// Pages follow one another by After; a page ends with all rows of a device.
type Catalogue interface {
	Rotations(context.Context, Query) ([]Rotation, error)
	Retirements(context.Context, Query) ([]Retirement, error)
	// Counts returns how many rotations are in each state, and how many
	// retirements are due and stuck.
	Counts(context.Context) (Counts, error)
}

// Counts are the journal's totals.
type Counts struct {
	States      map[State]int
	Retirements int // not done
	Stuck       int // due and not done, or reverted
	Orphans     int // ACTIVE certificates that nobody holds
}

// Member is a device of the rotation group.
type Member struct {
	Device  registry.DeviceID
	Since   time.Time
	Waiting bool // for its turn: it has not been given its job yet
}

// Group holds the devices that shall rotate. Membership gives a device its
// job; the order and the pace are the world's.
type Group interface {
	// Add enters a device. Adding a member again changes nothing, except
	// that a device whose job has ended without an ack gets it anew.
	Add(context.Context, registry.DeviceID) error
	// Remove takes a device out if it has been a member since before the
	// time given; a zero time means whenever it came. Idempotent. A job that
	// the device has begun is left to it.
	Remove(ctx context.Context, id registry.DeviceID, since time.Time) error
	// Members lists members by name, at most limit (0: 1,000), after a name.
	Members(ctx context.Context, after registry.DeviceID, limit int) ([]Member, error)
}
