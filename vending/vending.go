// Package vending is the conversation with devices: what is answered to a get
// and to an ack. Each answer is one function read from top to bottom.
//
// Read get.go and ack.go; admit.go is what both begin with, check.go what a CSR
// must satisfy, open.go how a rotation makes room for the next, package.go the
// get without a CSR, and handler.go how a message becomes a call and an outcome
// a reply. rehearse.go asks the same functions what they would answer, and
// explain.go says what each rule says. The ports that the answers stand on are here and with the nouns they
// are about.
package vending

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

// The kinds of errors that Packages return.
var (
	ErrNoPackage       = errors.New("no package for the device")
	ErrNoCertificateID = errors.New("the package names no certificate")
)

// Caller is who speaks, as far as the bus knows. A topic or a payload may
// name a device, but only a connection or a signature proves one.
type Caller struct {
	Device      registry.DeviceID    // whose connection or topic it is
	Certificate certificate.ID       // of the connection; empty where unknown
	CommonName  string               // of that certificate's subject
	Evidence    certificate.Evidence // Connection or Presence, with a certificate
	At          time.Time            // when it spoke, where it is heard of later; zero: now
}

// Issuer signs certificates. Safe for concurrent use.
type Issuer interface {
	// Issue signs what is ordered, for a shorter time where its CA ends
	// earlier. Returns certificate.ErrNoCA or ErrNoCAKey where that is what
	// is missing. Standing, Kind and Policies are left to the caller.
	Issue(context.Context, certificate.Order) (certificate.Certificate, error)
}

// Package is a pre-created key and certificate that waits for its device.
type Package struct {
	Certificate certificate.ID
	Spent       bool // a rotation was finished with it; its file is gone
}

// Packages keep pre-created packages and make links to them. Safe for
// concurrent use.
type Packages interface {
	// Find returns the device's newest package, ErrNoPackage, or
	// ErrNoCertificateID.
	Find(context.Context, registry.DeviceID) (Package, error)
	// Link returns an HTTPS URL from which the package can be fetched until
	// its lifetime ends. It is a secret. ErrNoPackage if the file is gone.
	Link(context.Context, registry.DeviceID, certificate.ID) (string, error)
	// Put stores a package, in place of the device's former one.
	Put(ctx context.Context, id registry.DeviceID, c certificate.ID, zip []byte) error
	// Spend deletes the file and remembers that it was used. Idempotent,
	// also for a package that is not there.
	Spend(context.Context, registry.DeviceID, certificate.ID) error
}

// Limits bound how often a device may ask. Safe for concurrent use.
type Limits interface {
	// Allow counts a get, and returns how long to wait if it is one too many.
	Allow(registry.DeviceID) (wait time.Duration, ok bool)
	// Peek returns what Allow would return, and counts nothing.
	Peek(registry.DeviceID) (wait time.Duration, ok bool)
}

// Anchors are what devices verify servers by, in a world that changes it. Safe
// for concurrent use.
type Anchors interface {
	// Offer returns, in PEM, what the device should trust from now on; empty
	// where it has said so already, or nothing changes.
	Offer(context.Context, registry.DeviceID) string
	// Took records, durably, which set the device has. Idempotent.
	Took(ctx context.Context, id registry.DeviceID, sha256 string) error
}

// Binding says how the certificate of a connection must belong to the device.
type Binding string

// The bindings.
const (
	Attached     Binding = "attached"       // the inventory says that the device holds it
	ByCommonName Binding = "cn"             // its common name is the device's
	AttachedOrCN Binding = "attached-or-cn" // either
)

// Profile is a named set of rules for a part of the fleet.
type Profile struct {
	Name     string
	Validity time.Duration
	Naming   certificate.Naming
	ReuseKey bool
	Policy   Policy
	Terms    rotation.Terms
}

// Config is what the vendor needs besides its ports.
type Config struct {
	Instance       string // names this process in leases
	Binding        Binding
	Profiles       []Profile // the first that matches a device counts; one, "default", today
	Backdate       time.Duration
	NewKeys        int // how many new keys a device may bring within NewKeysPer
	NewKeysPer     time.Duration
	RejectUnproven bool // an ack without evidence is refused instead of acknowledged
	// OutcomeDeadline is how long a request waits for what another instance
	// is doing for the same device.
	OutcomeDeadline time.Duration
}

// Ports are what a world supplies.
type Ports struct {
	Registry     registry.Store
	Inventory    certificate.Inventory
	Certificates certificate.Catalogue
	Journal      rotation.Journal
	Brakes       rotation.Brakes
	Issuer       Issuer
	Packages     Packages
	Limits       Limits
	Closer       *rotation.Closer
	Now          func() time.Time
	Anchors      Anchors  // nil where they never change
	Approver     Approver // nil where nobody else is asked
	// Signs returns until when a certificate that is issued now can last at
	// most, or why none can be issued, as Issue would return it; it signs
	// nothing. Only explaining needs it; nil where the world cannot say.
	Signs func(context.Context) (until time.Time, err error)
	// Joins says why a device could not be given a job, or returns nil; it
	// changes nothing. Only explaining needs it; nil where nothing but the
	// store stands in the way.
	Joins func(context.Context, registry.DeviceID) error
	// Policies returns the policies that a certificate has now, for one that is to
	// inherit them: others may have changed them where the inventory does not hear
	// of it. Nil where they cannot.
	Policies func(context.Context, certificate.ID) ([]string, error)
}

// Vendor answers requests. It is safe for concurrent use; the requests of one
// device must come one after the other, which is the queue's business.
type Vendor struct {
	Ports
	config Config
	// How a CSR is read and its signature checked: a rehearsal has no CSR.
	parse  func(string) (*certificate.Request, error)
	verify func(*certificate.Request) error
}

// New returns a vendor, or says which part of the configuration cannot work.
func New(config Config, ports Ports) (*Vendor, error) {
	if len(config.Profiles) == 0 {
		return nil, errors.New("vending: no profile")
	}
	for _, p := range config.Profiles {
		if p.Validity <= 0 {
			return nil, fmt.Errorf("profile %s: vending.validity must be more than zero", p.Name)
		}
		if err := errors.Join(p.Naming.Validate(), p.Policy.Validate(), p.Terms.Validate()); err != nil {
			return nil, fmt.Errorf("profile %s: %w", p.Name, err)
		}
	}
	switch config.Binding {
	case Attached, ByCommonName, AttachedOrCN:
	default:
		return nil, fmt.Errorf("admit.binding: %q is none of attached, cn, attached-or-cn", config.Binding)
	}
	if config.NewKeys <= 0 || config.NewKeysPer <= 0 {
		return nil, errors.New("vending.new_keys: must allow at least one key")
	}
	return &Vendor{
		Ports: ports, config: config, parse: certificate.ParseRequest, verify: (*certificate.Request).CheckSignature,
	}, nil
}

// Error is a refusal: the reason goes to the device, with the detail and the
// time to wait; the cause goes to the operator and never to the device.
type Error struct {
	Reason protocol.Reason
	Detail string
	Wait   time.Duration
	Err    error
}

func (e *Error) Error() string {
	switch {
	case e.Err != nil:
		return fmt.Sprintf("%s: %v", e.Reason, e.Err)
	case e.Detail != "":
		return fmt.Sprintf("%s: %s", e.Reason, e.Detail)
	}
	return string(e.Reason)
}

func (e *Error) Unwrap() error { return e.Err }

// reject makes the one kind of error that leaves this package.
func reject(reason protocol.Reason, err error) *Error {
	return &Error{Reason: reason, Err: err}
}

// explain rejects with a sentence that the device's people may read.
func explain(reason protocol.Reason, detail string) *Error {
	return &Error{Reason: reason, Detail: detail}
}

// later rejects for now: the same request may succeed after a while, which a
// port that knows how long may say by an Error of its own.
func later(wait time.Duration, err error) *Error {
	if said := (*Error)(nil); errors.As(err, &said) && said.Reason == protocol.TryAgainLater {
		wait = max(wait, said.Wait)
	}
	return &Error{Reason: protocol.TryAgainLater, Wait: wait, Err: err}
}
