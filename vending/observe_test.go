package vending_test

import (
	"testing"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/vending"
)

// TestObservesEveryReason sends every request that is refused to a handler that
// only observes: it comes to the same reason, or where only a write or somebody
// outside would have failed to an acceptance; it answers nothing and changes
// nothing.
func TestObservesEveryReason(t *testing.T) {
	for _, test := range refusals {
		t.Run(string(test.reason)+"/"+test.name, func(t *testing.T) {
			b := newBed(t)
			if test.breaks != nil {
				test.breaks(b)
			}
			body := test.body
			if body == "a new CSR" {
				body = getBody(makeCSR(newKey(), ""))
			}
			caller := vending.Caller{Certificate: oldCertificate.ID, Evidence: certificate.Connection}
			if test.over != nil {
				caller = *test.over
			}
			h := b.handler()
			h.Observes = true
			h.Serve(t.Context(), vending.Message{Topic: topic(test.action), Payload: []byte(body), Caller: caller})
			b.wantUnchanged()
			o := b.outcome()
			if len(b.replies)+len(b.behind) != 0 || !o.Observed {
				t.Errorf("it was answered: %+v", b.replies)
			}
			if o.Accepted != outside[test.name] || !o.Accepted && o.Reason != test.reason {
				t.Errorf("accepted %t, reason %s: %v", o.Accepted, o.Reason, o.Err)
			}
		})
	}
}

// outside are the refusals that nobody can know of who changes nothing.
var outside = map[string]bool{
	"activate fails": true, "no CA": true, "no CA key": true, "issuer fails": true, "issuer's choice": true,
	"register fails": true, "attach fails": true, "policy fails": true,
	"the accepting reply is not taken": true, "the journal was changed": true,
}
