package app

import (
	"context"
	"encoding/pem"
	"time"

	"github.com/certvendor/certvendor/internal/control"
	"github.com/certvendor/certvendor/internal/standalone"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/vending"
)

// openControl makes the operator's socket, and listens for operators over TCP
// where that is wanted.
func (a *App) openControl(ctx context.Context) error {
	socket := control.Socket{Path: a.config.Control.Socket, Group: a.config.Control.Group}
	remote, err := a.remote()
	if err != nil {
		return err
	}
	if a.control, err = control.Open(ctx, socket, remote, a.ports()); err != nil {
		return err
	}
	a.onStop("control socket", a.control.Shutdown)
	return nil
}

// ports are what the operator's API stands on.
func (a *App) ports() control.Ports {
	b, c := a.backend, a.config
	var policies []string
	if c.PolicyRule().Mode != vending.PolicyNone && c.Policy.Default != "" {
		policies = []string{c.Policy.Default}
	}
	return control.Ports{
		Registry: b.Registry, Registrar: registrar{b.Registrar, a}, Devices: b.Devices,
		Inventory: b.Inventory, Certificates: b.Certificates,
		Journal: b.Journal, Rotations: b.Rotations, Brakes: b.Brakes, Group: b.Group, Jobs: b.Jobs,
		ByHand: a.closer, CRL: a.crl, Authority: a.authority(), Servers: a.servers(),
		Issuer: b.Issuer, Packages: b.Packages, NoPackages: a.noPackages(),
		Now: a.clock.Now, Validity: c.Vending.Validity, Backdate: c.Vending.Backdate,
		Policies: policies, PerMinute: c.Rotation.PerMinute, Job: a.job(),
		BuildPackage: standalone.BuildPackage, ListPackages: a.listPackages, ListFleet: a.listFleet,
		Naming: c.Profile().Naming, Window: a.window(),
		RepeatedKeys: a.world.Store().Certificates().RepeatedKeys,
		Rehearse:     a.handler.Vendor.Rehearse, Explain: a.handler.Vendor.Explain,
		Roots: a.roots, CAs: a.listCAs,
		Sweep: a.sweep, AddedMember: a.world.Poke, Note: a.note, Timeline: a.timeline,
		VerifyAudit: a.world.Store().Audit().Verify, Backup: a.backup, Ready: a.Ready, Campaigns: a.campaigns(),
		Observes: c.Observe, Syncer: a.syncer(), Recorded: a.recorded,
	}
}

// noPackages says why there is no place for packages, if there is none.
func (a *App) noPackages() error {
	if a.alone == nil && a.config.AWS.Packages.Bucket == "" {
		return errNoBucket
	}
	return nil
}

// window is how long after its end a certificate may still connect: on AWS it
// may not.
func (a *App) window() time.Duration {
	if a.alone == nil {
		return 0
	}
	return a.config.Standalone.Broker.Expired
}

// registrar closes the connections of a device that is taken out.
type registrar struct {
	registry.Registrar
	app *App
}

func (r registrar) Remove(ctx context.Context, id registry.DeviceID) error {
	held, err := r.app.backend.Inventory.Held(ctx, id)
	if err != nil {
		return err
	}
	if err := r.Registrar.Remove(ctx, id); err != nil {
		return err
	}
	for _, h := range held {
		if r.app.alone == nil {
			break // who is connected is AWS's business
		}
		r.app.alone.Broker().CloseHolding(id, h.ID)
	}
	return nil
}

func (a *App) listPackages(ctx context.Context, after registry.DeviceID, limit int) ([]control.Package, error) {
	rows, err := a.world.Store().Packages().List(ctx, after, limit)
	packages := make([]control.Package, 0, len(rows))
	for _, row := range rows {
		packages = append(packages, control.Package{
			Device: string(row.Device), Certificate: row.Certificate, Created: row.Created, Spent: row.Spent,
		})
	}
	return packages, err
}

func (a *App) listFleet(ctx context.Context, query registry.Query) ([]control.FleetDevice, error) {
	rows, err := a.world.Store().Devices().InUse(ctx, query)
	devices := make([]control.FleetDevice, 0, len(rows))
	for _, row := range rows {
		devices = append(devices, control.FleetDevice{
			Device:      control.Device{Name: string(row.ID), Attributes: row.Attributes, Blocked: row.Blocked, Added: row.Added},
			Certificate: row.Certificate, NotAfter: row.NotAfter, Standing: row.Standing,
			LastSeen: row.LastSeen, Connected: row.Connected, Rotation: row.Rotation,
		})
	}
	return devices, err
}

func (a *App) listCAs() []control.CA {
	var cas []control.CA
	if a.alone == nil {
		return cas
	}
	for _, entry := range a.alone.CA().Entries() {
		cas = append(cas, caView(entry))
	}
	return cas
}

func (a *App) crl(ctx context.Context, id string, lifetime time.Duration) (control.CRL, error) {
	if a.alone == nil {
		return control.CRL{}, errNoCRL
	}
	made, err := a.alone.CRL(ctx, id, lifetime)
	return control.CRL{
		Number: made.Number, NextUpdate: made.Until, Entries: made.Entries, Others: made.Others,
		PEM: string(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: made.DER})),
	}, caRefusal(err)
}

func (a *App) note(ctx context.Context, e control.Event) error {
	return a.world.Store().Audit().Note(ctx, e.Kind, e.Device, e.Certificate, e.Detail)
}

func (a *App) timeline(ctx context.Context, id registry.DeviceID) ([]control.Event, error) {
	rows, err := a.world.Store().Audit().Timeline(ctx, id)
	events := make([]control.Event, 0, len(rows))
	for _, row := range rows {
		delete(row.Detail, "der") // for a restore, not for people
		events = append(events, control.Event{
			At: row.At, Kind: row.Kind, Device: row.Device, Certificate: row.Certificate, Detail: row.Detail,
		})
	}
	return events, err
}
