package campaign

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/registry"
)

// Plan foretells a campaign.
type Plan struct {
	Devices  int                `json:"devices"`
	Waves    []int              `json:"waves"` // how many each lets in; the canary first
	Skipped  map[string]int     `json:"skipped,omitempty"`
	Risks    []Risk             `json:"risks,omitempty"`
	Limit    string             `json:"limit"`     // the step that bounds the pace
	Pace     float64            `json:"perMinute"` // devices a minute
	Seconds  float64            `json:"seconds"`   // until the last has passed, if all are online and none fails
	Forecast time.Time          `json:"forecast"`  // the same as a time
	Manual   bool               `json:"manualGates,omitempty"`
	Calls    map[string]int     `json:"calls,omitempty"` // at most so many, by API, of a world that is called
	Costs    map[string]float64 `json:"costs,omitempty"` // what these cost at most, of the APIs whose price is known

	Members []Member `json:"-"`
}

// Risk is something that an operator should look at before.
type Risk struct {
	What    string              `json:"what"`
	Devices int                 `json:"devices"`
	Such    []registry.DeviceID `json:"such"` // some of them
}

// The risks.
const (
	riskExpired = "its certificate has expired: it can connect only within standalone.broker.expired"
	riskSoon    = "its certificate expires before its turn"
	riskUnseen  = "not seen for 30 days"
	riskNever   = "never seen"
	riskSeveral = "has several active certificates"
	riskShared  = "its certificate is another device's too"
	riskName    = "its name does not fit into a common name"
	riskKey     = "its key is of a kind that no new certificate is given for, and so may be its next"
)

const (
	suchMost  = 10
	longUnder = 30 * 24 * time.Hour
	longName  = 64 // RFC 5280, appendix A.1: the upper bound of a common name
)

// Pace is what bounds a campaign besides its spec.
type Pace struct {
	PerMinute   int           // of the whole group
	MaxInFlight int           // of the whole group
	Typical     time.Duration // from being let in to the proof, of one device
	Steps       []Step        // of a world that is called for each device
}

// Step is what a world's API does for the rotation of one device.
type Step struct {
	What      string
	Calls     int     // for one device, at most
	PerMinute float64 // devices that its quota allows
	Price     Price   // of a call; empty: unknown
}

// Planner makes a plan out of one candidate after another.
type Planner struct {
	*chooser
	plan    Plan
	devices []chosen
	risks   map[string]*Risk
	unknown map[registry.DeviceID]bool // named, and not looked at
	// Obstacles says what in this world stands in the way of a device.
	// Optional.
	Obstacles func(Candidate) []string
}

// NewPlanner returns a planner for a spec with defaults.
func NewPlanner(s Spec, now time.Time) (*Planner, error) {
	if err := s.Validate(); err != nil {
		return nil, err
	}
	chooser, err := newChooser(s, now)
	p := &Planner{
		chooser: chooser, plan: Plan{Waves: []int{}, Skipped: map[string]int{}}, risks: map[string]*Risk{}, unknown: set(s.Choose.Names),
	}
	for _, name := range s.Choose.Except {
		delete(p.unknown, registry.DeviceID(name))
	}
	return p, err
}

// Look takes one candidate into the plan, or notes why it is left out.
func (p *Planner) Look(c Candidate) {
	delete(p.unknown, c.Device)
	if !p.matches(c) {
		return
	}
	if why := skip(c); why != "" {
		p.plan.Skipped[why]++
		return
	}
	current, _ := c.current()
	risks := p.risksOf(c, current)
	if p.Obstacles != nil {
		risks = append(risks, p.Obstacles(c)...)
	}
	for _, risk := range risks {
		p.note(risk, c.Device)
	}
	p.devices = append(p.devices, chosen{
		device: c.Device, expires: current.NotAfter, seen: current.Seen,
		zone: c.Attributes[p.spec.Window.Zone], stratum: c.Attributes[p.spec.Canary.Strata],
	})
}

func (p *Planner) risksOf(c Candidate, current Active) []string {
	var risks []string
	add := func(is bool, what string) {
		if is {
			risks = append(risks, what)
		}
	}
	add(!p.now.Before(current.NotAfter), riskExpired)
	add(current.Seen.IsZero(), riskNever)
	add(!current.Seen.IsZero() && p.now.Sub(current.Seen) > longUnder, riskUnseen)
	add(len(c.Active) > 1, riskSeveral)
	add(current.Shared, riskShared)
	add(len(c.Device) > longName, riskName)
	add(!certificate.MayBeKey(current.KeyType), riskKey)
	return risks
}

func (p *Planner) note(what string, id registry.DeviceID) {
	r := p.risks[what]
	if r == nil {
		r = &Risk{What: what}
		p.risks[what] = r
	}
	if r.Devices++; len(r.Such) < suchMost {
		r.Such = append(r.Such, id)
	}
}

// Plan returns the plan of everything that was looked at. It is called once.
func (p *Planner) Plan(pace Pace) Plan {
	if n := len(p.unknown); n > 0 {
		p.plan.Skipped["is not known"] = n
	}
	members := p.spec.arrange(p.devices)
	p.plan.Members, p.plan.Devices = members, len(members)
	for _, m := range members {
		for len(p.plan.Waves) <= m.Wave {
			p.plan.Waves = append(p.plan.Waves, 0)
		}
		p.plan.Waves[m.Wave]++
	}
	p.plan.Pace, p.plan.Limit = p.spec.pace(pace)
	p.plan.Manual = p.spec.Gates == Manual
	p.call(pace.Steps)
	took := p.forecast(pace.Typical)
	p.plan.Seconds, p.plan.Forecast = took.Seconds(), p.now.Add(took)
	p.expiring(members)
	for _, what := range []string{riskExpired, riskSoon, riskNever, riskUnseen, riskSeveral, riskShared, riskName, riskKey} {
		if r := p.risks[what]; r != nil {
			p.plan.Risks = append(p.plan.Risks, *r)
			delete(p.risks, what)
		}
	}
	for _, what := range slices.Sorted(maps.Keys(p.risks)) {
		p.plan.Risks = append(p.plan.Risks, *p.risks[what])
	}
	return p.plan
}

// Threaten adds a risk that every device of the plan runs.
func (p *Plan) Threaten(what string) {
	r := Risk{What: what, Devices: p.Devices, Such: []registry.DeviceID{}}
	for _, m := range p.Members[:min(suchMost, len(p.Members))] {
		r.Such = append(r.Such, m.Device)
	}
	p.Risks = append(p.Risks, r)
}

// call counts what a world is called for, and what that costs.
func (p *Planner) call(steps []Step) {
	for _, step := range steps {
		if p.plan.Calls == nil {
			p.plan.Calls = map[string]int{}
		}
		calls := step.Calls * p.plan.Devices
		p.plan.Calls[step.What] = calls
		if len(step.Price) == 0 {
			continue
		}
		if p.plan.Costs == nil {
			p.plan.Costs = map[string]float64{}
		}
		p.plan.Costs[step.What] = step.Price.Of(calls)
	}
}

// pace returns how many devices a minute are let in at most, and which step it
// is that bounds them.
func (s Spec) pace(p Pace) (perMinute float64, limit string) {
	perMinute, limit = float64(s.PerMinute), "per_minute of the campaign"
	bound := func(n float64, what string) {
		if n < perMinute {
			perMinute, limit = n, what
		}
	}
	bound(float64(p.PerMinute), "rotation.per_minute")
	for _, step := range p.Steps {
		bound(step.PerMinute, "the quota of "+step.What)
	}
	if p.Typical > 0 {
		atATime := float64(time.Minute) / float64(p.Typical)
		bound(float64(s.MaxInFlight)*atATime, "max_in_flight of the campaign")
		bound(float64(p.MaxInFlight)*atATime, "rotation.max_in_flight")
	}
	if w, err := s.Window.parse(); err == nil && w.length() < wholeDay {
		perMinute *= float64(w.length()) / wholeDay
		limit += ", within " + strings.Join([]string{s.Window.From, s.Window.To}, " to ")
	}
	return perMinute, limit
}

// forecast is how long it takes if every device is online and none fails: each
// wave lets its devices in, waits for the last, and soaks.
func (p *Planner) forecast(typical time.Duration) time.Duration {
	var took time.Duration
	for _, n := range p.plan.Waves {
		took += p.spec.lettingIn(n, p.plan.Pace) + typical + p.spec.Soak
	}
	return took
}

// Forecast returns when the last device of a running campaign will have passed,
// if every one is online and none fails.
func (c Campaign) Forecast(tally Tally, p Pace, now time.Time) time.Time {
	perMinute, _ := c.pace(p)
	took := time.Duration(0)
	for wave, standings := range tally {
		left := standings[Pending]
		if left+standings[Added]+standings[Vended]+standings[Proven] == 0 {
			continue
		}
		took += c.lettingIn(left, perMinute) + p.Typical
		if wave > c.Wave || left > 0 || standings[Proven] > 0 {
			took += c.Soak
		}
	}
	return now.Add(took)
}

func (s Spec) lettingIn(n int, perMinute float64) time.Duration {
	return time.Duration(float64(n) / max(perMinute, 0.001) * float64(time.Minute))
}

// expiring notes who expires before its turn.
func (p *Planner) expiring(members []Member) {
	expires := make(map[registry.DeviceID]time.Time, len(p.devices))
	for _, d := range p.devices {
		expires[d.device] = d.expires
	}
	for _, m := range members {
		turn := p.now.Add(p.spec.lettingIn(m.Place, p.plan.Pace) + time.Duration(m.Wave)*p.spec.Soak)
		if end := expires[m.Device]; p.now.Before(end) && end.Before(turn) {
			p.note(riskSoon, m.Device)
		}
	}
}
