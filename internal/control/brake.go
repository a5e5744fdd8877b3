package control

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/certvendor/certvendor/rotation"
)

func (s *Server) showFrozen(r *http.Request) (any, error) {
	frozen, err := s.Brakes.Frozen(r.Context())
	return Frozen(frozen), err
}

// freezeRequest says what to stop, or, for thaw, what to let go on.
type freezeRequest struct {
	Vending  bool   `json:"vending"`
	Retiring bool   `json:"retiring"`
	Why      string `json:"why,omitempty"`
}

// freeze stops what is named and not stopped yet, and gives it a reason. What
// is stopped already keeps its own, unless another one is given for it.
func (s *Server) freeze(r *http.Request) (any, error) {
	return s.brake(r, "freeze", func(asked freezeRequest, f *rotation.Freeze) {
		why, given := asked.Why, asked.Why != ""
		if !given {
			why = "frozen by " + peer(r.Context())
		}
		reasons := reasonsOf(*f)
		if asked.Vending && (given || !f.Vending) {
			reasons.vending = why
		}
		if asked.Retiring && (given || !f.Retiring) {
			reasons.retiring = why
		}
		f.Vending, f.Retiring = f.Vending || asked.Vending, f.Retiring || asked.Retiring
		f.Why, f.At = reasons.join(*f), s.Now()
	})
}

func (s *Server) thaw(r *http.Request) (any, error) {
	return s.brake(r, "thaw", func(asked freezeRequest, f *rotation.Freeze) {
		reasons := reasonsOf(*f)
		f.Vending, f.Retiring = f.Vending && !asked.Vending, f.Retiring && !asked.Retiring
		f.Why = reasons.join(*f)
	})
}

func (s *Server) brake(r *http.Request, kind string, set func(freezeRequest, *rotation.Freeze)) (any, error) {
	ctx := r.Context()
	var asked freezeRequest
	if err := read(r, &asked); err != nil {
		return nil, err
	}
	if !asked.Vending && !asked.Retiring {
		return nil, refuse(http.StatusBadRequest, "neither vending nor retiring is named")
	}
	frozen, err := s.Brakes.Frozen(ctx)
	if err != nil {
		return nil, fmt.Errorf("read what is frozen: %w", err)
	}
	set(asked, &frozen)
	detail := map[string]string{"vending": fmt.Sprint(frozen.Vending), "retiring": fmt.Sprint(frozen.Retiring)}
	if err := s.note(ctx, Event{Kind: kind, Detail: detail}); err != nil {
		return nil, err
	}
	return Frozen(frozen), s.Brakes.SetFrozen(ctx, frozen)
}

// reasons say why vending and retiring are frozen. A rotation.Freeze has one
// text for both: where they differ, it names each.
type reasons struct{ vending, retiring string }

const (
	vendingReason  = "vending: "
	retiringReason = "; retiring: "
)

func reasonsOf(f rotation.Freeze) reasons {
	if f.Vending && f.Retiring {
		if both, ok := strings.CutPrefix(f.Why, vendingReason); ok {
			if vending, retiring, ok := strings.Cut(both, retiringReason); ok {
				return reasons{vending, retiring}
			}
		}
	}
	return reasons{f.Why, f.Why}
}

func (r reasons) join(f rotation.Freeze) string {
	switch {
	case f.Vending && f.Retiring && r.vending != r.retiring:
		return vendingReason + r.vending + retiringReason + r.retiring
	case f.Vending:
		return r.vending
	case f.Retiring:
		return r.retiring
	}
	return ""
}
