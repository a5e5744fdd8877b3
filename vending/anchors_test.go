package vending_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
	"github.com/certvendor/certvendor/vending"
)

// anchored is a vending.Anchors that remembers what devices said.
type anchored struct {
	offer string
	took  []string
	err   error
}

func (a *anchored) Offer(context.Context, registry.DeviceID) string { return a.offer }

func (a *anchored) Took(_ context.Context, id registry.DeviceID, sha256 string) error {
	a.took = append(a.took, string(id)+" "+sha256)
	return a.err
}

func TestTrustAnchorsAreOffered(t *testing.T) {
	for name, body := range map[string]string{"csr": getBody(makeCSR(newKey(), string(device))), "package": "{}"} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			b.held = append(b.held, holding(waiting))
			b.anchors = &anchored{offer: "ANCHORS"}
			b.serve(topic(protocol.Get), body)
			var reply protocol.GetAccepted
			b.wantAccepted(protocol.Get, &reply)
			if reply.TrustAnchors != "ANCHORS" {
				t.Errorf("reply %+v", reply)
			}
		})
	}
}

func TestTrustAnchorsAreNotOfferedWithARefusal(t *testing.T) {
	b := newBed(t)
	b.anchors = &anchored{offer: "ANCHORS"}
	b.serve(topic(protocol.Get), `{"csr":"x"}`)
	b.wantRejected(protocol.Get, protocol.CSRRejected)
	if strings.Contains(string(b.replies[0].payload), "ANCHORS") {
		t.Errorf("reply %s", b.replies[0].payload)
	}
}

func TestTrustAnchorsAreTaken(t *testing.T) {
	sha := strings.Repeat("a", 64)
	body := `{"trustAnchorsSha256":"` + sha + `"}`
	caller := vending.Caller{Certificate: oldCertificate.ID, Evidence: certificate.Connection}
	for name, c := range map[string]struct {
		caller vending.Caller
		body   string
		err    error
		reason protocol.Reason
		took   int
	}{
		// That the ack itself is refused does not make what is said untrue.
		"said":                {caller, body, nil, protocol.NotProven, 1},
		"not said":            {caller, "{}", nil, protocol.NotProven, 0},
		"not a hash":          {caller, `{"trustAnchorsSha256":"A"}`, nil, protocol.Malformed, 0},
		"not recorded":        {caller, body, errors.New("disk on fire"), protocol.TryAgainLater, 1},
		"over an unknown one": {vending.Caller{}, body, nil, "", 0},
		"by who is not it":    {vending.Caller{Certificate: certificate.IDOf([]byte("x")), Evidence: certificate.Connection}, body, nil, protocol.NotBound, 0},
	} {
		t.Run(name, func(t *testing.T) {
			b, a := newBed(t), &anchored{err: c.err}
			b.anchors = a
			b.history = rotation.History{Rotations: []rotation.Rotation{openRotation()}}
			b.serveOver(c.caller, topic(protocol.Ack), c.body)
			if c.reason == "" {
				b.wantAccepted(protocol.Ack, &protocol.AckAccepted{})
			} else {
				b.wantRejected(protocol.Ack, c.reason)
			}
			if len(a.took) != c.took || c.took > 0 && a.took[0] != string(device)+" "+sha {
				t.Errorf("took %v", a.took)
			}
		})
	}
}
