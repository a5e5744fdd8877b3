package aws

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"

	"github.com/certvendor/certvendor/certificate"
)

// nobodyThere is a way to a broker that is not there.
type nobodyThere struct{}

func (nobodyThere) Open(context.Context) (net.Conn, error) {
	return nil, &net.OpError{Op: "dial", Err: errors.New("nobody is there")}
}
func (nobodyThere) Stale(time.Time) bool { return false }

// examined returns a doctor for an account, and what it says by check.
func examined(t *testing.T, c *Clients, change ...func(*DoctorConfig)) (*Doctor, func(func(func(Finding))) map[string]Finding) {
	t.Helper()
	config := DoctorConfig{
		Clients: c, Scope: testScope(), Way: nobodyThere{}, Endpoint: "broker.example:8883",
		Plan:     func(context.Context) ([]Step, error) { return nil, nil },
		Others:   func(context.Context) ([]Other, error) { return nil, nil },
		Signs:    func(context.Context) (time.Time, error) { return time.Now().AddDate(5, 0, 0), nil },
		Validity: 8760 * time.Hour, Now: time.Now,
	}
	for _, fn := range change {
		fn(&config)
	}
	return NewDoctor(config), func(run func(func(Finding))) map[string]Finding {
		all := map[string]Finding{}
		run(func(f Finding) {
			if f.Check == "" || f.Found == "" {
				t.Errorf("a finding says nothing: %+v", f)
			}
			all[f.Check] = f
		})
		return all
	}
}

func wantFinding(t *testing.T, all map[string]Finding, check string, verdict Verdict, says string) {
	t.Helper()
	if f := all[check]; f.Verdict != verdict || !strings.Contains(f.Found+" -> "+f.Do, says) {
		t.Errorf("%s: %s, %q -> %q; want %s, %q", check, f.Verdict, f.Found, f.Do, verdict, says)
	}
}

// An account is examined before and after there is what the daemon needs.
func TestExamine(t *testing.T) {
	account := newAccount()
	clients := dialMoto(t, account, nil)
	key := ecKey(t)
	ca := caOf(t, "issuing", key.Public(), nil, key, 20)
	d, run := examined(t, clients, func(c *DoctorConfig) {
		c.Scope.Issuer.CA = "" // until it is registered
		c.Scope.Packages = PackagesConfig{Bucket: "nobody-has-this"}
	})
	found := run(func(tell func(Finding)) { d.Examine(t.Context(), tell) })
	wantFinding(t, found, "credentials", OK, account)
	wantFinding(t, found, "clock", OK, "apart from AWS's")
	wantFinding(t, found, "endpoint", Unknown, "the account's own is")
	wantFinding(t, found, "broker", Failed, "nobody is there")
	wantFinding(t, found, "packages", Failed, "there is no bucket")
	wantFinding(t, found, "permissions: reading", OK, "8 calls are allowed")
	wantFinding(t, found, "quotas", Unknown, "no call")

	prepareAccount(t, account, clients)
	id := registerCA(t, clients, ca)
	d, run = examined(t, clients, func(c *DoctorConfig) {
		c.Scope.Issuer.CA, c.Scope.Packages.Bucket = id, testBucket(account)
		c.Plan = func(context.Context) ([]Step, error) {
			return []Step{
				step(Resource{GroupKind, "g"}, DoKeep), step(Resource{RuleKind, "r"}, DoCreate), step(Resource{TableKind, "t"}, DoRefuse, "why"),
			}, nil
		}
		c.Others = func(context.Context) ([]Other, error) { return []Other{{Rule: "cdf", Topic: "x", Does: "y"}}, nil }
	})
	found = run(func(tell func(Finding)) { d.Examine(t.Context(), tell) })
	wantFinding(t, found, "ca", OK, `"CN=issuing" is ACTIVE until`)
	wantFinding(t, found, "packages", OK, "says what is not in it")
	wantFinding(t, found, "thing group g", OK, "there")
	wantFinding(t, found, "topic rule r", Failed, "certvendor setup makes it")
	wantFinding(t, found, "table t", Failed, "somebody else's: why")
	wantFinding(t, found, "who else answers", Failed, "topic rule cdf hears x")
}

// What cannot be known is unknown, and what AWS refuses has failed.
func TestExamineThatIsRefused(t *testing.T) {
	key := ecKey(t)
	ca := caOf(t, "issuing", key.Public(), nil, key, 20)
	for name, c := range map[string]struct {
		change func(*DoctorConfig)
		status int
		code   string
		check  string
		want   Verdict
		says   string
	}{
		"a clock that is wrong": {change: func(c *DoctorConfig) { c.Now = func() time.Time { return time.Now().Add(3 * time.Minute) } },
			check: "clock", want: Failed, says: "NTP"},
		"a call that is denied": {status: 403, code: "AccessDeniedException", check: "permissions: reading", want: Failed, says: "DescribeThing (AccessDeniedException)"},
		"a call without answer": {status: 500, code: "InternalFailureException", check: "permissions: reading", want: Unknown, says: "does not answer"},
		"a CA that ends too soon": {change: func(c *DoctorConfig) { c.Validity = 30 * 8760 * time.Hour },
			check: "ca", want: Failed, says: "less than vending.validity"},
		"a CA that has ended": {change: func(c *DoctorConfig) { c.Now = func() time.Time { return ca.NotAfter.Add(time.Hour) } },
			check: "ca", want: Failed, says: "has expired"},
		"a plan that fails": {change: func(c *DoctorConfig) {
			c.Plan = func(context.Context) ([]Step, error) { return nil, errors.New("no plan") }
		}, check: "what setup makes", want: Failed, says: "no plan"},
		"an issuer without a clue": {change: func(c *DoctorConfig) { c.Signs = nil }, check: "issuer", want: Unknown, says: "rotation"},
	} {
		t.Run(name, func(t *testing.T) {
			clients := dialMoto(t, newAccount(), func(next http.RoundTripper) http.RoundTripper {
				return refusesThings{next, c.status, c.code}
			})
			id := registerCA(t, dialMoto(t, clientAccount(t, clients), nil), ca)
			d, run := examined(t, clients, func(config *DoctorConfig) {
				config.Scope.Issuer.CA = id
				if c.change != nil {
					c.change(config)
				}
			})
			wantFinding(t, run(func(tell func(Finding)) { d.Examine(t.Context(), tell) }), c.check, c.want, c.says)
		})
	}
}

func clientAccount(t *testing.T, c *Clients) string {
	t.Helper()
	n, err := c.Account(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// refusesThings answers what is asked about things with an error.
type refusesThings struct {
	next   http.RoundTripper
	status int
	code   string
}

func (r refusesThings) RoundTrip(request *http.Request) (*http.Response, error) {
	if r.status == 0 || !strings.HasPrefix(request.URL.Path, "/things/") {
		return r.next.RoundTrip(request)
	}
	return answered(request, r.status, r.code), nil
}

func answered(r *http.Request, status int, code string) *http.Response {
	body, _ := json.Marshal(map[string]string{"message": "as the test says"})
	return &http.Response{
		StatusCode: status, Header: http.Header{"X-Amzn-Errortype": {code}, "Content-Type": {"application/json"}},
		Body: readCloser{strings.NewReader(string(body))}, Request: r, ContentLength: int64(len(body)),
	}
}

type readCloser struct{ *strings.Reader }

func (readCloser) Close() error { return nil }

// One thing is looked at as a rotation would find it.
func TestExamineThing(t *testing.T) {
	c := newCourse(t, "deactivate", nil)
	d, run := examined(t, c.clients, func(config *DoctorConfig) { config.Scope.Account = c.account(); config.Now = c.clock.Now })
	found := run(func(tell func(Finding)) { d.ExamineThing(t.Context(), "nobody", tell) })
	wantFinding(t, found, "thing", Failed, "DEVICE_NOT_WHITELISTED")

	found = run(func(tell func(Finding)) { d.ExamineThing(t.Context(), courseThing, tell) })
	wantFinding(t, found, "thing", OK, "there")
	wantFinding(t, found, "groups", OK, "0 of at most 10")
	own := "certificate " + string(c.old[:12])
	wantFinding(t, found, own, OK, "ACTIVE")
	wantFinding(t, found, own+": policies", OK, "1 of at most 10: "+oldPolicy)

	for i := range mostGroups {
		name := fmt.Sprintf("group-%d", i)
		_, err := c.clients.IoT.CreateThingGroup(t.Context(), &iot.CreateThingGroupInput{ThingGroupName: &name})
		c.must(err)
		_, err = c.clients.IoT.AddThingToThingGroup(t.Context(), &iot.AddThingToThingGroupInput{ThingGroupName: &name, ThingName: new(courseThing)})
		c.must(err)
	}
	for i := range certificate.MostPolicies {
		name := fmt.Sprintf("policy-%d", i)
		_, err := c.clients.IoT.CreatePolicy(t.Context(), &iot.CreatePolicyInput{PolicyName: &name, PolicyDocument: new("{}")})
		c.must(err)
		_, err = c.clients.IoT.AttachPolicy(t.Context(), &iot.AttachPolicyInput{PolicyName: &name, Target: new(d.names.certificate(c.old))})
		c.must(err)
	}
	found = run(func(tell func(Finding)) { d.ExamineThing(t.Context(), courseThing, tell) })
	wantFinding(t, found, "groups", Failed, "10: it cannot become a member of rotate")
	wantFinding(t, found, own+": policies", Failed, "11, and a certificate has room for 10")

	c.clock.Advance(8759 * time.Hour)
	found = run(func(tell func(Finding)) { d.ExamineThing(t.Context(), courseThing, tell) })
	wantFinding(t, found, own, Failed, "less than 30 days")
	c.clock.Advance(48 * time.Hour)
	_, err := c.clients.IoT.UpdateCertificate(t.Context(), &iot.UpdateCertificateInput{
		CertificateId: new(string(c.old)), NewStatus: types.CertificateStatusInactive,
	})
	c.must(err)
	found = run(func(tell func(Finding)) { d.ExamineThing(t.Context(), courseThing, tell) })
	wantFinding(t, found, own, OK, "nobody connects with it")
}
