package control

import (
	"context"
	"net/http"
	"slices"

	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

func (s *Server) showDevice(r *http.Request) (any, error) {
	ctx := r.Context()
	d, timeline, err := s.deviceOrRemoved(ctx, r.PathValue("name"))
	if err != nil {
		return nil, err
	}
	held, err := s.Inventory.Held(ctx, d.ID)
	if err != nil {
		return nil, err
	}
	history, err := s.Journal.Find(ctx, d.ID)
	if err != nil {
		return nil, err
	}
	retirements, err := s.Rotations.Retirements(ctx, rotation.Query{Device: d.ID})
	if err != nil {
		return nil, err
	}
	member, err := s.member(ctx, d.ID)
	return DeviceDetail{
		Device: deviceView(d), Removed: d.Added.IsZero(), Member: !member.Since.IsZero(), MemberSince: member.Since,
		Certificates: each(held, certificateView), Rotations: each(history.Rotations, rotationView),
		Retirements: each(retirements, retirementView), Timeline: append([]Event{}, timeline...),
	}, err
}

// deviceOrRemoved returns a device, also one that was taken out of the
// registry, with its timeline.
func (s *Server) deviceOrRemoved(ctx context.Context, name string) (registry.Device, []Event, error) {
	d, err := s.deviceOrNew(ctx, name)
	if err != nil {
		return d, nil, err
	}
	timeline, err := s.Timeline(ctx, d.ID)
	if err != nil {
		return d, nil, err
	}
	removed := slices.ContainsFunc(timeline, func(e Event) bool { return e.Kind == removal })
	if d.Added.IsZero() && !removed {
		return d, nil, s.unknown(ctx, d.ID)
	}
	return d, timeline, nil
}
