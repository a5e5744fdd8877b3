package control

import (
	"context"
	"fmt"
	"slices"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/vending"
)

func (s *Server) surveyDevices(ctx context.Context, after string, found *Survey) (next string, err error) {
	page, err := s.Devices.List(ctx, registry.Query{After: registry.DeviceID(after), Limit: rehearsedAtOnce})
	if err != nil || len(page) == 0 {
		return "", err
	}
	for _, d := range page {
		if err := s.surveyDevice(ctx, d.ID, found); err != nil {
			return "", err
		}
	}
	return string(page[len(page)-1].ID), nil
}

func (s *Server) surveyDevice(ctx context.Context, id registry.DeviceID, found *Survey) error {
	held, err := s.recorded().Inventory.Held(ctx, id)
	if err != nil {
		return err
	}
	found.Devices++
	active := slices.DeleteFunc(held, func(h certificate.Holding) bool { return h.Standing != certificate.Active })
	switch len(active) {
	case 0:
		found.Without.add(string(id))
	case 1:
	default:
		found.Several.add(string(id))
	}
	why := s.cannotRotate(ctx, active)
	if why == "" {
		found.CanRotate++
		return nil
	}
	addTo(found.CanNot, why, Sample{1, []string{string(id)}})
	return nil
}

// cannotRotate says why a device could not rotate now with any of its ACTIVE
// certificates, beginning with the one it was seen on last: because it cannot
// connect with it, or because a get over it would be refused.
func (s *Server) cannotRotate(ctx context.Context, active []certificate.Holding) (why string) {
	slices.SortStableFunc(active, func(a, b certificate.Holding) int { return b.LastSeen.Compare(a.LastSeen) })
	for _, h := range active {
		not := s.untrusted(h.Certificate)
		if s.Now().After(h.NotAfter.Add(s.Window)) {
			not = "its certificate has expired"
		}
		if not == "" {
			not = s.refused(ctx, h)
		}
		if not == "" {
			return ""
		}
		if why == "" {
			why = not
		}
	}
	if why == "" {
		return "it has no ACTIVE certificate"
	}
	return why
}

// refused says why a get with a new key would be refused.
func (s *Server) refused(ctx context.Context, h certificate.Holding) string {
	answer := s.recorded().Rehearse(ctx, vending.Question{Caller: vending.CallerOver(h), Action: protocol.Get})
	switch {
	case answer.Refusal == nil:
		return ""
	case answer.Refusal.Detail != "":
		return fmt.Sprintf("%s: %s", answer.Refusal.Reason, answer.Refusal.Detail)
	}
	return string(answer.Refusal.Reason)
}
