package aws

import (
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	ssmtypes "github.com/aws/aws-sdk-go-v2/service/ssm/types"

	"github.com/certvendor/certvendor/campaign"
	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/vending"
)

// says returns what a rule says of the course's thing.
func (c *course) says(rule string) vending.Finding {
	c.t.Helper()
	e, err := c.vendor.Vendor.Explain(c.ctx, courseThing, "")
	c.must(err)
	for _, f := range e.Findings {
		if f.Rule == rule {
			return f
		}
	}
	c.t.Fatalf("no rule %s in %+v", rule, e.Findings)
	return vending.Finding{}
}

// wantNothingIssued asks AWS whether there is but the old certificate.
func (c *course) wantNothingIssued() {
	c.t.Helper()
	all, err := c.clients.IoT.ListCertificates(c.ctx, &iot.ListCertificatesInput{})
	c.must(err)
	if len(all.Certificates) != 1 || *all.Certificates[0].CertificateId != string(c.old) {
		c.t.Errorf("%d certificates are registered", len(all.Certificates))
	}
}

// TestMorePoliciesThanACertificateCanHave: the get is refused before anything is
// issued, and `explain` and a plan say why.
func TestMorePoliciesThanACertificateCanHave(t *testing.T) {
	c := newCourse(t, certificate.Deactivate, nil)
	target := names{"aws", "eu-west-1", c.account()}.certificate(c.old)
	for i := range 11 {
		name := fmt.Sprintf("policy-%d", i)
		_, err := c.clients.IoT.CreatePolicy(c.ctx, &iot.CreatePolicyInput{PolicyName: &name, PolicyDocument: new(`{"Version":"2012-10-17","Statement":[]}`)})
		c.must(err)
		_, err = c.clients.IoT.AttachPolicy(c.ctx, &iot.AttachPolicyInput{PolicyName: &name, Target: &target})
		c.must(err)
	}
	if got := c.refusal(c.csr()); got.accepted() || got.Message != protocol.PolicyFailed {
		t.Fatalf("got %+v", got)
	}
	c.wantNothingIssued()
	if f := c.says("policy"); f.Refusal != protocol.PolicyFailed || !strings.Contains(f.Says, "has 12 policies to inherit, and a certificate can have 10") {
		t.Errorf("explained: %+v", f)
	}
	var found []string
	c.must(c.world.store.Campaigns().Candidates(c.ctx, nil, func(one campaign.Candidate) { found = one.Policies }))
	if len(found) != 12 {
		t.Errorf("a plan knows of the policies %v", found)
	}
}

// withKeyFromSSM has the world sign with a CA that is registered in AWS IoT.
func withKeyFromSSM(t *testing.T, ca *x509.Certificate, key string, id *certificate.ID) func(*Config) {
	return func(config *Config) {
		*id = registerCA(t, config.Clients, ca)
		_, err := config.Clients.SSM.PutParameter(t.Context(), &ssm.PutParameterInput{
			Name: new(KeyParameter(*id)), Value: &key, Type: ssmtypes.ParameterTypeSecureString,
		})
		if err != nil {
			t.Fatal(err)
		}
		config.Issuer = func(*store.Store) (vending.Issuer, error) {
			return NewKeyIssuer(KeyIssuerConfig{
				CA: config.Clients.IoT, ID: *id, Key: ParameterKey{SSM: config.Clients.SSM, Name: KeyParameter(*id)}, Now: time.Now,
			})
		}
	}
}

// TestCAThatIsInactive: nothing is signed that AWS IoT would not register.
func TestCAThatIsInactive(t *testing.T) {
	key := ecKey(t)
	ca := caOf(t, "a mill", key.Public(), nil, key, 10)
	var id certificate.ID
	c := newCourse(t, certificate.Deactivate, nil, withKeyFromSSM(t, ca, keyPEM(t, key), &id))
	_, err := c.clients.IoT.UpdateCACertificate(c.ctx, &iot.UpdateCACertificateInput{
		CertificateId: new(string(id)), NewStatus: types.CACertificateStatusInactive,
	})
	c.must(err)
	if got := c.refusal(c.csr()); got.accepted() || got.Message != protocol.NoCA {
		t.Fatalf("got %+v", got)
	}
	c.wantNothingIssued()
	want := fmt.Sprintf("CA certificate %s is INACTIVE in AWS IoT: activate it", id)
	if f := c.says("ca"); f.Refusal != protocol.NoCA || !strings.Contains(f.Says, want) {
		t.Errorf("explained: %+v", f)
	}
}

// TestCAThatBecomesInactive: a CA that was ACTIVE when it was looked at is
// looked at again once AWS IoT has refused what it signed.
func TestCAThatBecomesInactive(t *testing.T) {
	key := ecKey(t)
	ca := caOf(t, "a mill", key.Public(), nil, key, 10)
	var id certificate.ID
	refuses := func(next http.RoundTripper) http.RoundTripper {
		return roundTrip(func(r *http.Request) (*http.Response, error) {
			if r.URL.Path != "/certificate/register" {
				return next.RoundTrip(r)
			}
			return &http.Response{
				StatusCode: http.StatusNotAcceptable, Request: r, Header: http.Header{"X-Amzn-Errortype": {"CertificateStateException"}},
				Body: io.NopCloser(strings.NewReader(`{"message":"CA certificate is INACTIVE"}`)),
			}, nil
		})
	}
	c := newCourse(t, certificate.Deactivate, refuses, withKeyFromSSM(t, ca, keyPEM(t, key), &id))
	if f := c.says("ca"); f.Refusal != "" {
		t.Fatalf("explained: %+v", f)
	}
	_, err := c.clients.IoT.UpdateCACertificate(context.WithoutCancel(c.ctx), &iot.UpdateCACertificateInput{
		CertificateId: new(string(id)), NewStatus: types.CACertificateStatusInactive,
	})
	c.must(err)
	for _, want := range []protocol.Reason{protocol.RegisterFailed, protocol.NoCA} {
		if got := c.once(c.old, protocol.Get, c.csr()); got.Message != want {
			t.Errorf("got %s, want %s", got.Message, want)
		}
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestThingThatIsNotThere: an operator who explains it is not told that it gets a job.
func TestThingThatIsNotThere(t *testing.T) {
	c := newCourse(t, certificate.Deactivate, nil)
	c.must(c.world.group.Joins(c.ctx, courseThing))
	if err := c.world.group.Joins(c.ctx, "nobody"); err == nil || !strings.Contains(err.Error(), "AWS IoT has no thing nobody") {
		t.Errorf("got %v", err)
	}
}

// TestThingInTooManyGroups: one that cannot join is said once, keeps nobody up
// and gets its job when it has room.
func TestThingInTooManyGroups(t *testing.T) {
	fake, clock := newFake(), noon()
	w := fake.open(t, clock)
	w.ensure(t)
	fake.others = map[string]int{"thing-1": 10, "thing-2": 9}
	things := fleet(t, w, 3)
	w.pacedRound(t, clock)
	if len(fake.group) != 2 {
		t.Fatalf("in the thing group: %v", fake.group)
	}
	if err := w.group.Joins(t.Context(), "thing-1"); err == nil || !strings.Contains(err.Error(), "it is in 10 of at most 10") {
		t.Errorf("thing-1: %v", err)
	}
	if err := w.group.Joins(t.Context(), "thing-2"); err != nil {
		t.Errorf("thing-2: %v", err)
	}
	crowded := map[string]int{}
	err := w.store.Campaigns().Candidates(t.Context(), nil, func(c campaign.Candidate) { crowded[string(c.Device)] = c.Groups })
	if err != nil || crowded["thing-1"] != 10 || crowded["thing-2"] != 0 {
		t.Errorf("a plan knows %v, %v", crowded, err)
	}
	fake.called()
	w.pacedRound(t, clock)
	for _, call := range fake.called() {
		if strings.Contains(call, "addThingToThingGroup") {
			t.Errorf("it was tried again within %s", crowdedRest)
		}
	}
	fake.others = nil
	clock.Advance(crowdedRest)
	w.pacedRound(t, clock)
	if len(fake.group) != len(things) {
		t.Errorf("in the thing group: %v", fake.group)
	}
	if n, err := w.store.Devices().Crowded(t.Context(), "thing-1"); n != 0 || err != nil {
		t.Errorf("still noted as crowded: %d, %v", n, err)
	}
}

// Somebody has changed the policies of a certificate at AWS since it was first
// read: the next one inherits those that it has now.
func TestPoliciesAreInheritedAsTheyAreNow(t *testing.T) {
	c := newCourse(t, certificate.Keep, nil)
	if _, err := c.world.inventory.Held(c.ctx, courseThing); err != nil {
		t.Fatal(err)
	}
	c.clock.Advance(2 * policiesKept)
	target := c.world.inventory.names.certificate(c.old)
	_, err := c.clients.IoT.CreatePolicy(c.ctx, &iot.CreatePolicyInput{PolicyName: new("tighter"), PolicyDocument: new(`{"Version":"2012-10-17","Statement":[]}`)})
	c.must(err)
	_, err = c.clients.IoT.AttachPolicy(c.ctx, &iot.AttachPolicyInput{PolicyName: new("tighter"), Target: &target})
	c.must(err)
	_, err = c.clients.IoT.DetachPolicy(c.ctx, &iot.DetachPolicyInput{PolicyName: new(oldPolicy), Target: &target})
	c.must(err)
	got := c.once(c.old, protocol.Get, c.csr())
	policies, err := c.world.inventory.policies(c.ctx, got.CertificateID)
	c.must(err)
	if !got.accepted() || !slices.Equal(policies, []string{"tighter"}) {
		t.Errorf("answered %+v; it has %v", got, policies)
	}
}
