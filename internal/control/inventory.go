package control

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/registry"
)

// ErrSyncing says that another sync of the inventory is at work.
var ErrSyncing = errors.New("another sync is at work")

// Syncer reads what another place has into the inventory, behind everything
// else. A daemon that dies goes on where it was.
type Syncer interface {
	// Begin begins a sync, or joins the same one; of another one at work it
	// returns ErrSyncing.
	Begin(context.Context, SyncRequest) (Sync, error)
	// Name notes what the next sync from names is to read; ErrSyncing while
	// one is at work.
	Name(context.Context, SyncNames) error
	// Stop ends the sync at work. What it has read stays. Idempotent.
	Stop(context.Context) (Sync, error)
	// State says how far it is.
	State(context.Context) (Sync, error)
	// Look reads at once, beside any sync, what there is of a thing's
	// certificates, and returns those that are ACTIVE in the inventory then.
	Look(context.Context, registry.DeviceID) ([]certificate.ID, error)
}

// Looked is what Look has found.
type Looked struct {
	Active []certificate.ID `json:"active"` // certificates of the thing
}

// SyncSources are where a sync may begin.
var SyncSources = []string{"all", "defender", "index", "names"}

// SyncRequest asks for a sync.
type SyncRequest struct {
	Source string `json:"source"`          // one of SyncSources
	Query  string `json:"query,omitempty"` // of the index
	Full   bool   `json:"full,omitempty"`  // reads again what is known
}

// SyncNames are what the next sync from names is to read.
type SyncNames struct {
	Things       []string `json:"things,omitempty"`
	Certificates []string `json:"certificates,omitempty"` // their ids
}

// Sync is how far the last sync of the inventory has come.
type Sync struct {
	SyncRequest
	Phase  string    `json:"phase"` // never, certificates, things, reading, done or stopped
	Began  time.Time `json:"began,omitzero"`
	Ended  time.Time `json:"ended,omitzero"`
	Whole  time.Time `json:"whole,omitzero"`  // when the last of everything began that has come to its end
	Listed Listed    `json:"listed"`          // so far
	Total  int       `json:"total"`           // to be read, once everything is listed
	Read   int       `json:"read"`            // of these
	Failed int       `json:"failed"`          // of these, given up
	Left   int       `json:"left"`            // of these
	Found  Changes   `json:"found"`           // among what was read
	Alien  int       `json:"alien,omitempty"` // things that are no devices of the registry
	Why    string    `json:"why,omitempty"`   // the last thing that failed

	Devices      int `json:"devices"`      // in the registry
	Certificates int `json:"certificates"` // in the inventory
}

// Listed is how many a source has named.
type Listed struct {
	Things       int `json:"things"`
	Certificates int `json:"certificates"`
	Findings     int `json:"findings"` // of Device Defender
}

// Changes are what a sync has changed in the inventory, and what it has not.
type Changes struct {
	New      int `json:"new"`
	Off      int `json:"off"`      // ACTIVE here until then, and not there
	On       int `json:"on"`       // INACTIVE here because they were there
	Policies int `json:"policies"` // have others
	Left     int `json:"left"`     // differ, and stay as they are here
}

// AtWork reports whether something is left to do.
func (s Sync) AtWork() bool { return s.Phase != "never" && s.Phase != "done" && s.Phase != "stopped" }

var errNoSync = refuse(http.StatusConflict, "the inventory of this backend is its own store: there is nothing to read it from")

func (s *Server) beginSync(r *http.Request) (any, error) {
	var asked SyncRequest
	if err := read(r, &asked); err != nil {
		return nil, err
	}
	switch {
	case s.Syncer == nil:
		return nil, errNoSync
	case !slices.Contains(SyncSources, asked.Source):
		return nil, refuseOther("source", asked.Source, SyncSources)
	case asked.Query != "" && asked.Source != "index":
		return nil, refuse(http.StatusBadRequest, "only the index takes a query")
	}
	err := s.note(r.Context(), Event{Kind: "inventory_sync", Detail: map[string]string{"source": asked.Source, "query": asked.Query}})
	if err != nil {
		return nil, err
	}
	state, err := s.Syncer.Begin(r.Context(), asked)
	return state, syncing(err)
}

func (s *Server) nameForSync(r *http.Request) (any, error) {
	var asked SyncNames
	if err := read(r, &asked); err != nil {
		return nil, err
	}
	if s.Syncer == nil {
		return nil, errNoSync
	}
	if n := len(asked.Things) + len(asked.Certificates); n > batch {
		return nil, refuse(http.StatusBadRequest, "%d names in one request, more than %d", n, batch)
	}
	for _, name := range asked.Things {
		if _, err := registry.ParseDeviceID(name); err != nil {
			return nil, refuse(http.StatusBadRequest, "%v", err)
		}
	}
	for _, id := range asked.Certificates {
		if _, err := certificate.ParseID(id); err != nil {
			return nil, refuse(http.StatusBadRequest, "%v", err)
		}
	}
	return struct{}{}, syncing(s.Syncer.Name(r.Context(), asked))
}

func (s *Server) stopSync(r *http.Request) (any, error) {
	if s.Syncer == nil {
		return nil, errNoSync
	}
	if err := s.note(r.Context(), Event{Kind: "inventory_stop"}); err != nil {
		return nil, err
	}
	return s.Syncer.Stop(r.Context())
}

func (s *Server) lookAtThing(r *http.Request) (any, error) {
	thing, err := registry.ParseDeviceID(r.PathValue("name"))
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "%v", err)
	}
	if s.Syncer == nil {
		return nil, errNoSync
	}
	if err := s.note(r.Context(), Event{Kind: "inventory_look", Device: thing}); err != nil {
		return nil, err
	}
	active, err := s.Syncer.Look(r.Context(), thing)
	return Looked{active}, err
}

func (s *Server) showSync(r *http.Request) (any, error) {
	if s.Syncer == nil {
		return nil, errNoSync
	}
	return s.Syncer.State(r.Context())
}

// syncing makes a refusal of a sync that another keeps from beginning.
func syncing(err error) error {
	if errors.Is(err, ErrSyncing) {
		return refuse(http.StatusConflict, "%v: `certvendor inventory show --watch` watches it, `certvendor inventory stop` ends it", err)
	}
	return err
}

// BeginSync begins a sync of the inventory, or joins the same one.
func (c *Client) BeginSync(ctx context.Context, asked SyncRequest) (Sync, error) {
	return ask[Sync](ctx, c, request{method: http.MethodPost, path: "/v1/inventory/sync", body: asked})
}

// NameForSync notes what the next sync from names is to read, in as many
// requests as it takes.
func (c *Client) NameForSync(ctx context.Context, names SyncNames) error {
	for len(names.Things)+len(names.Certificates) > 0 {
		var part SyncNames
		part.Things, names.Things = cut(names.Things, batch)
		part.Certificates, names.Certificates = cut(names.Certificates, batch-len(part.Things))
		_, err := ask[struct{}](ctx, c, request{method: http.MethodPost, path: "/v1/inventory/names", body: part})
		if err != nil {
			return err
		}
	}
	return nil
}

func cut(all []string, most int) (first, rest []string) {
	n := min(len(all), most)
	return all[:n], all[n:]
}

// StopSync ends the sync of the inventory that is at work.
func (c *Client) StopSync(ctx context.Context) (Sync, error) {
	return ask[Sync](ctx, c, request{method: http.MethodPost, path: "/v1/inventory/stop"})
}

// Sync says how far the last sync of the inventory has come.
func (c *Client) Sync(ctx context.Context) (Sync, error) {
	return ask[Sync](ctx, c, request{method: http.MethodGet, path: "/v1/inventory"})
}

// LookAtThing has the daemon read at once what there is of a thing's
// certificates, and returns those that are ACTIVE in the inventory then.
func (c *Client) LookAtThing(ctx context.Context, name string) ([]certificate.ID, error) {
	looked, err := ask[Looked](ctx, c, request{method: http.MethodPost, path: "/v1/inventory/look/" + url.PathEscape(name)})
	return looked.Active, err
}
