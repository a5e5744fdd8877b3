package backendtest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
	"github.com/certvendor/certvendor/vending"
)

// tick is how long every step takes, so that no two things happen at once.
const tick = time.Second

// Setup is what a scenario decides before its world opens.
type Setup struct {
	Profile vending.Profile
	Config  vending.Config // without its profiles
	// Later leaves the steps behind a reply to the sweep, as when the process
	// dies right after its reply.
	Later bool
}

// Rig is a vendor on a world, with the devices that use it.
type Rig struct {
	t       *testing.T
	ctx     context.Context
	clock   *Clock
	setup   *Setup
	world   World
	faults  *faults
	primary *instance
	carrier Carrier // of what is asked of the primary; nil: nothing in between
	devices []*Device
	queue   vending.Queue

	mu       sync.Mutex
	replies  []message // of the request that is being served
	foretold int       // how many requests were answered as their rehearsal said
	// unruly lists the certificates that a scenario takes away by hand, as a
	// person who names them may: nothing is promised about these.
	unruly map[certificate.ID]bool
	// revoked lists what was revoked: it never works again.
	revoked map[certificate.ID]bool
}

// message is what was published.
type message struct {
	topic   string
	payload []byte
}

// instance is one process that serves the world.
type instance struct {
	clock   *rotation.Clock
	closer  *rotation.Closer
	handler *vending.Handler
}

// start opens a world and puts a vendor on it. Removals have no grace, and a
// replaced certificate is deactivated, unless change says otherwise.
func start(t *testing.T, open Open, change ...func(*Setup)) *Rig {
	t.Helper()
	setup := &Setup{
		Config: vending.Config{
			Instance: "first", Binding: vending.Attached, Backdate: 5 * time.Minute, NewKeys: 1000, NewKeysPer: 24 * time.Hour,
		},
		Profile: vending.Profile{
			Name: "default", Validity: 3 * 8760 * time.Hour,
			Policy: vending.Policy{Mode: vending.PolicyDefault, Default: "device"},
			Terms: rotation.Terms{
				Previous: certificate.Deactivate, Retire: rotation.Replaced, TTL: 720 * time.Hour,
				Settle: 15 * time.Minute, Recent: 24 * time.Hour, MaxRetirePerHour: 1000,
				Status: rotation.DefaultStatus,
			},
		},
	}
	for _, c := range change {
		c(setup)
	}
	r := &Rig{
		t: t, ctx: t.Context(), clock: NewClock(time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)), setup: setup,
		queue: directQueue{}, unruly: map[certificate.ID]bool{}, revoked: map[certificate.ID]bool{},
	}
	r.world = open(t, r.clock)
	r.faults = &faults{failing: map[string]int{}}
	r.serve()
	return r
}

// serve starts the process that devices ask.
func (r *Rig) serve() {
	r.t.Helper()
	r.primary = r.instance(r.setup.Config.Instance)
	if r.world.Carry != nil {
		r.carrier = r.world.Carry(r.primary.handler)
	}
}

// ask hands a request to a process.
func (r *Rig) ask(i *instance, m vending.Message) {
	if r.carrier != nil && i == r.primary {
		r.carrier.Ask(m)
		return
	}
	i.handler.Serve(r.ctx, m)
}

// instance starts a process on the world; its sweep settles from now on.
func (r *Rig) instance(name string) *instance {
	r.t.Helper()
	w, f := r.world.Backend, r.faults
	inventory := watched{faultyInventory{w.Inventory, f}, r}
	journal := faultyJournal{w.Journal, f, r.setup}
	packages := faultyPackages{w.Packages, f}
	devices := faultyRegistry{w.Registry, f}
	i := &instance{clock: rotation.NewClock(r.clock.Now, r.clock.Elapsed, r.clock.Now(), time.Hour)}
	i.closer = rotation.NewCloser(rotation.Ports{
		Journal: journal, Retirements: w.Rotations, Inventory: inventory,
		Revoker: watchedRevoker{w.Revoker, r}, Group: faultyGroup{w.Group, f},
		Registry: devices, Packages: packages, Brakes: w.Brakes, Witness: witnessOf(w.Witness, f),
	}, i.clock, func(string) rotation.Terms { return r.setup.Profile.Terms })
	config := r.setup.Config
	config.Instance, config.Profiles = name, []vending.Profile{r.setup.Profile}
	vendor, err := vending.New(config, vending.Ports{
		Registry: devices, Inventory: inventory, Certificates: w.Certificates, Journal: journal, Brakes: w.Brakes,
		Issuer: faultyIssuer{w.Issuer, f}, Packages: packages, Limits: noLimits{}, Closer: i.closer, Now: r.clock.Now,
		Policies: w.Policies,
	})
	if err != nil {
		r.t.Fatal(err)
	}
	i.handler = &vending.Handler{
		Vendor: vendor, Topics: protocol.DefaultTopics(), Queue: queueOf{r}, Publisher: recorder{r},
		Served: func(vending.Outcome) {},
		Settle: func(left rotation.Rotation) { r.behind(i, left) },
	}
	return i
}

// behind does the steps behind a reply at once, unless they are left to the
// sweep. What fails stays for the sweep anyway.
func (r *Rig) behind(i *instance, left rotation.Rotation) {
	if r.setup.Later || r.faults.isDead() {
		return
	}
	if err := i.closer.Settle(r.ctx, left); err != nil && !r.faults.expected(err) {
		r.t.Errorf("steps behind the reply: %v", err)
	}
}

func (r *Rig) published(m message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.replies = append(r.replies, m)
}

// Terms returns the terms that count, to be changed at any time.
func (r *Rig) Terms() *rotation.Terms { return &r.setup.Profile.Terms }

// Advance lets time go by, and nothing else.
func (r *Rig) Advance(d time.Duration) { r.clock.Advance(d) }

// Settled lets so much time go by that the sweep removes what it may.
func (r *Rig) Settled() { r.clock.Advance(r.Terms().Settle + tick) }

// Sweep runs one sweep, which must not fail, and checks every device.
func (r *Rig) Sweep() rotation.Swept {
	r.t.Helper()
	r.clock.Advance(tick)
	swept, err := r.primary.closer.Sweep(r.ctx)
	if err != nil && !r.faults.expected(err) {
		r.t.Fatalf("sweep: %v", err)
	}
	r.t.Logf("%s sweep: %+v", r.clock.Now().Format("02 15:04:05"), swept)
	r.Check()
	return swept
}

// Crash kills the process and starts it again on what is durable.
func (r *Rig) Crash() {
	r.t.Helper()
	r.world = r.world.Crash()
	r.faults = &faults{failing: map[string]int{}}
	r.clock.Advance(tick)
	r.serve()
	r.Check()
}

// Device enters a device into the registry and gives it a first certificate,
// over which it has connected once.
func (r *Rig) Device(name string) *Device {
	r.t.Helper()
	d := r.stranger(name)
	r.must(r.world.Backend.Registrar.Add(r.ctx, d.ID, nil))
	d.First = d.Given(certificate.First)
	r.must(d.Connect(d.First))
	return d
}

// stranger returns a device that nobody has heard of.
func (r *Rig) stranger(name string) *Device {
	d := &Device{
		rig: r, ID: registry.DeviceID(name), disk: map[certificate.ID]Cert{}, seen: map[certificate.ID]time.Time{},
		proofs: map[certificate.ID]time.Time{}, vended: map[certificate.KeyID]string{},
		reissued: map[certificate.KeyID]bool{},
	}
	r.devices = append(r.devices, d)
	return d
}

// known returns all certificates of the inventory.
func (r *Rig) known() map[certificate.ID]certificate.Holding {
	r.t.Helper()
	all := map[certificate.ID]certificate.Holding{}
	var after certificate.ID
	for {
		page, err := r.world.Backend.Certificates.List(r.ctx, certificate.Query{After: after})
		r.must(err)
		if len(page) == 0 {
			return all
		}
		for _, h := range page {
			all[h.ID] = h
			after = h.ID
		}
	}
}

// members returns whether each device is in the rotation group.
func (r *Rig) members() map[registry.DeviceID]bool {
	r.t.Helper()
	page, err := r.world.Backend.Group.Members(r.ctx, "", 0)
	r.must(err)
	all := map[registry.DeviceID]bool{}
	for _, m := range page {
		all[m.Device] = true
	}
	return all
}

func (r *Rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// note logs what was done and what came of it, for a test that fails.
func (r *Rig) note(d *Device, step string, outcome any) {
	r.t.Helper()
	var states []string
	for i, one := range d.rotations() {
		if i == 8 {
			break
		}
		states = append(states, fmt.Sprintf("%d:%s:%.8s", one.Number, one.State, one.Certificate))
	}
	r.t.Logf("%s %s -> %v %v", r.clock.Now().Format("02 15:04:05"), step, outcome, states)
}

// step gives the text of what is being done for error messages.
func step(d *Device, what string, over Cert) string {
	if over.ID == "" {
		return fmt.Sprintf("%s: %s", d.ID, what)
	}
	return fmt.Sprintf("%s: %s over %.8s", d.ID, what, over.ID)
}
