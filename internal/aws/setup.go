package aws

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/certvendor/certvendor/jobs"
	"github.com/certvendor/certvendor/protocol"
)

// SetupConfig says what an account is to have for one daemon.
type SetupConfig struct {
	Clients  *Clients
	Owner    string // the daemon's client id: part of the names, and what all is tagged with
	Topics   protocol.Topics
	Identity Identity
	Inbox    string  // for ByRule; the default is Inbox
	Key      RuleKey // for ByRule
	Role     string  // ARN of the role that the topic rules act as; empty: one is made
	Table    string  // of presence; empty: none
	Job      jobs.Job
	Settings JobSettings
}

// Kind is a kind of Resource.
type Kind string

// The kinds.
const (
	RoleKind   Kind = "role"
	TableKind  Kind = "table"
	RuleKind   Kind = "topic rule"
	GroupKind  Kind = "thing group"
	JobKind    Kind = "job"
	EventsKind Kind = "events" // a setting of the account
)

// Resource is something that an account has for the daemon.
type Resource struct {
	Kind Kind   `json:"kind"`
	Name string `json:"name"`
}

func (r Resource) String() string { return string(r.Kind) + " " + r.Name }

// Do is what becomes of a Resource.
type Do string

// What may become of one.
const (
	DoCreate Do = "create"
	DoUpdate Do = "update"
	DoKeep   Do = "keep"   // it is there, as it should be
	DoRefuse Do = "refuse" // it is somebody else's, and cannot be used
	DoDelete Do = "delete"
	DoLeave  Do = "leave" // it is there, and is not taken away
)

// Step is what becomes of one Resource.
type Step struct {
	Resource
	Do  Do     `json:"do"`
	Why string `json:"why,omitempty"`
}

// part is one Resource, or several of one kind that follow one another.
type part interface {
	resource() Resource
	// look compares what there is with what there should be.
	look(context.Context) (Step, error)
	// make does what look has found. Idempotent.
	make(context.Context, Step) error
	// leftovers says what there is to take away.
	leftovers(context.Context) ([]Step, error)
	// remove takes one away. Idempotent.
	remove(context.Context, Step) error
}

// Setup makes what an account needs for one daemon, and takes it away again.
// What it makes carries the tag certvendor=<owner>, and nothing else is ever
// taken away. It needs no daemon, and may be run again at any time.
type Setup struct {
	account account
	config  SetupConfig
	wanted  []part
	all     []part // also what another configuration of this daemon has wanted
}

// NewSetup asks AWS whose account it is.
func NewSetup(ctx context.Context, c SetupConfig) (*Setup, error) {
	caller, err := c.Clients.STS.GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
	if err != nil {
		return nil, nobody(err)
	}
	names, err := namesFrom(deref(caller.Arn), c.Clients.Config.Region)
	if err != nil {
		return nil, err
	}
	s := &Setup{config: c, account: account{clients: c.Clients, names: names, owner: c.Owner}}
	return s, s.join()
}

// join makes the parts, in the order in which they are made: what others need
// comes first.
func (s *Setup) join() error {
	c, a := s.config, s.account
	rules, err := c.rules(a)
	if err != nil {
		return err
	}
	scope := c.scope(a.names)
	role := &rolePart{account: a, name: c.roleName(), policy: scope.RulePolicy().text(), trust: scope.RuleTrust().text()}
	table := &tablePart{account: a, name: cmp.Or(c.Table, PresenceTable(c.Owner))}
	group := &groupPart{account: a, name: c.Job.Group}
	job := &jobPart{account: a, job: c.Job, at: remoteJobs{iot: a.clients.IoT, names: a.names, owner: a.owner, settings: c.Settings}}
	events := &eventsPart{account: a}
	add := func(p part, wanted bool) {
		s.all = append(s.all, p)
		if wanted {
			s.wanted = append(s.wanted, p)
		}
	}
	add(role, c.Role == "" && (c.Table != "" || c.Identity == ByRule))
	add(table, c.Table != "")
	for _, r := range rules {
		r.role = role
		add(r, r.wanted)
	}
	add(group, true)
	add(job, true)
	add(events, true)
	return role.validate(slices.Contains(s.wanted, part(role)))
}

// Resources lists what Plan will speak of, in its order.
func (s *Setup) Resources() []Resource {
	var all []Resource
	for _, p := range s.wanted {
		all = append(all, p.resource())
	}
	return all
}

// Plan compares the account with what it is to have. It changes nothing.
func (s *Setup) Plan(ctx context.Context) ([]Step, error) {
	var steps []Step
	for _, p := range s.wanted {
		step, err := p.look(ctx)
		if err != nil {
			return steps, err
		}
		steps = append(steps, step)
	}
	return steps, nil
}

// ErrNotOurs says that a step of a plan is DoRefuse.
var ErrNotOurs = errors.New("is there, and is not tagged as this daemon's")

// Refused returns an ErrNotOurs if a plan cannot be carried out.
func Refused(plan []Step) error {
	for _, step := range plan {
		if step.Do == DoRefuse {
			return fmt.Errorf("%s %w: %s", step.Resource, ErrNotOurs, step.Why)
		}
	}
	return nil
}

// Carry carries out a plan, and tells of each step that has changed something.
// Where one fails it stops: what was done stays, and another Plan goes on from
// there.
func (s *Setup) Carry(ctx context.Context, plan []Step, done func(Step)) error {
	if err := Refused(plan); err != nil {
		return err
	}
	for i, p := range s.wanted {
		if i >= len(plan) || plan[i].Resource.Kind != p.resource().Kind {
			return errors.New("the plan is not of this setup")
		}
		if plan[i].Do == DoKeep {
			continue
		}
		if err := p.make(ctx, plan[i]); err != nil {
			return fmt.Errorf("%s: %w", plan[i].Resource, err)
		}
		done(plan[i])
	}
	return nil
}

// PlanRemoval says what there is to take away, and what is left, in the order in
// which it is taken away. It changes nothing.
func (s *Setup) PlanRemoval(ctx context.Context) ([]Step, error) {
	var steps []Step
	for _, p := range slices.Backward(s.all) {
		some, err := p.leftovers(ctx)
		if err != nil {
			return steps, err
		}
		steps = append(steps, some...)
	}
	return steps, nil
}

// Remove carries out a plan of PlanRemoval, as Carry does.
func (s *Setup) Remove(ctx context.Context, plan []Step, done func(Step)) error {
	for _, step := range plan {
		if step.Do != DoDelete {
			continue
		}
		p := s.partOf(step.Resource)
		if p == nil {
			return errors.New("the plan is not of this setup")
		}
		if err := p.remove(ctx, step); err != nil {
			return fmt.Errorf("%s: %w", step.Resource, err)
		}
		done(step)
	}
	return nil
}

// partOf returns whose a resource is. Jobs and groups have many names.
func (s *Setup) partOf(r Resource) part {
	for _, p := range s.all {
		if own := p.resource(); own == r || own.Kind == r.Kind && (r.Kind == JobKind || r.Kind == GroupKind) {
			return p
		}
	}
	return nil
}
