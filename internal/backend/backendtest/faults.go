package backendtest

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
	"github.com/certvendor/certvendor/vending"
)

var (
	errKilled = errors.New("the process was killed")
	errFault  = errors.New("this fails now")
)

// faults stand between the vendor and the world: they make single operations
// fail, and kill the process at one of them, after which nothing it does has
// any effect.
type faults struct {
	mu      sync.Mutex
	failing map[string]int // how often an operation fails yet
	count   int            // of operations so far
	killAt  int            // the operation to die at; 0: none
	after   bool           // once it was done, instead of before
	dead    bool
	trace   []string
}

// fail makes the next operations of a name fail.
func (f *faults) fail(operation string, times int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failing[operation] = times
}

func (f *faults) isDead() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.dead
}

func (f *faults) expected(err error) bool {
	return errors.Is(err, errFault) || errors.Is(err, errKilled)
}

// do carries out one operation, unless a fault says otherwise.
func (f *faults) do(operation string, act func() error) error {
	after, err := f.before(operation)
	if err != nil {
		return err
	}
	err = act()
	if after {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.dead = true
		return errKilled
	}
	return err
}

func (f *faults) before(operation string) (after bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.dead {
		return false, errKilled
	}
	f.count++
	f.trace = append(f.trace, operation)
	if f.count == f.killAt {
		if f.after {
			return true, nil
		}
		f.dead = true
		return false, errKilled
	}
	if f.failing[operation] > 0 {
		f.failing[operation]--
		return false, errFault
	}
	return false, nil
}

// fails reports whether one of these operations is to fail.
func (f *faults) fails(operations ...string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.ContainsFunc(operations, func(name string) bool { return f.failing[name] > 0 })
}

type faultyJournal struct {
	rotation.Journal
	f     *faults
	setup *Setup
}

func (j faultyJournal) Open(ctx context.Context, next rotation.Rotation, givesWay *rotation.Rotation) (r rotation.Rotation, err error) {
	err = j.f.do("open", func() error {
		r, err = j.Journal.Open(ctx, next, givesWay)
		return err
	})
	return r, err
}

// Advance leaves the steps behind a rotation to those whose turn it would be,
// where one of them is to fail or comes later.
func (j faultyJournal) Advance(ctx context.Context, c rotation.Change) (r rotation.Rotation, err error) {
	if j.setup.Later || j.f.fails("attributes", "leave") {
		c.Ending = nil
	}
	err = j.f.do("advance", func() error {
		r, err = j.Journal.Advance(ctx, c)
		return err
	})
	return r, err
}

func (j faultyJournal) Note(ctx context.Context, r rotation.Retirement) error {
	return j.f.do("note", func() error { return j.Journal.Note(ctx, r) })
}

type faultyWitness struct {
	of rotation.Witness
	f  *faults
}

func witnessOf(w rotation.Witness, f *faults) rotation.Witness {
	if w == nil {
		return nil
	}
	return faultyWitness{w, f}
}

// Witness fails where one of both is to fail, which fails again where it is done
// alone.
func (w faultyWitness) Witness(ctx context.Context, seen certificate.Sighting, c rotation.Change) (r rotation.Rotation, err error) {
	if w.f.fails("seen", "advance") {
		return r, errFault
	}
	err = w.f.do("witness", func() error {
		r, err = w.of.Witness(ctx, seen, c)
		return err
	})
	return r, err
}

type faultyInventory struct {
	certificate.Inventory
	f *faults
}

func (i faultyInventory) Register(ctx context.Context, id registry.DeviceID, c certificate.Certificate) error {
	return i.f.do("register", func() error { return i.Inventory.Register(ctx, id, c) })
}

func (i faultyInventory) Activate(ctx context.Context, id registry.DeviceID, c certificate.ID) error {
	return i.f.do("activate", func() error { return i.Inventory.Activate(ctx, id, c) })
}

func (i faultyInventory) Seen(ctx context.Context, s certificate.Sighting) error {
	return i.f.do("seen", func() error { return i.Inventory.Seen(ctx, s) })
}

func (i faultyInventory) Retire(ctx context.Context, r certificate.Removal) error {
	return i.f.do("retire", func() error { return i.Inventory.Retire(ctx, r) })
}

type faultyRegistry struct {
	registry.Store
	f *faults
}

func (s faultyRegistry) SetAttributes(ctx context.Context, id registry.DeviceID, attributes map[string]string) error {
	return s.f.do("attributes", func() error { return s.Store.SetAttributes(ctx, id, attributes) })
}

type faultyGroup struct {
	rotation.Group
	f *faults
}

func (g faultyGroup) Remove(ctx context.Context, id registry.DeviceID, since time.Time) error {
	return g.f.do("leave", func() error { return g.Group.Remove(ctx, id, since) })
}

type faultyPackages struct {
	vending.Packages
	f *faults
}

func (p faultyPackages) Link(ctx context.Context, id registry.DeviceID, c certificate.ID) (link string, err error) {
	err = p.f.do("link", func() error {
		link, err = p.Packages.Link(ctx, id, c)
		return err
	})
	return link, err
}

func (p faultyPackages) Spend(ctx context.Context, id registry.DeviceID, c certificate.ID) error {
	return p.f.do("spend", func() error { return p.Packages.Spend(ctx, id, c) })
}

type faultyIssuer struct {
	vending.Issuer
	f *faults
}

func (i faultyIssuer) Issue(ctx context.Context, o certificate.Order) (c certificate.Certificate, err error) {
	err = i.f.do("issue", func() error {
		c, err = i.Issuer.Issue(ctx, o)
		return err
	})
	return c, err
}

// recorder takes replies. Those of a process that is dead are lost.
type recorder struct{ r *Rig }

func (p recorder) Publish(ctx context.Context, topic string, payload []byte) error {
	return p.r.faults.do("publish", func() error {
		p.r.published(message{topic, payload})
		if p.r.carrier != nil {
			return p.r.carrier.Publish(ctx, topic, payload)
		}
		return nil
	})
}

// directQueue gives every request its turn at once.
type directQueue struct{}

func (directQueue) Do(ctx context.Context, _ registry.DeviceID, _ protocol.Action, work func(context.Context) vending.Outcome) (vending.Outcome, error) {
	return work(ctx), nil
}

// queueOf is the rig's queue, which a scenario may replace at any time.
type queueOf struct{ r *Rig }

func (q queueOf) Do(ctx context.Context, id registry.DeviceID, action protocol.Action, work func(context.Context) vending.Outcome) (vending.Outcome, error) {
	return q.r.queue.Do(ctx, id, action, work)
}

type noLimits struct{}

func (noLimits) Peek(registry.DeviceID) (time.Duration, bool) { return 0, true }

func (noLimits) Allow(registry.DeviceID) (time.Duration, bool) { return 0, true }
