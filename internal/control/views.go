package control

import (
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

// What goes over the socket, and what the CLI prints with --json. Members that
// are zero are left out.

// Event is something the audit recorded.
type Event struct {
	At          time.Time         `json:"at,omitzero"`
	Kind        string            `json:"kind"`
	Device      registry.DeviceID `json:"device,omitempty"`
	Certificate certificate.ID    `json:"certificateId,omitempty"`
	Detail      map[string]string `json:"detail,omitempty"`
}

// Device is a device of the registry.
type Device struct {
	Name       string            `json:"name"`
	Attributes map[string]string `json:"attributes,omitempty"`
	Blocked    bool              `json:"blocked,omitempty"`
	Added      time.Time         `json:"added,omitzero"`
}

// Certificate is a certificate as one device holds it.
type Certificate struct {
	ID        certificate.ID       `json:"certificateId"`
	Standing  certificate.Standing `json:"standing"`
	Kind      certificate.Kind     `json:"kind"`
	Subject   string               `json:"subject"`
	Issuer    string               `json:"issuer"`
	Serial    string               `json:"serial"`
	Key       string               `json:"key"`
	KeyID     certificate.KeyID    `json:"keyId"`
	NotBefore time.Time            `json:"notBefore"`
	NotAfter  time.Time            `json:"notAfter"`
	Policies  []string             `json:"policies,omitempty"`
	LastSeen  time.Time            `json:"lastSeen,omitzero"`
	Connected bool                 `json:"connected,omitempty"`
	Shared    bool                 `json:"shared,omitempty"`
}

// DeviceDetail is all that is known of a device.
type DeviceDetail struct {
	Device
	Removed      bool          `json:"removed,omitempty"` // it is not in the registry any more
	Member       bool          `json:"member"`
	MemberSince  time.Time     `json:"memberSince,omitzero"`
	Certificates []Certificate `json:"certificates"`
	Rotations    []Rotation    `json:"rotations"`
	Retirements  []Retirement  `json:"retirements"`
	Timeline     []Event       `json:"timeline"`
}

// AddRequest asks for a device's first certificate.
type AddRequest struct {
	Name       string            `json:"name"`
	CSR        string            `json:"csr"` // PEM
	Attributes map[string]string `json:"attributes,omitempty"`
	Birth      bool              `json:"birth,omitempty"`   // for recovery: it is never retired
	Another    bool              `json:"another,omitempty"` // also if the device has one that works
}

// Added is the answer to an AddRequest.
type Added struct {
	Device        string         `json:"device"`
	CertificateID certificate.ID `json:"certificateId"`
	NotAfter      time.Time      `json:"notAfter"`
	Certificate   string         `json:"certificate,omitempty"` // PEM, the leaf
	Chain         string         `json:"chain,omitempty"`       // PEM, issuer first
	Roots         string         `json:"roots,omitempty"`       // PEM, what the broker is verified by
}

// AdoptRequest asks to take in a device with a certificate that was made
// elsewhere, or with none.
type AdoptRequest struct {
	Name        string            `json:"name"`
	Certificate string            `json:"certificate,omitempty"` // PEM, leaf first
	Attributes  map[string]string `json:"attributes,omitempty"`
	Birth       bool              `json:"birth,omitempty"`
}

// Adopted is the answer to an AdoptRequest.
type Adopted struct {
	Device        string         `json:"device"`
	CertificateID certificate.ID `json:"certificateId,omitempty"`
	NotAfter      time.Time      `json:"notAfter,omitzero"`
	Unchanged     bool           `json:"unchanged,omitempty"` // all of it was there already
	Warning       string         `json:"warning,omitempty"`   // what is wrong with the certificate, which was taken nevertheless
}

// Outcome is how it went for one of many devices.
type Outcome struct {
	Device    string `json:"device"`
	Error     string `json:"error,omitempty"`
	Warning   string `json:"warning,omitempty"`   // it was done, and has no effect yet
	Done      string `json:"done,omitempty"`      // what was done, where the verb says so
	Unchanged string `json:"unchanged,omitempty"` // why nothing had to be done
}

// Member is a device of the rotation group.
type Member struct {
	Device string    `json:"device"`
	Since  time.Time `json:"since"`
}

// Rotation is a device's change to one certificate.
type Rotation struct {
	Device      string               `json:"device"`
	Number      int64                `json:"number"`
	State       rotation.State       `json:"state"`
	ByPackage   bool                 `json:"byPackage,omitempty"`
	Certificate certificate.ID       `json:"certificateId,omitempty"`
	Over        certificate.ID       `json:"over,omitempty"` // the certificate it was asked for with
	Evidence    certificate.Evidence `json:"evidence,omitempty"`
	Unproven    bool                 `json:"unproven,omitempty"`
	Opened      time.Time            `json:"opened"`
	Vended      time.Time            `json:"vended,omitzero"`
	Proven      time.Time            `json:"proven,omitzero"`
	Acked       time.Time            `json:"acked,omitzero"`
	Closed      time.Time            `json:"closed,omitzero"`
	Undone      time.Time            `json:"undone,omitzero"` // a person brought back what it had replaced
	Left        []rotation.Step      `json:"left,omitempty"`  // what is left to do behind it
}

// Retirement is a certificate that is, or was, to be taken away.
type Retirement struct {
	Device      string           `json:"device"`
	Certificate certificate.ID   `json:"certificateId"`
	Rotation    int64            `json:"rotation"`
	Mode        certificate.Mode `json:"mode"`
	Due         time.Time        `json:"due"`
	Done        time.Time        `json:"done,omitzero"`
	Reverted    bool             `json:"reverted,omitempty"`
	Why         string           `json:"why,omitempty"`
}

// Stuck is something that does not go on by itself.
type Stuck struct {
	Device      string         `json:"device"`
	What        string         `json:"what"` // "retirement" or "rotation"
	Rotation    int64          `json:"rotation"`
	Certificate certificate.ID `json:"certificateId,omitempty"`
	Since       time.Time      `json:"since"`
	Why         string         `json:"why"`
	Do          string         `json:"do"` // what to type
}

// Status is how the rotation of the fleet goes.
type Status struct {
	Members     int                        `json:"members"`
	Waiting     int                        `json:"waiting"` // members without their job yet
	PerMinute   int                        `json:"perMinute"`
	MinutesLeft int                        `json:"minutesLeft"` // until the last has its job; 0 while the job is canceled
	JobCanceled bool                       `json:"jobCanceled,omitempty"`
	Executions  map[protocol.JobStatus]int `json:"executions"`
	Rotations   map[rotation.State]int     `json:"rotations"`
	Retirements int                        `json:"retirements"` // not done
	Stuck       int                        `json:"stuck"`
	Orphans     int                        `json:"orphans"`
	Frozen      Frozen                     `json:"frozen"`
	NotReady    string                     `json:"notReady,omitempty"`
	Observes    bool                       `json:"observes,omitempty"` // nothing is answered and nothing changed
	Auto        *Campaign                  `json:"auto,omitempty"`     // the campaign of due certificates, unless it has ended
}

// Frozen is what an operator, or the circuit breaker, has stopped.
type Frozen struct {
	Vending  bool      `json:"vending"`
	Retiring bool      `json:"retiring"`
	Why      string    `json:"why,omitempty"`
	At       time.Time `json:"at,omitzero"`
}

// Swept is what a sweep has done.
type Swept struct {
	Proven   int `json:"proven"`
	Finished int `json:"finished"`
	Stale    int `json:"stale"`
	Settled  int `json:"settled"`
	Retired  int `json:"retired"` // retirements looked at
	Pruned   int `json:"pruned"`  // finished rotations that were kept long enough
}

// Package is a pre-created package.
type Package struct {
	Device      string         `json:"device"`
	Certificate certificate.ID `json:"certificateId"`
	Created     time.Time      `json:"created,omitzero"`
	Spent       time.Time      `json:"spent,omitzero"` // a rotation was finished with it
}

// Job is the job that tells members to rotate.
type Job struct {
	ID         string                     `json:"jobId"`
	Group      string                     `json:"group"`
	State      string                     `json:"state"`
	Created    time.Time                  `json:"created,omitzero"`
	Document   string                     `json:"document"`
	Executions map[protocol.JobStatus]int `json:"executions,omitempty"`
	Waiting    int                        `json:"waiting"`
}

// CA is a certificate of the CA, of the listeners, or of a foreign CA.
type CA struct {
	Role      string         `json:"role"` // root, intermediate, issuing, former, retired, server-ca, next-server-ca, server, client-ca
	Subject   string         `json:"subject"`
	ID        certificate.ID `json:"certificateId"`
	NotAfter  time.Time      `json:"notAfter"`
	Key       string         `json:"key,omitempty"` // where its key is
	Encrypted bool           `json:"encrypted"`
	Retired   time.Time      `json:"retired,omitzero"`  // it is not trusted any more
	Uses      *CAUses        `json:"uses,omitempty"`    // what would stop working without it; of issuing CAs
	Missing   *int           `json:"missing,omitempty"` // devices that have not said that they trust it; of a server CA that is prepared
}

func deviceView(d registry.Device) Device {
	return Device{Name: string(d.ID), Attributes: d.Attributes, Blocked: d.Blocked, Added: d.Added}
}

func certificateView(h certificate.Holding) Certificate {
	return Certificate{
		ID: h.ID, Standing: h.Standing, Kind: h.Kind, Subject: h.Subject, Issuer: h.Issuer, Serial: h.Serial,
		Key: h.KeyType, KeyID: h.Certificate.Key, NotBefore: h.NotBefore, NotAfter: h.NotAfter, Policies: h.Policies,
		LastSeen: h.LastSeen, Connected: h.Connected, Shared: h.Shared,
	}
}

func rotationView(r rotation.Rotation) Rotation {
	return Rotation{
		Device: string(r.Device), Number: r.Number, State: r.State, ByPackage: r.ByPackage,
		Certificate: r.Certificate, Over: r.Over, Evidence: r.Evidence, Unproven: r.Unproven,
		Opened: r.Opened, Vended: r.VendedAt, Proven: r.ProvenAt, Acked: r.AckedAt, Closed: r.ClosedAt, Undone: r.UndoneAt,
		Left: r.Behind,
	}
}

func retirementView(r rotation.Retirement) Retirement {
	return Retirement{
		Device: string(r.Device), Certificate: r.Certificate, Rotation: r.Rotation, Mode: r.Mode,
		Due: r.Due, Done: r.Done, Reverted: r.Reverted, Why: r.Why,
	}
}

// each turns a slice into its views; never nil, so that JSON shows a list.
func each[T, V any](all []T, view func(T) V) []V {
	views := make([]V, 0, len(all))
	for _, one := range all {
		views = append(views, view(one))
	}
	return views
}
