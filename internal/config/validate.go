package config

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/certvendor/certvendor/campaign"
	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/rotation"
	"github.com/certvendor/certvendor/vending"
)

// maxSocketPath is what a Unix socket's address holds (sys/un.h: 108 with the
// final zero).
const maxSocketPath = 107

// Validate lists everything that cannot work, a problem a line, each by its
// key. It looks at nothing outside the configuration.
func (c Config) Validate() error {
	var p problems
	p.oneOf("backend", string(c.Backend), string(StandaloneBackend), string(AWSBackend))
	p.check("control.socket", c.Control.Socket != "", "must be set")
	p.check("control.socket", len(c.Control.Socket) <= maxSocketPath,
		"%s: longer than the %d characters of a Unix socket's path", c.Control.Socket, maxSocketPath)
	c.validateControlTLS(&p)
	if c.Metrics.Listen != "" {
		p.address("metrics.listen", c.Metrics.Listen)
	}
	p.add(c.Topics().Validate())
	p.replies(c.MQTT.Topics)
	p.add(c.Naming().Validate())
	p.add(c.PolicyRule().Validate())
	c.validateVending(&p)
	c.validateRotation(&p)
	c.validateWebhook(&p)
	c.validateApproval(&p)
	c.validateStandalone(&p)
	c.validateAWS(&p)
	p.oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	return errors.Join(p...)
}

func (c Config) validateControlTLS(p *problems) {
	t := c.Control.TLS
	p.check("control.tls.key", (t.Certificate == "") == (t.Key == ""), "must be set together with control.tls.certificate")
	if t.Listen == "" {
		return
	}
	p.address("control.tls.listen", t.Listen)
	p.check("control.tls.client_ca", len(t.ClientCA) > 0, "must name who signs operators' certificates")
	names := slices.Concat(t.Viewers, t.Operators, t.Admins)
	p.check("control.tls.viewers", len(names) > 0, "nobody may do anything: list common names here, in operators or in admins")
	slices.Sort(names)
	for i, name := range names {
		p.check("control.tls.viewers", name != "", "an empty name")
		p.check("control.tls.viewers", i == 0 || name != names[i-1], "%.80q is listed twice, here, in operators or in admins", name)
	}
}

func (c Config) validateVending(p *problems) {
	p.positive("vending.validity", c.Vending.Validity)
	p.notNegative("vending.backdate", c.Vending.Backdate)
	p.positive("vending.link_ttl", c.Vending.LinkTTL)
	p.positive("vending.patience", c.Vending.Patience)
	p.check("vending.patience", c.Vending.Patience < rotation.LeaseTime,
		"must be less than %s, for which a request holds its rotation", rotation.LeaseTime)
	p.check("vending.new_keys", c.Vending.NewKeys.Count > 0 && c.Vending.NewKeys.Per > 0, "must allow at least one key")
	p.oneOf("vending.unproven_ack", string(c.Vending.UnprovenAck), string(AcceptUnproven), string(RejectUnproven))
	p.check("limits.per_device", c.Limits.PerDevice.Count > 0 && c.Limits.PerDevice.Per > 0, "must allow at least one request")
	p.check("limits.burst", c.Limits.Burst > 0, "must be at least 1")
	p.oneOf("csr.reuse_key", string(c.CSR.ReuseKey), string(RefuseReuse), string(AllowReuse))
	p.oneOf("admit.binding", string(c.Admit.Binding),
		string(vending.Attached), string(vending.ByCommonName), string(vending.AttachedOrCN))
	p.check("job.in_progress_timeout", c.Job.InProgressTimeout >= time.Minute, "must be at least 1m")
}

// minKeep is the least that rotation.keep may be: whoever looks for what
// happened yesterday finds it.
const minKeep = 24 * time.Hour

func (c Config) validateRotation(p *problems) {
	r := c.Rotation
	p.check("rotation.group", r.Group != "", "must be set")
	p.check("rotation.status.name", attribute.MatchString(r.Status.Name) && len(r.Status.Name) <= 128 && !slices.Contains(ownAttributes, r.Status.Name),
		"%.40q: must be an attribute's name, and none of %s", r.Status.Name, strings.Join(ownAttributes, ", "))
	p.check("rotation.status.value", attribute.MatchString(r.Status.Value) && len(r.Status.Value) <= 800 && (r.Status.Value == "") == (r.Status.Name == ""),
		"%.40q: must be an attribute's value, empty where there is no name", r.Status.Value)
	p.oneOf("rotation.previous", string(r.Previous),
		string(certificate.Keep), string(certificate.Deactivate), string(certificate.Delete))
	p.oneOf("rotation.retire", string(r.Retire), string(rotation.Replaced), string(rotation.All))
	p.notNegative("rotation.grace", r.Grace)
	p.positive("rotation.ttl", r.TTL)
	p.notNegative("rotation.settle", r.Settle)
	p.positive("rotation.recent", r.Recent)
	p.check("rotation.max_retire_per_hour", r.MaxRetirePerHour >= 0, "must not be negative")
	p.check("rotation.per_minute", r.PerMinute >= 1 && r.PerMinute <= 1_000_000, "must be from 1 to 1000000")
	p.check("rotation.max_in_flight", r.MaxInFlight >= 1, "must be at least 1")
	p.check("rotation.keep", r.Keep == 0 || r.Keep >= minKeep && r.Keep >= c.Vending.NewKeys.Per,
		"must be 0s, which keeps all, or at least %s and the time of vending.new_keys, which counts rotations", minKeep)
	p.check("rotation.sweep_every", r.SweepEvery >= 10*time.Millisecond, "must be at least 10ms")
	c.validateAuto(p)
}

func (c Config) validateAuto(p *problems) {
	a := c.Rotation.Auto
	p.check("rotation.auto.before", a.Before.Time <= c.Vending.Validity/2,
		"must be at most half of vending.validity, or a new certificate would be due at once")
	for _, pair := range a.Except {
		name, _, ok := strings.Cut(pair, "=")
		p.check("rotation.auto.except", ok && name != "", "%.80q must be name=value", pair)
	}
	if err := c.AutoSpec().Validate(); err != nil {
		p.add(fmt.Errorf("rotation.auto.campaign.%w", err))
	}
}

// AutoSpec returns the spec of the campaign that devices enter as their
// certificates come due.
func (c Config) AutoSpec() campaign.Spec {
	a := c.Rotation.Auto.Campaign
	return campaign.Spec{
		Name: campaign.AutoName, Choose: campaign.Choice{All: true, Order: campaign.ByExpiry},
		Waves: []campaign.Share{{Percent: 100}}, Gates: campaign.Auto,
		PerMinute: a.PerMinute, MaxInFlight: a.MaxInFlight, Soak: a.Soak, VerifyWithin: a.VerifyWithin,
		Abort: a.Abort, Window: a.Window,
	}
}

func (c Config) validateWebhook(p *problems) {
	w := c.Webhook
	if w.URL != "" { // which may hold a secret, so no error repeats it
		u, err := url.Parse(w.URL)
		p.check("webhook.url", err == nil && u.Scheme == "https" && u.Host != "" && u.Fragment == "", "must be an https:// URL")
		p.check("webhook.url", err != nil || u.User == nil, "must hold no user and no password: webhook.secret says who calls")
		p.check("webhook.secret", w.Secret.IsSet(), "must be set together with webhook.url")
	}
	for _, event := range w.Events {
		p.oneOf("webhook.events", event, WebhookEvents...)
	}
	for _, days := range w.CADays {
		p.check("webhook.ca_days", days >= 1 && days <= 3650, "%d is not from 1 to 3650", days)
	}
	p.check("webhook.keep", w.Keep >= time.Hour, "must be at least 1h")
}

func (c Config) validateApproval(p *problems) {
	a := c.Approval
	if a.URL != "" { // which may hold a secret, so no error repeats it
		u, err := url.Parse(a.URL)
		p.check("approval.url", err == nil && u.Scheme == "https" && u.Host != "" && u.Fragment == "", "must be an https:// URL")
		p.check("approval.url", err != nil || u.User == nil, "must hold no user and no password: approval.token says who asks")
	}
	p.check("approval.function", a.Function == "" || c.Backend == AWSBackend, "only backend aws has functions: approval.url asks over HTTPS")
	p.check("approval.function", a.Function == "" || a.URL == "", "must not be set together with approval.url")
	p.check("approval.token", !a.Token.IsSet() || a.URL != "", "must not be set without approval.url")
	p.check("approval.ca", a.CA == "" || a.URL != "", "must not be set without approval.url")
	asks := a.URL != "" || a.Function != ""
	p.check("approval.timeout", a.Timeout > 0 && (!asks || a.Timeout < c.Vending.Patience), "must be more than zero and less than vending.patience")
}

func (c Config) validateStandalone(p *problems) {
	s := c.Standalone
	p.check("standalone.data", s.Data != "", "must be set")
	p.check("standalone.names", len(s.Names) > 0 || s.ServerCertificate != "", "must hold at least one name")
	p.check("standalone.server_key", (s.ServerCertificate == "") == (s.ServerKey == ""),
		"must be set together with standalone.server_certificate")
	p.check("standalone.server_ca", s.ServerCA == "" || s.ServerCertificate != "",
		"has a meaning only with standalone.server_certificate")
	p.address("standalone.broker.listen", s.Broker.Listen)
	p.address("standalone.packages.listen", s.Packages.Listen)
	p.notNegative("standalone.broker.expired", s.Broker.Expired)
	p.check("standalone.broker.max_unfinished", s.Broker.MaxUnfinished >= 1, "must be at least 1")
	p.check("standalone.broker.max_connections_per_device", s.Broker.MaxConnectionsPerDevice >= 2,
		"must be at least 2: a device that rotates has two")
	if s.Packages.URL != "" {
		u, err := url.Parse(s.Packages.URL)
		p.check("standalone.packages.url", err == nil && u.Scheme == "https" && u.Host != "" && u.RawQuery == "" && u.Fragment == "",
			"must be an https:// URL without a query")
	}
	p.filters("standalone.broker.topics.publish", s.Broker.Topics.Publish, c.MQTT.Topics)
	p.filters("standalone.broker.topics.subscribe", s.Broker.Topics.Subscribe, c.MQTT.Topics)
}

// attribute is what AWS IoT takes for the name and the value of a thing's
// attribute (API reference, AttributePayload); ownAttributes are written anyway.
var attribute = regexp.MustCompile(`^[a-zA-Z0-9_.,@/:#=\[\]-]*$`)

var ownAttributes = []string{"certificateId", "certNotAfter"}

// Topics returns the topics of the protocol.
func (c Config) Topics() protocol.Topics { return protocol.Topics(c.MQTT.Topics) }

// Naming returns the rule for a new certificate's subject.
func (c Config) Naming() certificate.Naming {
	return certificate.Naming{Mode: c.CSR.Subject, Patterns: c.CSR.CN}
}

// PolicyRule returns the rule for a new certificate's policies.
func (c Config) PolicyRule() vending.Policy {
	rule := vending.Policy{Mode: c.Policy.Mode, Default: c.Policy.Default, Allow: c.Policy.InheritAllow}
	usual := vending.PolicyDefault
	if c.Backend == AWSBackend {
		rule.Most, usual = certificate.MostPolicies, vending.PolicyInherit
	}
	rule.Mode = cmp.Or(rule.Mode, usual)
	return rule
}

// Terms returns what becomes of rotations, with the circuit breaker's default
// worked out.
func (c Config) Terms() rotation.Terms {
	r := c.Rotation
	breaker := r.MaxRetirePerHour
	if breaker == 0 {
		breaker = 2 * r.PerMinute * 60
	}
	return rotation.Terms{
		Previous: r.Previous, Retire: r.Retire, Grace: r.Grace, TTL: r.TTL, Settle: r.Settle,
		Recent: r.Recent, Window: c.Standalone.Broker.Expired, MaxRetirePerHour: breaker, Keep: r.Keep,
		Status: rotation.Attribute(r.Status),
	}
}

// Profile returns the rules for the whole fleet, as the profile "default".
func (c Config) Profile() vending.Profile {
	return vending.Profile{
		Name: "default", Validity: c.Vending.Validity, Naming: c.Naming(),
		ReuseKey: c.CSR.ReuseKey == AllowReuse, Policy: c.PolicyRule(), Terms: c.Terms(),
	}
}

// problems are what Validate has found so far.
type problems []error

func (p *problems) add(err error) {
	if err != nil {
		*p = append(*p, err)
	}
}

func (p *problems) check(key string, ok bool, format string, args ...any) {
	if !ok {
		*p = append(*p, fmt.Errorf("%s: %s", key, fmt.Sprintf(format, args...)))
	}
}

func (p *problems) oneOf(key, value string, allowed ...string) {
	if len(allowed) == 1 {
		p.check(key, value == allowed[0], "%.40q is not %s", value, allowed[0])
		return
	}
	p.check(key, slices.Contains(allowed, value), "%.40q is none of %s", value, strings.Join(allowed, ", "))
}

func (p *problems) positive(key string, d time.Duration) {
	p.check(key, d > 0, "must be more than 0s")
}

func (p *problems) notNegative(key string, d time.Duration) {
	p.check(key, d >= 0, "must not be negative")
}

func (p *problems) address(key, value string) {
	_, port, err := net.SplitHostPort(value)
	n, numErr := strconv.Atoi(port)
	p.check(key, err == nil && numErr == nil && n >= 0 && n <= 65535, "%.80q: must be host:port", value)
}

// replies wants both replies of an action one level below the same topic: a
// device hears them with one subscription.
func (p *problems) replies(t Topics) {
	p.check("mqtt.topics.get_rejected", parent(t.GetAccepted) == parent(t.GetRejected), "must stand beside mqtt.topics.get_accepted")
	p.check("mqtt.topics.ack_rejected", parent(t.AckAccepted) == parent(t.AckRejected), "must stand beside mqtt.topics.ack_accepted")
}

func parent(topic string) string { return topic[:max(strings.LastIndex(topic, "/"), 0)] }

// filters refuses what would open the broker's own or the protocol's topics.
func (p *problems) filters(key string, filters []string, protocolTopics Topics) {
	for _, f := range filters {
		p.check(key, f != "" && !strings.HasPrefix(f, "$") && !strings.HasPrefix(f, "#") && !strings.HasPrefix(f, "+"),
			"%.80q: must begin with a level of its own, not with $, # or +", f)
		p.check(key, !strings.ContainsRune(f, 0), "%.80q: holds a NUL", f)
		for _, own := range protocolTopics.all() {
			p.check(key, !overlap(f, own), "%.80q: reaches %s, which is the protocol's", f, own)
		}
	}
}

func (t Topics) all() []string {
	return []string{t.Get, t.GetAccepted, t.GetRejected, t.Ack, t.AckAccepted, t.AckRejected}
}

// overlap reports whether a topic can match a filter and a template both.
func overlap(filter, template string) bool {
	levels := strings.Split(template, "/")
	asked := strings.Split(filter, "/")
	for i, level := range asked {
		if level == "#" {
			return true
		}
		if i == len(levels) {
			return false
		}
		if level != "+" && level != protocol.ThingName && levels[i] != protocol.ThingName && level != levels[i] {
			return false
		}
	}
	return len(asked) == len(levels)
}
