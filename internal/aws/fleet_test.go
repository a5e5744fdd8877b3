package aws

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/certificate/issuing"
	"github.com/certvendor/certvendor/internal/backend"
	"github.com/certvendor/certvendor/internal/backend/backendtest"
	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/jobs"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
	"github.com/certvendor/certvendor/vending"
)

// fleetRun is a fleet that rotates at a fake which keeps AWS's documented
// quotas, call for call, in simulated time: nothing waits for a real clock, so
// that a run of minutes at real rates takes as long as its work does.
type fleetRun struct {
	devices int
	pace    Pace
	mode    certificate.Mode
	share   float64
	latency time.Duration // of every call
	rates   map[string]float64
	// atOnce has every device ask at the same moment, without a job.
	atOnce bool
}

// fleetResult is what came of it.
type fleetResult struct {
	took    time.Duration
	refused map[protocol.Reason]int
	calls   map[string]int64
}

// total returns how many calls there were.
func (r fleetResult) total() (n int64) {
	for _, calls := range r.calls {
		n += calls
	}
	return n
}

// fleetAt is a run while it goes on.
type fleetAt struct {
	fleetRun
	t      *testing.T
	fake   *fakeIoT
	world  *World
	maker  *issuing.Authority // of the first certificates
	closer *rotation.Closer
	vendor *vending.Handler
	behind chan rotation.Rotation
	before map[string]Count

	mu      sync.Mutex
	waiting map[string]chan fleetReply // for a reply, by the client token
	refused map[protocol.Reason]int
}

// fleetReply is the reply to a request.
type fleetReply struct {
	Message       protocol.Reason `json:"message"`
	CertificateID certificate.ID  `json:"certificateId"`
	RetryAfter    int             `json:"retryAfter"`
	ClientToken   string          `json:"clientToken"`
	accepted      bool
}

// fleetThing is a device that has its first certificate.
type fleetThing struct {
	name string
	old  certificate.ID
	csr  string
}

// run has the fleet rotate, and fails the test unless every device ends on one
// new certificate and no call was refused.
func (run fleetRun) run(t *testing.T) fleetResult {
	t.Helper()
	f := run.prepare(t)
	things := make([]fleetThing, f.devices)
	for i := range things {
		things[i] = f.fit(fmt.Sprintf("thing-%04d", i))
	}
	if err := f.world.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.before = f.world.Calls()
	began := time.Now()
	var running, settling sync.WaitGroup
	settling.Go(f.settle)
	for _, thing := range things {
		running.Go(func() { f.live(thing) })
	}
	running.Wait()
	close(f.behind)
	settling.Wait()
	took := time.Since(began)
	if f.mode == certificate.Delete { // the second half is the sweep's
		f.sweep()
	} else {
		time.Sleep(2 * lookEvery) // the job's executions are looked at
	}
	result := fleetResult{took: took, refused: f.refused, calls: map[string]int64{}}
	for api, count := range f.world.Calls() {
		if n := count.Calls - f.before[api].Calls; n > 0 {
			result.calls[api] = n
		}
	}
	f.wantRotated(things)
	f.wantWithinQuotas()
	return result
}

func (run fleetRun) prepare(t *testing.T) *fleetAt {
	t.Helper()
	f := &fleetAt{
		fleetRun: run, t: t, fake: newFake(), behind: make(chan rotation.Rotation, run.devices),
		waiting: map[string]chan fleetReply{}, refused: map[protocol.Reason]int{},
	}
	f.fake.page, f.fake.attachment, f.fake.meter = 250, "NON_EXCLUSIVE_THING", newMeter()
	key := ecKey(t)
	ca := caOf(t, "mill", key.Public(), nil, key, 10)
	f.fake.ca, f.fake.caKey = pemText(ca), keyPEM(t, key)
	var err error
	if f.maker, err = issuing.New(issuing.Config{Chain: []*x509.Certificate{ca}, Signer: key, Now: time.Now}); err != nil {
		t.Fatal(err)
	}
	clients := run.dial(t, f.fake)
	config := testConfig("fake", clients, time.Now, memoryDir(t))
	config.Pace = run.pace
	config.Issuer = func(*store.Store) (vending.Issuer, error) {
		return NewKeyIssuer(KeyIssuerConfig{
			CA: clients.IoT, ID: certificate.IDOf(ca.Raw), Now: time.Now,
			Key: ParameterKey{SSM: clients.SSM, Name: KeyParameter(certificate.IDOf(ca.Raw))},
		})
	}
	f.world = openWorld(t, config)
	if _, err := f.world.jobs.Ensure(t.Context(), jobs.New("rotate", protocol.DefaultTopics())); err != nil {
		t.Fatal(err)
	}
	f.serve()
	return f
}

// memoryDir is a directory that no disk slows down, where there is one: whether
// the store survives a kill is not what a fleet in simulated time shows.
func memoryDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "certvendor-test")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// dial returns clients with the quotas that a daemon has.
func (run fleetRun) dial(t *testing.T, fake *fakeIoT) *Clients {
	t.Helper()
	quotas, err := NewQuotas(run.share, run.rates, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	clients, err := Dial(t.Context(), Account{
		Region: "cn-north-1", Endpoint: "http://aws.invalid", Quotas: quotas,
		HTTP:        &http.Client{Transport: inProcess{fake.routes(), run.latency}},
		Credentials: credentials.NewStaticCredentialsProvider("AKIAIOSFODNN7EXAMPLE", "secret", ""),
	})
	if err != nil {
		t.Fatal(err)
	}
	return clients
}

// serve puts a vendor on the world as package app does it, with its slots and
// its patience.
func (f *fleetAt) serve() {
	b := f.world.Backend()
	terms := rotation.Terms{
		Previous: f.mode, Retire: rotation.Replaced, TTL: 720 * time.Hour, Settle: 15 * time.Minute,
		Recent: 24 * time.Hour, MaxRetirePerHour: 1_000_000,
	}
	clock := rotation.NewClock(time.Now, nil, time.Now(), terms.TTL)
	f.closer = rotation.NewCloser(rotation.Ports{
		Journal: b.Journal, Retirements: b.Rotations, Inventory: b.Inventory, Revoker: b.Revoker,
		Group: b.Group, Registry: b.Registry, Packages: b.Packages, Brakes: b.Brakes,
	}, clock, func(string) rotation.Terms { return terms })
	vendor, err := vending.New(vending.Config{
		Instance: "fleet", Binding: vending.Attached, Backdate: 5 * time.Minute, NewKeys: 6, NewKeysPer: 24 * time.Hour,
		OutcomeDeadline: patience,
		Profiles: []vending.Profile{{
			Name: "default", Validity: 3 * 8760 * time.Hour, Terms: terms, Policy: vending.Policy{Mode: vending.PolicyInherit},
		}},
	}, vending.Ports{
		Registry: b.Registry, Inventory: b.Inventory, Certificates: b.Certificates, Journal: b.Journal, Brakes: b.Brakes,
		Issuer: b.Issuer, Packages: b.Packages, Limits: unlimited{}, Closer: f.closer, Now: clock.Now, Signs: b.Signs,
	})
	if err != nil {
		f.t.Fatal(err)
	}
	queue := backend.NewQueue(256, patience)
	f.t.Cleanup(func() {
		if err := queue.Wait(context.WithoutCancel(f.t.Context())); err != nil {
			f.t.Error(err)
		}
	})
	f.vendor = &vending.Handler{
		Vendor: vendor, Topics: protocol.DefaultTopics(), Queue: queue, Publisher: f,
		Served: func(vending.Outcome) {}, Settle: func(r rotation.Rotation) { f.behind <- r },
	}
}

// patience is how long the daemon lets a request wait by default.
const patience = 5 * time.Second

// settle does the steps behind the replies, one after the other, as package app
// does.
func (f *fleetAt) settle() {
	for r := range f.behind {
		if err := f.closer.Settle(f.t.Context(), r); err != nil {
			f.t.Error(err)
		}
		f.world.Poke()
	}
}

// sweep does what is left for later.
func (f *fleetAt) sweep() {
	f.t.Helper()
	for range 2 {
		time.Sleep(16 * time.Minute)
		if _, err := f.closer.Sweep(f.t.Context()); err != nil {
			f.t.Error(err)
		}
	}
}

// fit makes a thing with a certificate and a policy, as others have made it
// before certvendor came.
func (f *fleetAt) fit(name string) fleetThing {
	f.t.Helper()
	issued, err := f.maker.Issue(f.t.Context(), certificate.Order{
		Device: registry.DeviceID(name), Key: backendtest.NewKey().Public(), RawSubject: emptyName,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(8760 * time.Hour),
	})
	if err != nil {
		f.t.Fatal(err)
	}
	f.fake.mu.Lock()
	f.fake.pems[string(issued.ID)], f.fake.policies[string(issued.ID)] = issued.PEM(), []string{oldPolicy}
	f.fake.attach(name, fakeARN+"cert/"+string(issued.ID))
	f.fake.mu.Unlock()
	if !f.atOnce {
		id := registry.DeviceID(name)
		if err := errors.Join(f.world.store.Devices().Add(f.t.Context(), id, nil), f.world.group.Add(f.t.Context(), id)); err != nil {
			f.t.Fatal(err)
		}
	}
	return fleetThing{name, issued.ID, backendtest.CSR(backendtest.NewKey(), name)}
}

// live is a device's rotation: it waits for its job, asks until it is answered,
// reports, and acks over its new certificate.
func (f *fleetAt) live(d fleetThing) {
	for !f.atOnce && !f.fake.starts(d.name) {
		time.Sleep(time.Second)
	}
	got := f.ask(d, d.old, protocol.Get, map[string]string{"csr": d.csr})
	if !f.atOnce {
		f.fake.set(d.name, "SUCCEEDED")
	}
	f.ask(d, got.CertificateID, protocol.Ack, map[string]string{})
}

// starts does what start-next does.
func (f *fakeIoT) starts(thing string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	e := f.executions[thing]
	if e != nil && e.status == "QUEUED" {
		e.status = "IN_PROGRESS"
		return true
	}
	return false
}

// ask asks until it is accepted; each refusal is counted.
func (f *fleetAt) ask(d fleetThing, over certificate.ID, action protocol.Action, body map[string]string) fleetReply {
	for n := 0; ; n++ {
		body["clientToken"] = fmt.Sprintf("%s-%s-%d", d.name, action, n)
		reply := f.asked(d, over, action, body)
		if reply.accepted {
			return reply
		}
		f.mu.Lock()
		f.refused[reply.Message]++
		f.mu.Unlock()
		if n == 200 {
			f.t.Errorf("%s: %s is refused for ever: %s", d.name, action, reply.Message)
			return reply
		}
		time.Sleep(time.Duration(max(reply.RetryAfter, 1)) * time.Second)
	}
}

func (f *fleetAt) asked(d fleetThing, over certificate.ID, action protocol.Action, body map[string]string) fleetReply {
	replied := make(chan fleetReply, 1)
	f.mu.Lock()
	f.waiting[body["clientToken"]] = replied
	f.mu.Unlock()
	f.vendor.Serve(f.t.Context(), vending.Message{
		Topic: protocol.DefaultTopics().Request(d.name, action), Payload: protocol.Encode(body),
		Caller: vending.Caller{Device: registry.DeviceID(d.name), Certificate: over, Evidence: certificate.Connection},
	})
	return <-replied
}

// Publish hands a reply to who waits for it.
func (f *fleetAt) Publish(_ context.Context, topic string, payload []byte) error {
	reply := fleetReply{accepted: reply{topic: topic}.accepted()}
	if err := json.Unmarshal(payload, &reply); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	replied, waits := f.waiting[reply.ClientToken]
	if !waits {
		f.t.Errorf("a reply that nobody waits for, or a second one: %s %s", topic, reply.Message)
		return nil
	}
	delete(f.waiting, reply.ClientToken)
	replied <- reply
	return nil
}

// wantRotated checks the fake's own account of every thing.
func (f *fleetAt) wantRotated(things []fleetThing) {
	f.t.Helper()
	f.fake.mu.Lock()
	defer f.fake.mu.Unlock()
	if len(f.fake.registered) != len(things) || len(f.fake.group) > 0 {
		f.t.Errorf("%d certificates were registered for %d things, and %d are in the group still",
			len(f.fake.registered), len(things), len(f.fake.group))
	}
	status, err := f.world.jobs.Status(f.t.Context())
	if n := status.Executions[protocol.JobSucceeded]; err != nil || !f.atOnce && n != len(things) {
		f.t.Errorf("the job is SUCCEEDED on %d of %d things: %v, %v", n, len(things), status.Executions, err)
	}
	want := map[certificate.Mode]string{certificate.Keep: "ACTIVE", certificate.Deactivate: "INACTIVE", certificate.Delete: deleted}[f.mode]
	for _, d := range things {
		active := 0
		for _, principal := range f.fake.principals[d.name] {
			id, _ := certificateID(principal)
			if id != d.old && f.fake.statusOf(string(id)) == "ACTIVE" && slices.Equal(f.fake.policies[string(id)], []string{oldPolicy}) {
				active++
			}
		}
		if is := f.fake.statusOf(string(d.old)); active != 1 || is != want {
			f.t.Errorf("%s: %d new certificates that work, and the old one is %s, want %s", d.name, active, is, want)
		}
	}
}

// wantWithinQuotas checks that no call was refused, and that with half of the
// quotas no second had more calls to an API than AWS documents.
func (f *fleetAt) wantWithinQuotas() {
	f.t.Helper()
	f.fake.mu.Lock()
	defer f.fake.mu.Unlock()
	for _, api := range slices.Sorted(maps.Keys(f.fake.meter.came)) {
		most, allowed := f.fake.meter.busiest(api), documented(api)
		// A bucket that is full lets a second's worth through at once, and so
		// twice its rate within a second.
		if float64(most) > 2*f.share*allowed || f.fake.meter.refused[api] > 0 {
			f.t.Errorf("%s: %d calls within a second, and AWS allows %g; %d were refused", api, most, allowed, f.fake.meter.refused[api])
		}
	}
}

// perRotation prints how often each API was called for a rotation, and returns
// how often those were that belong to it: not what brings a job, nor the CA.
func (r fleetResult) perRotation(t *testing.T, devices int) float64 {
	t.Helper()
	var sum float64
	for _, api := range slices.Sorted(maps.Keys(r.calls)) {
		each := float64(r.calls[api]) / float64(devices)
		t.Logf("%-28s %6d %8.3f", api, r.calls[api], each)
		if !ofTheJob[api] && !ofTheCA[api] {
			sum += each
		}
	}
	t.Logf("%-28s %6d %8.3f", "in all", r.total(), float64(r.total())/float64(devices))
	return sum
}

// ofTheCA are the calls that are made once in a while for all.
var ofTheCA = map[string]bool{"DescribeCACertificate": true, "GetParameter": true}

// ofTheJob are the calls that bring a thing its job and read what became of it,
// and whether group and job are there still.
var ofTheJob = map[string]bool{
	"AddThingToThingGroup": true, "DescribeJobExecution": true, "ListJobExecutionsForJob": true, "ListThingsInThingGroup": true,
	"DescribeThingGroup": true, "DescribeJob": true,
}
