package control

import (
	"context"
	"errors"
	"fmt"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/registry"
)

func (s *Server) surveyCertificates(ctx context.Context, after string, found *Survey) (next string, err error) {
	page, err := s.Certificates.List(ctx, certificate.Query{After: certificate.ID(after), Limit: batch})
	if err != nil || len(page) == 0 {
		return "", err
	}
	for rest := page; len(rest) > 0; {
		n := 1
		for n < len(rest) && rest[n].ID == rest[0].ID {
			n++
		}
		if err := s.surveyCertificate(ctx, rest[:n], found); err != nil {
			return "", err
		}
		rest = rest[n:]
	}
	return string(page[len(page)-1].ID), nil
}

// surveyCertificate looks at a certificate, by all who hold it. A device that was
// taken out of the registry does not count: nothing of it works.
func (s *Server) surveyCertificate(ctx context.Context, held []certificate.Holding, found *Survey) error {
	one := held[0]
	switch {
	case one.Standing != certificate.Active:
		return nil
	case one.Device == "":
		found.Orphans.add(string(one.ID))
		return nil
	}
	held, err := s.ofDevices(ctx, held)
	if err != nil {
		return err
	}
	if len(held) == 0 {
		found.Removed.add(fmt.Sprintf("%s %.12s", one.Device, one.ID))
		return nil
	}
	found.count(held[0], len(held))
	for _, h := range held {
		if err := s.surveyName(ctx, h, found); err != nil {
			return err
		}
	}
	return nil
}

// ofDevices returns those holdings whose device is in the registry.
func (s *Server) ofDevices(ctx context.Context, held []certificate.Holding) ([]certificate.Holding, error) {
	var known []certificate.Holding
	for _, h := range held {
		switch _, err := s.recorded().Registry.Device(ctx, h.Device); {
		case err == nil:
			known = append(known, h)
		case !errors.Is(err, registry.ErrUnknown):
			return nil, err
		}
	}
	return known, nil
}

// count adds a certificate that so many devices hold.
func (s *Survey) count(h certificate.Holding, holders int) {
	s.Certificates++
	s.Expiries[h.NotAfter.UTC().Format("2006-01")]++
	for _, policy := range h.Policies {
		s.Policies[policy]++
	}
	if len(h.Policies) == 0 {
		s.Policies[""]++
	}
	if len(h.Policies) > certificate.MostPolicies {
		s.Many.add(fmt.Sprintf("%s %d", h.Device, len(h.Policies)))
	}
	if parsed, err := h.X509(); err == nil && weak(parsed.PublicKey) {
		s.Weak.add(fmt.Sprintf("%s %s", h.Device, h.KeyType))
	}
	if holders > 1 {
		s.Shared.add(string(h.ID))
	}
}

// Whose a common name is.
const (
	nameOwn     = "the device's"
	nameOther   = "another device's"
	nameNobody  = "no device's"
	nameMissing = "none"
)

// surveyName holds a certificate's common name against its device's name.
func (s *Server) surveyName(ctx context.Context, h certificate.Holding, found *Survey) error {
	parsed, err := h.X509()
	if err != nil {
		return err
	}
	name := parsed.Subject.CommonName
	whose, err := s.whose(ctx, name, h.Device)
	if err != nil {
		return err
	}
	sample := Sample{Count: 1}
	if whose != nameOwn {
		sample.Names = []string{fmt.Sprintf("%s %s", h.Device, name)}
	}
	addTo(found.Names, whose, sample)
	return nil
}

// whose says whose the common name of a device's certificate is.
func (s *Server) whose(ctx context.Context, name string, device registry.DeviceID) (string, error) {
	switch {
	case name == "":
		return nameMissing, nil
	case s.Naming.Own(name, device):
		return nameOwn, nil
	}
	id, err := registry.ParseDeviceID(name)
	if err != nil {
		return nameNobody, nil
	}
	_, err = s.recorded().Registry.Device(ctx, id)
	if errors.Is(err, registry.ErrUnknown) {
		return nameNobody, nil
	}
	return nameOther, err
}
