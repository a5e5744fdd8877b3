package app

import (
	"context"
	"errors"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/control"
	"github.com/certvendor/certvendor/internal/standalone"
	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/registry"
)

// authority is the world's CA in the operator's words.
type authority struct{ world *standalone.World }

var _ control.Authority = authority{}

// authority returns what changes the world's CA, where it has one of its own.
func (a *App) authority() control.Authority {
	if a.alone == nil {
		return noAuthority{}
	}
	return authority{a.alone}
}

func (a authority) RotateCA(ctx context.Context) (control.CA, error) {
	made, err := a.world.RotateCA(ctx)
	return caView(made), caRefusal(err)
}

func (a authority) RequestCA(ctx context.Context, fresh bool) (string, error) {
	text, err := a.world.RequestCA(ctx, fresh)
	return string(text), caRefusal(err)
}

func (a authority) ImportCA(ctx context.Context, chain string) (control.CA, error) {
	made, err := a.world.ImportCA(ctx, []byte(chain))
	return caView(made), caRefusal(err)
}

func (a authority) UsesOfCA(ctx context.Context, id certificate.ID) (control.CAUses, error) {
	uses, err := a.world.UsesCA(ctx, id)
	return control.CAUses(uses), err
}

func (a authority) RetireCA(ctx context.Context, id certificate.ID, lose int) error {
	err := a.world.RetireCA(ctx, id, lose)
	if inUse := (store.InUse{}); errors.As(err, &inUse) {
		return control.CAInUse{Uses: control.CAUses(inUse.Uses)}
	}
	return caRefusal(err)
}

// caRefusal says a refusal in the operator's words, and passes on what is none.
func caRefusal(err error) error {
	if why := (standalone.Refused{}); errors.As(err, &why) {
		return control.CARefused{Why: why.Why}
	}
	return err
}

func caView(e standalone.CAEntry) control.CA {
	return control.CA{
		Role: e.Role, Subject: e.Subject, ID: e.ID, NotAfter: e.NotAfter, Key: e.Key, Encrypted: e.Encrypted, Retired: e.Retired,
	}
}

// noAuthority is that of a world whose CA is somewhere else.
type noAuthority struct{}

var refusedCA = control.CARefused{Why: errNoOwnCA.Error()}

func (noAuthority) RotateCA(context.Context) (control.CA, error)    { return control.CA{}, refusedCA }
func (noAuthority) RequestCA(context.Context, bool) (string, error) { return "", refusedCA }
func (noAuthority) ImportCA(context.Context, string) (control.CA, error) {
	return control.CA{}, refusedCA
}
func (noAuthority) RetireCA(context.Context, certificate.ID, int) error { return refusedCA }

func (noAuthority) PrepareServerCA(context.Context) (control.CA, error) {
	return control.CA{}, refusedCA
}
func (noAuthority) UseServerCA(context.Context, int) (control.CA, error) {
	return control.CA{}, refusedCA
}
func (noAuthority) AbandonServerCA(context.Context) (control.CA, error) {
	return control.CA{}, refusedCA
}
func (noAuthority) CountMissing(context.Context) (int, error) { return 0, nil }

func (noAuthority) ListMissing(context.Context, registry.DeviceID, int) ([]registry.DeviceID, error) {
	return nil, refusedCA
}

func (noAuthority) UsesOfCA(context.Context, certificate.ID) (control.CAUses, error) {
	return control.CAUses{}, refusedCA
}

// servers returns what changes the world's server CA, where it has one.
func (a *App) servers() control.Servers {
	if a.alone == nil {
		return noAuthority{}
	}
	return servers{a.alone}
}

// servers is the world's server CA in the operator's words.
type servers struct{ world *standalone.World }

var _ control.Servers = servers{}

func (s servers) PrepareServerCA(ctx context.Context) (control.CA, error) {
	made, err := s.world.PrepareServerCA(ctx)
	return caView(made), caRefusal(err)
}

func (s servers) UseServerCA(ctx context.Context, cutOff int) (control.CA, error) {
	used, err := s.world.UseServerCA(ctx, cutOff)
	if missing := (store.Missing{}); errors.As(err, &missing) {
		return control.CA{}, control.CutOff(missing)
	}
	return caView(used), caRefusal(err)
}

func (s servers) AbandonServerCA(ctx context.Context) (control.CA, error) {
	abandoned, err := s.world.AbandonServerCA(ctx)
	return caView(abandoned), caRefusal(err)
}

func (s servers) CountMissing(ctx context.Context) (int, error) { return s.world.CountMissing(ctx) }

func (s servers) ListMissing(ctx context.Context, after registry.DeviceID, limit int) ([]registry.DeviceID, error) {
	return s.world.Missing(ctx, after, limit)
}
