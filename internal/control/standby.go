package control

import (
	"context"
	"net/http"
)

// OpenStandby makes a server that answers every request by a refusal, which why
// puts into words: that of an instance that does not lead. Serve and Shutdown are
// as those of Open.
func OpenStandby(ctx context.Context, socket Socket, remote Remote, why func() string) (*Server, error) {
	s, err := Open(ctx, socket, remote, Ports{})
	if err != nil {
		return nil, err
	}
	s.http.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reply(w, r, func(*http.Request) (any, error) { return nil, refuse(http.StatusServiceUnavailable, "%s", why()) })
	})
	return s, nil
}
