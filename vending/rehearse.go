package vending

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

// Question is a request that is not made, but asked about.
type Question struct {
	Caller
	Action  protocol.Action
	Package bool              // a get without a CSR
	Key     certificate.KeyID // a get: the key of its CSR; empty: one that nobody ever had
}

// Answer is what a request would be answered now, and what it would bring
// about.
type Answer struct {
	Question
	Refusal *Error   // nil: it would be accepted
	Effects []string // in order, for people
}

// Rehearse says what a request would be answered now. The answer is that of
// Heard and Get, or Ack, which run on ports that read the world and keep to
// themselves what they are asked to change: nothing is changed, signed or
// counted. What cannot be known before is taken to go well: that the CSR is
// sound and names nobody else, that the CA's key signs, that what is written
// and called outside succeeds.
func (v *Vendor) Rehearse(ctx context.Context, q Question) Answer {
	s := v.stage(q.Device)
	dry := s.vendor(q.Key)
	err := dry.Heard(ctx, q.Caller)
	switch {
	case err != nil:
	case q.Action == protocol.Ack:
		_, _, err = dry.Ack(ctx, q.Caller, protocol.AckRequest{})
	case q.Package:
		_, err = dry.Get(ctx, q.Caller, protocol.GetRequest{})
	default:
		_, err = dry.Get(ctx, q.Caller, protocol.GetRequest{CSR: new(string)})
	}
	answer := Answer{Question: q, Effects: s.effects}
	var unfinished *Unfinished
	if err != nil && !errors.As(err, &unfinished) {
		answer.Refusal = asError(err)
	}
	return answer
}

// Outlook is a retirement that is not done, and what a sweep would make of it
// that looked at it now, due or not.
type Outlook struct {
	rotation.Retirement
	Kept string // why it would remove nothing; empty: it would
}

// Outlooks returns the retirements of a device that are not done.
func (v *Vendor) Outlooks(ctx context.Context, id registry.DeviceID) ([]Outlook, error) {
	open, err := v.Closer.Retirements.Retirements(ctx, rotation.Query{Device: id, Open: true})
	if err != nil {
		return nil, fmt.Errorf("retirements of %s: %w", id, err)
	}
	s := v.stage(id)
	s.due = open
	if _, err := s.closer().Sweep(ctx); err != nil {
		return nil, err
	}
	all := make([]Outlook, 0, len(open))
	for _, r := range open {
		all = append(all, Outlook{r, s.kept(r)})
	}
	return all, nil
}

// kept says why a sweep on the stage has kept what a retirement is about.
func (s *stage) kept(r rotation.Retirement) string {
	for _, noted := range s.noted {
		switch {
		case noted.Certificate != r.Certificate || noted.Rotation != r.Rotation:
		case noted.Due.After(r.Due):
			return "the device has come back from it: its grace starts anew, until " + until(noted.Due)
		default:
			return noted.Why
		}
	}
	return r.Why // as it was: no news is noted
}

func (v *Vendor) stage(id registry.DeviceID) *stage { return &stage{v: v, id: id} }

// vendor returns the vendor on the stage. The CSR of a get by CSR is one for
// this key, of which nothing else is known.
func (s *stage) vendor(key certificate.KeyID) *Vendor {
	if key == "" {
		key = certificate.KeyIDOf(random())
	}
	dry := *s.v
	dry.Ports = Ports{
		Registry: stagedRegistry{s}, Inventory: stagedInventory{s}, Certificates: s.v.Certificates,
		Journal: stagedJournal{s}, Brakes: stagedBrakes{s}, Issuer: stagedIssuer{s}, Packages: stagedPackages{s},
		Limits: stagedLimits{s}, Closer: s.closer(), Now: s.v.Now, Signs: s.v.Signs, Approver: s.v.Approver,
	}
	dry.config.OutcomeDeadline = 0 // nobody waits for another instance
	dry.parse = func(string) (*certificate.Request, error) {
		return &certificate.Request{CSR: &x509.CertificateRequest{}, Key: key}, nil
	}
	dry.verify = func(*certificate.Request) error { return nil }
	return &dry
}

func (s *stage) closer() *rotation.Closer {
	return s.v.Closer.On(rotation.Ports{
		Journal: stagedJournal{s}, Retirements: s.v.Closer.Retirements, Inventory: stagedInventory{s},
		Group: stagedGroup{}, Registry: stagedRegistry{s}, Packages: stagedPackages{s}, Brakes: stagedBrakes{s},
	})
}

func random() []byte {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails, by its contract
	return b
}
