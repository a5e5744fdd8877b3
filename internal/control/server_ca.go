package control

import (
	"context"
	"errors"
	"iter"
	"net/http"
	"strconv"

	"github.com/certvendor/certvendor/registry"
)

// Servers is what a person may ask of the CA that the listeners' certificates
// come from. Where it refuses, the error is a CARefused.
type Servers interface {
	// PrepareServerCA makes another one, which devices are told of.
	PrepareServerCA(context.Context) (CA, error)
	// UseServerCA uses the one that is prepared, unless more devices than may
	// be cut off have not said that they trust it: then it does nothing and
	// returns a CutOff.
	UseServerCA(ctx context.Context, cutOff int) (CA, error)
	// AbandonServerCA forgets the one that is prepared, and returns it. Devices
	// that were told of it are told that it does not count any more.
	AbandonServerCA(context.Context) (CA, error)
	// CountMissing counts these devices.
	CountMissing(context.Context) (int, error)
	// ListMissing returns a page of them by name, after one; empty at the end.
	ListMissing(ctx context.Context, after registry.DeviceID, limit int) ([]registry.DeviceID, error)
}

// CutOff says that more devices would be cut off than may.
type CutOff struct{ Devices int }

func (e CutOff) Error() string {
	return strconv.Itoa(e.Devices) + " devices have not said that they trust it"
}

// useServerRequest is the body of a request to use a server CA.
type useServerRequest struct {
	CutOff int `json:"cutOff,omitempty"`
}

// MissingDevice is a device that has not said that it trusts the server CA that
// is prepared.
type MissingDevice struct {
	Name string `json:"name"`
}

func (s *Server) prepareServerCA(r *http.Request) (any, error) {
	if err := s.note(r.Context(), Event{Kind: "ca_server_prepare"}); err != nil {
		return nil, err
	}
	return s.Servers.PrepareServerCA(r.Context())
}

func (s *Server) useServerCA(r *http.Request) (any, error) {
	var asked useServerRequest
	if err := read(r, &asked); err != nil {
		return nil, err
	}
	err := s.note(r.Context(), Event{Kind: "ca_server_use", Detail: map[string]string{"cutOff": strconv.Itoa(asked.CutOff)}})
	if err != nil {
		return nil, err
	}
	used, err := s.Servers.UseServerCA(r.Context(), asked.CutOff)
	if cut := (CutOff{}); errors.As(err, &cut) {
		return nil, refuse(http.StatusConflict, "%s the new server CA, and would not connect: `certvendor ca show --missing` lists them; "+
			"a campaign over all tells those that can be told, and --force %d cuts them off",
			counted(cut.Devices, "device has not said that it trusts", "devices have not said that they trust"), cut.Devices)
	}
	return used, err
}

func (s *Server) abandonServerCA(r *http.Request) (any, error) {
	if err := s.note(r.Context(), Event{Kind: "ca_server_abandon"}); err != nil {
		return nil, err
	}
	return s.Servers.AbandonServerCA(r.Context())
}

func (s *Server) listMissing(r *http.Request) (any, error) {
	limit, err := limitOf(r)
	if err != nil {
		return nil, err
	}
	page, err := s.Servers.ListMissing(r.Context(), registry.DeviceID(r.URL.Query().Get("after")), limit)
	return each(page, func(id registry.DeviceID) MissingDevice { return MissingDevice{string(id)} }), err
}

// PrepareServerCA makes another server CA, which devices are told of.
func (c *Client) PrepareServerCA(ctx context.Context) (CA, error) {
	return ask[CA](ctx, c, request{method: http.MethodPost, path: "/v1/ca/server/prepare"})
}

// UseServerCA uses the server CA that is prepared, if at most so many devices are
// cut off by it.
func (c *Client) UseServerCA(ctx context.Context, cutOff int) (CA, error) {
	return ask[CA](ctx, c, request{method: http.MethodPost, path: "/v1/ca/server/use", body: useServerRequest{cutOff}})
}

// AbandonServerCA forgets the server CA that is prepared, and returns it.
func (c *Client) AbandonServerCA(ctx context.Context) (CA, error) {
	return ask[CA](ctx, c, request{method: http.MethodPost, path: "/v1/ca/server/abandon"})
}

// MissingDevices lists by name the devices that have not said that they trust the
// server CA that is prepared.
func (c *Client) MissingDevices(ctx context.Context) iter.Seq2[MissingDevice, error] {
	return pages(ctx, c, request{method: http.MethodGet, path: "/v1/ca/server/missing"}, func(d MissingDevice) string { return d.Name })
}
