package control

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

// RevokeRequest asks to revoke certificates.
type RevokeRequest struct {
	Certificates []string `json:"certificates"` // ids, or at least 12 of their first digits
	Reason       string   `json:"reason"`       // as RFC 5280 calls it
	Brick        []string `json:"brick,omitempty"`
	Plan         bool     `json:"plan,omitempty"` // only say what it would do
}

// Revocation is what becomes, or would become, of one certificate.
type Revocation struct {
	ID        certificate.ID `json:"certificateId,omitempty"`
	Asked     string         `json:"asked"`
	Devices   []string       `json:"devices"`             // that hold it
	Bricks    []string       `json:"bricks,omitempty"`    // of these, those left without one that works
	Done      bool           `json:"done,omitempty"`      // it is revoked by this
	Unchanged string         `json:"unchanged,omitempty"` // why nothing had to be done
	Error     string         `json:"error,omitempty"`
}

// revoke revokes certificates, each for all who hold it. Nothing is revoked
// unless all may be.
func (s *Server) revoke(r *http.Request) (any, error) {
	ctx := r.Context()
	var asked RevokeRequest
	if err := read(r, &asked); err != nil {
		return nil, err
	}
	reason, err := certificate.ParseReason(asked.Reason)
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "%v", err)
	}
	if n := len(asked.Certificates); n == 0 || n > batch {
		return nil, refuse(http.StatusBadRequest, "%d certificates in one request: must be from 1 to %d", n, batch)
	}
	plan, err := s.planRevoking(ctx, asked)
	stop := slices.ContainsFunc(plan, func(p Revocation) bool { return p.Error != "" })
	if err != nil || asked.Plan || stop {
		return plan, err
	}
	for i := range plan {
		if plan[i].Unchanged == "" {
			s.revokeOne(ctx, &plan[i], asked, reason)
		}
	}
	return plan, nil
}

func (s *Server) revokeOne(ctx context.Context, p *Revocation, asked RevokeRequest, reason certificate.Reason) {
	e := Event{Kind: "certificate_revoke", Certificate: p.ID, Detail: map[string]string{"reason": asked.Reason}}
	if len(p.Devices) == 1 {
		e.Device = registry.DeviceID(p.Devices[0])
	}
	if len(p.Bricks) > 0 {
		e.Detail["brick"] = strings.Join(p.Bricks, " ")
	}
	err := s.note(ctx, e)
	if err == nil {
		err = s.ByHand.Revoke(ctx, rotation.Revoking{Certificate: p.ID, Reason: reason, Brick: deviceIDs(asked.Brick)})
	}
	if p.Done = err == nil; err != nil {
		p.Error = fmt.Sprintf("certificate %.12s: %v", p.ID, err)
	}
}

func deviceIDs(names []string) []registry.DeviceID {
	return each(names, func(name string) registry.DeviceID { return registry.DeviceID(name) })
}

// planRevoking says of each certificate what revoking all of them would do.
func (s *Server) planRevoking(ctx context.Context, asked RevokeRequest) ([]Revocation, error) {
	plan := make([]Revocation, 0, len(asked.Certificates))
	of := map[registry.DeviceID][]certificate.ID{}
	for _, text := range asked.Certificates {
		p, err := s.toRevoke(ctx, text)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(plan, func(q Revocation) bool { return p.ID != "" && q.ID == p.ID }) {
			continue // named twice
		}
		for _, name := range p.Devices {
			of[registry.DeviceID(name)] = append(of[registry.DeviceID(name)], p.ID)
		}
		plan = append(plan, p)
	}
	for id, revoked := range of {
		if err := s.planDevice(ctx, plan, id, revoked, slices.Contains(asked.Brick, string(id))); err != nil {
			return nil, err
		}
	}
	return plan, nil
}

// planDevice notes for each of a device's certificates that are to be revoked
// whether that leaves the device without any that works.
func (s *Server) planDevice(ctx context.Context, plan []Revocation, id registry.DeviceID, revoked []certificate.ID, named bool) error {
	held, err := s.Inventory.Held(ctx, id)
	if err != nil {
		return err
	}
	if !s.ByHand.Bricks(held, revoked...) {
		return nil
	}
	for i := range plan {
		h, ok := certificate.Find(held, plan[i].ID)
		if !ok || h.Standing != certificate.Active || !slices.Contains(revoked, plan[i].ID) {
			continue
		}
		plan[i].Bricks = append(plan[i].Bricks, string(id))
		slices.Sort(plan[i].Bricks)
		if !named {
			plan[i].Error = fmt.Sprintf("certificate %.12s: device %s may be left without a working certificate: `--brick %s` revokes it all the same",
				plan[i].ID, id, id)
		}
	}
	return nil
}

// revocable is an id, or as much of one as tables show.
var revocable = regexp.MustCompile(`^[0-9a-f]{12,64}$`)

// toRevoke finds the certificate that was meant, and who holds it.
func (s *Server) toRevoke(ctx context.Context, text string) (Revocation, error) {
	p := Revocation{Asked: text, Devices: []string{}}
	if !revocable.MatchString(text) {
		p.Error = fmt.Sprintf("certificate %.80q: an id is 64 lower-case hex digits; at least the first 12 are needed", text)
		return p, nil
	}
	// Ids that begin with a text follow what is one digit shorter.
	found, err := s.Certificates.List(ctx, certificate.Query{After: certificate.ID(text[:len(text)-1]), Limit: batch})
	if err != nil {
		return p, err
	}
	for _, h := range found {
		if !strings.HasPrefix(string(h.ID), text) {
			continue
		}
		if p.ID != "" && p.ID != h.ID {
			return Revocation{Asked: text, Devices: []string{}, Error: fmt.Sprintf("certificate %s: there is more than one: give all 64 digits", text)}, nil
		}
		p.ID = h.ID
		if h.Device != "" {
			p.Devices = append(p.Devices, string(h.Device))
		}
		if h.Standing == certificate.Revoked {
			p.Unchanged = "it is revoked already"
		}
	}
	if p.ID == "" {
		p.Error = fmt.Sprintf("certificate %s is not known: `certvendor device show NAME` lists a device's", text)
	}
	return p, nil
}

// CRL is a signed list of revoked certificates.
type CRL struct {
	Number     int64     `json:"number"`
	NextUpdate time.Time `json:"nextUpdate"`
	Entries    int       `json:"entries"`
	Others     int       `json:"others,omitempty"` // revoked ones of other CAs, which cannot be on it
	PEM        string    `json:"pem,omitempty"`
}

// crlRequest is the body of a request for a CRL.
type crlRequest struct {
	CA       string        `json:"ca,omitempty"` // whose; empty: the one that issues
	Lifetime time.Duration `json:"lifetime"`
}

func (s *Server) signCRL(r *http.Request) (any, error) {
	var asked crlRequest
	if err := read(r, &asked); err != nil {
		return nil, err
	}
	if asked.Lifetime < time.Minute {
		return nil, refuse(http.StatusBadRequest, "a CRL that is good for %s: must be at least a minute", asked.Lifetime)
	}
	if err := s.note(r.Context(), Event{Kind: "ca_crl", Detail: map[string]string{"lifetime": asked.Lifetime.String(), "ca": asked.CA}}); err != nil {
		return nil, err
	}
	crl, err := s.CRL(r.Context(), asked.CA, asked.Lifetime)
	if errors.Is(err, certificate.ErrNoCAKey) {
		return nil, refuse(http.StatusServiceUnavailable, "%v", err)
	}
	return crl, err
}
