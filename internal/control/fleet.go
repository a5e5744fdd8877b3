package control

import (
	"net/http"
	"slices"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

// FleetDevice is a device with the certificate it was last seen on, or else
// its newest ACTIVE one, and the state of its newest rotation.
type FleetDevice struct {
	Device
	Certificate certificate.ID       `json:"certificateId,omitempty"`
	NotAfter    time.Time            `json:"notAfter,omitzero"`
	Standing    certificate.Standing `json:"standing,omitempty"`
	LastSeen    time.Time            `json:"lastSeen,omitzero"`
	Connected   bool                 `json:"connected,omitempty"`
	Rotation    rotation.State       `json:"rotation,omitempty"`
}

// listFleet looks through a page of devices. What expires is told from what
// was read of them, so a page is what was looked at, not what was found.
func (s *Server) listFleet(r *http.Request) (any, error) {
	asked := r.URL.Query()
	attributes, err := attributesOf(asked)
	if err != nil {
		return nil, err
	}
	by, err := s.expiresBy(asked)
	if err != nil {
		return nil, err
	}
	page, err := s.ListFleet(r.Context(), registry.Query{
		After: registry.DeviceID(asked.Get("after")), Attributes: attributes, Limit: batch,
	})
	if err != nil || len(page) == 0 {
		return part[FleetDevice]{}, err
	}
	after := page[len(page)-1].Name
	if !by.IsZero() {
		page = slices.DeleteFunc(page, func(d FleetDevice) bool { return d.Certificate == "" || d.NotAfter.After(by) })
	}
	return part[FleetDevice]{after, page}, nil
}
