// Package control is the operator's API: HTTP and JSON over a Unix socket,
// with the server that the daemon runs and the client that the CLI uses. Who
// may use it is a matter of the socket's permissions; who did is asked of the
// kernel and goes into the audit. remote.go is the same over TCP, where the
// certificate says who it is, and a role what that one may do.
//
// Read Ports for what the server stands on, views.go for what goes over the
// socket, server.go for how a request becomes an answer, then one file for
// each group of verbs.
package control

import (
	"context"
	"crypto"
	"io"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/jobs"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
	"github.com/certvendor/certvendor/vending"
)

// ByHand is what a person may ask for about the rotations of a device: a
// rotation.Closer is one, and says what its methods do.
type ByHand interface {
	Abandon(context.Context, registry.DeviceID) (rotation.Rotation, error)
	Undo(context.Context, registry.DeviceID) (rotation.Undone, error)
	Bricks(held []certificate.Holding, revoked ...certificate.ID) bool
	Revoke(context.Context, rotation.Revoking) error
}

// Ports are what the server stands on. All are required, and safe for
// concurrent use.
type Ports struct {
	Registry     registry.Store
	Registrar    registry.Registrar
	Devices      registry.Catalogue
	Inventory    certificate.Inventory
	Certificates certificate.Catalogue
	Journal      rotation.Journal
	Rotations    rotation.Catalogue
	Brakes       rotation.Brakes
	Group        rotation.Group
	Jobs         jobs.Continuous
	ByHand       ByHand
	Issuer       vending.Issuer
	Packages     vending.Packages
	Campaigns    Campaigns

	Now       func() time.Time
	Validity  time.Duration // of first certificates and of packages
	Backdate  time.Duration
	Policies  []string // of first certificates and of packages
	PerMinute int      // how many members get their job a minute, for the forecast
	Job       jobs.Job // as the configuration wants it

	// BuildPackage makes the zip of a package.
	BuildPackage func(key crypto.Signer, c certificate.Certificate, roots []byte) ([]byte, error)
	// ListPackages returns the packages of at most so many devices, by device,
	// after one; empty at the end.
	ListPackages func(ctx context.Context, after registry.DeviceID, limit int) ([]Package, error)
	// ListFleet returns a page of devices, each with the certificate it uses.
	ListFleet func(context.Context, registry.Query) ([]FleetDevice, error)
	// Naming and Window are how certificates are named, and how long after
	// its end the broker still takes one; for the survey.
	Naming certificate.Naming
	Window time.Duration
	// RepeatedKeys returns a page of the keys that several certificates were
	// made for, by id, after one; empty at the end.
	RepeatedKeys func(ctx context.Context, after certificate.KeyID, limit int) ([]certificate.KeyID, error)
	// Syncer reads another place's inventory into the store; nil where the
	// store is the only one.
	Syncer Syncer
	// Rehearse says what a request would be answered now; see vending.Vendor.
	Rehearse func(context.Context, vending.Question) vending.Answer
	// Recorded is what a survey of all devices asks instead of Registry,
	// Inventory and Rehearse, where these ask another place about each. Nil:
	// they do not.
	Recorded *Recorded
	// Explain says what a device's requests would meet now; see
	// vending.Vendor.
	Explain func(context.Context, registry.DeviceID, protocol.Action) (vending.Explanation, error)
	// NoPackages says why no package can be stored; nil: one can.
	NoPackages error
	// Roots returns, as PEM, what devices verify the broker and links by.
	Roots func() []byte
	// CAs lists the CA's certificates.
	CAs func() []CA
	// Authority changes the issuing CAs.
	Authority Authority
	// Servers changes the servers' CA.
	Servers Servers
	// CRL has an issuing CA sign a list of what is revoked, which is good for
	// so long: the one whose id begins so, or the one that issues.
	CRL func(ctx context.Context, id string, lifetime time.Duration) (CRL, error)
	// Sweep does what is due; with trustClock it first takes the clock for
	// right as it is.
	Sweep func(ctx context.Context, trustClock bool) (rotation.Swept, error)
	// AddedMember is called when the group has grown, so that nobody waits
	// for the next look at it.
	AddedMember func()
	// Note writes into the audit what an operator is about to do.
	Note func(context.Context, Event) error
	// Timeline returns what the audit knows of a device, oldest first.
	Timeline func(context.Context, registry.DeviceID) ([]Event, error)
	// VerifyAudit holds the audit's files against its store, and returns how
	// many events hold together.
	VerifyAudit func(context.Context) (int64, error)
	// Backup writes a backup, with or without what is private. Its error comes
	// with nothing written, or else with a part that is worth nothing.
	Backup func(ctx context.Context, keys bool, w io.Writer) error
	// Observes says that the daemon answers no device and changes nothing.
	Observes bool
	// Ready says why requests of devices cannot be answered, or returns nil.
	Ready func(context.Context) error
}

// Recorded is what is on record of devices and certificates, without another
// place being asked.
type Recorded struct {
	Registry  registry.Store
	Inventory certificate.Inventory
	Rehearse  func(context.Context, vending.Question) vending.Answer
}

func (p Ports) recorded() Recorded {
	if p.Recorded != nil {
		return *p.Recorded
	}
	return Recorded{p.Registry, p.Inventory, p.Rehearse}
}
