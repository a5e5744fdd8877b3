package vending_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
	"github.com/certvendor/certvendor/vending"
)

func TestGetByCSR(t *testing.T) {
	b := newBed(t)
	var order certificate.Order
	issue := b.issue
	b.issue = func(o certificate.Order) (certificate.Certificate, error) {
		order = o
		return issue(o)
	}
	var registered certificate.Certificate
	b.register = func(c certificate.Certificate) error {
		registered = c
		return nil
	}
	key := newKey()
	b.serve(topic(protocol.Get), getBody(makeCSR(key, string(device)), "clientToken", "t-1"))
	var got protocol.GetAccepted
	b.wantAccepted(protocol.Get, &got)

	if want := []string{"open", "issue", "advance to issued", "register", "advance to vended"}; !slices.Equal(b.changes, want) {
		t.Errorf("changed %v, want %v", b.changes, want)
	}
	if got.Certificate != registered.PEM() || got.CertificateID != string(registered.ID) || got.Nonce == "" ||
		got.ClientToken != "t-1" || got.NotAfter != registered.NotAfter.Format("2006-01-02T15:04:05Z") {
		t.Errorf("reply %+v", got)
	}
	if registered.Standing != certificate.Active || registered.Kind != certificate.Rotated || !slices.Equal(registered.Policies, []string{"device"}) {
		t.Errorf("registered as %s, %s, with policies %v", registered.Standing, registered.Kind, registered.Policies)
	}
	if !key.PublicKey.Equal(order.Key) || order.Device != device || !order.NotBefore.Equal(noon.Add(-b.config.Backdate)) ||
		!order.NotAfter.Equal(noon.Add(b.config.Profiles[0].Validity)) {
		t.Errorf("ordered %+v", order)
	}
	if o := b.outcome(); o.Certificate != registered.ID || o.Evidence != certificate.Connection {
		t.Errorf("outcome %+v", o)
	}
}

func TestGetPackage(t *testing.T) {
	b := newBed(t)
	heldPackage(nil)(b)
	b.serve(topic(protocol.Get), `{"clientToken":"t-2"}`)
	var got protocol.GetAccepted
	b.wantAccepted(protocol.Get, &got)
	want := protocol.GetAccepted{
		DeviceID: string(device), Action: protocol.Get, CertificateID: string(waiting.ID),
		Location: "https://files.example/1?token=2", ClientToken: "t-2",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if want := []string{"open", "activate", "advance to vended"}; !slices.Equal(b.changes, want) {
		t.Errorf("changed %v, want %v", b.changes, want)
	}
}

func TestAck(t *testing.T) {
	b := newBed(t)
	open(b)
	b.held[1].LastSeen = noon // the ack's own sighting
	b.serveOver(*overOpen, topic(protocol.Ack), `{"clientToken":"t-3"}`)
	var got protocol.AckAccepted
	b.wantAccepted(protocol.Ack, &got)
	want := protocol.AckAccepted{DeviceID: string(device), Action: protocol.Ack, Message: "OK", ClientToken: "t-3"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if len(b.behind) != 1 || !slices.Equal(b.behind[0].Behind, []rotation.Step{rotation.Attributes, rotation.LeaveGroup}) {
		t.Errorf("left behind: %+v", b.behind)
	}
}

func TestClientTokenIsEchoed(t *testing.T) {
	token := strings.Repeat("é", protocol.MaxClientToken)
	for _, test := range []struct {
		name   string
		breaks func(*bed)
		request
		reason protocol.Reason
	}{
		{"refused get", func(b *bed) { b.frozen.Vending = true }, get(`{"clientToken":"` + token + `"}`), protocol.TryAgainLater},
		{"malformed get", nil, get(`{"csr":5,"clientToken":"` + token + `"}`), protocol.Malformed},
		{"refused ack", nil, ack(`{"clientToken":"` + token + `"}`), protocol.NoOpenRotation},
		{"malformed ack", nil, ack(`{"proof":5,"clientToken":"` + token + `"}`), protocol.Malformed},
		{"get without a turn", func(b *bed) { b.queue = failing{vending.ErrBusy} }, get(`{"clientToken":"` + token + `"}`), protocol.TryAgainLater},
		{"ack without a turn", func(b *bed) { b.queue = failing{vending.ErrLate} }, ack(`{"clientToken":"` + token + `"}`), protocol.TryAgainLater},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBed(t)
			if test.breaks != nil {
				test.breaks(b)
			}
			b.serve(topic(test.action), test.body)
			if got := b.wantRejected(test.action, test.reason); got.ClientToken != token {
				t.Errorf("client token %q, want it echoed", got.ClientToken)
			}
		})
	}
}

// TestTopicsOfNobody sends what is not a request: nobody could hear an answer,
// and nothing is asked of any port.
func TestTopicsOfNobody(t *testing.T) {
	for _, name := range []string{
		"", "/", "cdf/certificates/pump-7", "cdf/certificates/pump-7/get/accepted", "cdf/certificates/pump-7/put",
		"cdf/certificates//get", "cdf/certificates/a/b/get", "cdf/certificates/+/get", "cdf/certificates/#",
		"cdf/certificates/pump 7/get", "cdf/certificates/pump\x007/get", "cdf/certificates/../get",
		"cdf/certificates/pümp/get", "cdf/certificates/" + strings.Repeat("a", 129) + "/get",
		"/cdf/certificates/pump-7/get", "CDF/certificates/pump-7/get", "cdf/certificates/pump-7/get/",
	} {
		b := newBed(t)
		b.device = func(registry.DeviceID) (registry.Device, error) {
			t.Errorf("%q: the registry was asked", name)
			return registry.Device{}, errBroken
		}
		b.serve(name, "{}")
		if len(b.replies)+len(b.served)+len(b.changes) > 0 {
			t.Errorf("%q: %d replies, %d outcomes, changes %v", name, len(b.replies), len(b.served), b.changes)
		}
	}
}

// TestPublisherDown: no reply can be handed over, not even the refusal. The
// rotation stays as it is, and the operator hears of it.
func TestPublisherDown(t *testing.T) {
	b := newBed(t)
	b.publish = func(string) error { return errBroken }
	b.serve(topic(protocol.Get), getBody(makeCSR(newKey(), "")))
	if len(b.replies) != 0 {
		t.Errorf("replies: %s", b.replies)
	}
	if o := b.outcome(); o.Accepted || o.Reason != protocol.PublishFailed || !errors.Is(o.Err, errBroken) {
		t.Errorf("outcome %+v", o)
	}
	if b.changes[len(b.changes)-1] != "advance to vended" {
		t.Errorf("changes %v", b.changes)
	}
}

// TestFinishedAckWhoseReplyIsLost leaves the steps behind it all the same.
func TestFinishedAckWhoseReplyIsLost(t *testing.T) {
	b := newBed(t)
	open(b)
	b.held[1].LastSeen = noon
	b.publish = func(string) error { return errBroken }
	b.serveOver(*overOpen, topic(protocol.Ack), "")
	if len(b.behind) != 1 {
		t.Errorf("%d rotations left behind, want 1", len(b.behind))
	}
}

// TestIssueThatFailsGivesUpTheLease, so that the next request need not wait
// for it to run out.
func TestIssueThatFailsGivesUpTheLease(t *testing.T) {
	b := newBed(t)
	issuing(errBroken)(b)
	var last rotation.Change
	b.advance = func(c rotation.Change) error {
		last = c
		return nil
	}
	b.serve(topic(protocol.Get), getBody(makeCSR(newKey(), "")))
	b.wantRejected(protocol.Get, protocol.IssueFailed)
	if last.Rotation.State != rotation.Intended || last.Rotation.Lease != (rotation.Lease{}) {
		t.Errorf("left as %s under lease %+v", last.Rotation.State, last.Rotation.Lease)
	}
}

// TestRefusedGetGivesNothingUp: what is open stays as it is.
func TestRefusedGetGivesNothingUp(t *testing.T) {
	for name, body := range map[string]string{
		"another name":  getBody(makeCSR(newKey(), "pump-8")),
		"broken":        getBody(brokenCSR()),
		"not held":      getBody(makeCSR(newKey(), ""), "previousCertificateId", "a"),
		"no package":    "{}",
		"not a request": "ping",
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			open(b)
			b.pack = func() (vending.Package, error) { return vending.Package{}, vending.ErrNoPackage }
			b.serve(topic(protocol.Get), body)
			if b.outcome().Accepted {
				t.Fatal("accepted")
			}
			b.wantUnchanged()
		})
	}
}

// TestBindings goes through what each binding lets in.
func TestBindings(t *testing.T) {
	own := func(c certificate.Certificate, name string) vending.Caller {
		return vending.Caller{Certificate: c.ID, CommonName: name, Evidence: certificate.Connection}
	}
	notHeld := func(b *bed) { b.seen = func(certificate.Sighting) error { return certificate.ErrNotHeld } }
	for _, test := range []struct {
		binding vending.Binding
		caller  vending.Caller
		refused bool
	}{
		{vending.Attached, own(oldCertificate, "another"), false},
		{vending.Attached, own(waiting, string(device)), true},
		{vending.Attached, vending.Caller{}, false},
		{vending.ByCommonName, own(oldCertificate, "another"), true},
		{vending.ByCommonName, own(oldCertificate, string(device)), false},
		{vending.ByCommonName, own(waiting, string(device)), false},
		{vending.ByCommonName, own(waiting, ""), true},
		{vending.AttachedOrCN, own(oldCertificate, "another"), false},
		{vending.AttachedOrCN, own(waiting, string(device)), false},
		{vending.AttachedOrCN, own(waiting, "another"), true},
	} {
		t.Run(fmt.Sprintf("%s/%.4s as %q", test.binding, test.caller.Certificate, test.caller.CommonName), func(t *testing.T) {
			b := newBed(t)
			b.config.Binding = test.binding
			notHeld(b)
			b.serveOver(test.caller, topic(protocol.Get), getBody(makeCSR(newKey(), "")))
			if test.refused {
				b.wantRejected(protocol.Get, protocol.NotBound)
				b.wantUnchanged()
				return
			}
			b.wantAccepted(protocol.Get, new(protocol.GetAccepted))
		})
	}
}

// TestWhenACallerSpoke goes through what counts as the time of a sighting: the
// bus's word where a message was heard of late, this moment otherwise.
func TestWhenACallerSpoke(t *testing.T) {
	early := noon.Add(-time.Minute)
	caller := vending.Caller{Device: device, Certificate: oldCertificate.ID, Evidence: certificate.Connection}
	late := caller
	late.At = early
	for _, test := range []struct {
		caller vending.Caller
		want   time.Time
		live   bool
	}{{caller, noon, true}, {late, early, false}} {
		var seen []certificate.Sighting
		b := newBed(t)
		b.seen = func(s certificate.Sighting) error { seen = append(seen, s); return nil }
		b.serveOver(test.caller, topic(protocol.Get), getBody(makeCSR(newKey(), "")))
		b.wantAccepted(protocol.Get, new(protocol.GetAccepted))
		want := certificate.Sighting{
			Device: device, Certificate: oldCertificate.ID, At: test.want, Evidence: certificate.Connection, Live: test.live,
		}
		if len(seen) != 1 || seen[0] != want {
			t.Errorf("saw %+v, want %+v", seen, want)
		}
	}
}
