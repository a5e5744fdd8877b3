package control

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/vending"
)

// TestSurvey has one of everything that a survey looks for, and more devices
// than a page has.
func TestSurvey(t *testing.T) {
	const many = rehearsedAtOnce + 50
	w := open(t, func(p *Ports) {
		p.CAs = func() []CA { return []CA{{Role: "issuing", Subject: "CN=Test CA"}} }
		p.Rehearse = func(_ context.Context, q vending.Question) vending.Answer {
			if q.Device == "plain" && q.Action == protocol.Get && q.Certificate != "" {
				return vending.Answer{}
			}
			return vending.Answer{Refusal: &vending.Error{Reason: protocol.TryAgainLater}}
		}
	})
	key, same := newKey(t), newKey(t)
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	w.must(err)
	hold := func(c certificate.Certificate, devices ...registry.DeviceID) certificate.Certificate {
		c.Standing = certificate.Active
		for _, id := range devices {
			w.must(w.store.Devices().Add(w.ctx, id, nil))
			w.must(w.store.Certificates().Register(w.ctx, id, c))
		}
		return c
	}
	hold(w.leaf("plain"), "plain")
	hold(w.leafFor("weak", small.Public()), "weak")
	laden := w.leaf("laden")
	for i := range 11 {
		laden.Policies = append(laden.Policies, fmt.Sprintf("p%02d", i))
	}
	hold(laden, "laden")
	cloned := hold(w.leafFor("plain", key.Public()), "cloned-1") // the name of another
	hold(w.leafFor("", key.Public()), "cloned-2")
	hold(w.leafFor("renewed", same.Public()), "renewed")
	second := hold(w.leafFor("renewed", same.Public()), "renewed")
	shared := hold(w.leaf("nobody"), "shared-1", "shared-2")
	expired := w.leaf("expired")
	expired.NotAfter = time.Now().Add(-time.Minute)
	hold(expired, "expired")
	foreign := w.leaf("foreign")
	foreign.Issuer = "CN=elsewhere"
	hold(foreign, "foreign")
	off := w.leaf("off")
	off.Policies = []string{"a", "b"}
	hold(off, "off")
	w.must(w.store.Certificates().Retire(w.ctx, certificate.Removal{
		Device: "off", Certificate: off.ID, Mode: certificate.Deactivate, Allowed: func([]certificate.Holding) error { return nil },
	}))
	for i := range many {
		w.must(w.store.Devices().Add(w.ctx, registry.DeviceID(fmt.Sprintf("bare-%04d", i)), nil))
	}

	looks := 0
	got, err := w.Survey(w.ctx, func(int) { looks++ })
	w.must(err)
	without := Sample{Count: many + 1}
	for i := range sampled {
		without.Names = append(without.Names, fmt.Sprintf("bare-%04d", i))
	}
	one := func(names ...string) Sample { return Sample{len(names), names} }
	month := func(at time.Time) string { return at.UTC().Format("2006-01") }
	want := Survey{
		Devices: many + 11, Certificates: 10, CanRotate: 1,
		Expiries: map[string]int{month(expired.NotAfter): 1}, Policies: map[string]int{"": 9},
		Weak: one("weak rsa1024"), Many: one("laden 11"), Shared: one(string(shared.ID)),
		Names: map[string]Sample{
			nameOwn: {Count: 7}, nameOther: one("cloned-1 plain"), nameMissing: one("cloned-2 "),
			nameNobody: one("shared-1 nobody", "shared-2 nobody"),
		},
		KeysShared: one(string(cloned.Key)), KeysReused: one(string(second.Key)),
		Without: without, Several: one("renewed"),
		CanNot: map[string]Sample{
			"it has no ACTIVE certificate": without,
			"its certificate has expired":  one("expired"),
			string(protocol.TryAgainLater): one("cloned-1", "cloned-2", "laden", "renewed", "shared-1", "shared-2", "weak"),
			w.server.untrusted(foreign):    one("foreign"),
		},
	}
	want.Expiries[month(shared.NotAfter)] += 9
	for _, policy := range laden.Policies {
		want.Policies[policy] = 1
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if looks < 5 {
		t.Errorf("looked %d times, which is not a page at a time", looks)
	}
}

// TestSurveyOfRemovedDevices: what a device has that was taken out of the registry
// is counted as that, and as nothing else.
func TestSurveyOfRemovedDevices(t *testing.T) {
	w := open(t, func(p *Ports) {
		p.Rehearse = func(context.Context, vending.Question) vending.Answer { return vending.Answer{} }
	})
	w.add("stays")
	gone, shared := w.add("gone"), w.leaf("stays")
	shared.Standing = certificate.Active
	for _, id := range []registry.DeviceID{"stays", "gone"} {
		w.must(w.store.Certificates().Register(w.ctx, id, shared))
	}
	w.must(w.store.Devices().Remove(w.ctx, "gone"))
	got, err := w.Survey(w.ctx, func(int) {})
	w.must(err)
	if got.Devices != 1 || got.Certificates != 2 || got.Shared.Count != 0 || got.Names[nameOwn].Count != 2 {
		t.Errorf("%d devices, %d certificates, %v shared, names %v", got.Devices, got.Certificates, got.Shared, got.Names)
	}
	want := Sample{1, []string{fmt.Sprintf("gone %.12s", gone.CertificateID)}}
	if diff := cmp.Diff(want, got.Removed); diff != "" {
		t.Error(diff)
	}
}
