package control

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

// abandon ends the open rotations of devices.
func (s *Server) abandon(r *http.Request) (any, error) {
	return s.forEach(r, "rotation_abandon", func(ctx context.Context, d registry.Device) (Outcome, error) {
		ended, err := s.ByHand.Abandon(ctx, d.ID)
		switch {
		case err != nil && ended.State != rotation.Abandoned:
			return Outcome{}, err
		case err != nil:
			return Outcome{Done: abandoned(ended), Warning: fmt.Sprintf("device %s leaves the rotation group with the next sweep: %v", d.ID, err)}, nil
		}
		return Outcome{Done: abandoned(ended)}, nil
	})
}

func abandoned(r rotation.Rotation) string {
	if r.Certificate == "" {
		return fmt.Sprintf("rotation %d is abandoned", r.Number)
	}
	return fmt.Sprintf("rotation %d is abandoned, its certificate %.12s is kept", r.Number, r.Certificate)
}

// undo brings back what the last finished rotations of devices replaced.
func (s *Server) undo(r *http.Request) (any, error) {
	return s.forEach(r, "rotation_undo", func(ctx context.Context, d registry.Device) (Outcome, error) {
		undone, err := s.ByHand.Undo(ctx, d.ID)
		switch {
		case err != nil:
			return Outcome{}, err
		case undone.Already:
			return Outcome{Unchanged: fmt.Sprintf("rotation %d was undone at %s", undone.Rotation.Number, stamp(undone.Rotation.UndoneAt))}, nil
		}
		return undoneView(d.ID, undone), nil
	})
}

func undoneView(id registry.DeviceID, u rotation.Undone) Outcome {
	o := Outcome{Done: fmt.Sprintf("rotation %d is undone: %s ACTIVE, beside %.12s", u.Rotation.Number, shortIDs(u.Back), u.Rotation.Certificate)}
	if len(u.Lost) > 0 {
		var lost []string
		for _, l := range u.Lost {
			lost = append(lost, l.String())
		}
		o.Warning = fmt.Sprintf("device %s: not brought back: %s; `certvendor device add %s --out DIR --another` gives it one more",
			id, strings.Join(lost, "; "), id)
	}
	return o
}

// shortIDs writes ids as tables show them, with the verb that follows.
func shortIDs(ids []certificate.ID) string {
	if len(ids) == 0 {
		return "nothing is"
	}
	var all []string
	for _, id := range ids {
		all = append(all, fmt.Sprintf("%.12s", id))
	}
	if len(all) == 1 {
		return all[0] + " is"
	}
	return strings.Join(all, ", ") + " are"
}
