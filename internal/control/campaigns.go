package control

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/certvendor/certvendor/campaign"
	"github.com/certvendor/certvendor/registry"
)

// CampaignStore is what a campaign's operators need of its store.
type CampaignStore interface {
	// Apply enters a campaign with its members, and lets it run; made is false
	// where it is there already, and the error campaign.ErrDiffers where one of
	// its name is another.
	Apply(ctx context.Context, c campaign.Campaign, members []campaign.Member) (made bool, err error)
	// Find returns a campaign, or campaign.ErrUnknown.
	Find(ctx context.Context, name string) (campaign.Campaign, error)
	// List returns every campaign there ever was, the newest first.
	List(context.Context) ([]campaign.Campaign, error)
	// Members returns a page of a campaign's members by place, after one.
	Members(ctx context.Context, name string, after, most int) ([]campaign.Member, error)
	// PutsBack returns the campaigns that run and have let a device in which has
	// not begun to rotate: they add it to the group again.
	PutsBack(context.Context, registry.DeviceID) ([]string, error)
	// Candidates calls look with every device of the registry.
	Candidates(ctx context.Context, attributes []string, look func(campaign.Candidate)) error
}

// Campaigns is what the server needs for campaigns.
type Campaigns struct {
	CampaignStore
	Running campaign.Store
	Runner  *campaign.Runner
	Pace    campaign.Pace // what bounds every campaign
	Poke    func()        // has the runner look at once
	// Obstacles says what in this world stands in the way of a device, and
	// Hindrance what stands in everybody's; "" is nothing. Optional.
	Obstacles func(campaign.Candidate) []string
	Hindrance func(context.Context) string
}

// maxSpec bounds a campaign's spec, which may name 100,000 devices.
const maxSpec = 16 << 20

func (s *Server) planCampaign(r *http.Request) (any, error) {
	spec, err := readSpec(r)
	if err != nil {
		return nil, err
	}
	plan, err := s.plan(r.Context(), spec)
	if err != nil {
		return nil, err
	}
	switch _, err := s.Campaigns.Find(r.Context(), spec.Name); {
	case err == nil:
		plan.Threaten("campaign " + spec.Name + " is there already, and is not made again: give this one another name")
	case !errors.Is(err, campaign.ErrUnknown):
		return nil, err
	}
	return plan, nil
}

func readSpec(r *http.Request) (spec campaign.Spec, err error) {
	if err := read(r, &spec); err != nil {
		return spec, err
	}
	spec = spec.WithDefaults()
	if spec.Name == campaign.AutoName {
		return spec, refuse(http.StatusBadRequest, "campaign %s: the name is the daemon's own: rotation.auto of its configuration makes it", spec.Name)
	}
	if err := spec.Validate(); err != nil {
		return spec, refuse(http.StatusBadRequest, "campaign %s: %v", spec.Name, err)
	}
	return spec, nil
}

// plan foretells a spec's campaign.
func (s *Server) plan(ctx context.Context, spec campaign.Spec) (campaign.Plan, error) {
	if end := spec.Deadline; !end.IsZero() && !s.Now().Before(end) {
		return campaign.Plan{}, refuse(http.StatusBadRequest, "campaign %s: its deadline %s has passed", spec.Name, stamp(end))
	}
	planner, err := campaign.NewPlanner(spec, s.Now())
	if err != nil {
		return campaign.Plan{}, err
	}
	planner.Obstacles = s.Campaigns.Obstacles
	if err := s.Campaigns.Candidates(ctx, spec.Attributes(), planner.Look); err != nil {
		return campaign.Plan{}, err
	}
	plan := planner.Plan(s.Campaigns.Pace)
	if s.Campaigns.Hindrance == nil || plan.Devices == 0 {
		return plan, nil
	}
	if what := s.Campaigns.Hindrance(ctx); what != "" {
		plan.Threaten(what)
	}
	return plan, nil
}

func (s *Server) applyCampaign(r *http.Request) (any, error) {
	ctx := r.Context()
	spec, err := readSpec(r)
	if err != nil {
		return nil, err
	}
	s.applying.Lock()
	defer s.applying.Unlock()
	var plan campaign.Plan
	switch _, err := s.Campaigns.Find(ctx, spec.Name); {
	case errors.Is(err, campaign.ErrUnknown):
		if plan, err = s.planNew(ctx, spec); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, err
	}
	c := campaign.Campaign{Spec: spec, State: campaign.Running, Devices: plan.Devices, By: peer(ctx), Applied: s.Now()}
	made, err := s.Campaigns.Apply(ctx, c, plan.Members)
	switch {
	case errors.Is(err, campaign.ErrDiffers):
		return nil, refuse(http.StatusConflict, "campaign %s is there with another spec: give this one another name", spec.Name)
	case err != nil:
		return nil, err
	}
	s.Campaigns.Poke()
	return s.campaignView(ctx, spec.Name, !made)
}

// planNew foretells a campaign that is about to be made, and writes into the
// audit by whom.
func (s *Server) planNew(ctx context.Context, spec campaign.Spec) (campaign.Plan, error) {
	plan, err := s.plan(ctx, spec)
	if err != nil {
		return plan, err
	}
	if plan.Devices == 0 {
		return plan, refuse(http.StatusConflict, "campaign %s: chooses no device that can take part; `certvendor campaign plan` says why", spec.Name)
	}
	return plan, s.note(ctx, Event{Kind: "campaign_apply", Detail: map[string]string{"campaign": spec.Name, "devices": strconv.Itoa(plan.Devices)}})
}

func (s *Server) listCampaigns(r *http.Request) (any, error) {
	all, err := s.Campaigns.List(r.Context())
	if err != nil {
		return nil, err
	}
	views := []Campaign{}
	for _, c := range all {
		view, err := s.viewOf(r.Context(), c)
		if err != nil {
			return nil, err
		}
		views = append(views, view)
	}
	return views, nil
}

func (s *Server) showCampaign(r *http.Request) (any, error) {
	return s.campaignView(r.Context(), r.PathValue("name"), false)
}

func (s *Server) campaignView(ctx context.Context, name string, unchanged bool) (Campaign, error) {
	c, err := s.findCampaign(ctx, name)
	if err != nil {
		return Campaign{}, err
	}
	view, err := s.viewOf(ctx, c)
	view.Unchanged = unchanged
	return view, err
}

func (s *Server) findCampaign(ctx context.Context, name string) (campaign.Campaign, error) {
	c, err := s.Campaigns.Find(ctx, name)
	if errors.Is(err, campaign.ErrUnknown) && name == campaign.AutoName {
		return c, refuse(http.StatusNotFound, "campaign %s is not known: rotation.auto.enabled makes it", name)
	}
	if errors.Is(err, campaign.ErrUnknown) {
		return c, refuse(http.StatusNotFound, "campaign %.80s is not known: `certvendor campaign list` shows those that are", name)
	}
	return c, err
}

// autoView returns the campaign of due certificates, unless it has ended.
func (s *Server) autoView(ctx context.Context) (*Campaign, error) {
	if s.Campaigns.CampaignStore == nil { // this world has none
		return nil, nil
	}
	c, err := s.Campaigns.Find(ctx, campaign.AutoName)
	switch {
	case errors.Is(err, campaign.ErrUnknown), err == nil && c.State.Ended():
		return nil, nil
	case err != nil:
		return nil, err
	}
	view, err := s.viewOf(ctx, c)
	return &view, err
}

// steer makes an operator's verb: change says what the campaign shall be, or
// why it cannot.
func (s *Server) steer(verb string, change func(*campaign.Campaign) error) answer {
	return func(r *http.Request) (view any, err error) {
		s.Campaigns.Runner.Between(func() { view, err = s.steered(r.Context(), r.PathValue("name"), verb, change) })
		s.Campaigns.Poke()
		return view, err
	}
}

func (s *Server) steered(ctx context.Context, name, verb string, change func(*campaign.Campaign) error) (any, error) {
	c, err := s.findCampaign(ctx, name)
	if err != nil {
		return nil, err
	}
	if err := change(&c); err != nil {
		return nil, refuse(http.StatusConflict, "campaign %s: %v", c.Name, err)
	}
	if err := s.note(ctx, Event{Kind: "campaign_" + verb, Detail: map[string]string{"campaign": c.Name}}); err != nil {
		return nil, err
	}
	c.Acts = peer(ctx)
	if verb == "resume" {
		c.Resumed = s.Now()
	}
	if c.State.Ended() {
		c.Ended = s.Now()
		if err := s.Campaigns.Runner.Withdraw(ctx, c); err != nil {
			return nil, err
		}
	}
	saved, err := s.Campaigns.Running.Save(ctx, c)
	if err != nil {
		return nil, err
	}
	if !saved {
		return nil, refuse(http.StatusConflict, "campaign %s has changed meanwhile: look at it, and say it again", c.Name)
	}
	return s.campaignView(ctx, c.Name, false)
}

func (s *Server) listCampaignMembers(r *http.Request) (any, error) {
	after := -1
	if text := r.URL.Query().Get("after"); text != "" {
		var err error
		if after, err = strconv.Atoi(text); err != nil {
			return nil, refuse(http.StatusBadRequest, "after %.40q: is no place", text)
		}
	}
	c, err := s.findCampaign(r.Context(), r.PathValue("name"))
	if err != nil {
		return nil, err
	}
	page, err := s.Campaigns.Members(r.Context(), c.Name, after, batch)
	if err != nil {
		return nil, err
	}
	members := make([]CampaignMember, 0, len(page))
	for _, m := range page {
		view, err := s.memberView(r.Context(), c, m)
		if err != nil {
			return nil, err
		}
		members = append(members, view)
	}
	return members, nil
}

// What operators do to a campaign.
var (
	pauseCampaign = func(c *campaign.Campaign) error {
		if c.State.Ended() {
			return fmt.Errorf("it is %s already", c.State)
		}
		c.State, c.Why = campaign.Paused, "by an operator"
		return nil
	}
	cancelCampaign = func(c *campaign.Campaign) error {
		if c.State.Ended() {
			return fmt.Errorf("it is %s already", c.State)
		}
		if c.IsAuto() {
			return errors.New("it is the daemon's own: pause it, or switch rotation.auto off")
		}
		c.State, c.Why = campaign.Canceled, "by an operator"
		return nil
	}
	resumeCampaign = func(c *campaign.Campaign) error {
		switch c.State {
		case campaign.Paused, campaign.Stopped:
		case campaign.AtGate:
			c.Wave++
		default:
			return fmt.Errorf("it is %s: there is nothing to resume", c.State)
		}
		c.State, c.Why = campaign.Running, ""
		return nil
	}
)
