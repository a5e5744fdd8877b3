package backendtest

import (
	"crypto"
	"fmt"
	"testing"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/protocol"
)

// Reply is the answer to one request, accepted or rejected.
type Reply struct {
	Accepted    bool
	Reason      protocol.Reason
	Detail      string
	RetryAfter  int
	Certificate string
	Chain       string
	NotAfter    string
	Location    string
	ID          certificate.ID
	Nonce       string
	ClientToken string

	t   *testing.T
	key crypto.Signer
}

func (r Reply) String() string {
	if r.Accepted {
		return fmt.Sprintf("accepted %.8s", r.ID)
	}
	return fmt.Sprintf("rejected %s (%s)", r.Reason, r.Detail)
}

// OK returns what was vended; the request must have been accepted.
func (r Reply) OK() Cert {
	r.t.Helper()
	if !r.Accepted {
		r.t.Fatalf("rejected: %s (%s)", r.Reason, r.Detail)
	}
	return Cert{ID: r.ID, Key: r.key, PEM: r.Certificate, Nonce: r.Nonce}
}

// Refused checks that the request was refused for this reason.
func (r Reply) Refused(reason protocol.Reason) Reply {
	r.t.Helper()
	switch {
	case r.Accepted:
		r.t.Fatalf("accepted (certificate %.8s), want %s", r.ID, reason)
	case r.Reason != reason:
		r.t.Fatalf("rejected: %s (%s), want %s", r.Reason, r.Detail, reason)
	}
	return r
}

// onlyReply checks that a request got exactly one reply, on its own topic and
// to its own device, and reads it.
func (r *Rig) onlyReply(d *Device, action protocol.Action) Reply {
	r.t.Helper()
	if r.faults.isDead() && len(r.replies) == 0 {
		return Reply{t: r.t} // died before it could answer
	}
	if len(r.replies) != 1 {
		r.t.Fatalf("%s: %d replies to one %s: %s", d.ID, len(r.replies), action, r.replies)
	}
	m, topics := r.replies[0], protocol.DefaultTopics()
	if m.topic == topics.Rejected(string(d.ID), action) {
		var got protocol.Rejected
		r.must(protocol.Decode(m.payload, &got))
		r.wantAddress(d, action, got.DeviceID, got.Action)
		return Reply{t: r.t, Reason: got.Message, Detail: got.Detail, RetryAfter: got.RetryAfter, ClientToken: got.ClientToken}
	}
	if m.topic != topics.Accepted(string(d.ID), action) {
		r.t.Fatalf("%s: %s answered on %s", d.ID, action, m.topic)
	}
	if action == protocol.Ack {
		var got protocol.AckAccepted
		r.must(protocol.Decode(m.payload, &got))
		r.wantAddress(d, action, got.DeviceID, got.Action)
		if got.Message != "OK" {
			r.t.Fatalf("%s: ack answered %q", d.ID, got.Message)
		}
		return Reply{t: r.t, Accepted: true, ClientToken: got.ClientToken}
	}
	var got protocol.GetAccepted
	r.must(protocol.Decode(m.payload, &got))
	r.wantAddress(d, action, got.DeviceID, got.Action)
	return Reply{
		t: r.t, Accepted: true, Certificate: got.Certificate, Chain: got.Chain, NotAfter: got.NotAfter,
		Location: got.Location, ID: certificate.ID(got.CertificateID), Nonce: got.Nonce, ClientToken: got.ClientToken,
	}
}

func (r *Rig) wantAddress(d *Device, action protocol.Action, device string, got protocol.Action) {
	r.t.Helper()
	if device != string(d.ID) || got != action {
		r.t.Fatalf("%s: the reply to a %s is for %s, %s", d.ID, action, device, got)
	}
}
