package control

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/registry"
)

// createPackage makes a key, a certificate that is INACTIVE until the device
// asks for it, and the zip with both. The key is nowhere but in the zip.
func (s *Server) createPackage(r *http.Request) (any, error) {
	ctx := r.Context()
	d, err := s.device(ctx, r.PathValue("name"))
	if err != nil {
		return nil, err
	}
	if err := s.mayPackage(d); err != nil {
		return nil, err
	}
	if err := s.mayIssue(ctx, d); err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	if err := s.note(ctx, Event{Kind: "package_create", Device: d.ID}); err != nil {
		return nil, err
	}
	request, err := ownRequest(key, d.ID)
	if err != nil {
		return nil, err
	}
	c, err := s.issue(ctx, d.ID, key.Public(), request)
	if err != nil {
		return nil, err
	}
	c.Kind, c.Standing = certificate.Packaged, certificate.Inactive
	file, err := s.BuildPackage(key, c, s.Roots())
	if err != nil {
		return nil, fmt.Errorf("device %s: %w", d.ID, err)
	}
	if err := s.Inventory.Register(ctx, d.ID, c); err != nil {
		return nil, fmt.Errorf("device %s: register its package's certificate: %w", d.ID, err)
	}
	if err := s.Packages.Put(ctx, d.ID, c.ID, file); err != nil {
		return nil, fmt.Errorf("device %s: store its package: %w", d.ID, err)
	}
	return Package{Device: string(d.ID), Certificate: c.ID, Created: c.Created}, nil
}

// mayPackage refuses a package that there is no place for, before anything is
// issued or registered for it.
func (s *Server) mayPackage(d registry.Device) error {
	if s.NoPackages != nil {
		return refuse(http.StatusConflict, "device %s: %v", d.ID, s.NoPackages)
	}
	return nil
}

// putPackage stores a package that was made elsewhere. Its certificate must be
// one that the device holds, or be in the zip, as certificate.pem.
func (s *Server) putPackage(r *http.Request) (any, error) {
	ctx := r.Context()
	d, err := s.device(ctx, r.PathValue("name"))
	if err != nil {
		return nil, err
	}
	if err := s.mayPackage(d); err != nil {
		return nil, err
	}
	id, err := certificate.ParseID(r.URL.Query().Get("certificate"))
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "device %s: --certificate-id: %v", d.ID, err)
	}
	file, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, badBody(err)
	}
	c, held, err := s.put(ctx, d.ID, id, file)
	if err != nil {
		return nil, err
	}
	if err := s.note(ctx, Event{Kind: "package_put", Device: d.ID, Certificate: id}); err != nil {
		return nil, err
	}
	if !held {
		if err := s.Inventory.Register(ctx, d.ID, c); err != nil {
			return nil, fmt.Errorf("device %s: register its package's certificate: %w", d.ID, err)
		}
	}
	if err := s.Packages.Put(ctx, d.ID, id, file); err != nil {
		return nil, fmt.Errorf("device %s: store its package: %w", d.ID, err)
	}
	return Package{Device: string(d.ID), Certificate: id, Created: s.Now()}, nil
}

// put refuses a package that does not hold the certificate it is said to hold,
// and returns what is to be registered, unless the device holds it already.
func (s *Server) put(ctx context.Context, d registry.DeviceID, id certificate.ID, file []byte) (c certificate.Certificate, held bool, err error) {
	c, found, err := packaged(file)
	if err != nil {
		return c, false, refuse(http.StatusBadRequest, "device %s: %v", d, err)
	}
	if found && c.ID != id {
		return c, false, refuse(http.StatusBadRequest, "device %s: the package's certificate is %.12s, not %.12s", d, c.ID, id)
	}
	all, err := s.Inventory.Held(ctx, d)
	if err != nil {
		return c, false, err
	}
	if _, ok := certificate.Find(all, id); ok {
		return c, true, nil
	}
	if !found {
		return c, false, refuse(http.StatusConflict, "device %s does not hold certificate %.12s, and the package has no certificate.pem to register", d, id)
	}
	c.Standing, c.Kind, c.Policies, c.Created = certificate.Inactive, certificate.Packaged, s.Policies, s.Now()
	return c, false, nil
}

// maxPEM bounds what is unpacked of a package.
const maxPEM = 64 << 10

// packaged returns the certificate in a package, if it has one under the name
// that ours have.
func packaged(file []byte) (c certificate.Certificate, found bool, err error) {
	archive, err := zip.NewReader(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		return c, false, fmt.Errorf("the package is not a zip file: %w", err)
	}
	for _, entry := range archive.File {
		if entry.Name != "certificate.pem" {
			continue
		}
		content, err := entry.Open()
		if err != nil {
			return c, false, fmt.Errorf("the package's certificate.pem: %w", err)
		}
		text, err := io.ReadAll(io.LimitReader(content, maxPEM))
		if err != nil {
			return c, false, fmt.Errorf("the package's certificate.pem: %w", err)
		}
		if c, err = readPEM(string(text)); err != nil {
			return c, false, fmt.Errorf("the package's certificate.pem: %w", err)
		}
		return c, true, nil
	}
	return c, false, nil
}

func (s *Server) listPackages(r *http.Request) (any, error) {
	limit, err := limitOf(r)
	if err != nil {
		return nil, err
	}
	packages, err := s.ListPackages(r.Context(), registry.DeviceID(r.URL.Query().Get("after")), limit)
	return append([]Package{}, packages...), err
}
