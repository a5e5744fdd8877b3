package app

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/certvendor/certvendor/internal/aws"
	"github.com/certvendor/certvendor/internal/control"
	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/vending"
)

// onRecord returns what a survey asks about each device: a vendor that answers
// by the store alone, and asks nobody else. It is asked what it would answer,
// and nothing else.
func (a *App) onRecord(instance string, profile vending.Profile) (*control.Recorded, error) {
	live := a.backend
	defer func() { a.backend = live }()
	if a.cloud != nil {
		a.backend.Registry, a.backend.Inventory = a.cloud.Recorded()
	}
	vendor, err := a.vendor(instance, profile, nil)
	if err != nil {
		return nil, err
	}
	return &control.Recorded{Registry: a.backend.Registry, Inventory: a.backend.Inventory, Rehearse: vendor.Rehearse}, nil
}

// syncer returns what reads AWS IoT's inventory into the store, or nil.
func (a *App) syncer() control.Syncer {
	if a.cloud == nil {
		return nil
	}
	return syncer{a.cloud.Syncer(), a.cloud.Store().Sync()}
}

// syncer says in the operator's words what the world's does.
type syncer struct {
	*aws.Syncer
	todo store.Sync
}

func (s syncer) Begin(ctx context.Context, asked control.SyncRequest) (control.Sync, error) {
	state, err := s.Syncer.Begin(ctx, aws.SyncOrder{Source: aws.SyncSource(asked.Source), Query: asked.Query, Full: asked.Full})
	if err != nil {
		return control.Sync{}, syncRefusal(err)
	}
	return s.view(ctx, state)
}

func (s syncer) Name(ctx context.Context, names control.SyncNames) error {
	var todo []store.Todo
	for _, name := range names.Things {
		todo = append(todo, store.Todo{What: store.TodoDevice, Name: name})
	}
	for _, id := range names.Certificates {
		todo = append(todo, store.Todo{What: store.TodoCertificate, Name: id})
	}
	return syncRefusal(s.Syncer.Name(ctx, todo))
}

func (s syncer) Stop(ctx context.Context) (control.Sync, error) {
	state, err := s.Syncer.Stop(ctx)
	if err != nil {
		return control.Sync{}, err
	}
	return s.view(ctx, state)
}

func (s syncer) State(ctx context.Context) (control.Sync, error) {
	return s.view(ctx, s.Syncer.State())
}

func syncRefusal(err error) error {
	if errors.Is(err, aws.ErrSyncing) {
		return fmt.Errorf("%w%s", control.ErrSyncing, strings.TrimPrefix(err.Error(), aws.ErrSyncing.Error()))
	}
	return err
}

func (s syncer) view(ctx context.Context, state aws.SyncState) (control.Sync, error) {
	view := control.Sync{
		SyncRequest: control.SyncRequest{Source: string(state.Source), Query: state.Query, Full: state.Full},
		Phase:       string(state.Phase), Began: state.Began, Ended: state.Ended, Whole: state.Whole,
		Listed: control.Listed{
			Things: state.Listed["things"], Certificates: state.Listed["certificates"], Findings: state.Listed["findings"],
		},
		Total: state.Total, Read: state.Read, Failed: state.Failed, Left: state.Total - state.Read - state.Failed,
		Found: control.Changes{
			New: state.Found[store.FoundNew], Off: state.Found[store.FoundOff], On: state.Found[store.FoundOn],
			Policies: state.Found[store.FoundOther], Left: state.Found[store.FoundLeft],
		},
		Alien: state.Strange, Why: state.Why,
	}
	if view.Phase == "" {
		view.Phase = "never"
	}
	var err error
	view.Devices, view.Certificates, err = s.todo.Count(ctx)
	return view, err
}
