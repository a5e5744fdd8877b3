package aws

import (
	"context"
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"

	"github.com/certvendor/certvendor/protocol"
)

// Other is a topic rule of somebody else's that hands requests of devices to
// who may answer them.
type Other struct {
	Rule  string `json:"rule"`
	Topic string `json:"topic"`
	Does  string `json:"does"`
}

// Others finds the topic rules of others that hear what devices ask, and do more
// than to keep it. Who subscribes to the topics cannot be found.
func (s *Setup) Others(ctx context.Context) ([]Other, error) {
	var all []Other
	err := s.account.topicRules(ctx, func(r types.TopicRuleListItem) error {
		if s.isOwn(deref(r.RuleName)) || r.RuleDisabled != nil && *r.RuleDisabled || !s.heard(deref(r.TopicPattern)) {
			return nil
		}
		does, err := s.does(ctx, deref(r.RuleName))
		if err == nil && len(does) > 0 {
			all = append(all, Other{Rule: deref(r.RuleName), Topic: deref(r.TopicPattern), Does: strings.Join(does, ", ")})
		}
		return err
	})
	return all, err
}

func (s *Setup) isOwn(rule string) bool { return s.partOf(Resource{RuleKind, rule}) != nil }

// heard reports whether a filter matches any request.
func (s *Setup) heard(filter string) bool {
	return overlap(filter, s.config.Topics.Subscription(protocol.Get)) || overlap(filter, s.config.Topics.Subscription(protocol.Ack))
}

// overlap reports whether there is a topic that two filters both match. With AWS
// IoT, # stands for one level at least.
func overlap(a, b string) bool {
	one, other := strings.Split(a, "/"), strings.Split(b, "/")
	for i := range min(len(one), len(other)) {
		switch {
		case one[i] == "#" || other[i] == "#":
			return true
		case one[i] != other[i] && one[i] != "+" && other[i] != "+":
			return false
		}
	}
	return len(one) == len(other)
}

// does lists what a rule does that may have somebody answer.
func (s *Setup) does(ctx context.Context, rule string) ([]string, error) {
	out, err := s.account.clients.IoT.GetTopicRule(ctx, &iot.GetTopicRuleInput{RuleName: &rule})
	if err != nil {
		return nil, fmt.Errorf("get topic rule %s: %w", rule, err)
	}
	var all []string
	for _, a := range out.Rule.Actions {
		switch {
		case a.Lambda != nil:
			all = append(all, "calls "+deref(a.Lambda.FunctionArn))
		case a.Republish != nil:
			all = append(all, "republishes to "+deref(a.Republish.Topic))
		case a.Sqs != nil:
			all = append(all, "sends to "+deref(a.Sqs.QueueUrl))
		case a.Sns != nil:
			all = append(all, "sends to "+deref(a.Sns.TargetArn))
		case a.Http != nil:
			all = append(all, "posts to "+deref(a.Http.Url))
		case a.Kafka != nil, a.StepFunctions != nil, a.IotEvents != nil, a.Kinesis != nil:
			all = append(all, "hands them on")
		}
	}
	return all, nil
}

// topicRules calls each with every topic rule of the account and region.
func (a account) topicRules(ctx context.Context, each func(types.TopicRuleListItem) error) error {
	pages := iot.NewListTopicRulesPaginator(a.clients.IoT, &iot.ListTopicRulesInput{})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return fmt.Errorf("list the topic rules: %w", err)
		}
		for _, r := range page.Rules {
			if err := each(r); err != nil {
				return err
			}
		}
	}
	return nil
}
