package certificate

import (
	"context"
	"errors"
	"time"

	"github.com/certvendor/certvendor/registry"
)

// The kinds of errors that callers of an Inventory, a Catalogue or an issuer
// may test for.
var (
	ErrUnknown     = errors.New("unknown certificate")
	ErrNotHeld     = errors.New("the device does not hold this certificate")
	ErrNotActive   = errors.New("the certificate is not active")
	ErrNotAttached = errors.New("certificate not attached to the device")
	ErrNoPolicy    = errors.New("policy not attached to the certificate")
	ErrNoCA        = errors.New("no CA certificate")
	ErrNoCAKey     = errors.New("no CA key")
)

// Evidence says how we know which certificate a device speaks with.
type Evidence string

// The kinds of evidence. Unknown is the empty one.
const (
	Unknown    Evidence = ""
	Connection Evidence = "connection" // the TLS peer certificate of the request's connection
	Presence   Evidence = "presence"   // a CONNECT, seen by the broker
	Proof      Evidence = "proof"      // a signature by the certificate's key
)

// Sighting is a sign that a device uses a certificate.
type Sighting struct {
	Device      registry.DeviceID
	Certificate ID
	At          time.Time // when it happened, not when it was heard of
	Evidence    Evidence
	// Live says that it is happening now: it comes after every sighting of
	// the device that was recorded before, even if the clock was set back.
	Live bool
}

// Holding is a certificate as one device holds it.
type Holding struct {
	Certificate
	Device    registry.DeviceID
	Attached  time.Time
	LastSeen  time.Time // of this device on this certificate; zero: never
	Evidence  Evidence  // of that sighting
	Connected bool      // the device has an open connection with it now
	Shared    bool      // another device holds it too
}

// IsGiven reports whether a person gave the certificate to the device: nothing
// was vended over the wire.
func (h Holding) IsGiven() bool { return h.Kind != Rotated && h.Kind != Packaged }

// Mode says what becomes of a certificate that a rotation replaced.
type Mode string

// The modes of a retirement.
const (
	Keep       Mode = "keep"       // nothing
	Deactivate Mode = "deactivate" // the broker refuses it; an operator can bring it back
	Delete     Mode = "delete"     // deactivated, then taken from the device
)

// Removal asks an Inventory to take a certificate away from a device.
type Removal struct {
	Device      registry.DeviceID
	Certificate ID
	Mode        Mode // Deactivate or Delete
	// Rotation is the number of the rotation whose retirement this is; 0:
	// there is none. Retire returns rotation.ErrChanged, and removes nothing,
	// if that retirement was closed meanwhile.
	Rotation int64
	// Allowed is asked with all the device holds, at the moment of the
	// removal: in the same transaction where the world has one, right before
	// the first call otherwise. If it returns an error, nothing is removed
	// and Retire returns that error as it is.
	Allowed func(held []Holding) error
}

// Inventory is every certificate there is, and who holds it. Methods are safe
// for concurrent use.
type Inventory interface {
	// Register makes c one that the device can connect with if its standing
	// says so: known, with its policies, attached. Idempotent. Returns
	// ErrNotAttached or ErrNoPolicy where that part could not be done, and
	// ErrRevoked for what was revoked and the device does not hold, and
	// ErrDistrusted for what a CA issued that was retired. In a
	// world whose journal and inventory are one store, a certificate that a
	// journaled rotation carries is written by that rotation's commit.
	Register(context.Context, registry.DeviceID, Certificate) error
	// Activate makes an INACTIVE certificate of the device ACTIVE, and does
	// nothing to an ACTIVE one. ErrNotHeld if the device does not hold it,
	// ErrRevoked if it was revoked, ErrDistrusted if its CA was retired.
	// What Register says of a rotation's commit holds here too.
	Activate(context.Context, registry.DeviceID, ID) error
	// Held returns everything the device holds whatever its standing, but
	// nothing deleted, oldest first.
	Held(context.Context, registry.DeviceID) ([]Holding, error)
	// Seen records a sighting, unless a later one on the same certificate is
	// known. When it returns nil, a sighting that changes which certificate
	// the device was last seen on is durable; a repeated one may be written
	// later. Returns ErrNotHeld or ErrNotActive, recording nothing, for a
	// certificate that the device could not have used.
	Seen(context.Context, Sighting) error
	// Retire carries out a removal. Idempotent. A certificate that another
	// device holds too is only detached from this one. Only package rotation
	// calls it.
	Retire(context.Context, Removal) error
}

// Query selects certificates for a Catalogue. Zero fields select all.
type Query struct {
	After      ID // only what comes after this one
	Device     registry.DeviceID
	Key        KeyID
	Standing   Standing
	Issuer     string
	ExpiresBy  time.Time
	Attributes map[string]string // of the device
	Limit      int               // at most so many holdings; 0 is 1,000
}

// Catalogue lists holdings by certificate id, or with ExpiresBy by when they
// expire, a page at a time; what is deleted or held by nobody is listed too,
// with an empty Device. All holdings
// of one certificate come in one page.
type Catalogue interface {
	List(context.Context, Query) ([]Holding, error)
}

// Latest returns the holding on which the device was seen last, or false if it
// was never seen.
func Latest(held []Holding) (latest Holding, ok bool) {
	for _, h := range held {
		if !h.LastSeen.IsZero() && (!ok || h.LastSeen.After(latest.LastSeen)) {
			latest, ok = h, true
		}
	}
	return latest, ok
}

// Find returns the holding of a certificate among those of a device.
func Find(held []Holding, id ID) (Holding, bool) {
	for _, h := range held {
		if h.ID == id {
			return h, true
		}
	}
	return Holding{}, false
}
