package control

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

// addDevice enters a device with its first certificate, for a key that never
// came here.
func (s *Server) addDevice(r *http.Request) (any, error) {
	ctx := r.Context()
	var asked AddRequest
	if err := read(r, &asked); err != nil {
		return nil, err
	}
	request, err := certificate.ParseRequest(asked.CSR)
	if err != nil {
		return nil, err
	}
	if err := request.CheckSignature(); err != nil {
		return nil, err
	}
	s.adding.Lock()
	defer s.adding.Unlock()
	d, err := s.mayAdd(ctx, asked, request.Key)
	if err != nil {
		return nil, err
	}
	kind := certificate.First
	if asked.Birth {
		kind = certificate.Birth
	}
	if err := s.enter(ctx, d.ID, asked.Attributes, "device_add"); err != nil {
		return nil, err
	}
	c, err := s.issue(ctx, d.ID, request.CSR.PublicKey, request)
	if err != nil {
		return nil, err
	}
	c.Kind, c.Standing = kind, certificate.Active
	if err := s.Inventory.Register(ctx, d.ID, c); err != nil {
		return nil, fmt.Errorf("device %s: register its certificate: %w", d.ID, err)
	}
	return Added{
		Device: string(d.ID), CertificateID: c.ID, NotAfter: c.NotAfter,
		Certificate: c.PEM(), Chain: c.ChainPEM(), Roots: string(s.Roots()),
	}, nil
}

// mayAdd refuses what shall not have a first certificate.
func (s *Server) mayAdd(ctx context.Context, asked AddRequest, key certificate.KeyID) (registry.Device, error) {
	d, err := s.deviceOrNew(ctx, asked.Name)
	if err != nil {
		return d, err
	}
	if err := s.mayIssue(ctx, d); err != nil {
		return d, err
	}
	held, err := s.Inventory.Held(ctx, d.ID)
	if err != nil {
		return d, err
	}
	if c, ok := works(held, s.Now()); ok && !asked.Another {
		return d, hasOne(d, c)
	}
	known, err := s.Certificates.List(ctx, certificate.Query{Key: key, Limit: 1})
	if err != nil {
		return d, err
	}
	if len(known) > 0 {
		return d, refuse(http.StatusConflict, "device %s: there is a certificate for this key already: make a new key", d.ID)
	}
	return d, nil
}

// hasOne refuses a device that has a certificate that works, or will work again
// when the device is entered again.
func hasOne(d registry.Device, c certificate.Holding) error {
	until := c.NotAfter.UTC().Format("2006-01-02")
	if d.Added.IsZero() {
		return refuse(http.StatusConflict, "device %s was removed, and certificate %.12s works again until %s once it is entered: "+
			"--another enters it with one more, --certificate FILE with that one", d.ID, c.ID, until)
	}
	return refuse(http.StatusConflict, "device %s has a certificate that works already, %.12s until %s: --another gives it one more", d.ID, c.ID, until)
}

// deviceOrNew returns the device, or one that is about to be entered.
func (s *Server) deviceOrNew(ctx context.Context, name string) (registry.Device, error) {
	id, err := registry.ParseDeviceID(name)
	if err != nil {
		return registry.Device{}, refuse(http.StatusBadRequest, "%v", err)
	}
	d, err := s.Registry.Device(ctx, id)
	if errors.Is(err, registry.ErrUnknown) {
		return registry.Device{ID: id}, nil
	}
	return d, err
}

// enter enters a device, or merges the attributes into one that is there.
func (s *Server) enter(ctx context.Context, id registry.DeviceID, attributes map[string]string, kind string) error {
	if err := s.note(ctx, Event{Kind: kind, Device: id}); err != nil {
		return err
	}
	if err := s.Registrar.Add(ctx, id, attributes); err != nil {
		return err
	}
	if len(attributes) == 0 {
		return nil
	}
	return s.Registry.SetAttributes(ctx, id, attributes)
}

func (s *Server) listDevices(r *http.Request) (any, error) {
	attributes, err := attributesOf(r.URL.Query())
	if err != nil {
		return nil, err
	}
	limit, err := limitOf(r)
	if err != nil {
		return nil, err
	}
	page, err := s.Devices.List(r.Context(), registry.Query{
		After: registry.DeviceID(r.URL.Query().Get("after")), Attributes: attributes, Limit: limit,
	})
	return each(page, deviceView), err
}

// attributesOf reads the attributes that a device must have to be listed.
func attributesOf(asked url.Values) (map[string]string, error) {
	attributes := map[string]string{}
	for _, pair := range asked["attribute"] {
		name, value, ok := strings.Cut(pair, "=")
		if !ok {
			return nil, refuse(http.StatusBadRequest, "attribute %.80q: must be name=value", pair)
		}
		attributes[name] = value
	}
	return attributes, nil
}

func limitOf(r *http.Request) (int, error) {
	text := r.URL.Query().Get("limit")
	if text == "" {
		return batch, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > batch {
		return 0, refuse(http.StatusBadRequest, "limit %.20q: must be from 1 to %d", text, batch)
	}
	return n, nil
}

// member returns the device's membership, zero if it is none. The group is
// listed by name only, so it asks for what comes after the last possible name
// before this one: the letters of names lie below 0x7f.
func (s *Server) member(ctx context.Context, id registry.DeviceID) (rotation.Member, error) {
	last := len(id) - 1
	before := id[:last] + registry.DeviceID(id[last]-1) + "\x7f"
	members, err := s.Group.Members(ctx, before, 1)
	if err != nil || len(members) == 0 || members[0].Device != id {
		return rotation.Member{}, err
	}
	return members[0], nil
}

// removal is the kind under which the audit has what a person removed.
const removal = "operator.device_remove"

func (s *Server) removeDevice(r *http.Request) (any, error) {
	ctx := r.Context()
	d, err := s.device(ctx, r.PathValue("name"))
	if err != nil {
		return nil, err
	}
	if err := s.note(ctx, Event{Kind: "device_remove", Device: d.ID}); err != nil {
		return nil, err
	}
	return deviceView(d), s.Registrar.Remove(ctx, d.ID)
}

func (s *Server) block(blocked bool) answer {
	kind := "device_unblock"
	if blocked {
		kind = "device_block"
	}
	return func(r *http.Request) (any, error) {
		ctx := r.Context()
		d, err := s.device(ctx, r.PathValue("name"))
		if err != nil {
			return nil, err
		}
		if err := s.note(ctx, Event{Kind: kind, Device: d.ID}); err != nil {
			return nil, err
		}
		d.Blocked = blocked
		return deviceView(d), s.Registrar.Block(ctx, d.ID, blocked)
	}
}
