package app

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/rs/zerolog"

	"github.com/certvendor/certvendor/internal/backend"
	"github.com/certvendor/certvendor/internal/config"
	"github.com/certvendor/certvendor/internal/standalone"
	"github.com/certvendor/certvendor/jobs"
	"github.com/certvendor/certvendor/rotation"
	"github.com/certvendor/certvendor/vending"
)

// atWork is how many requests are at work at a time. Most of that time they wait
// for a commit, which they share: with as few as there are CPUs, each commit
// would carry that few. What keeps the CPUs free for the broker is that the
// issuer signs no more at once than there are CPUs.
const atWork = 256

// setup joins the parts. It is one straight line, because each step needs what
// the steps before it have made; each registers its end as soon as it exists.
func (a *App) setup(ctx context.Context) (err error) {
	instance, err := instanceName()
	if err != nil {
		return err
	}
	if err := a.openWorld(ctx, instance); err != nil {
		return err
	}
	a.onStop("world", func(context.Context) error { return a.world.Close() })
	a.backend = a.world.Backend()

	newest, err := a.newest(ctx)
	if err != nil {
		return err
	}
	a.clock = rotation.NewClock(a.now, nil, newest, a.config.Rotation.TTL)
	if a.alone != nil {
		a.alone.ByClock(a.clock.Steady)
	}
	profile := a.config.Profile()
	profile.Terms.SeenSince = a.world.Restored()
	a.closer = rotation.NewCloser(rotation.Ports{
		Journal: a.backend.Journal, Retirements: a.backend.Rotations, Inventory: a.backend.Inventory, Revoker: a.backend.Revoker,
		Group: a.backend.Group, Registry: a.backend.Registry, Packages: a.backend.Packages, Brakes: a.backend.Brakes,
		Pruner: a.world.Store().Journal(), Witness: a.backend.Witness,
	}, a.clock, func(string) rotation.Terms { return profile.Terms })

	removals, err := a.world.Store().Journal().RemovedSince(ctx, a.clock.Now().Add(-time.Hour))
	if err != nil {
		return err
	}
	a.closer.Remember(removals)

	a.runner = a.newRunner()
	approver, err := a.approver()
	if err != nil {
		return err
	}
	vendor, err := a.vendor(instance, profile, approver)
	if err != nil {
		return err
	}
	if a.recorded, err = a.onRecord(instance, profile); err != nil {
		return err
	}
	a.queue = backend.NewQueue(atWork, a.config.Vending.Patience)
	a.handler = &vending.Handler{
		Vendor: vendor, Topics: a.config.Topics(), Queue: a.queue, Publisher: a.backend.Bus,
		Served: a.served, Settle: a.leave, Observes: a.config.Observe,
	}
	a.onStop("requests", a.drain)
	a.backend.Bus.Subscribe(a.handler)
	if a.sender, err = a.newSender(); err != nil {
		return err
	}
	if err := a.measure(); err != nil {
		return err
	}
	return a.openControl(ctx)
}

// drain lets nobody in, and waits for the requests that are at work, whose
// callers may have been told to try again later.
func (a *App) drain(ctx context.Context) error {
	return errors.Join(a.world.Drain(ctx), a.queue.Wait(ctx))
}

func (a *App) vendor(instance string, profile vending.Profile, approver vending.Approver) (*vending.Vendor, error) {
	c := a.config
	return vending.New(vending.Config{
		Instance: instance, Binding: c.Admit.Binding, Profiles: []vending.Profile{profile},
		Backdate: c.Vending.Backdate, NewKeys: c.Vending.NewKeys.Count, NewKeysPer: c.Vending.NewKeys.Per,
		RejectUnproven: c.Vending.UnprovenAck == config.RejectUnproven, OutcomeDeadline: c.Vending.Patience,
	}, vending.Ports{
		Registry: a.backend.Registry, Inventory: a.backend.Inventory, Certificates: a.backend.Certificates,
		Journal: a.backend.Journal, Brakes: a.backend.Brakes, Issuer: a.backend.Issuer, Packages: a.backend.Packages,
		Limits: newLimits(c.Limits.PerDevice.PerSecond(), c.Limits.Burst, a.clock.Now),
		Closer: a.closer, Now: a.clock.Now, Signs: a.backend.Signs, Policies: a.backend.Policies, Anchors: a.backend.Anchors,
		Joins: a.backend.Joins, Approver: approver,
	})
}

// worldConfig says the configuration in the standalone world's words.
func worldConfig(c config.Config, log zerolog.Logger, now func() time.Time) (standalone.Config, error) {
	var passphrase string
	if c.CA.Passphrase.IsSet() {
		var err error
		if passphrase, err = c.CA.Passphrase.Value(); err != nil {
			return standalone.Config{}, fmt.Errorf("ca.passphrase: %w", err)
		}
	}
	host, err := os.Hostname()
	if err != nil {
		return standalone.Config{}, fmt.Errorf("the host's name: %w", err)
	}
	instance, err := instanceName()
	if err != nil {
		return standalone.Config{}, err
	}
	s := c.Standalone
	var extra []standalone.TopicRule
	for _, filter := range s.Broker.Topics.Publish {
		extra = append(extra, standalone.TopicRule{Filter: filter, Publish: true})
	}
	for _, filter := range s.Broker.Topics.Subscribe {
		extra = append(extra, standalone.TopicRule{Filter: filter, Subscribe: true})
	}
	return standalone.Config{
		Data: s.Data, Instance: instance, Topics: c.Topics(), Now: now, Log: log,
		CA: standalone.CAConfig{
			Passphrase: []byte(passphrase), Now: now, Names: append(append([]string{}, s.Names...), host),
			ServerCertificate: s.ServerCertificate, ServerKey: s.ServerKey, ServerCA: s.ServerCA, ClientCA: s.ClientCA,
		},
		Broker: standalone.BrokerConfig{
			Listen: s.Broker.Listen, Expired: s.Broker.Expired, Extra: extra,
			Limits: standalone.BrokerLimits{Sessions: s.Broker.MaxConnectionsPerDevice, Unfinished: s.Broker.MaxUnfinished},
		},
		Packages: standalone.PackageListener{
			Listen: s.Packages.Listen, URL: s.Packages.URL, LinkTTL: c.Vending.LinkTTL, Keep: s.Packages.Keep,
		},
		Job: standalone.JobPace{
			PerMinute: c.Rotation.PerMinute, MaxInFlight: c.Rotation.MaxInFlight,
			InProgressTimeout: c.Job.InProgressTimeout,
		},
	}, nil
}

// InitCA makes CA and store of an empty data directory, without a daemon.
func InitCA(ctx context.Context, c config.Config) error { return initCAAt(ctx, c, time.Now) }

func initCAAt(ctx context.Context, c config.Config, now func() time.Time) error {
	if err := errors.Join(c.Validate(), onlyStandalone(c)); err != nil {
		return err
	}
	world, err := worldConfig(c, zerolog.Nop(), now)
	if err != nil {
		return err
	}
	return standalone.Init(ctx, world)
}

func (a *App) job() jobs.Job { return jobs.New(a.config.Rotation.Group, a.config.Topics()) }

// measure opens the listener for monitoring and adds the numbers that are
// read when they are asked for.
func (a *App) measure() error {
	m := a.metrics
	m.registry.MustRegister(rotations{a.backend.Rotations, a.members}, condition{a})
	a.measureWorld()
	if a.config.Metrics.Listen == "" {
		return nil
	}
	var err error
	if a.listen, err = net.Listen("tcp", a.config.Metrics.Listen); err != nil {
		return fmt.Errorf("metrics.listen: %w", err)
	}
	a.onStop("metrics listener", func(context.Context) error {
		if err := a.listen.Close(); !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	})
	a.http = &http.Server{
		Handler: m.routes(a), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
		WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
	}
	return nil
}

func (a *App) serveMetrics() error {
	if err := a.http.Serve(a.listen); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// members counts the group for the metrics.
func (a *App) members(ctx context.Context) (members, waiting int, err error) {
	status, err := a.backend.Jobs.Status(ctx)
	if err != nil {
		return 0, 0, err
	}
	members, err = a.world.Store().Group().Count(ctx)
	return members, status.Waiting, err
}

// A handler is what a bus hands things to.
var _ backend.Receiver = (*vending.Handler)(nil)
