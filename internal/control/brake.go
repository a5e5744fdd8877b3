package control

import (
	"fmt"
	"net/http"

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

// freeze stops what is named. What is stopped already keeps its reason, unless
// another one is given for it.
func (s *Server) freeze(r *http.Request) (any, error) {
	return s.brake(r, "freeze", func(asked freezeRequest, f *rotation.Freeze) {
		why, given := asked.Why, asked.Why != ""
		if !given {
			why = "frozen by " + peer(r.Context())
		}
		if asked.Vending && (given || !f.Vending) {
			f.StopVending(why, s.Now())
		}
		if asked.Retiring && (given || !f.Retiring) {
			f.StopRetiring(why, s.Now())
		}
	})
}

func (s *Server) thaw(r *http.Request) (any, error) {
	return s.brake(r, "thaw", func(asked freezeRequest, f *rotation.Freeze) { f.Release(asked.Vending, asked.Retiring) })
}

func (s *Server) brake(r *http.Request, kind string, change func(freezeRequest, *rotation.Freeze)) (any, error) {
	ctx := r.Context()
	var asked freezeRequest
	if err := read(r, &asked); err != nil {
		return nil, err
	}
	if !asked.Vending && !asked.Retiring {
		return nil, refuse(http.StatusBadRequest, "neither vending nor retiring is named")
	}
	detail := map[string]string{"vending": fmt.Sprint(asked.Vending), "retiring": fmt.Sprint(asked.Retiring)}
	if err := s.note(ctx, Event{Kind: kind, Detail: detail}); err != nil {
		return nil, err
	}
	frozen, err := s.Brakes.SetFrozen(ctx, func(f *rotation.Freeze) { change(asked, f) })
	return Frozen(frozen), err
}
