package certificate

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/certvendor/certvendor/registry"
)

// ErrRevoked says that a certificate was revoked, which nothing undoes.
var ErrRevoked = errors.New("the certificate is revoked")

// ErrDistrusted says that the CA of a certificate was retired, which nothing
// undoes.
var ErrDistrusted = errors.New("the CA that issued the certificate is retired")

// Reason is why a certificate was revoked, as a CRL has it (RFC 5280, 5.3.1).
type Reason int

// reasons are those that fit a device's certificate. certificateHold and
// removeFromCRL are not among them: what is revoked never comes back.
var reasons = map[string]Reason{
	"unspecified":          0,
	"keyCompromise":        1,
	"cACompromise":         2,
	"affiliationChanged":   3,
	"superseded":           4,
	"cessationOfOperation": 5,
	"privilegeWithdrawn":   9,
	"aACompromise":         10,
}

// ParseReason returns the reason of a name, or an error that lists the names.
func ParseReason(name string) (Reason, error) {
	reason, ok := reasons[name]
	if !ok {
		return 0, fmt.Errorf("reason %.40q: is none of %s", name, strings.Join(Reasons(), ", "))
	}
	return reason, nil
}

// Reasons returns the names of the reasons, in the order of RFC 5280.
func Reasons() []string {
	return slices.SortedFunc(maps.Keys(reasons), func(a, b string) int { return int(reasons[a] - reasons[b]) })
}

func (r Reason) String() string {
	for name, reason := range reasons {
		if reason == r {
			return name
		}
	}
	return fmt.Sprintf("reason %d", int(r))
}

// Revocation asks a Revoker to revoke a certificate.
type Revocation struct {
	Certificate ID
	Reason      Reason
	// Allowed is asked for each device that holds the certificate, with all
	// that device holds, at the moment of the revocation: in the same
	// transaction where the world has one. If it returns an error, nothing is
	// revoked and Revoke returns that error as it is.
	Allowed func(device registry.DeviceID, held []Holding) error
}

// RevokedCertificate is a certificate that was revoked.
type RevokedCertificate struct {
	Certificate
	At     time.Time
	Reason Reason
}

// Revoker takes certificates away because a person says so, for good: nothing
// makes one ACTIVE again, and it is never DELETED. Methods are safe for
// concurrent use.
type Revoker interface {
	// Revoke revokes a certificate for all who hold it, and closes their
	// connections with it. Idempotent: the first reason stays. ErrUnknown for
	// one that the inventory does not know. Only package rotation calls it.
	Revoke(context.Context, Revocation) error
	// Revoked lists by id, a page of at most limit (0: 1,000) at a time, what
	// was revoked and has not expired at a time.
	Revoked(ctx context.Context, at time.Time, after ID, limit int) ([]RevokedCertificate, error)
}
