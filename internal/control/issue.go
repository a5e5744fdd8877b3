package control

import (
	"context"
	"crypto"
	"fmt"
	"net/http"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/registry"
)

// mayIssue refuses a device that nothing is made for, and does so before
// anything is made.
func (s *Server) mayIssue(ctx context.Context, d registry.Device) error {
	if d.Blocked {
		return refuse(http.StatusConflict, "device %s is blocked: `certvendor device unblock %s` first", d.ID, d.ID)
	}
	frozen, err := s.Brakes.Frozen(ctx)
	if err != nil {
		return fmt.Errorf("read what is frozen: %w", err)
	}
	if frozen.Vending {
		return refuse(http.StatusConflict, "device %s: vending is frozen (%s): `certvendor thaw vending` lets it go on",
			d.ID, frozen.VendingWhy())
	}
	return nil
}

// issue signs a certificate for an operator: the subject is the device's name
// whatever the request says.
func (s *Server) issue(ctx context.Context, id registry.DeviceID, key crypto.PublicKey, request *certificate.Request) (certificate.Certificate, error) {
	subject, err := certificate.Naming{Mode: certificate.ForceName}.Subject(request, certificate.Names{Device: id})
	if err != nil {
		return certificate.Certificate{}, err
	}
	now := s.Now()
	c, err := s.Issuer.Issue(ctx, certificate.Order{
		Device: id, Key: key, RawSubject: subject,
		NotBefore: now.Add(-s.Backdate), NotAfter: now.Add(s.Validity), Request: request.CSR,
	})
	if err != nil {
		return c, fmt.Errorf("device %s: issue a certificate: %w", id, err)
	}
	c.Policies, c.Created = s.Policies, now
	return c, nil
}

// works returns a certificate of the device that it can connect with, if it
// has one.
func works(held []certificate.Holding, now time.Time) (certificate.Holding, bool) {
	for _, h := range held {
		if h.Standing == certificate.Active && now.Before(h.NotAfter) {
			return h, true
		}
	}
	return certificate.Holding{}, false
}
