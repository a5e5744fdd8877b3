package aws

import (
	"context"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws/arn"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/iam/types"
)

// rolePart is what the topic rules act as: it may publish envelopes and write
// the table of presence, and AWS IoT may assume it for this daemon's rules.
type rolePart struct {
	account
	name   string
	policy string
	trust  string
	made   bool // in this run
}

const (
	rolePolicy   = "certvendor"
	noSuchEntity = "NoSuchEntity"
	// maxRole is how many characters IAM allows the name of a role.
	maxRole = 64
)

// roleName has the region in it: roles are of all regions.
func (c SetupConfig) roleName() string {
	return writable(c.Owner, '-') + "-" + c.Clients.Config.Region + "-rules"
}

// roleARN returns what the rules act as.
func (c SetupConfig) roleARN(n names) string {
	if c.Role != "" {
		return c.Role
	}
	return arn.ARN{Partition: n.partition, Service: "iam", AccountID: n.account, Resource: "role/" + c.roleName()}.String()
}

// scope is what the role's policies are made for.
func (c SetupConfig) scope(n names) Scope {
	return Scope{Region: n.region, Account: n.account, Identity: c.Identity, Inbox: c.inbox(), Table: c.Table, ClientID: c.Owner}
}

func (p *rolePart) resource() Resource { return Resource{RoleKind, p.name} }

func (p *rolePart) validate(wanted bool) error {
	if wanted && len(p.name) > maxRole {
		return fmt.Errorf("the role of the topic rules would be named %s, which is longer than %d characters: "+
			"make one yourself and name it in aws.broker.rule_role", p.name, maxRole)
	}
	return nil
}

// describe returns the role, or nil, and whether it is ours.
func (p *rolePart) describe(ctx context.Context) (*types.Role, bool, error) {
	out, err := p.clients.IAM.GetRole(ctx, &iam.GetRoleInput{RoleName: &p.name})
	if codeOf(err) == noSuchEntity {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("get role %s: %w", p.name, err)
	}
	for _, t := range out.Role.Tags {
		if deref(t.Key) == ownerTag && deref(t.Value) == p.owner {
			return out.Role, true, nil
		}
	}
	return out.Role, false, nil
}

func (p *rolePart) look(ctx context.Context) (Step, error) {
	there, ours, err := p.describe(ctx)
	switch {
	case err != nil:
		return Step{}, err
	case there == nil:
		return step(p.resource(), DoCreate), nil
	case !ours:
		return step(p.resource(), DoRefuse, p.untagged()), nil
	}
	var what []string
	if !sameJSON(deref(there.AssumeRolePolicyDocument), p.trust) {
		what = append(what, "who may assume it")
	}
	out, err := p.clients.IAM.GetRolePolicy(ctx, &iam.GetRolePolicyInput{RoleName: &p.name, PolicyName: new(rolePolicy)})
	switch {
	case err != nil && codeOf(err) != noSuchEntity:
		return Step{}, fmt.Errorf("get the policy of role %s: %w", p.name, err)
	case err != nil || !sameJSON(deref(out.PolicyDocument), p.policy):
		what = append(what, "what it may do")
	}
	return differing(p.resource(), what), nil
}

func (p *rolePart) make(ctx context.Context, s Step) error {
	if s.Do == DoCreate {
		_, err := p.clients.IAM.CreateRole(ctx, &iam.CreateRoleInput{
			RoleName: &p.name, AssumeRolePolicyDocument: &p.trust, Tags: []types.Tag{{Key: new(ownerTag), Value: &p.owner}},
			Description: new("What the topic rules of certvendor act as."),
		})
		if err != nil {
			return fmt.Errorf("create it: %w", err)
		}
		p.made = true
	}
	_, err := p.clients.IAM.UpdateAssumeRolePolicy(ctx, &iam.UpdateAssumeRolePolicyInput{RoleName: &p.name, PolicyDocument: &p.trust})
	if err != nil {
		return fmt.Errorf("say who may assume it: %w", err)
	}
	_, err = p.clients.IAM.PutRolePolicy(ctx, &iam.PutRolePolicyInput{
		RoleName: &p.name, PolicyName: new(rolePolicy), PolicyDocument: &p.policy,
	})
	if err != nil {
		return fmt.Errorf("say what it may do: %w", err)
	}
	return nil
}

func (p *rolePart) leftovers(ctx context.Context) ([]Step, error) {
	there, ours, err := p.describe(ctx)
	if err != nil {
		return nil, err
	}
	return p.removal(p.resource(), there != nil, ours), nil
}

func (p *rolePart) remove(ctx context.Context, _ Step) error {
	_, err := p.clients.IAM.DeleteRolePolicy(ctx, &iam.DeleteRolePolicyInput{RoleName: &p.name, PolicyName: new(rolePolicy)})
	if err != nil && codeOf(err) != noSuchEntity {
		return fmt.Errorf("delete its policy: %w", err)
	}
	_, err = p.clients.IAM.DeleteRole(ctx, &iam.DeleteRoleInput{RoleName: &p.name})
	if err != nil && codeOf(err) != noSuchEntity {
		return fmt.Errorf("delete it: %w", err)
	}
	return nil
}
