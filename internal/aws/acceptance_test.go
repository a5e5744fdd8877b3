package aws

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/acmpca"
	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/backend/backendtest"
	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/jobs"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
	"github.com/certvendor/certvendor/vending"
)

// refusal is a transport in which AWS refuses calls of one kind, so many times.
type refusal struct {
	next   http.RoundTripper
	method string
	path   string // part of it
	status int
	code   string

	mu    sync.Mutex
	times int
	paths []string
}

func (f *refusal) RoundTrip(r *http.Request) (*http.Response, error) {
	f.mu.Lock()
	f.paths = append(f.paths, r.Method+" "+r.URL.Path)
	refused := f.times > 0 && r.Method == f.method && strings.Contains(r.URL.EscapedPath(), f.path)
	if refused {
		f.times--
	}
	f.mu.Unlock()
	if refused {
		return answer(r, f.status, f.code), nil
	}
	return f.next.RoundTrip(r)
}

// called reports whether a call was made whose method and path hold this.
func (f *refusal) called(what string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.ContainsFunc(f.paths, func(p string) bool { return strings.Contains(p, what) })
}

// refusedCourse is a course whose calls go through f.
func refusedCourse(t *testing.T, f *refusal, change ...func(*Config)) *course {
	t.Helper()
	return newCourse(t, certificate.Deactivate, func(next http.RoundTripper) http.RoundTripper {
		f.next = next
		return f
	}, change...)
}

// actives returns the certificates that are ACTIVE at AWS besides the old one.
func (c *course) actives() (all []certificate.ID) {
	c.t.Helper()
	list, err := c.clients.IoT.ListCertificates(c.ctx, &iot.ListCertificatesInput{})
	c.must(err)
	for _, one := range list.Certificates {
		if id := certificate.ID(*one.CertificateId); one.Status == types.CertificateStatusActive && id != c.old {
			all = append(all, id)
		}
	}
	return all
}

// What AWS refuses for good has the original's reason, and leaves nothing behind
// that works.
func TestRefusedByAWS(t *testing.T) {
	for name, c := range map[string]struct {
		f    *refusal
		want protocol.Reason
	}{
		"case_28_register": {&refusal{method: "POST", path: "/certificate/register", status: 400, code: "CertificateValidationException"}, protocol.RegisterFailed},
		"case_29_attach":   {&refusal{method: "PUT", path: "/principals", status: 401, code: "UnauthorizedException"}, protocol.AttachFailed},
		"case_30_policy":   {&refusal{method: "PUT", path: "/target-policies/", status: 404, code: notFound}, protocol.PolicyFailed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := refusedCourse(t, c.f)
			c.f.times = 100
			if got := k.refusal(k.csr()); got.accepted() || got.Message != c.want {
				t.Errorf("answered %+v, want %s", got, c.want)
			}
			if left := k.actives(); len(left) > 0 {
				t.Errorf("ACTIVE and nobody's: %v", left)
			}
			c.f.mu.Lock()
			c.f.times = 0
			c.f.mu.Unlock()
			k.wantWhole(k.rotate())
		})
	}
}

// A CA that cannot be had has the original's reasons.
func TestCAThatCannotBeHad(t *testing.T) {
	for name, want := range map[string]protocol.Reason{
		"case_26_certificate": protocol.NoCA, "case_27_key": protocol.NoCAKey,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCourse(t, certificate.Deactivate, nil, func(config *Config) {
				key := ecKey(t)
				id := certificate.IDOf([]byte("no such CA"))
				if want == protocol.NoCAKey { // the certificate is there
					id = registerCA(t, config.Clients, caOf(t, "mill", key.Public(), nil, key, 10))
				}
				config.Issuer = func(*store.Store) (vending.Issuer, error) {
					return NewKeyIssuer(KeyIssuerConfig{
						CA: config.Clients.IoT, ID: id, Key: ParameterKey{SSM: config.Clients.SSM, Name: KeyParameter(id)}, Now: time.Now,
					})
				}
			})
			if got := c.refusal(c.csr()); got.Message != want {
				t.Errorf("answered %+v, want %s", got, want)
			}
			if left := c.actives(); len(left) > 0 {
				t.Errorf("registered all the same: %v", left)
			}
		})
	}
}

// pack makes the device's package as others make one, with this metadata, and
// returns its certificate.
func (c *course) pack(ca vending.Issuer, key string, metadata func(certificate.ID) map[string]string) certificate.ID {
	c.t.Helper()
	made, err := ca.Issue(c.ctx, certificate.Order{
		Device: courseThing, Key: backendtest.NewKey().Public(), RawSubject: emptyName,
		NotBefore: c.clock.Now().Add(-time.Hour), NotAfter: c.clock.Now().Add(8760 * time.Hour),
	})
	c.must(err)
	_, err = c.clients.IoT.RegisterCertificateWithoutCA(c.ctx, &iot.RegisterCertificateWithoutCAInput{
		CertificatePem: new(made.PEM()), Status: types.CertificateStatusInactive,
	})
	c.must(err)
	target := c.world.inventory.names.certificate(made.ID)
	_, err = c.clients.IoT.AttachPolicy(c.ctx, &iot.AttachPolicyInput{PolicyName: new(oldPolicy), Target: &target})
	c.must(err)
	_, err = c.clients.IoT.AttachThingPrincipal(c.ctx, &iot.AttachThingPrincipalInput{ThingName: new(courseThing), Principal: &target})
	c.must(err)
	_, err = c.clients.S3.PutObject(c.ctx, &s3.PutObjectInput{
		Bucket: &c.world.config.Packages.Bucket, Key: &key, Body: strings.NewReader("a zip"), Metadata: metadata(made.ID),
	})
	c.must(err)
	return made.ID
}

// Packages that others have put into the bucket, and a bucket that answers
// otherwise.
func TestPackagesOfOthers(t *testing.T) {
	named := func(name string) func(certificate.ID) map[string]string {
		return func(id certificate.ID) map[string]string { return map[string]string{name: string(id)} }
	}
	for name, c := range map[string]struct {
		f        *refusal
		times    int
		metadata func(certificate.ID) map[string]string
		want     protocol.Reason // "": a link
		not      protocol.Reason
	}{
		"case_06_prefix_and_suffix": {metadata: named("certificateid")},
		"case_08_without_metadata":  {metadata: func(certificate.ID) map[string]string { return nil }, want: protocol.NoCertificateID},
		"case_09_another_case":      {metadata: named("CertificateId")},
		"case_13_unavailable_twice": {
			metadata: named("certificateid"), times: 2, f: &refusal{method: "HEAD", status: 503, code: "SlowDown"},
		},
		"case_14_denied": {
			metadata: named("certificateid"), times: 100, f: &refusal{method: "HEAD", status: 403, code: "Forbidden"}, not: protocol.NoPackage,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.f = cmp.Or(c.f, &refusal{})
			var ca vending.Issuer
			k := refusedCourse(t, c.f, func(config *Config) {
				config.Packages.Prefix, config.Packages.Suffix = "mill/", ".keys.zip"
				ca, _ = config.Issuer(nil)
			})
			waiting := k.pack(ca, "mill/"+courseThing+".keys.zip", c.metadata)
			c.f.mu.Lock()
			c.f.times = c.times
			c.f.mu.Unlock()
			got := k.once(k.old, protocol.Get, "")
			switch {
			case c.want != "" || c.not != "":
				if got.accepted() || c.want != "" && got.Message != c.want || got.Message == c.not {
					t.Errorf("answered %+v", got)
				}
			case !got.accepted() || got.CertificateID != waiting || !slices.Equal(k.actives(), []certificate.ID{waiting}):
				t.Errorf("answered %+v; ACTIVE is %v, want %s", got, k.actives(), waiting)
			}
			if !c.f.called("HEAD /" + k.world.config.Packages.Bucket + "/mill/" + courseThing + ".keys.zip") {
				t.Errorf("the object is looked for elsewhere: %v", c.f.paths)
			}
		})
	}
}

// What AWS has REVOKED, of which the store has not heard, stays so: no package
// brings it back, and no person who undoes a rotation.
func TestRevokedAtAWSStaysSo(t *testing.T) {
	f := &refusal{}
	var ca vending.Issuer
	c := refusedCourse(t, f, func(config *Config) { ca, _ = config.Issuer(nil) })
	vended := c.rotate()
	c.revokedAtAWS(c.old)
	var refused rotation.Refused
	if undone, err := c.closer.Undo(c.ctx, courseThing); !errors.As(err, &refused) || !strings.Contains(refused.Why, "is REVOKED at AWS IoT") {
		t.Errorf("undone: %+v, %v", undone, err)
	}
	waiting := c.pack(ca, "certificates/"+courseThing+".zip", func(id certificate.ID) map[string]string {
		return map[string]string{"certificateid": string(id)}
	})
	c.world.inventory.views.forget(courseThing)
	if _, err := c.world.inventory.Held(c.ctx, courseThing); err != nil { // the store knows it as INACTIVE
		t.Fatal(err)
	}
	c.revokedAtAWS(waiting)
	if got := c.once(vended, protocol.Get, ""); got.accepted() {
		t.Errorf("answered %+v", got)
	}
	_ = c.world.inventory.Settle(c.ctx)
	c.wantStatus(types.CertificateStatusRevoked, c.old, waiting)
}

// Where no policy is configured for a certificate that inherits none, the get is
// refused before anything is issued.
func TestCase43NoPolicy(t *testing.T) {
	f := &refusal{}
	c := refusedCourse(t, f)
	_, err := c.clients.IoT.DetachPolicy(c.ctx, &iot.DetachPolicyInput{
		PolicyName: new(oldPolicy), Target: new(c.world.inventory.names.certificate(c.old)),
	})
	c.must(err)
	if got := c.refusal(c.csr()); got.Message != protocol.PolicyFailed {
		t.Errorf("answered %+v", got)
	}
	if f.called("/certificate/register") {
		t.Error("a certificate was registered")
	}
}

// The thing group is made once, and not where it is.
func TestCase83Group(t *testing.T) {
	f := &refusal{}
	c := refusedCourse(t, f) // which has made it
	if !f.called("POST /thing-groups/rotate") {
		t.Fatalf("it was not made: %v", f.paths)
	}
	f.paths = nil
	c.must(c.world.group.Ensure(c.ctx))
	if f.called("POST /thing-groups") {
		t.Errorf("it was made again: %v", f.paths)
	}
}

// Requests are taken from the topics that are configured, and answered on them.
func TestCase87Topics(t *testing.T) {
	topics := protocol.Topics{
		Get: "mill/{thingName}/renew", GetAccepted: "mill/{thingName}/renewed", GetRejected: "mill/{thingName}/refused",
		Ack: "mill/{thingName}/thanks", AckAccepted: "mill/{thingName}/welcome", AckRejected: "mill/{thingName}/no",
	}
	b := startBroker(t)
	r := newRig(t, b, func(c *MQTTConfig) { c.Topics = topics })
	pump := b.client("pump-7", "mill/pump-7/+", "mill/pump-7/+/+")
	pump.say("mill/pump-7/thanks", "one")
	pump.say("cdf/certificates/pump-7/get", "nobody takes this")
	pump.say("mill/pump-7/renew", "two")
	soon(t, "both are served", func() bool { return len(r.ends.payloads()) == 2 })
	got := r.ends.payloads()
	slices.Sort(got)
	if !slices.Equal(got, []string{"one", "two"}) {
		t.Errorf("served %v", got)
	}
	if document := string(jobs.New("rotate", topics).Document); !strings.Contains(document, "mill/{thingName}/renew") {
		t.Errorf("the job's document: %s", document)
	}
	fake := newFake()
	w := fake.open(t, noon())
	_, err := w.jobs.Ensure(t.Context(), jobs.New("rotate", topics))
	if err != nil || !strings.Contains(fmt.Sprint(fake.job["document"]), "mill/{thingName}/thanks") {
		t.Errorf("the job at AWS: %v, %v", fake.job, err)
	}
}

// assuming answers AssumeRole with credentials that are no good for longer than
// the call, and notes with which the other calls are signed.
type assuming struct {
	n      int
	signed []string
}

func (a *assuming) Do(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	status, text := 400, `{"__type":"RequestInProgressException"}`
	if bytes.Contains(body, []byte("Action=AssumeRole")) {
		a.n++
		status, text = 200, fmt.Sprintf(`<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult><Credentials>`+
			`<AccessKeyId>ASIA%d</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken><Expiration>%s</Expiration>`+
			`</Credentials></AssumeRoleResult></AssumeRoleResponse>`, a.n, time.Now().UTC().Format(time.RFC3339))
	} else {
		_, after, _ := strings.Cut(r.Header.Get("Authorization"), "Credential=")
		id, _, _ := strings.Cut(after, "/")
		a.signed = append(a.signed, id)
	}
	return &http.Response{
		StatusCode: status, Header: http.Header{"Content-Type": {"application/x-amz-json-1.1"}}, Request: r,
		Body: io.NopCloser(strings.NewReader(text)), ContentLength: int64(len(text)),
	}, nil
}

// The role of another account is assumed for its CA, and again when that has
// ended.
func TestCase58AssumedRole(t *testing.T) {
	sts := &assuming{}
	config := startDouble(t, ecKey(t)).config()
	config.HTTPClient = sts
	client, err := PrivateCAIn(config, fakeCA, "arn:aws:iam::999999999999:role/ca")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		_, err := client.GetCertificate(t.Context(), &acmpca.GetCertificateInput{
			CertificateAuthorityArn: new(fakeCA), CertificateArn: new(fakeCA + "/certificate/1"),
		})
		if codeOf(err) != "RequestInProgressException" {
			t.Fatal(err)
		}
	}
	if !slices.Equal(sts.signed, []string{"ASIA1", "ASIA2"}) {
		t.Errorf("signed with %v", sts.signed)
	}
}

// Where the registry has no such device, nothing else is asked.
func TestCase59UnknownThing(t *testing.T) {
	f := &refusal{}
	c := refusedCourse(t, f)
	f.paths = nil
	for _, action := range []protocol.Action{protocol.Get, protocol.Ack} {
		for _, body := range []string{"", string(protocol.Encode(map[string]string{"csr": backendtest.CSR(c.key, "nobody")}))} {
			if action == protocol.Ack && body != "" {
				continue
			}
			before := len(c.replies)
			c.vendor.Serve(context.WithoutCancel(c.ctx), vending.Message{
				Topic: protocol.DefaultTopics().Request("nobody", action), Payload: []byte(body),
			})
			if got := c.replies[before]; got.Message != protocol.NotAllowed {
				t.Errorf("%s: answered %+v", action, got)
			}
		}
	}
	for _, call := range []string{"HEAD ", "/certificate/register", "/cacertificate"} {
		if f.called(call) {
			t.Errorf("%s was called: %v", call, f.paths)
		}
	}
	if _, err := c.world.registry.Device(c.ctx, registry.DeviceID("nobody")); err == nil {
		t.Error("it is known")
	}
}

// Firmware of the original's time, of which nobody knows over which certificate
// it asks (identity: direct): it rotates, loses its ack, and has both for ever,
// however often the sweep comes by.
func TestDirectLosesItsAck(t *testing.T) {
	c := newCourse(t, certificate.Delete, nil)
	got := c.ask("", protocol.Get, c.csr())
	for range 13 {
		c.clock.Advance(31 * 24 * time.Hour)
		for range 2 {
			_, err := c.closer.Sweep(c.ctx)
			c.must(err)
			c.must(c.world.inventory.Settle(c.ctx))
			c.clock.Advance(time.Hour)
		}
	}
	if active := c.actives(); !slices.Equal(active, []certificate.ID{got.CertificateID}) {
		t.Errorf("ACTIVE besides the old one: %v", active)
	}
	old, err := c.clients.IoT.DescribeCertificate(c.ctx, &iot.DescribeCertificateInput{CertificateId: new(string(c.old))})
	c.must(err)
	if s := old.CertificateDescription.Status; s != types.CertificateStatusActive {
		t.Errorf("the old one is %s", s)
	}
}
