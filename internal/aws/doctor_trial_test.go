package aws

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/iot"

	"github.com/certvendor/certvendor/certificate"
)

// trialOf returns a trial in an account, of a doctor who has credentials.
func trialOf(t *testing.T, c *Clients) *Trial {
	t.Helper()
	d, _ := examined(t, c)
	if f := d.Credentials(t.Context()); f.Verdict != OK {
		t.Fatal(f)
	}
	made := d.NewTrial()
	made.pause, made.persist = time.Millisecond, 50*time.Millisecond
	return made
}

func wantEmpty(t *testing.T, c *Clients) {
	t.Helper()
	things, err := c.IoT.ListThings(t.Context(), &iot.ListThingsInput{})
	if err != nil {
		t.Fatal(err)
	}
	certificates, err := c.IoT.ListCertificates(t.Context(), &iot.ListCertificatesInput{})
	if err != nil {
		t.Fatal(err)
	}
	policies, err := c.IoT.ListPolicies(t.Context(), &iot.ListPoliciesInput{})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(things.Things) + len(certificates.Certificates) + len(policies.Policies); n > 0 {
		t.Errorf("%d things, %d certificates, %d policies are left", len(things.Things), len(certificates.Certificates), len(policies.Policies))
	}
}

// A trial leaves nothing behind, wherever making it was cut off.
func TestTrialIsCleanedUp(t *testing.T) {
	for n := 0; ; n++ {
		account := newAccount()
		whole := dialMoto(t, account, nil)
		stop := &after{left: n}
		trial := trialOf(t, dialMoto(t, account, func(next http.RoundTripper) http.RoundTripper { stop.next = next; return stop }))
		stop.armed = true
		err := trial.Make(t.Context())
		stop.armed = false
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		gone, left := trial.Clean(context.WithoutCancel(ctx)) // as after an interruption
		if len(left) > 0 && !strings.Contains(left[0], "may have made") {
			t.Errorf("cut off at call %d: left %q", n+1, left)
		}
		wantEmpty(t, whole)
		if err == nil {
			if gone != 3 {
				t.Errorf("%d taken away", gone)
			}
			break
		}
		if !strings.Contains(err.Error(), "cut off") {
			t.Fatal(err)
		}
	}
}

// after lets so many calls through, and fails the rest while it is armed.
type after struct {
	next  http.RoundTripper
	armed bool
	left  int
}

func (a *after) RoundTrip(r *http.Request) (*http.Response, error) {
	if a.armed {
		if a.left == 0 {
			return nil, errors.New("cut off")
		}
		a.left--
	}
	return a.next.RoundTrip(r)
}

// What cannot be taken away is named, and the rest is taken away all the same.
func TestTrialSaysWhatIsLeft(t *testing.T) {
	account := newAccount()
	gate := &refusing{}
	trial := trialOf(t, dialMoto(t, account, func(next http.RoundTripper) http.RoundTripper { gate.next = next; return gate }))
	if err := trial.Make(t.Context()); err != nil {
		t.Fatal(err)
	}
	gate.text = "/policies/"
	gone, left := trial.Clean(t.Context())
	if gone != 2 || len(left) != 1 || !strings.HasPrefix(left[0], "policy "+trial.Thing+": ") {
		t.Errorf("%d gone, left %q", gone, left)
	}
	gate.text = ""
	if gone, left := trial.Clean(t.Context()); gone != 1 || len(left) != 0 {
		t.Errorf("%d gone then, left %q", gone, left)
	}
	wantEmpty(t, dialMoto(t, account, nil))
}

// What AWS shows of a trial is judged by what the rotation was to bring about.
func TestTrialIsJudged(t *testing.T) {
	clients := dialMoto(t, newAccount(), nil)
	trial := trialOf(t, clients)
	if err := trial.Make(t.Context()); err != nil {
		t.Fatal(err)
	}
	if f := trial.DefaultStatus(t.Context()); f.Verdict != Unknown { // moto says none
		t.Errorf("the status that nobody named: %+v", f)
	}
	if f := trial.Rotated(t.Context(), trial.first, false); f.Verdict != OK || !strings.Contains(f.Found, "the old one is ACTIVE") {
		t.Errorf("while the old one is kept: %+v", f)
	}
	if f := trial.Rotated(t.Context(), trial.first, true); f.Verdict != Failed || !strings.Contains(f.Found, "still ACTIVE") {
		t.Errorf("while the old one works: %+v", f)
	}
	unused := trial.made[slices.IndexFunc(trial.made, func(id certificate.ID) bool { return id != trial.first })]
	if f := trial.Rotated(t.Context(), unused, false); f.Verdict != Failed || !strings.Contains(f.Found, "attached: false") {
		t.Errorf("with a certificate that is not attached: %+v", f)
	}
	short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if e, came := trial.Await(short, func(Execution) bool { return true }); came {
		t.Errorf("an execution came: %+v", e)
	}
	if _, left := trial.Clean(t.Context()); len(left) > 0 {
		t.Errorf("left %q", left)
	}
	wantEmpty(t, clients)
}
