package aws

import (
	"cmp"
	"context"
	"crypto"
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/backend/backendtest"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
	"github.com/certvendor/certvendor/vending"
)

// course is one device's rotation in an account of its own, where all that was
// there before certvendor was made by others.
type course struct {
	t       *testing.T
	ctx     context.Context
	clock   *backendtest.Clock
	world   *World
	clients *Clients // past every fault
	vendor  *vending.Handler
	closer  *rotation.Closer
	mode    certificate.Mode
	grace   time.Duration
	retire  rotation.Scope // "" is Replaced

	old     certificate.ID
	key     crypto.Signer
	replies []reply
}

type reply struct {
	topic         string
	Message       protocol.Reason `json:"message"`
	CertificateID certificate.ID  `json:"certificateId"`
}

func (r reply) accepted() bool { return strings.HasSuffix(r.topic, "/accepted") }

// Publish records a reply.
func (c *course) Publish(_ context.Context, topic string, payload []byte) error {
	r := reply{topic: topic}
	if err := json.Unmarshal(payload, &r); err != nil {
		return err
	}
	c.replies = append(c.replies, r)
	return nil
}

const (
	courseThing = "thing-1"
	oldPolicy   = "old-policy"
)

// newCourse makes an account with a thing whose certificate has a policy, and a
// vendor that calls it through a transport.
func newCourse(t *testing.T, mode certificate.Mode, between func(http.RoundTripper) http.RoundTripper, change ...func(*Config)) *course {
	t.Helper()
	account := newAccount()
	c := &course{
		t: t, ctx: t.Context(), mode: mode, key: backendtest.NewKey(), clients: dialMoto(t, account, nil),
		clock: backendtest.NewClock(time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)),
	}
	prepareAccount(t, account, c.clients, oldPolicy)
	config := testConfig(account, dialMoto(t, account, between), c.clock.Now, t.TempDir())
	ca := softwareCA(t, c.clock.Now)
	config.Issuer = given(ca)
	c.old = c.fit(ca)
	for _, fn := range change {
		fn(&config)
	}
	c.world = openWorld(t, config)
	c.serve()
	if err := c.world.group.Ensure(c.ctx); err != nil {
		t.Fatal(err)
	}
	return c
}

// fit makes the thing and its certificate, as a factory would.
func (c *course) fit(issuer vending.Issuer) certificate.ID {
	c.t.Helper()
	key := backendtest.NewKey()
	made, err := issuer.Issue(c.ctx, certificate.Order{
		Device: courseThing, Key: key.Public(), RawSubject: emptyName,
		NotBefore: c.clock.Now().Add(-time.Hour), NotAfter: c.clock.Now().Add(8760 * time.Hour),
	})
	c.must(err)
	_, err = c.clients.IoT.CreateThing(c.ctx, &iot.CreateThingInput{ThingName: new(courseThing)})
	c.must(err)
	_, err = c.clients.IoT.RegisterCertificateWithoutCA(c.ctx, &iot.RegisterCertificateWithoutCAInput{
		CertificatePem: new(made.PEM()), Status: types.CertificateStatusActive,
	})
	c.must(err)
	target := names{"aws", "eu-west-1", c.account()}.certificate(made.ID)
	_, err = c.clients.IoT.AttachPolicy(c.ctx, &iot.AttachPolicyInput{PolicyName: new(oldPolicy), Target: &target})
	c.must(err)
	_, err = c.clients.IoT.AttachThingPrincipal(c.ctx, &iot.AttachThingPrincipalInput{ThingName: new(courseThing), Principal: &target})
	c.must(err)
	return made.ID
}

// emptyName is the DER of a name without parts.
var emptyName = []byte{0x30, 0x00}

func (c *course) account() string {
	n, err := (&World{config: Config{Clients: c.clients}}).caller(c.ctx)
	c.must(err)
	return n.account
}

// serve puts a vendor on the world.
func (c *course) serve() {
	b := c.world.Backend()
	terms := rotation.Terms{
		Previous: c.mode, Grace: c.grace, Retire: cmp.Or(c.retire, rotation.Replaced), TTL: 720 * time.Hour, Settle: time.Minute,
		Recent: 24 * time.Hour, MaxRetirePerHour: 1000, Status: rotation.DefaultStatus, SeenSince: c.world.Restored(),
	}
	clock := rotation.NewClock(c.clock.Now, c.clock.Elapsed, c.clock.Now(), time.Hour)
	c.closer = rotation.NewCloser(rotation.Ports{
		Journal: b.Journal, Retirements: b.Rotations, Inventory: b.Inventory, Revoker: b.Revoker,
		Group: b.Group, Registry: b.Registry, Packages: b.Packages, Brakes: b.Brakes,
	}, clock, func(string) rotation.Terms { return terms })
	vendor, err := vending.New(vending.Config{
		Instance: "course", Binding: vending.Attached, Backdate: time.Minute, NewKeys: 100, NewKeysPer: 24 * time.Hour,
		Profiles: []vending.Profile{{
			Name: "default", Validity: 8760 * time.Hour, Terms: terms,
			Policy: vending.Policy{Mode: vending.PolicyInherit, Most: 10},
		}},
	}, vending.Ports{
		Registry: b.Registry, Inventory: b.Inventory, Certificates: b.Certificates, Journal: b.Journal, Brakes: b.Brakes,
		Issuer: b.Issuer, Packages: b.Packages, Limits: unlimited{}, Closer: c.closer, Now: c.clock.Now,
		Signs: b.Signs, Joins: b.Joins, Policies: b.Policies,
	})
	c.must(err)
	c.vendor = &vending.Handler{
		Vendor: vendor, Topics: protocol.DefaultTopics(), Queue: atOnce{}, Publisher: c, Served: func(vending.Outcome) {},
		Settle: func(left rotation.Rotation) { _ = c.closer.Settle(c.ctx, left) }, // what fails is the sweep's
	}
}

type unlimited struct{}

func (unlimited) Peek(registry.DeviceID) (time.Duration, bool)  { return 0, true }
func (unlimited) Allow(registry.DeviceID) (time.Duration, bool) { return 0, true }

type atOnce struct{}

func (atOnce) Do(ctx context.Context, _ registry.DeviceID, _ protocol.Action, work func(context.Context) vending.Outcome) (vending.Outcome, error) {
	return work(ctx), nil
}

// ask asks until it is accepted, as a device does, and returns the answer.
func (c *course) ask(over certificate.ID, action protocol.Action, body string) reply {
	c.t.Helper()
	for range 4 {
		last := c.once(over, action, body)
		if last.accepted() {
			return last
		}
		c.t.Logf("%s: %s", action, last.Message)
	}
	c.t.Fatalf("%s is refused for ever", action)
	return reply{}
}

// refusal asks once, and again only where moto failed a call of its own accord, as
// it does where much goes on at a time.
func (c *course) refusal(body string) (last reply) {
	c.t.Helper()
	for range 5 {
		before := moto.failed.Load()
		last = c.once(c.old, protocol.Get, body)
		if last.Message != protocol.TryAgainLater || moto.failed.Load() == before {
			return last
		}
	}
	return last
}

// once asks once, and returns the answer.
func (c *course) once(over certificate.ID, action protocol.Action, body string) reply {
	c.t.Helper()
	c.clock.Advance(10 * time.Second)
	before := len(c.replies)
	c.vendor.Serve(c.ctx, vending.Message{
		Topic: protocol.DefaultTopics().Request(courseThing, action), Payload: []byte(body),
		Caller: vending.Caller{Device: courseThing, Certificate: over, Evidence: certificate.Connection},
	})
	if len(c.replies) != before+1 {
		c.t.Fatalf("%d replies to one request", len(c.replies)-before)
	}
	return c.replies[before]
}

// csr is the body of a get with the course's key.
func (c *course) csr() string {
	return string(protocol.Encode(map[string]string{"csr": backendtest.CSR(c.key, courseThing)}))
}

// rotate takes the device from its old certificate to a new one, until nothing
// is left to do, and returns the new one.
func (c *course) rotate() certificate.ID {
	c.t.Helper()
	vended := c.turn()
	c.quiet(vended)
	return vended
}

// made returns an ACTIVE certificate for a device, which nobody knows of yet.
func (c *course) made(device registry.DeviceID, kind certificate.Kind) certificate.Certificate {
	c.t.Helper()
	issuer, err := c.world.config.Issuer(nil)
	c.must(err)
	made, err := issuer.Issue(c.ctx, certificate.Order{
		Device: device, Key: backendtest.NewKey().Public(), RawSubject: emptyName,
		NotBefore: c.clock.Now(), NotAfter: c.clock.Now().Add(8760 * time.Hour),
	})
	c.must(err)
	made.Standing, made.Kind = certificate.Active, kind
	return made
}

// turn is what the device does: it joins, asks twice, and acks.
func (c *course) turn() certificate.ID {
	c.t.Helper()
	c.must(c.world.group.Add(c.ctx, courseThing))
	csr := c.csr()
	first := c.ask(c.old, protocol.Get, csr)
	if again := c.ask(c.old, protocol.Get, csr); again.CertificateID != first.CertificateID {
		c.t.Errorf("two certificates for one key: %.8s, %.8s", first.CertificateID, again.CertificateID)
	}
	c.ask(first.CertificateID, protocol.Ack, "{}")
	return first.CertificateID
}

// quiet lets the sweep do what is left, while the device is on its new
// certificate.
func (c *course) quiet(on certificate.ID) {
	c.t.Helper()
	c.clock.Advance(2 * time.Minute)
	for range 4 {
		c.vendor.Serve(c.ctx, vending.Message{ // whatever it asks, it is seen
			Topic: protocol.DefaultTopics().Request(courseThing, protocol.Ack), Payload: []byte("{}"),
			Caller: vending.Caller{Device: courseThing, Certificate: on, Evidence: certificate.Connection},
		})
		_, err := c.closer.Sweep(c.ctx)
		settled := c.world.inventory.Settle(c.ctx)
		if err == nil && settled == nil {
			continue
		}
		c.t.Logf("left for later: %v, %v", err, settled)
	}
}

// wantWhole asks AWS itself, past every fault, what has become of the account.
func (c *course) wantWhole(vended certificate.ID) {
	c.t.Helper()
	attached, err := c.clients.IoT.ListThingPrincipals(c.ctx, &iot.ListThingPrincipalsInput{ThingName: new(courseThing)})
	c.must(err)
	isAttached := map[certificate.ID]bool{}
	for _, p := range attached.Principals {
		id, _ := certificateID(p)
		isAttached[id] = true
	}
	all, err := c.clients.IoT.ListCertificates(c.ctx, &iot.ListCertificatesInput{})
	c.must(err)
	status := map[certificate.ID]types.CertificateStatus{}
	for _, one := range all.Certificates {
		status[certificate.ID(*one.CertificateId)] = one.Status
	}
	for id, s := range status {
		if s == types.CertificateStatusActive && id != vended && (id != c.old || c.mode != certificate.Keep) {
			c.t.Errorf("certificate %.8s is ACTIVE (the old one is %.8s, the new one %.8s)", id, c.old, vended)
		}
		if id != vended && id != c.old {
			at, _ := c.world.store.Certificates().Place(c.ctx, courseThing, id)
			c.t.Errorf("certificate %.8s was registered and is left, %s; here it is %+v", id, s, at)
		}
	}
	if status[vended] != types.CertificateStatusActive || !isAttached[vended] {
		c.t.Errorf("the new certificate is %s, attached: %t", status[vended], isAttached[vended])
	}
	if _, there := status[c.old]; there == (c.mode == certificate.Delete) {
		c.t.Errorf("mode %s, and the old certificate is there: %t", c.mode, there)
	}
	policies, err := c.clients.IoT.ListAttachedPolicies(c.ctx, &iot.ListAttachedPoliciesInput{
		Target: new(c.world.inventory.names.certificate(vended)),
	})
	c.must(err)
	if len(policies.Policies) != 1 || *policies.Policies[0].PolicyName != oldPolicy {
		c.t.Errorf("the new certificate's policies: %v", policies.Policies)
	}
	groups, err := c.clients.IoT.ListThingGroupsForThing(c.ctx, &iot.ListThingGroupsForThingInput{ThingName: new(courseThing)})
	c.must(err)
	if len(groups.ThingGroups) > 0 {
		c.t.Errorf("the thing is still in %d groups", len(groups.ThingGroups))
	}
	thing, err := c.clients.IoT.DescribeThing(c.ctx, &iot.DescribeThingInput{ThingName: new(courseThing)})
	c.must(err)
	if _, things := c.world.registry.source.(things); things && thing.Attributes["certificateId"] != string(vended) {
		c.t.Errorf("attributes of the thing: %v", thing.Attributes)
	}
	marks, err := c.world.store.Unsettled().List(c.ctx, "", 0)
	c.must(err)
	if len(marks) > 0 {
		c.t.Errorf("still marked: %v", marks)
	}
}

func (c *course) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

// faulty is a transport in which one call of a course fails, and every
// repetition of it by the SDK.
type faulty struct {
	next http.RoundTripper
	fail func(next http.RoundTripper, r *http.Request) (*http.Response, error)

	mu     sync.Mutex
	calls  []string // what was called, each attempt
	at     int      // the call that fails, from 1; 0: none
	failed string   // its name
	left   int      // how many attempts of it fail yet
}

func (f *faulty) RoundTrip(r *http.Request) (*http.Response, error) {
	name := r.Method + " " + r.URL.EscapedPath()
	if target := r.Header.Get("X-Amz-Target"); target != "" {
		name = target // of a service that has one path for everything
	}
	f.mu.Lock()
	f.calls = append(f.calls, name)
	if len(f.calls) == f.at {
		f.failed, f.left = name, attempts
	}
	failing := f.left > 0 && name == f.failed
	if failing {
		f.left--
	}
	f.mu.Unlock()
	if failing {
		return f.fail(f.next, r)
	}
	return f.next.RoundTrip(r)
}
