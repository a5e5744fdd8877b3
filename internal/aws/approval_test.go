package aws

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/vending"
)

// TestFunctionApprover: what the function answers, and what is no answer.
func TestFunctionApprover(t *testing.T) {
	for name, c := range map[string]struct {
		reply any // of the function; a text is an error of AWS
		fails bool
		want  vending.Approval
	}{
		"allowed":            {reply: map[string]any{"allow": true}, want: vending.Approval{Allow: true}},
		"denied":             {reply: map[string]any{"allow": false, "reason": "stolen"}, want: vending.Approval{Reason: "stolen"}},
		"nothing about it":   {reply: map[string]any{"statusCode": 200}, fails: true},
		"AWS refuses":        {reply: "AccessDeniedException", fails: true},
		"the function fails": {reply: map[string]any{"errorMessage": "panic"}, fails: true},
	} {
		t.Run(name, func(t *testing.T) {
			fake := newFake()
			fake.function = func(q map[string]any) any {
				if q["deviceId"] != "pump-7" || q["action"] != "get" || q["certificateId"] != "feed" {
					t.Errorf("asked %v", q)
				}
				return c.reply
			}
			w := fake.open(t, noon())
			f := FunctionApprover{Lambda: w.config.Clients.Lambda, Function: "approve", Timeout: 30 * time.Second}
			got, err := f.Approve(t.Context(), vending.ApprovalQuestion{DeviceID: "pump-7", Action: protocol.Get, CertificateID: "feed"})
			if (err != nil) != c.fails || got != c.want {
				t.Errorf("got %+v, %v", got, err)
			}
			if err != nil && !strings.Contains(err.Error(), "invoke approve") {
				t.Errorf("got %v", err)
			}
		})
	}
}

// TestApprovalFromGet: a get is refused, put off and answered by what the
// function decides, and nothing is registered before.
func TestApprovalFromGet(t *testing.T) {
	c := newCourse(t, certificate.Deactivate, nil)
	fake := newFake()
	var answer any = "ServiceException"
	fake.function = func(map[string]any) any { return answer }
	c.vendor.Vendor.Approver = FunctionApprover{
		Lambda: fake.open(t, noon()).config.Clients.Lambda, Function: "approve", Timeout: 30 * time.Second,
	}
	for _, step := range []struct {
		answer any
		want   protocol.Reason
	}{
		{"ServiceException", protocol.TryAgainLater},
		{map[string]any{"allow": false, "reason": "stolen"}, protocol.NotAllowed},
		{map[string]any{"allow": true, "profile": "gold"}, protocol.RegistryFailed},
	} {
		answer = step.answer
		if got := c.once(c.old, protocol.Get, c.csr()); got.accepted() || got.Message != step.want {
			t.Errorf("%v: got %+v, want %s", step.answer, got, step.want)
		}
	}
	c.wantNothingIssued()
	answer = map[string]any{"allow": true, "profile": "default"}
	first := c.once(c.old, protocol.Get, c.csr())
	if again := c.once(c.old, protocol.Get, c.csr()); !first.accepted() || again.CertificateID != first.CertificateID {
		t.Errorf("got %+v, then %+v", first, again)
	}
}

// invoke answers for the function of the fake.
func (f *fakeIoT) invoke(_ *http.Request, body map[string]any) (int, any) {
	reply := f.function(body)
	if code, failed := reply.(string); failed {
		return http.StatusForbidden, code
	}
	return http.StatusOK, reply
}
