package aws

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/rs/zerolog"

	"github.com/certvendor/certvendor/internal/store"
)

// SyncSource says where a sync begins.
type SyncSource string

// The sources.
const (
	SyncAll      SyncSource = "all"      // every certificate and every thing
	SyncDefender SyncSource = "defender" // what Device Defender's audits have found
	SyncIndex    SyncSource = "index"    // what a query of the fleet index finds
	SyncNames    SyncSource = "names"    // what somebody has named
)

// SyncOrder is a sync that somebody asks for.
type SyncOrder struct {
	Source SyncSource `json:"source"`
	Query  string     `json:"query,omitempty"` // of the fleet index; empty: every thing
	// Full reads again what is known already.
	Full bool `json:"full,omitempty"`
}

// SyncPhase is what a sync does.
type SyncPhase string

// The phases, in order.
const (
	SyncNever        SyncPhase = ""             // there was none yet
	SyncCertificates SyncPhase = "certificates" // it lists those of AWS IoT, or what its source has found
	SyncThings       SyncPhase = "things"       // it lists them
	SyncReading      SyncPhase = "reading"      // it reads one after the other
	SyncDone         SyncPhase = "done"
	SyncStopped      SyncPhase = "stopped" // by a person
)

// atWork reports whether something is left to do.
func (p SyncPhase) atWork() bool { return p != SyncNever && p != SyncDone && p != SyncStopped }

// SyncState is how far the last sync has come. It is durable at every page and
// every few things that were read.
type SyncState struct {
	SyncOrder
	Phase  SyncPhase `json:"phase,omitempty"`
	Marker string    `json:"marker,omitempty"` // of the list that it is in
	Began  time.Time `json:"began,omitzero"`
	Ended  time.Time `json:"ended,omitzero"`
	Whole  time.Time `json:"whole,omitzero"` // when the last of everything began that has come to its end

	Fully time.Time `json:"fully,omitzero"` // the same, of one that read everything again and left nothing out

	ByThing bool `json:"byThing,omitempty"` // who holds what is asked of the things

	Listed  map[string]int      `json:"listed,omitempty"` // by what: certificates, things
	Total   int                 `json:"total"`            // to be read
	Read    int                 `json:"read"`             // of these
	Failed  int                 `json:"failed,omitempty"` // of these, given up
	Found   map[store.Found]int `json:"found,omitempty"`
	Strange int                 `json:"strange,omitempty"` // things that are no devices of the registry
	Why     string              `json:"why,omitempty"`     // the last thing that failed

	number int64 // of the position in the store that it is
}

// clone returns a state of its own, whose maps can be written.
func (s SyncState) clone() SyncState {
	listed, found := map[string]int{}, map[store.Found]int{}
	maps.Copy(listed, s.Listed)
	maps.Copy(found, s.Found)
	s.Listed, s.Found = listed, found
	return s
}

// Syncer reads what AWS IoT has into the store, in the background: it only
// reads there. The store is brought down to what AWS says, never beyond it, and
// nothing is retired. A process that dies goes on where it was.
//
// Read sync_list.go for what is to be read, sync_source.go for the faster
// sources, sync_read.go for how one is read.
type Syncer struct {
	todo      store.Sync
	rows      store.Certificates
	devices   store.Devices
	inventory *Inventory
	registry  *Registry
	group     *Group
	iot       *iot.Client
	now       func() time.Time
	log       zerolog.Logger
	rest      time.Duration // after a failure of all that was tried
	poked     chan struct{}

	mu    sync.Mutex // held for moments: never while something is read or written
	state SyncState  // what the store has
}

func newSyncer(w *World) *Syncer {
	return &Syncer{
		todo: w.store.Sync(), rows: w.store.Certificates(), devices: w.store.Devices(), inventory: w.inventory,
		registry: w.registry, group: w.group, iot: w.config.Clients.IoT, now: w.config.Now, log: w.config.Log,
		rest: syncRest, poked: make(chan struct{}, 1),
	}
}

// syncRest is the pause after which is tried again what AWS did not answer.
const syncRest = 15 * time.Second

// ErrSyncing says that another sync is at work.
var ErrSyncing = errors.New("another sync of the inventory is at work")

// load reads how far the last sync was.
func (s *Syncer) load(ctx context.Context) (err error) {
	var state SyncState
	if state.number, err = s.todo.Position(ctx, &state); err == nil {
		s.keep(state)
	}
	return err
}

// fullySince reports whether all of the inventory was read since a moment.
func (s *Syncer) fullySince(moment time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state.Fully.After(moment)
}

// afterRestore begins a sync of everything, again and in full, once after the
// store was restored.
func (s *Syncer) afterRestore(ctx context.Context, restored time.Time) error {
	if restored.IsZero() || s.State().Began.After(restored) {
		return nil
	}
	s.log.Info().Msg("the store was restored: AWS's inventory is read into it")
	_, err := s.Begin(ctx, SyncOrder{Source: SyncAll, Full: true})
	return err
}

// State returns how far the last sync has come.
func (s *Syncer) State() SyncState {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state.clone()
}

// Begin begins a sync, or joins the same one if that is at work. Of another one
// at work it returns an error of kind ErrSyncing.
func (s *Syncer) Begin(ctx context.Context, order SyncOrder) (SyncState, error) {
	return s.change(func(is SyncState) (SyncState, error) {
		if is.Phase.atWork() && is.SyncOrder == order {
			return is, nil
		}
		next, err := s.first(ctx, order, is)
		if err != nil {
			return is, err
		}
		err = s.note(&next, func(at store.Position) error { return s.todo.Add(ctx, nil, at) })
		return next, err
	})
}

// first returns where a sync begins that follows another.
func (s *Syncer) first(ctx context.Context, order SyncOrder, is SyncState) (SyncState, error) {
	if err := is.unlessAtWork(); err != nil {
		return is, err
	}
	next := SyncState{SyncOrder: order, Phase: SyncCertificates, Began: s.now(), Whole: is.Whole, Fully: is.Fully, number: is.number}.clone()
	if order.Source == SyncNames {
		left, err := s.todo.Left(ctx)
		if err != nil {
			return is, err
		}
		next.Phase, next.Total = SyncReading, left[store.TodoCertificate]+left[store.TodoDevice]
	}
	return next, nil
}

// Name notes things and certificates that are to be read by the next sync of
// SyncNames.
func (s *Syncer) Name(ctx context.Context, todo []store.Todo) error {
	_, err := s.change(func(is SyncState) (SyncState, error) {
		if err := is.unlessAtWork(); err != nil {
			return is, err
		}
		return is, s.note(&is, func(at store.Position) error { return s.todo.Add(ctx, todo, at) })
	})
	return err
}

func (s SyncState) unlessAtWork() error {
	if !s.Phase.atWork() {
		return nil
	}
	return fmt.Errorf("%w: from %s, begun %s", ErrSyncing, s.Source, s.Began.UTC().Format(time.RFC3339))
}

// Stop ends the sync that is at work. What it has read stays. Idempotent.
func (s *Syncer) Stop(ctx context.Context) (SyncState, error) {
	return s.change(func(is SyncState) (SyncState, error) {
		if is.Phase.atWork() {
			is.Phase, is.Ended = SyncStopped, s.now()
		}
		return is, s.note(&is, func(at store.Position) error { return s.todo.Drop(ctx, at) })
	})
}

// change has change make another state of the one that is, again whenever what
// it was made from has gone on meanwhile.
func (s *Syncer) change(change func(is SyncState) (SyncState, error)) (SyncState, error) {
	for {
		next, err := change(s.State())
		if errors.Is(err, store.ErrOvertaken) {
			continue
		}
		if err != nil {
			return s.State(), err
		}
		return next, nil
	}
}

func (s *Syncer) poke() {
	select {
	case s.poked <- struct{}{}:
	default: // it will look anyway
	}
}

// Run goes on with what was begun, until ctx ends. It is called once.
func (s *Syncer) Run(ctx context.Context) {
	for {
		if err := s.work(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn().Err(err).Msg("the sync of the inventory is left for later")
			select {
			case <-ctx.Done():
			case <-s.poked:
			case <-time.After(s.rest):
			}
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-s.poked:
		}
	}
}

// work goes on until nothing is left, or something fails.
func (s *Syncer) work(ctx context.Context) error {
	for ctx.Err() == nil {
		state := s.State()
		if !state.Phase.atWork() {
			return nil
		}
		if state.Failed == 0 {
			state.Why = ""
		}
		err := s.step(ctx, &state)
		if err != nil && !errors.Is(err, store.ErrOvertaken) {
			s.failed(state, err)
			return err
		}
	}
	return ctx.Err()
}

func (s *Syncer) step(ctx context.Context, state *SyncState) error {
	switch state.Phase {
	case SyncCertificates:
		switch state.Source {
		case SyncDefender:
			return s.listFindings(ctx, state)
		case SyncIndex:
			return s.listIndex(ctx, state)
		}
		return s.listCertificates(ctx, state)
	case SyncThings:
		return s.listThings(ctx, state)
	}
	return s.read(ctx, state)
}

// note writes a state down with a change to what is to be read, and makes it the
// sync's. It returns store.ErrOvertaken if the sync is not where the state was
// made from: somebody has stopped it meanwhile, or begun another.
func (s *Syncer) note(state *SyncState, write func(store.Position) error) error {
	next := state.clone()
	next.number++
	err := write(store.Position{Number: next.number, State: next, Kept: func() { s.keep(next) }})
	if err == nil {
		state.number = next.number
	}
	return err
}

// keep takes what the store has, and has that gone on with.
func (s *Syncer) keep(state SyncState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	begins := state.Phase.atWork() && !s.state.Phase.atWork()
	s.state = state
	if begins {
		s.poke()
	}
}

// failed says for whoever watches why nothing goes on.
func (s *Syncer) failed(state SyncState, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state.number == state.number {
		s.state.Why = err.Error()
	}
}
