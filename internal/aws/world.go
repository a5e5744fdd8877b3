package aws

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/rs/zerolog"

	"github.com/certvendor/certvendor/campaign"
	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/archive"
	"github.com/certvendor/certvendor/internal/backend"
	"github.com/certvendor/certvendor/internal/backup"
	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/vending"
)

// Config is what a world of AWS is made of.
type Config struct {
	Data     string // the directory of journal, audit and what else AWS has no place for
	Instance string // who we are, in leases and in the audit
	Owner    string // what is made at AWS is tagged with, see ownerTag
	Clients  *Clients
	// Sharing is for StandBy; Shared is what StandBy has made of it, and leads.
	// Nil: the store is this machine's alone.
	Sharing Sharing
	Shared  *Shared

	Registration Registration
	Registry     Source
	Assets       AssetLibrary // for AssetsSource
	Group        string       // the name of the rotation group
	Pace         Pace
	Rerun        Rerun
	Prices       map[string]campaign.Price // of a call, by API; for plans
	Packages     PackagesConfig
	Job          JobSettings
	Presence     *Presence // optional: where it is written down who has connected

	// Issuer makes what signs, once the store is open. Where ActsOutside says
	// that what it does has an effect beyond its answer, every intention is
	// durable before it is asked.
	Issuer      func(*store.Store) (vending.Issuer, error)
	ActsOutside bool
	Signs       func(context.Context) (until time.Time, err error) // optional
	Bus         Transport                                          // an MQTTBus is one

	Now func() time.Time
	Log zerolog.Logger
	// Tells is as store.Config has it. Optional.
	Tells func(kind string) bool
	// Observes says that nothing is changed at AWS.
	Observes bool
	// Committed is told how long each commit of the store took. Optional.
	Committed func(took time.Duration, ops int)
}

// Transport is how this world hears its devices.
type Transport interface {
	backend.Bus
	// Start lets messages in. What it starts ends with Close.
	Start(context.Context) error
	// Close lets no more in, and returns when those at work are done, or when
	// the context ends. Repeatable.
	Close(context.Context) error
	// Ready returns nil while messages come in, and otherwise why not.
	Ready() error
}

var _ Transport = (*MQTTBus)(nil)

// World is a whole world in one account and region of AWS, with a store of its
// own on this machine. It holds the exclusive right to its data directory from
// Open to Close.
type World struct {
	config    Config
	lock      *store.Lock
	store     *store.Store
	registry  *Registry
	inventory *Inventory
	group     *Group
	jobs      *Jobs
	packages  *Packages
	pacer     *Pacer
	syncer    *Syncer
	issuer    vending.Issuer

	stop     context.CancelFunc
	running  sync.WaitGroup
	failed   chan error
	backing  backup.Maker
	restored store.Restoration // when this world was restored; zero: it was not
}

const (
	storeFile = archive.Store
	auditDir  = backup.AuditDir
	// dataKey is what names the data directory in the configuration.
	dataKey = "aws.data"
	// accountKey is where the store keeps whose it is.
	accountKey = "aws_account"
)

// Open takes the data directory, opens the store, and asks AWS who we are.
// Nobody is let in before Start. Whatever fails, nothing stays open.
func Open(ctx context.Context, config Config) (_ *World, err error) {
	w := &World{config: config, failed: make(chan error, 1)}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.Close())
		}
	}()
	if err := w.openStore(ctx); err != nil {
		return nil, err
	}
	if err := config.Pace.validate(config.Rerun); err != nil {
		return nil, err
	}
	names, err := w.whose(ctx)
	if err != nil {
		return nil, err
	}
	if w.issuer, err = config.Issuer(w.store); err != nil {
		return nil, err
	}
	w.join(names)
	if err := w.syncer.load(ctx); err != nil {
		return nil, err
	}
	return w, w.syncer.afterRestore(ctx, w.restored.At)
}

func (w *World) openStore(ctx context.Context) (err error) {
	c := w.config
	if c.Shared != nil {
		w.store = c.Shared.store
	} else {
		if w.lock, err = takeData(c); err == nil {
			w.store, err = store.Open(ctx, c.storeConfig())
		}
		if err != nil {
			return err
		}
	}
	if w.restored, err = w.store.Restored(ctx); err != nil || c.Observes && c.Shared == nil {
		return err
	}
	// The store is ours alone, or ours to lead: whoever held a lease is gone.
	_, err = w.store.Journal().VoidLeases(ctx)
	return err
}

// takeData takes the data directory, and finishes what was interrupted in it. If
// that fails the lock is returned too.
func takeData(c Config) (*store.Lock, error) {
	lock, err := store.TakeLock(c.Data, dataKey, c.Now())
	if err != nil {
		return nil, err
	}
	return lock, errors.Join(backup.Finish(c.Data), backup.Discard(c.Data))
}

// whose asks AWS whose account this is, and holds it against the store: a
// journal of other things must not decide about these.
func (w *World) whose(ctx context.Context) (names, error) {
	n, err := w.caller(ctx)
	if err != nil {
		return n, err
	}
	own := n.account + "/" + n.region
	known, err := w.store.Meta(ctx, accountKey)
	switch {
	case err != nil:
		return n, err
	case known == "":
		return n, w.store.SetMeta(ctx, accountKey, own)
	case known != own:
		return n, fmt.Errorf("the store in %s belongs to AWS account and region %s, and these credentials are of %s: "+
			"give this one another aws.data", w.config.Data, known, own)
	}
	return n, nil
}

// caller returns the names of the account that the credentials are of.
func (w *World) caller(ctx context.Context) (names, error) {
	arn, err := w.config.Clients.Caller(ctx)
	if err != nil {
		return names{}, err
	}
	return namesFrom(arn, w.config.Clients.Config.Region)
}

// join makes the ports.
func (w *World) join(n names) {
	c, clients := w.config, w.config.Clients
	w.group = &Group{
		Group: w.store.Group(), iot: clients.IoT, name: c.Group, owner: c.Owner, poke: w.Poke,
		jobs: w.store.Jobs(), rotated: w.rotatedSince, devices: w.store.Devices(),
	}
	w.registry = &Registry{
		Devices: w.store.Devices(), source: c.source(), iot: clients.IoT, log: c.Log, leave: w.group.take,
		known: newRecent[registry.DeviceID, map[string]string](thingKept, remembering, c.Now),
	}
	w.inventory = &Inventory{
		rows: w.store.Certificates(), marks: w.store.Unsettled(), iot: clients.IoT, names: n, how: c.Registration,
		removed: newRecent[certificate.ID, struct{}](removedKept, remembering, c.Now),
		views:   newRecent[registry.DeviceID, view](viewKept, remembering, c.Now),
		fresh:   newRecent[registry.DeviceID, struct{}](freshEvery, remembering, c.Now),
		looked:  newRecent[registry.DeviceID, struct{}](lookAgain, remembering, c.Now), presence: c.Presence,
		said:  newRecent[certificate.ID, []string](policiesKept, remembering, c.Now),
		valid: newRecent[certificate.ID, struct{}](viewKept, remembering, c.Now),
		log:   c.Log, now: c.Now, atWork: map[certificate.ID]int{}, met: map[certificate.ID]bool{},
		restored: w.restored.At, known: newRecent[registry.DeviceID, struct{}](readKept, remembering, c.Now),
	}
	if issuer, remembers := w.issuer.(interface{ Forget() }); remembers {
		w.inventory.refused = issuer.Forget
	}
	w.jobs = &Jobs{
		Jobs: w.store.Jobs(), meta: w.store, group: w.group,
		at:       remoteJobs{iot: clients.IoT, names: n, owner: c.Owner, settings: c.Job},
		restored: w.restored.At,
	}
	if c.Rerun == JobPerCampaign {
		own := &ownJobs{
			rows: w.store.OwnJobs(), jobs: w.jobs, group: w.group,
			ready: newRecent[string, struct{}](readyFor, remembering, c.Now),
		}
		w.jobs.own, w.group.own = own, own
	}
	w.pacer = newPacer(w, c)
	w.syncer = newSyncer(w)
	w.inventory.whole = w.syncer.fullySince
	if bus, hears := c.Bus.(interface{ HearEnded(func(Ended)) }); hears {
		bus.HearEnded(w.pacer.hear)
	}
	w.packages = &Packages{
		config: c.Packages, rows: w.store.Packages(), s3: clients.S3, presign: presignClient(clients.S3, c.Now),
		credentials: clients.Config.Credentials, now: c.Now, unknown: w.inventory.doubt,
	}
}

// Source names who decides which devices there are.
type Source string

// The sources. The empty one is ThingsSource.
const (
	ThingsSource Source = "things"        // the Device Registry of AWS IoT
	AssetsSource Source = "asset-library" // that of the Connected Device Framework
	NoSource     Source = "none"          // every name is a device
)

func (c Config) source() source {
	switch c.Registry {
	case AssetsSource:
		return assets{config: c.Assets, aws: c.Clients.Config, lambda: c.Clients.Lambda, client: cmp.Or(c.Assets.HTTP, &http.Client{Timeout: assetTime}), now: c.Now}
	case NoSource:
		return anything{}
	}
	return things{c.Clients.IoT}
}

// Backend returns the ports of this world.
func (w *World) Backend() backend.Backend {
	return backend.Backend{
		Registry: w.registry, Devices: w.registry, Registrar: w.registry,
		Inventory: w.inventory, Certificates: w.store.Certificates(),
		Revoker: Revoker{w.store.Certificates(), w.inventory},
		Journal: Journal{w.store.Journal(), w.inventory}, Rotations: w.store.Journal(), Brakes: w.store.Brakes(),
		Group: w.group, Jobs: w.jobs,
		Issuer: w.issuer, Packages: w.packages, Bus: w.config.Bus, Signs: w.signs(), Joins: w.group.Joins, Policies: w.inventory.Policies,
	}
}

// signs says until when what is issued now can last, where the issuer knows.
func (w *World) signs() func(context.Context) (time.Time, error) {
	issuer, knows := w.issuer.(interface {
		Signs(context.Context) (time.Time, error)
	})
	if w.config.Signs != nil || !knows {
		return w.config.Signs
	}
	return issuer.Signs
}

// settleEvery is the pause between two looks at what was cut off.
const settleEvery = time.Minute

// Start lets devices in. What it starts ends with Close.
func (w *World) Start(ctx context.Context) error {
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	w.stop = stop
	if w.config.Shared != nil {
		w.running.Go(func() { w.config.Shared.Run(running) })
	}
	if !w.config.Observes {
		w.running.Go(func() { w.settleForever(running) })
		w.running.Go(func() { w.pacer.Run(running) })
		if w.config.Presence != nil {
			w.running.Go(func() { w.watchPresence(running) })
		}
	}
	w.running.Go(func() { w.syncer.Run(running) })
	return w.config.Bus.Start(ctx)
}

func (w *World) settleForever(ctx context.Context) {
	tick := time.NewTicker(settleEvery)
	defer tick.Stop()
	for {
		if err := w.inventory.Settle(ctx); err != nil && ctx.Err() == nil {
			w.config.Log.Warn().Err(err).Msg("what was cut off is left for later")
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Failed yields an error if a part dies while the world runs.
func (w *World) Failed() <-chan error {
	if w.config.Shared != nil {
		return w.config.Shared.Failed()
	}
	return w.failed
}

// Drain lets nobody in any more and lets requests finish, until ctx ends.
func (w *World) Drain(ctx context.Context) error { return w.config.Bus.Close(ctx) }

// Close ends everything, and gives the data directory back. Drain comes first
// if requests shall finish. Repeatable.
func (w *World) Close() error {
	var errs []error
	if w.stop != nil {
		w.stop()
	}
	w.running.Wait()
	if w.config.Bus != nil {
		now, cancel := context.WithCancel(context.Background()) // no time left to drain
		cancel()
		_ = w.config.Bus.Close(now) // what it leaves at work is cut off
	}
	if w.config.Shared != nil {
		return w.config.Shared.Close()
	}
	if w.store != nil {
		errs = append(errs, w.store.Close())
	}
	if w.lock != nil {
		errs = append(errs, w.lock.Release())
		w.lock = nil
	}
	return errors.Join(errs...)
}

// Store returns the world's store, for the audit and what it alone knows.
func (w *World) Store() *store.Store { return w.store }

// Recorded returns what the store has of devices and certificates: AWS is not
// asked.
func (w *World) Recorded() (registry.Store, certificate.Inventory) {
	return w.store.Devices(), w.store.Certificates()
}

// Lambda returns the client for functions.
func (w *World) Lambda() *lambda.Client { return w.config.Clients.Lambda }

// Syncer returns what reads AWS IoT's inventory into the store.
func (w *World) Syncer() *Syncer { return w.syncer }

// Calls returns the counts of the calls to AWS by the name of their API.
func (w *World) Calls() map[string]Count { return w.config.Clients.Quotas.Counts() }

// Poke has the pacer look at once whether somebody may have a job.
func (w *World) Poke() { w.pacer.poke() }

// Restored returns when this world was restored from a backup, or the zero time.
func (w *World) Restored() time.Time { return w.restored.At }

// Ready says why no request comes in, or returns nil.
func (w *World) Ready() error { return w.config.Bus.Ready() }
