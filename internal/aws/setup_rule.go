package aws

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"

	"github.com/certvendor/certvendor/protocol"
)

// rulePart is a topic rule.
type rulePart struct {
	account
	name    string
	wanted  bool
	about   string
	sql     string
	actions []types.Action
	role    *rolePart // that it acts as; where this run has made it, AWS may not know it yet
}

// ruleName has only what AWS allows in one: letters, digits and underscores.
func ruleName(owner, what string) string { return writable(owner, '_') + "_" + what }

func (c SetupConfig) inbox() string { return cmp.Or(c.Inbox, Inbox) }

// rules are those that put requests into envelopes, and those that write the
// table of presence.
func (c SetupConfig) rules(a account) ([]*rulePart, error) {
	role := c.roleARN(a.names)
	var all []*rulePart
	for _, action := range []protocol.Action{protocol.Get, protocol.Ack} {
		part := &rulePart{
			account: a, name: ruleName(c.Owner, string(action)), wanted: c.Identity == ByRule,
			about: fmt.Sprintf("Hands certvendor each %s, with the certificate that it came over.", action),
		}
		if part.wanted {
			rule, err := NewRule(c.Topics, action, c.inbox(), c.Key)
			if err != nil {
				return nil, err
			}
			part.sql = rule.SQL
			part.actions = []types.Action{{Republish: &types.RepublishAction{RoleArn: &role, Topic: &rule.Topic, Qos: new(int32(1))}}}
		}
		all = append(all, part)
	}
	put := []types.Action{{DynamoDBv2: &types.DynamoDBv2Action{RoleArn: &role, PutItem: &types.PutItemInput{TableName: &c.Table}}}}
	return append(all,
		&rulePart{
			account: a, name: ruleName(c.Owner, "connected"), wanted: c.Table != "", sql: connectedSQL, actions: put,
			about: "Writes down which device has connected with which certificate, for certvendor.",
		},
		&rulePart{
			account: a, name: ruleName(c.Owner, "connect_failed"), wanted: c.Table != "", sql: refusedSQL, actions: put,
			about: "Writes down which device was not let in with which certificate, for certvendor.",
		}), nil
}

func (p *rulePart) resource() Resource { return Resource{RuleKind, p.name} }

// find returns a rule out of the list of all, and whether it is ours: of a rule
// that is not there, AWS says only that it may not be read.
func (p *rulePart) find(ctx context.Context) (there, ours bool, err error) {
	err = p.topicRules(ctx, func(r types.TopicRuleListItem) error {
		if deref(r.RuleName) != p.name {
			return nil
		}
		there = true
		ours, err = p.ownsIoT(ctx, deref(r.RuleArn))
		return err
	})
	return there, ours, err
}

func (p *rulePart) look(ctx context.Context) (Step, error) {
	there, ours, err := p.find(ctx)
	switch {
	case err != nil:
		return Step{}, err
	case !there:
		return step(p.resource(), DoCreate), nil
	case !ours:
		return step(p.resource(), DoRefuse, p.untagged()), nil
	}
	out, err := p.clients.IoT.GetTopicRule(ctx, &iot.GetTopicRuleInput{RuleName: &p.name})
	if err != nil {
		return Step{}, fmt.Errorf("get topic rule %s: %w", p.name, err)
	}
	return differing(p.resource(), p.differences(out.Rule)), nil
}

// differences never repeats a statement: there is a key in it.
func (p *rulePart) differences(is *types.TopicRule) []string {
	var what []string
	if deref(is.Sql) != p.sql || deref(is.AwsIotSqlVersion) != RuleSQLVersion {
		what = append(what, "its statement")
	}
	there, err := json.Marshal(is.Actions)
	own, errOwn := json.Marshal(p.actions)
	if err != nil || errOwn != nil || string(there) != string(own) {
		what = append(what, "what it does")
	}
	if is.RuleDisabled != nil && *is.RuleDisabled {
		what = append(what, "it is disabled")
	}
	return what
}

func (p *rulePart) payload() *types.TopicRulePayload {
	return &types.TopicRulePayload{
		Sql: &p.sql, AwsIotSqlVersion: new(RuleSQLVersion), Actions: p.actions, Description: &p.about, RuleDisabled: new(false),
	}
}

// How often, and after which pause at first, a rule is made whose role was made
// just before: it takes IAM a while to tell the other services.
const (
	ruleTries = 7
	rulePause = 500 * time.Millisecond
)

func (p *rulePart) make(ctx context.Context, s Step) error {
	pause := rulePause
	for try := 1; ; try++ {
		err := p.write(ctx, s.Do)
		if err == nil || !p.role.made || codeOf(err) != invalidRequest || try == ruleTries {
			return err
		}
		sleep(ctx, pause)
		pause *= 2
	}
}

func (p *rulePart) write(ctx context.Context, do Do) error {
	if do == DoUpdate {
		_, err := p.clients.IoT.ReplaceTopicRule(ctx, &iot.ReplaceTopicRuleInput{RuleName: &p.name, TopicRulePayload: p.payload()})
		if err != nil {
			return fmt.Errorf("replace it: %w", err)
		}
		return nil
	}
	_, err := p.clients.IoT.CreateTopicRule(ctx, &iot.CreateTopicRuleInput{
		RuleName: &p.name, TopicRulePayload: p.payload(), Tags: new(url.Values{ownerTag: {p.owner}}.Encode()),
	})
	if err != nil {
		return fmt.Errorf("create it: %w", err)
	}
	return nil
}

func (p *rulePart) leftovers(ctx context.Context) ([]Step, error) {
	there, ours, err := p.find(ctx)
	if err != nil {
		return nil, err
	}
	return p.removal(p.resource(), there, ours), nil
}

func (p *rulePart) remove(ctx context.Context, _ Step) error {
	_, err := p.clients.IoT.DeleteTopicRule(ctx, &iot.DeleteTopicRuleInput{RuleName: &p.name})
	if err = unlessGone(err); err != nil {
		return fmt.Errorf("delete it: %w", err)
	}
	return nil
}
