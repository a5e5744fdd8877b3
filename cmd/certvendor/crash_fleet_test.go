package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/device"
	"github.com/certvendor/certvendor/internal/control"
	"github.com/certvendor/certvendor/internal/fleet"
	"github.com/certvendor/certvendor/registry"
)

// conduct is what a device does while daemons are killed.
type conduct string

const (
	rotatesByCSR     conduct = "csr"     // an agent
	rotatesByPackage conduct = "package" // an agent
	rotatesAsCDF     conduct = "cdf"     // the firmware with one key slot
	asksOn           conduct = "asker"   // repeats one request for ever
)

// crashed is a device that lives through it all.
type crashed struct {
	name     string
	conduct  conduct
	first    tls.Certificate
	pem, key []byte

	mu       sync.Mutex
	received map[certificate.ID]int // how often each certificate came
	next     tls.Certificate        // an asker's
	played   fleet.Result           // of CDF firmware
}

func (c *crashed) note(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.received[certificate.ID(id)]++
}

// crashFleet is the devices, and what they need to reach the daemon.
type crashFleet struct {
	*process
	target  fleet.Target
	askers  []*crashed
	devices []*crashed      // the others, in the order in which they get their jobs
	lasting *control.Client // for devices, over all daemons
	kills   int             // so far
	calm    chan struct{}   // closed when nothing is killed any more
}

// newCrashFleet starts a daemon that knows the devices of a plan, in any order.
func newCrashFleet(t *testing.T, plan crashPlan, random *rand.Rand) *crashFleet {
	t.Helper()
	f := &crashFleet{process: newProcess(t), calm: make(chan struct{})}
	f.start()
	f.ready()
	_, roots, err := f.client.CAs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(roots))
	f.target = fleet.Target{Broker: f.broker, Roots: pool}
	f.lasting = control.Dial(filepath.Join(f.dir, "s"))
	t.Cleanup(f.lasting.Close)
	f.askers = f.addAll(asksOn, plan.askers)
	for conduct, n := range map[conduct]int{rotatesByCSR: plan.agents, rotatesByPackage: plan.byPackage, rotatesAsCDF: plan.cdf} {
		f.devices = append(f.devices, f.addAll(conduct, n)...)
	}
	slices.SortFunc(f.devices, func(a, b *crashed) int { return strings.Compare(a.name, b.name) })
	random.Shuffle(len(f.devices), func(i, j int) { f.devices[i], f.devices[j] = f.devices[j], f.devices[i] })
	return f
}

func (f *crashFleet) all() []*crashed { return slices.Concat(f.askers, f.devices) }

func (f *crashFleet) addAll(conduct conduct, n int) []*crashed {
	f.t.Helper()
	devices := make([]*crashed, n)
	var adding errgroup.Group
	adding.SetLimit(16)
	for i := range devices {
		adding.Go(func() (err error) {
			devices[i], err = f.add(fmt.Sprintf("%s-%03d", conduct, i), conduct)
			return err
		})
	}
	if err := adding.Wait(); err != nil {
		f.t.Fatal(err)
	}
	return devices
}

func (f *crashFleet) add(name string, conduct conduct) (*crashed, error) {
	c := &crashed{name: name, conduct: conduct, received: map[certificate.ID]int{}}
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	csr, err := control.NewRequest(key.signer, registry.DeviceID(c.name))
	if err != nil {
		return nil, err
	}
	added, err := f.client.AddDevice(f.t.Context(), control.AddRequest{Name: c.name, CSR: csr})
	if err != nil {
		return nil, err
	}
	c.pem, c.key = []byte(added.Certificate), key.pem
	if conduct == rotatesByPackage {
		if _, err = f.client.CreatePackage(f.t.Context(), c.name); err != nil {
			return nil, err
		}
	}
	c.first, err = tls.X509KeyPair(c.pem, c.key)
	return c, err
}

// join puts devices into the rotation group.
func (f *crashFleet) join(devices []*crashed) {
	f.t.Helper()
	var names []string
	for _, c := range devices {
		names = append(names, c.name)
	}
	err := f.client.Join(f.t.Context(), names, func(o control.Outcome) {
		if o.Error != "" {
			f.t.Errorf("join: %s", o.Error)
		}
	})
	if err != nil {
		f.t.Fatal(err)
	}
}

// crashRetry is the devices' pace: there is little time between two kills.
var crashRetry = device.Retry{Base: 10 * time.Millisecond, Max: 500 * time.Millisecond, Reply: 3 * time.Second}

// live lets a device do what it has to until it has rotated.
func (f *crashFleet) live(ctx context.Context, c *crashed) error {
	switch c.conduct {
	case asksOn:
		return f.askOn(ctx, c)
	case rotatesAsCDF:
		return f.liveCDF(ctx, c)
	}
	agent, err := f.agent(c)
	if err != nil {
		return err
	}
	if err := agent.RunOnce(ctx); err != nil {
		return fmt.Errorf("device %s: %w", c.name, err)
	}
	return nil
}

func (f *crashFleet) disks() string { return filepath.Join(f.dir, "devices") }

// agent returns the device's agent as a start of the device would.
func (f *crashFleet) agent(c *crashed) (*device.Agent, error) {
	directory, flow := filepath.Join(f.disks(), c.name), device.ByCSR
	if c.conduct == rotatesByPackage {
		flow = device.ByPackage
	}
	if err := device.Provision(directory, c.pem, c.key); err != nil && !errors.Is(err, device.ErrProvisioned) {
		return nil, err
	}
	return device.New(device.Config{
		Device: c.name, Broker: f.broker, Roots: f.target.Roots, Directory: directory, Flow: flow, Retry: crashRetry,
		Event: func(e device.Event) {
			if e.Kind == device.CertificateStored {
				c.note(e.CertificateID)
			}
		},
	})
}

// liveCDF starts the firmware again, from what its slot holds, whenever it has
// given up.
func (f *crashFleet) liveCDF(ctx context.Context, c *crashed) error {
	for ctx.Err() == nil {
		report, err := fleet.Run(ctx, f.firmware(c))
		if err != nil {
			return err
		}
		c.played = report.Results[0]
		for _, id := range c.played.Received {
			c.note(string(id))
		}
		if c.played.Err == nil {
			return nil
		}
	}
	return fmt.Errorf("device %s: %w, after %w", c.name, ctx.Err(), c.played.Err)
}

func (f *crashFleet) firmware(c *crashed) fleet.Options {
	return fleet.Options{
		Target: f.target, Directory: f.disks(), Retry: crashRetry, Operator: awaiting{operator{f.lasting}},
		Devices: []fleet.Device{{Name: c.name, Certificate: c.pem, Key: c.key, Firmware: fleet.CDF, Plan: &fleet.Plan{}}},
	}
}
