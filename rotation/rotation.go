// Package rotation is a device's change from one certificate to the next: its
// states, the journal they are written in, and the one rule by which a
// certificate may be taken away. It does no I/O; a back end supplies the
// ports.
//
// Read this file for the nouns, journal.go for what must be durable, rule.go
// for the one rule, then closer.go and sweep.go for what is done behind the
// devices' requests, and byhand.go for what a person may ask for.
package rotation

import (
	"errors"
	"slices"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/registry"
)

// State is where a rotation stands.
type State string

// The states of a rotation. docs/architecture.md draws the arrows.
const (
	Intended     State = "intended"     // about to be signed or activated
	Issued       State = "issued"       // signed, not yet known to the world
	Vended       State = "vended"       // ready for the device, or on its way
	Acknowledged State = "acknowledged" // acked, but nobody saw over which certificate
	Proven       State = "proven"       // the device was seen on it
	Finished     State = "finished"     // proven and acked, or closed behind it
	Stale        State = "stale"        // vended long ago, no sign of life; kept
	Superseded   State = "superseded"   // another key was asked for; kept until that one is proven
	Abandoned    State = "abandoned"    // ended by a person
)

// Open reports whether the rotation is the device's open one. There is at most
// one per device.
func (s State) Open() bool {
	switch s {
	case Intended, Issued, Vended, Acknowledged, Proven:
		return true
	}
	return false
}

// Ready reports whether the rotation has come as far as a certificate that its
// device can use.
func (s State) Ready() bool { return s != Intended && s != Issued }

// Step is one of the things left to do behind the reply when a rotation is
// finished or acknowledged. Each is idempotent and repeated until done.
type Step string

// The steps behind a rotation.
const (
	Attributes Step = "attributes" // write status, certificate id and expiry to the registry
	Package    Step = "package"    // the package is spent: delete its file
	LeaveGroup Step = "group"      // leave the rotation group, last
)

// Lease says which instance is at work on a rotation, and until when if it is
// not heard of again. A rotation that nobody works on has none.
type Lease struct {
	Instance string
	Until    time.Time
}

// LeaseTime is how long a lease lasts without renewal.
const LeaseTime = 60 * time.Second

// Held reports whether another instance is at work.
func (l Lease) Held(self string, now time.Time) bool {
	return l.Instance != "" && l.Instance != self && now.Before(l.Until)
}

// Rotation is one device's change to one certificate.
type Rotation struct {
	Device      registry.DeviceID
	Number      int64 // 1, 2, ... for each device; with Device its name
	State       State
	ByPackage   bool // by a pre-created package instead of a CSR
	Key         certificate.KeyID
	Certificate certificate.ID   // empty until it is issued
	Over        certificate.ID   // the one the get came over; empty: unknown
	Named       certificate.ID   // the previous one, as the device named it
	Held        []certificate.ID // what was ACTIVE on the device when it opened
	Nonce       string           // what a proof signs; void when it ends
	Profile     string
	Evidence    certificate.Evidence // what proved it
	Unproven    bool                 // finished without any proof
	Behind      []Step               // what is left to do, in order
	Opened      time.Time
	VendedAt    time.Time
	AckedAt     time.Time
	ProvenAt    time.Time
	ClosedAt    time.Time
	UndoneAt    time.Time        // a person brought back what it had replaced
	Undone      []certificate.ID // and that is what it had replaced
	Lease       Lease
	Version     int64 // of the journal: what Advance compares
}

// Answers reports whether a get with this rotation's key, or an ack over its
// certificate, still belongs to it: it is open, or stale and may come back to
// life.
func (r Rotation) Answers() bool { return r.State.Open() || r.State == Stale }

// IsVended reports whether its certificate came as far as a reply. A stale one may
// have been left before that, when it was signed and no more.
func (r Rotation) IsVended() bool { return r.State.Ready() && !r.VendedAt.IsZero() }

// IsProven reports whether the device was ever proven to use its certificate.
func (r Rotation) IsProven() bool { return !r.ProvenAt.IsZero() }

// ShownBy reports whether a sighting of the rotation's certificate shows that
// the device took it. A certificate for a key of the device's own did not exist
// before; a package's may have been in use before the rotation opened.
func (r Rotation) ShownBy(seen time.Time) bool {
	return !seen.IsZero() && (!r.ByPackage || !seen.Before(r.Opened))
}

// Done returns the rotation without a step that has been done.
func (r Rotation) Done(step Step) Rotation {
	r.Behind = slices.DeleteFunc(slices.Clone(r.Behind), func(s Step) bool { return s == step })
	return r
}

// Retirement is a certificate that a proven rotation replaced, and that is to
// be taken away when the one rule allows it.
type Retirement struct {
	Device      registry.DeviceID
	Certificate certificate.ID
	Rotation    int64 // the number of the rotation that replaced it
	Mode        certificate.Mode
	Evidence    certificate.Evidence // what proved that rotation
	ProvenAt    time.Time            // when
	Due         time.Time
	Reverted    bool      // the device went back to it; nothing is removed until it returns
	Deactivated time.Time // the first half of a deletion is done
	Done        time.Time // zero: still to do
	Why         string    // why it is not done yet, for the operator
}

// The kinds of errors that callers of a Journal may test for.
var (
	// ErrChanged says that the rotation is no longer as it was read.
	ErrChanged = errors.New("the rotation was changed by somebody else")
	// ErrNothingBack says that nothing of what a rotation replaced can be
	// brought back.
	ErrNothingBack = errors.New("nothing can be brought back")
)

// History is what the journal knows of a device, newest rotation first.
type History struct {
	Rotations []Rotation // at most HistoryLimit
}

// HistoryLimit is how many rotations of one device the journal returns.
const HistoryLimit = 200

// Current returns the device's open rotation, or else the newest stale one
// that is newer than everything finished, or nil.
func (h History) Current() *Rotation {
	for i := range h.Rotations {
		if h.Rotations[i].State.Open() {
			return &h.Rotations[i]
		}
	}
	for i := range h.Rotations {
		switch h.Rotations[i].State {
		case Stale:
			return &h.Rotations[i]
		case Finished:
			return nil
		}
	}
	return nil
}

// LastFinished returns the newest finished rotation, or nil.
func (h History) LastFinished() *Rotation {
	for i := range h.Rotations {
		if h.Rotations[i].State == Finished {
			return &h.Rotations[i]
		}
	}
	return nil
}

// Next returns the number of the device's next rotation.
func (h History) Next() int64 {
	if len(h.Rotations) == 0 {
		return 1
	}
	return h.Rotations[0].Number + 1
}

// Keyed returns the newest rotation for a key that got a certificate or may
// still get one, or nil.
func (h History) Keyed(key certificate.KeyID) *Rotation {
	for i, r := range h.Rotations {
		if r.Key == key && !r.ByPackage && (r.Certificate != "" || r.State.Open()) {
			return &h.Rotations[i]
		}
	}
	return nil
}

// NewKeys counts the certificates that were signed for a key of the device's
// own since a time, until now. What was signed at a time that has not come yet was
// by a clock that ran ahead: it would count until then.
func (h History) NewKeys(since, now time.Time) int {
	n := 0
	for _, r := range h.Rotations {
		if r.Certificate != "" && !r.ByPackage && r.Opened.After(since) && !r.Opened.After(now) {
			n++
		}
	}
	return n
}

// Of returns the rotation that vended a certificate, or nil if none did. A
// package that was vended twice belongs to its latest rotation.
func (h History) Of(id certificate.ID) *Rotation {
	for i := range h.Rotations {
		if id != "" && h.Rotations[i].Certificate == id {
			return &h.Rotations[i]
		}
	}
	return nil
}
