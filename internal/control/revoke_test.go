package control

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/registry"
)

func (w *world) revoke(r RevokeRequest) []Revocation {
	w.t.Helper()
	if r.Reason == "" {
		r.Reason = "keyCompromise"
	}
	all, err := w.Revoke(w.ctx, r)
	w.must(err)
	return all
}

func (w *world) standing(name string, id certificate.ID) certificate.Standing {
	w.t.Helper()
	held, err := w.store.Certificates().Held(w.ctx, registry.DeviceID(name))
	w.must(err)
	h, _ := certificate.Find(held, id)
	return h.Standing
}

// Two certificates of a device could each be revoked alone; together they leave
// it with none, and then neither is revoked, nor anything else that was named.
func TestRevokeIsPlannedAsAWhole(t *testing.T) {
	w := open(t)
	one := w.add("lamp")
	two, err := w.AddDevice(w.ctx, AddRequest{Name: "lamp", CSR: newCSR(t, newKey(t)), Another: true})
	w.must(err)
	other := w.add("other")
	spare, err := w.AddDevice(w.ctx, AddRequest{Name: "other", CSR: newCSR(t, newKey(t)), Another: true})
	w.must(err)
	both := []string{string(one.CertificateID), string(two.CertificateID), string(other.CertificateID)}

	alone := w.revoke(RevokeRequest{Certificates: both[:1], Plan: true})
	if len(alone) != 1 || alone[0].Error != "" || len(alone[0].Bricks) > 0 || alone[0].Done || alone[0].Devices[0] != "lamp" {
		t.Errorf("one alone: %+v", alone)
	}
	for range 2 {
		all := w.revoke(RevokeRequest{Certificates: both})
		for i, r := range all {
			if wants := i < 2; wants != strings.Contains(r.Error, "device lamp may be left without a working certificate") || r.Done {
				t.Errorf("%d: %+v", i, r)
			}
		}
	}
	if w.standing("lamp", one.CertificateID) != certificate.Active || w.standing("other", other.CertificateID) != certificate.Active {
		t.Error("something was revoked all the same")
	}
	for _, r := range w.revoke(RevokeRequest{Certificates: append(both, both[0]), Brick: []string{"lamp"}}) {
		if !r.Done || r.Error != "" {
			t.Errorf("not revoked: %+v", r)
		}
	}
	if w.standing("lamp", two.CertificateID) != certificate.Revoked || w.standing("other", spare.CertificateID) != certificate.Active {
		t.Error("not what was asked for")
	}
	for _, e := range w.notes {
		if e.Kind == "operator.certificate_revoke" && e.Certificate == two.CertificateID {
			if e.Detail["brick"] != "lamp" || e.Detail["reason"] != "keyCompromise" || e.Detail["who"] == "" || e.Device != "lamp" {
				t.Errorf("the audit has %+v", e)
			}
			return
		}
	}
	t.Error("the audit does not have it")
}

func TestRevokeRefuses(t *testing.T) {
	w := open(t)
	lamp := w.add("lamp")
	for name, c := range map[string]struct {
		r    RevokeRequest
		want string
	}{
		"no reason":             {RevokeRequest{Certificates: []string{"0"}}, "reason"},
		"a reason to come back": {RevokeRequest{Certificates: []string{"0"}, Reason: "certificateHold"}, "is none of unspecified, keyCompromise,"},
		"nothing named":         {RevokeRequest{Reason: "superseded"}, "must be from 1 to 1000"},
		"too many":              {RevokeRequest{Reason: "superseded", Certificates: make([]string, batch+1)}, "must be from 1 to 1000"},
	} {
		_, err := w.Revoke(w.ctx, c.r)
		refused(t, err, http.StatusBadRequest, c.want)
		_ = name
	}
	for text, want := range map[string]string{
		"abc": "at least the first 12 are needed", strings.Repeat("0", 12): "is not known",
		string(lamp.CertificateID[:11]): "at least the first 12 are needed", string(lamp.CertificateID) + "0": "an id is 64",
		string(lamp.CertificateID[:12]): "--brick lamp", string(lamp.CertificateID): "--brick lamp",
	} {
		if all := w.revoke(RevokeRequest{Certificates: []string{text}}); len(all) != 1 || !strings.Contains(all[0].Error, want) {
			t.Errorf("%s: %+v, want %q", text, all, want)
		}
	}
	if len(w.notes) != 1 { // that lamp was added
		t.Errorf("the audit has %+v", w.notes)
	}
}

func TestRevokeWithoutARecord(t *testing.T) {
	var full bool
	w := open(t, func(p *Ports) {
		note := p.Note
		p.Note = func(ctx context.Context, e Event) error {
			if full {
				return errors.New("disk full")
			}
			return note(ctx, e)
		}
	})
	lamp := w.add("lamp")
	full = true
	all := w.revoke(RevokeRequest{Certificates: []string{string(lamp.CertificateID)}, Brick: []string{"lamp"}})
	if all[0].Done || !strings.Contains(all[0].Error, "disk full") || w.standing("lamp", lamp.CertificateID) != certificate.Active {
		t.Errorf("revoked without a record: %+v", all)
	}
}

func TestCRL(t *testing.T) {
	w := open(t, func(p *Ports) {
		p.CRL = func(_ context.Context, _ string, lifetime time.Duration) (CRL, error) {
			if lifetime == time.Hour {
				return CRL{}, certificate.ErrNoCAKey
			}
			return CRL{Number: 3, PEM: lifetime.String()}, nil
		}
	})
	crl, err := w.CRL(w.ctx, "", 2*time.Hour)
	w.must(err)
	if crl.Number != 3 || crl.PEM != "2h0m0s" || w.notes[0].Kind != "operator.ca_crl" || w.notes[0].Detail["who"] == "" {
		t.Errorf("got %+v, noted %+v", crl, w.notes)
	}
	_, err = w.CRL(w.ctx, "", time.Second)
	refused(t, err, http.StatusBadRequest, "at least a minute")
	_, err = w.CRL(w.ctx, "", time.Hour)
	refused(t, err, http.StatusServiceUnavailable, "no CA key")
}
