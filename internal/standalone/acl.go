package standalone

import (
	"fmt"
	"strings"

	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
)

// Bounds of a topic or filter. AWS IoT Core's are 256 octets and 8 levels
// (docs.aws.amazon.com/general/latest/gr/iot-core.html, "Message broker"); a
// fleet's own topics get more. Without a bound, one filter of 64 KiB of slashes
// fills the topic index.
const (
	maxTopicOctets = 512
	maxTopicLevels = 16
)

// TopicRule lets every device use topics of the fleet's own. Filter may hold
// {thingName}, as whole levels, and wildcards.
type TopicRule struct {
	Filter    string
	Publish   bool
	Subscribe bool
}

// topicACL says which topics a device may use. It is not changed once made.
type topicACL struct {
	topics  protocol.Topics
	subtree []string // templates; a device subscribes to anything that starts with one
	exact   []string // templates of replies that end in the name, which have no subtree
	extra   []TopicRule
}

func newTopicACL(topics protocol.Topics, extra []TopicRule) (*topicACL, error) {
	a := &topicACL{topics: topics, subtree: []string{thingRoot}, extra: extra}
	for _, template := range replyTemplates(topics) {
		before, after, _ := strings.Cut(template, protocol.ThingName)
		if after == "" {
			a.exact = append(a.exact, template)
		} else {
			a.subtree = append(a.subtree, before+protocol.ThingName+"/")
		}
	}
	for _, rule := range extra {
		if err := a.checkExtra(rule); err != nil {
			return nil, err
		}
	}
	return a, a.checkDisjoint()
}

// publish reports whether the device may publish on the topic: its own two
// request topics, its own job requests, and what an extra rule allows unless
// its certificate has expired.
func (a *topicACL) publish(device registry.DeviceID, topic string, expired bool) bool {
	if !validTopic(topic) {
		return false
	}
	if name, _, ok := a.topics.Parse(topic); ok {
		return name == string(device)
	}
	if request, ok := parseJobTopic(topic); ok {
		return request.device == string(device)
	}
	return !expired && a.allowedExtra(device, topic, func(r TopicRule) bool { return r.Publish })
}

// subscribe reports whether the device may receive what the filter, or the
// topic, matches.
func (a *topicACL) subscribe(device registry.DeviceID, filter string, expired bool) bool {
	if !validFilter(filter) {
		return false
	}
	for _, template := range a.subtree {
		if strings.HasPrefix(filter, protocol.Fill(template, string(device))) {
			return true
		}
	}
	for _, template := range a.exact {
		if filter == protocol.Fill(template, string(device)) {
			return true
		}
	}
	return !expired && a.allowedExtra(device, filter, func(r TopicRule) bool { return r.Subscribe })
}

func (a *topicACL) allowedExtra(device registry.DeviceID, filter string, allows func(TopicRule) bool) bool {
	for _, rule := range a.extra {
		if allows(rule) && covers(protocol.Fill(rule.Filter, string(device)), filter) {
			return true
		}
	}
	return false
}

// checkExtra refuses a rule that would let one device read or forge what
// certvendor says to another.
func (a *topicACL) checkExtra(rule TopicRule) error {
	filter := wild(rule.Filter)
	switch {
	case !validFilter(filter) || strings.Contains(strings.ReplaceAll("/"+filter+"/", "/"+protocol.ThingName+"/", "/+/"), protocol.ThingName):
		return fmt.Errorf("broker.topics: %q: not a filter of at most %d levels with %s as whole levels", rule.Filter, maxTopicLevels, protocol.ThingName)
	case strings.HasPrefix(rule.Filter, "$"):
		return fmt.Errorf("broker.topics: %q: topics that start with $ belong to the broker", rule.Filter)
	case !rule.Publish && !rule.Subscribe:
		return fmt.Errorf("broker.topics: %q: allows neither publish nor subscribe", rule.Filter)
	}
	for _, own := range a.ownFilters() {
		if overlap(filter, own) {
			return fmt.Errorf("broker.topics: %q: overlaps certvendor's own topics %q", rule.Filter, own)
		}
	}
	return nil
}

// checkDisjoint refuses templates that put the device's name on different
// levels of one tree: a device could bear a name that opens another's subtree.
func (a *topicACL) checkDisjoint() error {
	templates := append(replyTemplates(a.topics), a.topics.Get, a.topics.Ack)
	for _, one := range templates {
		for _, other := range templates {
			if nameLevel(one) != nameLevel(other) && overlap(root(one), root(other)) {
				return fmt.Errorf("mqtt.topics: %q and %q hold %s on different levels of one tree", one, other, protocol.ThingName)
			}
		}
	}
	return nil
}

func (a *topicACL) ownFilters() []string {
	var filters []string
	for _, template := range append(replyTemplates(a.topics), a.topics.Get, a.topics.Ack) {
		filters = append(filters, root(template))
	}
	return filters
}

func replyTemplates(t protocol.Topics) []string {
	return []string{t.GetAccepted, t.GetRejected, t.AckAccepted, t.AckRejected}
}

// root returns the filter of the subtree that begins at the name, of any
// device.
func root(template string) string {
	before, _, _ := strings.Cut(template, protocol.ThingName)
	return before + "+/#"
}

func nameLevel(template string) int {
	before, _, _ := strings.Cut(template, protocol.ThingName)
	return strings.Count(before, "/")
}

func wild(template string) string { return strings.ReplaceAll(template, protocol.ThingName, "+") }
