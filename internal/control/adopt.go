package control

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rsa"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/registry"
)

// adoptDevice enters a device with a certificate that was made elsewhere, or
// with none. Idempotent.
func (s *Server) adoptDevice(r *http.Request) (any, error) {
	ctx := r.Context()
	var asked AdoptRequest
	if err := read(r, &asked); err != nil {
		return nil, err
	}
	d, err := s.deviceOrNew(ctx, asked.Name)
	if err != nil {
		return nil, err
	}
	same := !d.Added.IsZero() && merged(d.Attributes, asked.Attributes)
	if asked.Certificate == "" {
		return Adopted{Device: string(d.ID), Unchanged: same}, s.enter(ctx, d.ID, asked.Attributes, "device_add")
	}
	c, err := readPEM(asked.Certificate)
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "device %s: %v", d.ID, err)
	}
	held, err := s.Inventory.Held(ctx, d.ID)
	if err != nil {
		return nil, err
	}
	h, holds := certificate.Find(held, c.ID)
	if holds && h.Standing != certificate.Active {
		return nil, refuse(http.StatusConflict, "device %s: certificate %.12s was taken away from it and is %s", d.ID, c.ID, h.Standing)
	}
	if err := s.mayHold(ctx, d.ID, c.ID, holds); err != nil {
		return nil, err
	}
	becomes := holds && asked.Birth && h.Kind != certificate.Birth
	if becomes && !h.IsGiven() {
		return nil, refuse(http.StatusConflict, "device %s: certificate %.12s was vended to it, and is no birth certificate", d.ID, c.ID)
	}
	if err := s.enter(ctx, d.ID, asked.Attributes, "device_adopt"); err != nil {
		return nil, err
	}
	if !holds || becomes {
		if err := s.adopt(ctx, d.ID, c, asked.Birth); err != nil {
			return nil, err
		}
	}
	warning, err := s.warning(ctx, d.ID, c)
	return Adopted{
		Device: string(d.ID), CertificateID: c.ID, NotAfter: c.NotAfter, Unchanged: same && holds && !becomes, Warning: warning,
	}, err
}

func (s *Server) adopt(ctx context.Context, id registry.DeviceID, c certificate.Certificate, birth bool) error {
	c.Standing, c.Kind, c.Policies, c.Created = certificate.Active, certificate.Adopted, s.Policies, s.Now()
	if birth {
		c.Kind = certificate.Birth
	}
	err := s.Inventory.Register(ctx, id, c)
	switch {
	case errors.Is(err, certificate.ErrRevoked):
		return refuse(http.StatusConflict, "device %s: certificate %.12s is revoked, and stays so: give the device another one", id, c.ID)
	case errors.Is(err, certificate.ErrDistrusted):
		return refuse(http.StatusConflict, "device %s: the CA of certificate %.12s was retired: give the device another one", id, c.ID)
	case err != nil:
		return fmt.Errorf("device %s: register its certificate: %w", id, err)
	}
	// One that was retired from another device, its only holder until now, is
	// inactive; for this device it is the only one, and a person has named it.
	if err := s.Inventory.Activate(ctx, id, c.ID); err != nil {
		return fmt.Errorf("device %s: activate its certificate: %w", id, err)
	}
	return nil
}

// taken are the audit's words for a certificate that was taken from a device.
var taken = []string{"certificate.detached", "certificate.deleted", "certificate.deactivated", "certificate.revoked"}

// mayHold refuses to bring back what was taken away from the same device: a
// fleet's list that is imported again must not undo its rotations.
func (s *Server) mayHold(ctx context.Context, id registry.DeviceID, c certificate.ID, holds bool) error {
	if holds {
		return nil
	}
	events, err := s.Timeline(ctx, id)
	if err != nil {
		return err
	}
	for _, e := range events {
		if e.Certificate == c && slices.Contains(taken, e.Kind) {
			return refuse(http.StatusConflict, "device %s: certificate %.12s was taken away from it at %s, and stays so",
				id, c, e.At.UTC().Format(time.RFC3339))
		}
	}
	return nil
}

// merged reports whether merging more into attributes would change nothing.
func merged(attributes, more map[string]string) bool {
	for name, value := range more {
		if attributes[name] != value {
			return false
		}
	}
	return true
}

// warning says why a device may not be able to connect with a certificate that
// it was entered with, or why nobody should rely on that certificate.
func (s *Server) warning(ctx context.Context, id registry.DeviceID, c certificate.Certificate) (string, error) {
	held, err := s.Inventory.Held(ctx, id)
	if err != nil {
		return "", err
	}
	var all []string
	if text := s.cannotConnect(c); text != "" {
		all = append(all, text)
	}
	if h, _ := certificate.Find(held, c.ID); h.Shared {
		all = append(all, "another device holds this certificate too, and each can connect as the other until both have rotated")
	}
	if parsed, err := c.X509(); err == nil && weak(parsed.PublicKey) {
		all = append(all, fmt.Sprintf("its key is weak (%s): no new certificate would be made for such a key; rotate it soon", c.KeyType))
	}
	return strings.Join(all, "; "), nil
}

// weak reports whether a certificate request with such a key would be refused
// for its kind or size.
func weak(public any) bool {
	switch key := public.(type) {
	case *rsa.PublicKey:
		return key.N.BitLen() < certificate.MinRSA
	case *ecdsa.PublicKey:
		return key.Curve.Params().BitSize < 256
	}
	return true
}

// cannotConnect says why the broker would refuse a certificate.
func (s *Server) cannotConnect(c certificate.Certificate) string {
	if !s.Now().Before(c.NotAfter) {
		return "the certificate has expired on " + c.NotAfter.Format("2006-01-02")
	}
	return s.untrusted(c)
}

// untrusted says why the broker would refuse a certificate for its issuer. A
// world without CAs has a broker that goes by the certificate alone.
func (s *Server) untrusted(c certificate.Certificate) string {
	cas := s.CAs()
	if len(cas) == 0 {
		return ""
	}
	for _, ca := range cas {
		if ca.Subject == c.Issuer && (ca.Role == "issuing" || ca.Role == "former" || ca.Role == "client-ca") {
			return ""
		}
	}
	return fmt.Sprintf("its issuer %q is not trusted for connecting: name that CA's file in standalone.client_ca", c.Issuer)
}

// readPEM reads a certificate, with its chain behind it.
func readPEM(text string) (certificate.Certificate, error) {
	var ders [][]byte
	rest := []byte(text)
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return certificate.Certificate{}, fmt.Errorf("a PEM block of type %.40s where a certificate should be", block.Type)
		}
		ders = append(ders, block.Bytes)
	}
	if len(ders) == 0 || len(bytes.TrimSpace(rest)) > 0 {
		return certificate.Certificate{}, errors.New("not a certificate in PEM")
	}
	c, err := certificate.New(ders[0], ders[1:])
	if err != nil {
		return c, err
	}
	if parsed, err := c.X509(); err != nil || parsed.IsCA {
		return c, errors.New("a CA certificate; the device's own must come first")
	}
	return c, nil
}
