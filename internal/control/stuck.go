package control

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

// listStuck returns, a page of devices at a time, what does not go on by
// itself: retirements that are due or reverted, and stale rotations. Each says
// why and what to type.
func (s *Server) listStuck(r *http.Request) (any, error) {
	ctx := r.Context()
	after := registry.DeviceID(r.URL.Query().Get("after"))
	if r.URL.Query().Get("what") == "rotation" {
		stale, err := s.Rotations.Rotations(ctx, rotation.Query{State: rotation.Stale, After: after, Limit: batch})
		return stuckPage{last(stale, func(r rotation.Rotation) registry.DeviceID { return r.Device }), each(stale, staleView)}, err
	}
	open, err := s.Rotations.Retirements(ctx, rotation.Query{Open: true, After: after, Limit: batch})
	if err != nil {
		return nil, err
	}
	page := stuckPage{After: last(open, func(r rotation.Retirement) registry.DeviceID { return r.Device }), Stuck: []Stuck{}}
	for _, retirement := range open {
		if !retirement.Reverted && retirement.Due.After(s.Now()) {
			continue
		}
		do, err := s.advise(ctx, retirement)
		if err != nil {
			return nil, err
		}
		page.Stuck = append(page.Stuck, retirementStuck(retirement, do))
	}
	return page, nil
}

// stuckPage is a page of what is stuck. After is the last device it looked at,
// empty when there was none.
type stuckPage struct {
	After string  `json:"after,omitempty"`
	Stuck []Stuck `json:"stuck"`
}

func last[T any](all []T, device func(T) registry.DeviceID) string {
	if len(all) == 0 {
		return ""
	}
	return string(device(all[len(all)-1]))
}

func staleView(r rotation.Rotation) Stuck {
	return Stuck{
		Device: string(r.Device), What: "rotation", Rotation: r.Number, Certificate: r.Certificate, Since: r.VendedAt,
		Why: "vended long ago, and the device was never seen on it; the certificate is kept",
		Do:  fmt.Sprintf("certvendor rotation retry %s", r.Device),
	}
}

func retirementStuck(r rotation.Retirement, do string) Stuck {
	why := r.Why
	if why == "" {
		why = "due, and not looked at by a sweep yet"
	}
	return Stuck{
		Device: string(r.Device), What: "retirement", Rotation: r.Rotation, Certificate: r.Certificate,
		Since: r.Due, Why: why, Do: do,
	}
}

// advise says what to type about a retirement that is not done.
func (s *Server) advise(ctx context.Context, r rotation.Retirement) (string, error) {
	d, err := s.Registry.Device(ctx, r.Device)
	switch {
	case errors.Is(err, registry.ErrUnknown):
		enter, err := s.enterCommand(ctx, r.Device)
		return enter + ", if it is still there", err
	case err != nil:
		return "", err
	case d.Blocked:
		return fmt.Sprintf("certvendor device unblock %s", r.Device), nil
	}
	frozen, err := s.Brakes.Frozen(ctx)
	switch {
	case err != nil:
		return "", fmt.Errorf("read what is frozen: %w", err)
	case frozen.Retiring:
		return "certvendor thaw retiring", nil
	case r.Reverted:
		return fmt.Sprintf("certvendor rotation show %s: it went back; when it returns, this goes on by itself", r.Device), nil
	case r.Why == "":
		return "certvendor rotation sweep", nil
	}
	return fmt.Sprintf("certvendor rotation show %s", r.Device), nil
}
