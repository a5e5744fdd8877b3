package vending_test

import (
	"context"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
	"github.com/certvendor/certvendor/vending"
)

func (b *bed) change(what string) { b.changes = append(b.changes, what) }

type fakeRegistry struct{ b *bed }

func (f fakeRegistry) Device(_ context.Context, id registry.DeviceID) (registry.Device, error) {
	return f.b.device(id)
}

func (f fakeRegistry) SetAttributes(context.Context, registry.DeviceID, map[string]string) error {
	f.b.change("attributes")
	return nil
}

type fakeInventory struct{ b *bed }

func (f fakeInventory) Register(_ context.Context, _ registry.DeviceID, c certificate.Certificate) error {
	err := f.b.register(c)
	if err == nil {
		f.b.change("register")
	}
	return err
}

func (f fakeInventory) Activate(_ context.Context, _ registry.DeviceID, id certificate.ID) error {
	err := f.b.activate(id)
	if err == nil {
		f.b.change("activate")
	}
	return err
}

func (f fakeInventory) Held(context.Context, registry.DeviceID) ([]certificate.Holding, error) {
	return f.b.held, nil
}

func (f fakeInventory) Seen(_ context.Context, s certificate.Sighting) error { return f.b.seen(s) }

func (f fakeInventory) Retire(_ context.Context, r certificate.Removal) error {
	if err := r.Allowed(f.b.held); err != nil {
		return err
	}
	f.b.change("retire")
	return nil
}

type fakeCatalogue struct{ b *bed }

func (f fakeCatalogue) List(context.Context, certificate.Query) ([]certificate.Holding, error) {
	return f.b.listed, nil
}

type fakeJournal struct{ b *bed }

func (f fakeJournal) Find(context.Context, registry.DeviceID) (rotation.History, error) {
	return f.b.history, nil
}

func (f fakeJournal) Open(_ context.Context, next rotation.Rotation, _ *rotation.Rotation) (rotation.Rotation, error) {
	err := f.b.open()
	if err == nil {
		f.b.change("open")
	}
	return next, err
}

func (f fakeJournal) Advance(_ context.Context, c rotation.Change) (rotation.Rotation, error) {
	err := f.b.advance(c)
	if err == nil {
		f.b.change("advance to " + string(c.Rotation.State))
	}
	return c.Rotation, err
}

func (f fakeJournal) Due(context.Context, rotation.Horizon) (rotation.Work, error) {
	return rotation.Work{}, nil
}

func (f fakeJournal) Note(context.Context, rotation.Retirement) error {
	f.b.change("note")
	return nil
}

// fakeRetirements is the part of a rotation.Catalogue that the vendor reads.
type fakeRetirements struct {
	rotation.Catalogue
	b *bed
}

func (f fakeRetirements) Retirements(context.Context, rotation.Query) ([]rotation.Retirement, error) {
	return f.b.owed()
}

type fakeBrakes struct{ b *bed }

func (f fakeBrakes) Frozen(context.Context) (rotation.Freeze, error) { return f.b.frozen, nil }

func (f fakeBrakes) SetFrozen(_ context.Context, change func(*rotation.Freeze)) (rotation.Freeze, error) {
	f.b.change("freeze")
	change(&f.b.frozen)
	return f.b.frozen, nil
}

type fakeIssuer struct{ b *bed }

func (f fakeIssuer) Issue(_ context.Context, o certificate.Order) (certificate.Certificate, error) {
	c, err := f.b.issue(o)
	if err == nil {
		f.b.change("issue")
	}
	return c, err
}

// fakePackages is the part of vending.Packages that the vendor uses.
type fakePackages struct {
	vending.Packages
	b *bed
}

func (f fakePackages) Find(context.Context, registry.DeviceID) (vending.Package, error) {
	return f.b.pack()
}

func (f fakePackages) Link(context.Context, registry.DeviceID, certificate.ID) (string, error) {
	return f.b.link()
}

type fakeLimits struct{ b *bed }

func (f fakeLimits) Peek(registry.DeviceID) (time.Duration, bool) { return f.b.allow() }

func (f fakeLimits) Allow(registry.DeviceID) (time.Duration, bool) { return f.b.allow() }

type fakePublisher struct{ b *bed }

func (f fakePublisher) Publish(_ context.Context, topic string, payload []byte) error {
	if err := f.b.publish(topic); err != nil {
		return err
	}
	f.b.replies = append(f.b.replies, reply{topic, payload})
	return nil
}

// failing is a queue that gives nobody a turn.
type failing struct{ err error }

func (f failing) Do(context.Context, registry.DeviceID, protocol.Action, func(context.Context) vending.Outcome) (vending.Outcome, error) {
	return vending.Outcome{}, f.err
}
