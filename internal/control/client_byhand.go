package control

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// Retry gives devices that did not get through their rotation a job again, and
// reports each, as Join does.
func (c *Client) Retry(ctx context.Context, devices []string, report func(Outcome)) error {
	return c.inBatches(ctx, "/v1/rotations/retry", devices, report)
}

// CancelJob cancels the rotation job with this id; EnsureJob brings it back.
func (c *Client) CancelJob(ctx context.Context, id string) (Job, error) {
	return ask[Job](ctx, c, request{method: http.MethodPost, path: "/v1/jobs/" + url.PathEscape(id) + "/cancel"})
}

// Abandon ends the open or stale rotations of devices, and reports each.
func (c *Client) Abandon(ctx context.Context, devices []string, report func(Outcome)) error {
	return c.inBatches(ctx, "/v1/rotations/abandon", devices, report)
}

// Undo brings back what the last finished rotations of devices replaced, and
// reports each.
func (c *Client) Undo(ctx context.Context, devices []string, report func(Outcome)) error {
	return c.inBatches(ctx, "/v1/rotations/undo", devices, report)
}

// Revoke revokes certificates for good, or says with Plan what it would do.
// Where an entry has an error before anything was done, nothing was.
func (c *Client) Revoke(ctx context.Context, r RevokeRequest) ([]Revocation, error) {
	return ask[[]Revocation](ctx, c, request{method: http.MethodPost, path: "/v1/certificates/revoke", body: r})
}

// CRL has a list of what is revoked signed, which is good for so long, by the CA
// whose id begins so, or by the one that issues.
func (c *Client) CRL(ctx context.Context, ca string, lifetime time.Duration) (CRL, error) {
	return ask[CRL](ctx, c, request{method: http.MethodPost, path: "/v1/ca/crl", body: crlRequest{ca, lifetime}})
}
