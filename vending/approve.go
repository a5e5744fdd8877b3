package vending

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
)

// Approver is somebody else who is asked about each request that would be let
// in. Safe for concurrent use.
type Approver interface {
	// Approve asks within a bounded time. It changes nothing, however often
	// it is asked. An error means that nobody has decided.
	Approve(context.Context, ApprovalQuestion) (Approval, error)
}

// ApprovalQuestion is what an Approver is asked. Its JSON is what goes over the
// wire.
type ApprovalQuestion struct {
	DeviceID      registry.DeviceID `json:"deviceId"`
	Action        protocol.Action   `json:"action"`
	CertificateID certificate.ID    `json:"certificateId,omitempty"` // of the connection, where it is known
}

// Approval is what an Approver has decided.
type Approval struct {
	Allow   bool
	Reason  string // for the operator; the device does not see it
	Profile string // the profile that the device is to have; empty: the one it has anyway
}

// MostApproval bounds an answer, in octets.
const MostApproval = 64 << 10

// mostReason is how much of a reason is kept.
const mostReason = 200

// ReadApproval reads {"allow": bool, "reason": text, "profile": text}. Without
// allow it is no answer. Other members are left alone.
func ReadApproval(text []byte) (Approval, error) {
	var answer struct {
		Allow   *bool  `json:"allow"`
		Reason  string `json:"reason"`
		Profile string `json:"profile"`
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return Approval{}, errors.New("the answer is not {\"allow\": true or false, ...}")
	}
	if answer.Allow == nil {
		return Approval{}, errors.New("the answer says nothing of allow")
	}
	return Approval{*answer.Allow, printable(answer.Reason), printable(answer.Profile)}, nil
}

// printable makes one short line of a text from outside.
func printable(text string) string {
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, text)
	if runes := []rune(text); len(runes) > mostReason {
		return string(runes[:mostReason]) + "..."
	}
	return text
}

// approvalWait is how long a device is told to wait when nobody has decided.
const approvalWait = 10 * time.Second

// approve asks the Approver about a request that everything else lets in. Where
// nobody decides, the request is not let in, and that is no denial.
func (v *Vendor) approve(ctx context.Context, a *admission, action protocol.Action) error {
	if v.Approver == nil {
		return nil
	}
	approval, err := v.Approver.Approve(ctx, ApprovalQuestion{a.Device, action, a.Certificate})
	switch {
	case err != nil:
		return later(approvalWait, fmt.Errorf("approval of %s for device %s: %w", action, a.Device, err))
	case !approval.Allow:
		return reject(protocol.NotAllowed, fmt.Errorf("approval of %s for device %s is denied: %q", action, a.Device, approval.Reason))
	case approval.Profile == "":
		return nil
	}
	i := slices.IndexFunc(v.config.Profiles, func(p Profile) bool { return p.Name == approval.Profile })
	if i < 0 {
		return reject(protocol.RegistryFailed, fmt.Errorf("approval of %s for device %s: profile %q is not configured", action, a.Device, approval.Profile))
	}
	a.profile = v.config.Profiles[i]
	return nil
}

// findApproval asks the Approver as a get or an ack would.
func (v *Vendor) findApproval(ctx context.Context, a admission, action protocol.Action) []Finding {
	if v.Approver == nil {
		return nil
	}
	if action == "" {
		action = protocol.Get
	}
	a.Caller = callers(a)[0]
	err := v.approve(ctx, &a, action)
	return []Finding{finding("approval", err, "%s is approved, with profile %s", action, a.profile.Name)}
}
