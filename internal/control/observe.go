package control

import (
	"net/http"
	"slices"
)

// vends are the routes by which an operator has something issued, given out or
// taken away. A daemon that only observes refuses them.
var vends = []string{
	"POST /v1/devices", "POST /v1/members", "POST /v1/members/remove",
	"POST /v1/rotations/retry", "POST /v1/rotations/abandon", "POST /v1/rotations/undo",
	"POST /v1/sweep", "POST /v1/packages/{name}", "PUT /v1/packages/{name}",
	"POST /v1/ca/rotate", "POST /v1/ca/csr", "POST /v1/ca/import", "POST /v1/ca/retire",
	"POST /v1/job", "POST /v1/jobs/{id}/cancel", "POST /v1/certificates/revoke",
	"POST /v1/ca/server/prepare", "POST /v1/ca/server/use", "POST /v1/ca/server/abandon",
	"POST /v1/campaigns", "POST /v1/campaigns/{name}/pause", "POST /v1/campaigns/{name}/resume", "POST /v1/campaigns/{name}/cancel",
}

// observed is what a route answers, which in a daemon that only observes may be
// a refusal.
func (s *Server) observed(pattern string, a answer) answer {
	if !s.Observes || !slices.Contains(vends, pattern) {
		return a
	}
	return func(*http.Request) (any, error) {
		return nil, refuse(http.StatusConflict, "observe is true: this daemon issues, gives out and takes away nothing")
	}
}
