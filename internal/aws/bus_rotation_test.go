package aws

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	ssmtypes "github.com/aws/aws-sdk-go-v2/service/ssm/types"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/backend"
	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
	"github.com/certvendor/certvendor/vending"
)

// whole is all of it but a real account: things and certificates at moto, the
// CA key in SSM, messages over mosquitto, and the vendor in between.
type whole struct {
	t       *testing.T
	broker  *broker
	engine  *engine
	clients *Clients
	world   *World
	issuer  *KeyIssuer

	mu     sync.Mutex
	behind []rotation.Rotation // what the replies have left to be done
	closer *rotation.Closer
}

func startWhole(t *testing.T, identity Identity) *whole {
	t.Helper()
	w := &whole{t: t, broker: startBroker(t), engine: newEngine(t)}
	account := newAccount()
	w.clients = dialMoto(t, account, nil)
	prepareAccount(t, account, w.clients, "device")
	w.issuer = w.keyInSSM()
	bus, err := NewMQTTBus(MQTTConfig{
		Way: w.broker.way("vendor"), ClientID: "vendor", Topics: protocol.DefaultTopics(), Identity: identity,
		Keys: []RuleKey{w.engine.key}, Presence: true, Backoff: quickBackoff(), Now: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	if identity == ByRule {
		w.engine.runOn(w.broker)
	}
	config := testConfig(account, w.clients, time.Now, filepath.Join(t.TempDir(), "data"))
	config.Issuer = func(*store.Store) (vending.Issuer, error) { return w.issuer, nil }
	config.Bus = bus
	w.world = openWorld(t, config)
	bus.Subscribe(w.handler(bus))
	if err := w.world.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = bus.Close(canceled()) })
	soon(t, "the bus is ready", func() bool { return len(bus.linesDown()) == 0 })
	return w
}

func (w *whole) keyInSSM() *KeyIssuer {
	w.t.Helper()
	key := ecKey(w.t)
	ca := caOf(w.t, "mill", key.Public(), nil, key, 10)
	id := registerCA(w.t, w.clients, ca)
	_, err := w.clients.SSM.PutParameter(w.t.Context(), &ssm.PutParameterInput{
		Name: new(KeyParameter(id)), Type: ssmtypes.ParameterTypeSecureString, Value: new(keyPEM(w.t, key)),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	issuer, err := NewKeyIssuer(KeyIssuerConfig{
		CA: w.clients.IoT, ID: id, Key: ParameterKey{SSM: w.clients.SSM, Name: KeyParameter(id)}, Now: time.Now,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return issuer
}

// handler is put together as package app does it.
func (w *whole) handler(bus *MQTTBus) *vending.Handler {
	w.t.Helper()
	b := w.world.Backend()
	terms := rotation.Terms{
		Previous: certificate.Deactivate, Retire: rotation.Replaced, TTL: 720 * time.Hour,
		Settle: 15 * time.Minute, Recent: 24 * time.Hour, MaxRetirePerHour: 1000,
	}
	clock := rotation.NewClock(time.Now, nil, time.Now(), terms.TTL)
	w.closer = rotation.NewCloser(rotation.Ports{
		Journal: b.Journal, Retirements: b.Rotations, Inventory: b.Inventory, Revoker: b.Revoker,
		Group: b.Group, Registry: b.Registry, Packages: b.Packages, Brakes: b.Brakes,
	}, clock, func(string) rotation.Terms { return terms })
	vendor, err := vending.New(vending.Config{
		Instance: "whole", Binding: vending.Attached, Backdate: 5 * time.Minute, NewKeys: 100, NewKeysPer: 24 * time.Hour,
		OutcomeDeadline: 30 * time.Second,
		Profiles: []vending.Profile{{
			Name: "default", Validity: 3 * 8760 * time.Hour, Policy: vending.Policy{Mode: vending.PolicyDefault, Default: "device"}, Terms: terms,
		}},
	}, vending.Ports{
		Registry: b.Registry, Inventory: b.Inventory, Certificates: b.Certificates, Journal: b.Journal, Brakes: b.Brakes,
		Issuer: b.Issuer, Packages: b.Packages, Limits: unlimited{}, Closer: w.closer, Now: clock.Now, Signs: b.Signs,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	queue := backend.NewQueue(4, 30*time.Second)
	w.t.Cleanup(func() {
		if err := queue.Wait(context.WithoutCancel(w.t.Context())); err != nil {
			w.t.Error(err)
		}
	})
	return &vending.Handler{
		Vendor: vendor, Topics: protocol.DefaultTopics(), Queue: queue, Publisher: bus,
		Served: func(vending.Outcome) {},
		Settle: func(r rotation.Rotation) { w.mu.Lock(); defer w.mu.Unlock(); w.behind = append(w.behind, r) },
	}
}

// device enters a device with a first certificate, over which it publishes.
func (w *whole) device(id registry.DeviceID) (*client, certificate.ID) {
	w.t.Helper()
	b := w.world.Backend()
	if err := b.Registrar.Add(w.t.Context(), id, nil); err != nil {
		w.t.Fatal(err)
	}
	c, err := w.issuer.Issue(w.t.Context(), orderFor(w.t, id, ecKey(w.t)))
	if err != nil {
		w.t.Fatal(err)
	}
	c.Standing, c.Kind, c.Created, c.Policies = certificate.Active, certificate.First, time.Now(), []string{"device"}
	if err := b.Inventory.Register(w.t.Context(), id, c); err != nil {
		w.t.Fatal(err)
	}
	if err := b.Group.Add(w.t.Context(), id); err != nil {
		w.t.Fatal(err)
	}
	w.engine.speaksOver(string(id), c.ID)
	return w.broker.client(string(id), "cdf/certificates/"+string(id)+"/+/+"), c.ID
}

// ask publishes a request and returns the reply to it, which says either
// accepted or rejected.
func (w *whole) ask(c *client, device string, action protocol.Action, body any) map[string]string {
	w.t.Helper()
	token := newToken()
	members := map[string]any{"clientToken": token}
	if csr, ok := body.(string); ok {
		members["csr"] = csr
	}
	c.say(protocol.DefaultTopics().Request(device, action), encoded(w.t, members))
	var reply map[string]string
	soon(w.t, "the reply to "+string(action), func() bool {
		for _, text := range c.heard("") {
			var got map[string]string
			if json.Unmarshal([]byte(text), &got) == nil && got["clientToken"] == token {
				reply = got
				return true
			}
		}
		return false
	})
	return reply
}

func (w *whole) standing(id certificate.ID) types.CertificateStatus {
	w.t.Helper()
	out, err := w.clients.IoT.DescribeCertificate(w.t.Context(), &iot.DescribeCertificateInput{CertificateId: new(string(id))})
	if err != nil {
		w.t.Fatal(err)
	}
	return out.CertificateDescription.Status
}

func (w *whole) csr(device registry.DeviceID) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: orderFor(w.t, device, ecKey(w.t)).Request.Raw}))
}

// A whole rotation over AWS's words for everything, through a restart of the
// broker between get and ack.
func TestWholeRotationByRule(t *testing.T) {
	w := startWhole(t, ByRule)
	pump, first := w.device("pump-7")
	csr := w.csr("pump-7")
	got := w.ask(pump, "pump-7", protocol.Get, csr)
	if got["certificateId"] == "" || !strings.Contains(got["certificate"], "BEGIN CERTIFICATE") {
		t.Fatalf("got %v", got)
	}
	if again := w.ask(pump, "pump-7", protocol.Get, csr); again["certificate"] != got["certificate"] {
		t.Errorf("the same key got another certificate: %v", again)
	}
	if early := w.ask(pump, "pump-7", protocol.Ack, nil); early["message"] != string(protocol.NotProven) {
		t.Errorf("an ack over the old certificate: %v", early)
	}
	w.broker.stop()
	w.broker.start()
	soon(t, "the device is back", pump.IsConnectionOpen)

	next := certificate.ID(got["certificateId"])
	w.engine.speaksOver("pump-7", next)
	if acked := w.ask(pump, "pump-7", protocol.Ack, nil); acked["message"] != "OK" {
		t.Fatalf("got %v", acked)
	}
	if w.standing(first) != types.CertificateStatusInactive || w.standing(next) != types.CertificateStatusActive {
		t.Errorf("first %s, next %s", w.standing(first), w.standing(next))
	}
	w.finish()
	members, err := w.world.Backend().Group.Members(t.Context(), "", 0)
	if err != nil || len(members) != 0 {
		t.Errorf("in the group still: %v, %v", members, err)
	}
	if again := w.ask(pump, "pump-7", protocol.Ack, nil); again["message"] != "OK" {
		t.Errorf("an ack that comes again: %v", again)
	}
	// Over a certificate that was taken away, and as nobody's.
	w.engine.speaksOver("pump-7", first)
	if refused := w.ask(pump, "pump-7", protocol.Get, w.csr("pump-7")); refused["message"] != string(protocol.NotBound) {
		t.Errorf("over a retired certificate: %v", refused)
	}
	w.engine.speaksOver("pump-7", "AROAEXAMPLE:session")
	if refused := w.ask(pump, "pump-7", protocol.Get, w.csr("pump-7")); refused["message"] != string(protocol.NotBound) {
		t.Errorf("as an IAM role: %v", refused)
	}
}

// finish does what the replies have left behind.
func (w *whole) finish() {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, r := range w.behind {
		if err := w.closer.Settle(w.t.Context(), r); err != nil {
			w.t.Error(err)
		}
	}
}

// Where nobody can know who publishes, nothing is taken away: firmware of the
// original's time that loses its ack keeps what it has.
func TestWholeRotationDirect(t *testing.T) {
	w := startWhole(t, Direct)
	pump, first := w.device("pump-7")
	got := w.ask(pump, "pump-7", protocol.Get, w.csr("pump-7"))
	next := certificate.ID(got["certificateId"])
	if acked := w.ask(pump, "pump-7", protocol.Ack, nil); acked["message"] != "OK" {
		t.Fatalf("got %v", acked)
	}
	w.finish()
	if w.standing(first) != types.CertificateStatusActive || w.standing(next) != types.CertificateStatusActive {
		t.Errorf("first %s, next %s: nobody has proven anything", w.standing(first), w.standing(next))
	}
	// Presence proves it, and takes nothing away by itself.
	aws := w.broker.client("broker-itself")
	aws.say("$aws/events/presence/connected/pump-7", event("pump-7", "", string(next), time.Now()))
	soon(t, "it is proven", func() bool {
		h, err := w.world.Backend().Journal.Find(t.Context(), "pump-7")
		return err == nil && slices.ContainsFunc(h.Rotations, func(r rotation.Rotation) bool { return r.Certificate == next && r.IsProven() })
	})
	if w.standing(first) != types.CertificateStatusActive {
		t.Error("presence took the first one away")
	}
}
