package control

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/certvendor/certvendor/jobs"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

// together is how many devices of one request are at work at a time, so that
// their commits can share a sync.
const together = 32

// names is the body of a request about many devices.
type names struct {
	Names []string `json:"names"`
}

func (s *Server) join(r *http.Request) (any, error) {
	canceled, err := s.jobCanceled(r.Context())
	if err != nil {
		return nil, err
	}
	outcomes, err := s.forEach(r, "rotation_add", func(ctx context.Context, d registry.Device) (Outcome, error) {
		return Outcome{Warning: noJobYet(d, canceled)}, s.Group.Add(ctx, d.ID)
	})
	if err == nil {
		s.AddedMember()
	}
	return outcomes, err
}

func (s *Server) leave(r *http.Request) (any, error) {
	return s.forEach(r, "rotation_remove", func(ctx context.Context, d registry.Device) (Outcome, error) {
		back, err := s.putsBack(ctx, d.ID)
		if err != nil {
			return Outcome{}, err
		}
		return Outcome{Warning: back}, s.Group.Remove(ctx, d.ID, time.Time{})
	})
}

// putsBack says which campaign adds a device to the group again that leaves it, or
// nothing.
func (s *Server) putsBack(ctx context.Context, id registry.DeviceID) (string, error) {
	if s.Campaigns.CampaignStore == nil { // this world has none
		return "", nil
	}
	names, err := s.Campaigns.PutsBack(ctx, id)
	if err != nil || len(names) == 0 {
		return "", err
	}
	return fmt.Sprintf("device %s is put back by campaign %s, which runs: `certvendor campaign pause %s` first, or `certvendor device block %s`",
		id, strings.Join(names, " and "), names[0], id), nil
}

// act is what a request about many devices does to each, and what it says of it.
type act func(context.Context, registry.Device) (Outcome, error)

// forEach does something to every device of a request, and says of each how it
// went.
func (s *Server) forEach(r *http.Request, kind string, do act) ([]Outcome, error) {
	ctx := r.Context()
	var asked names
	if err := read(r, &asked); err != nil {
		return nil, err
	}
	if len(asked.Names) > batch {
		return nil, refuse(http.StatusBadRequest, "%d names in one request, more than %d", len(asked.Names), batch)
	}
	outcomes := make([]Outcome, len(asked.Names))
	var working errgroup.Group
	working.SetLimit(together)
	for i, name := range asked.Names {
		working.Go(func() error {
			outcome, err := s.one(ctx, name, kind, do)
			if err != nil {
				outcome = Outcome{Error: err.Error()}
			}
			outcome.Device = name
			outcomes[i] = outcome
			return nil
		})
	}
	_ = working.Wait() // each device has an outcome of its own
	return outcomes, nil
}

func (s *Server) one(ctx context.Context, name, kind string, do act) (Outcome, error) {
	d, err := s.device(ctx, name)
	if err != nil {
		return Outcome{}, err
	}
	if err := s.note(ctx, Event{Kind: kind, Device: d.ID}); err != nil {
		return Outcome{}, err
	}
	return do(ctx, d)
}

func (s *Server) listMembers(r *http.Request) (any, error) {
	limit, err := limitOf(r)
	if err != nil {
		return nil, err
	}
	members, err := s.Group.Members(r.Context(), registry.DeviceID(r.URL.Query().Get("after")), limit)
	return each(members, func(m rotation.Member) Member { return Member{string(m.Device), m.Since} }), err
}

var states = []rotation.State{
	rotation.Intended, rotation.Issued, rotation.Vended, rotation.Acknowledged, rotation.Proven,
	rotation.Finished, rotation.Stale, rotation.Superseded, rotation.Abandoned,
}

func (s *Server) listRotations(r *http.Request) (any, error) {
	asked := r.URL.Query()
	state := rotation.State(asked.Get("state"))
	if state != "" && !slices.Contains(states, state) {
		return nil, refuseOther("state", state, states)
	}
	page, err := s.Rotations.Rotations(r.Context(), rotation.Query{
		Device: registry.DeviceID(asked.Get("device")), State: state,
		Open: asked.Get("open") == "true", After: registry.DeviceID(asked.Get("after")), Limit: batch,
	})
	return each(page, rotationView), err
}

func (s *Server) status(r *http.Request) (any, error) {
	ctx := r.Context()
	counts, err := s.Rotations.Counts(ctx)
	if err != nil {
		return nil, fmt.Errorf("count rotations: %w", err)
	}
	job, err := s.Jobs.Status(ctx)
	if err != nil {
		return nil, fmt.Errorf("status of the job: %w", err)
	}
	frozen, err := s.Brakes.Frozen(ctx)
	if err != nil {
		return nil, fmt.Errorf("read what is frozen: %w", err)
	}
	members, err := s.countMembers(ctx)
	if err != nil {
		return nil, err
	}
	status := Status{
		Members: members, Waiting: job.Waiting, PerMinute: s.PerMinute,
		JobCanceled: job.Job.State == jobs.Canceled, Executions: job.Executions, Rotations: counts.States,
		Retirements: counts.Retirements, Stuck: counts.Stuck, Orphans: counts.Orphans, Frozen: Frozen(frozen), Observes: s.Observes,
	}
	if !status.JobCanceled {
		status.MinutesLeft = (job.Waiting + s.PerMinute - 1) / max(s.PerMinute, 1)
	}
	if err := s.Ready(ctx); err != nil {
		status.NotReady = err.Error()
	}
	status.Auto, err = s.autoView(ctx)
	return status, err
}

func (s *Server) countMembers(ctx context.Context) (int, error) {
	n, after := 0, registry.DeviceID("")
	for {
		page, err := s.Group.Members(ctx, after, batch)
		if err != nil {
			return 0, fmt.Errorf("count members: %w", err)
		}
		if len(page) == 0 {
			return n, nil
		}
		n, after = n+len(page), page[len(page)-1].Device
	}
}

func (s *Server) sweep(r *http.Request) (any, error) {
	var asked struct {
		TrustClock bool `json:"trustClock"`
	}
	if err := read(r, &asked); err != nil {
		return nil, err
	}
	if asked.TrustClock {
		if err := s.note(r.Context(), Event{Kind: "trust_clock"}); err != nil {
			return nil, err
		}
	}
	swept, err := s.Sweep(r.Context(), asked.TrustClock)
	return Swept(swept), err
}
