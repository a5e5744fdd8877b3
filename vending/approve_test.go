package vending_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/vending"
)

// approver answers every question alike, and remembers them.
type approver struct {
	answer vending.Approval
	err    error
	asked  []vending.ApprovalQuestion
}

func (a *approver) Approve(_ context.Context, q vending.ApprovalQuestion) (vending.Approval, error) {
	a.asked = append(a.asked, q)
	return a.answer, a.err
}

// TestApproval: what an approver decides, and what nobody decides.
func TestApproval(t *testing.T) {
	for name, c := range map[string]struct {
		approver
		reason protocol.Reason // empty: accepted
		says   string
	}{
		"allowed":                           {approver: approver{answer: vending.Approval{Allow: true}}},
		"allowed with the profile it has":   {approver: approver{answer: vending.Approval{Allow: true, Profile: "default"}}},
		"denied":                            {approver{answer: vending.Approval{Reason: "stolen"}}, protocol.NotAllowed, "stolen"},
		"nobody decides":                    {approver{err: errors.New("no route")}, protocol.TryAgainLater, "no route"},
		"a profile that is not configured":  {approver{answer: vending.Approval{Allow: true, Profile: "gold"}}, protocol.RegistryFailed, `"gold" is not configured`},
		"denied with a profile beside that": {approver{answer: vending.Approval{Profile: "gold"}}, protocol.NotAllowed, "denied"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, action := range []protocol.Action{protocol.Get, protocol.Ack} {
				b, asked := newBed(t), c.approver
				b.approver = &asked
				body := "{}"
				if action == protocol.Get {
					body = getBody(makeCSR(newKey(), ""))
				}
				b.serve(topic(action), body)
				last := b.outcome()
				if action == protocol.Ack && c.reason == "" {
					if last.Reason == protocol.NotAllowed || last.Reason == protocol.TryAgainLater {
						t.Errorf("ack: %s", last.Reason)
					}
				} else if last.Reason != c.reason || last.Accepted != (c.reason == "") {
					t.Errorf("%s: %q, want %q", action, last.Reason, c.reason)
				}
				if c.says != "" && (last.Err == nil || !strings.Contains(last.Err.Error(), c.says)) {
					t.Errorf("%s: the operator is told %v", action, last.Err)
				}
				want := vending.ApprovalQuestion{DeviceID: device, Action: action, CertificateID: oldCertificate.ID}
				if len(asked.asked) != 1 || asked.asked[0] != want {
					t.Errorf("asked %+v", asked.asked)
				}
				if payload := string(b.replies[0].payload); strings.Contains(payload, "stolen") || strings.Contains(payload, "gold") {
					t.Errorf("the device is told %s", payload)
				}
			}
		})
	}
}

// TestApprovalComesLast: nobody is asked about what is refused anyway.
func TestApprovalComesLast(t *testing.T) {
	b, asked := newBed(t), &approver{answer: vending.Approval{Allow: true}}
	b.approver = asked
	b.device = func(registry.DeviceID) (registry.Device, error) { return registry.Device{}, registry.ErrUnknown }
	b.serve(topic(protocol.Get), "{}")
	if len(asked.asked) > 0 {
		t.Errorf("asked %+v", asked.asked)
	}
}

// TestExplainApproval: it says what would be said.
func TestExplainApproval(t *testing.T) {
	b := newBed(t)
	b.approver = &approver{answer: vending.Approval{Reason: "stolen"}}
	e, err := b.handler().Vendor.Explain(t.Context(), device, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range e.Findings {
		if f.Rule == "approval" && f.Refusal == protocol.NotAllowed && strings.Contains(f.Says, "stolen") {
			return
		}
	}
	t.Errorf("found %+v", e.Findings)
}

func TestReadApproval(t *testing.T) {
	for text, want := range map[string]*vending.Approval{
		`{"allow":true}`: {Allow: true},
		`{"allow":false,"reason":"a\u0007b","more":1}`: {Reason: "a b"},
		`{"allow":true,"profile":"gold"}`:              {Allow: true, Profile: "gold"},
		`{}`:                                           nil, `{"allow":null}`: nil, `{"allow":"yes"}`: nil, `true`: nil, `{"allow":true`: nil, ``: nil,
	} {
		got, err := vending.ReadApproval([]byte(text))
		if (err == nil) != (want != nil) || want != nil && got != *want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	long, err := vending.ReadApproval([]byte(`{"allow":false,"reason":"` + strings.Repeat("x", 10_000) + `"}`))
	if err != nil || len(long.Reason) > 210 {
		t.Errorf("%d octets of a reason, %v", len(long.Reason), err)
	}
}
