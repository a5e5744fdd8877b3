package aws

import (
	"encoding/json"
	"strings"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/jobs"
	"github.com/certvendor/certvendor/protocol"
)

// Policy is a policy of IAM or of AWS IoT; as JSON it is what AWS takes.
type Policy struct {
	Version   string      `json:"Version"`
	Statement []Statement `json:"Statement"`
}

// Statement allows actions on resources, under a condition where there is one.
type Statement struct {
	Sid       string            `json:"Sid,omitempty"`
	Effect    string            `json:"Effect"`
	Principal map[string]string `json:"Principal,omitempty"`
	Action    []string          `json:"Action"`
	Resource  []string          `json:"Resource,omitempty"`
	Condition Condition         `json:"Condition,omitempty"`
}

// Condition holds, by the operator and the key, what is wanted.
type Condition map[string]map[string]string

// policyVersion is the version of the language that policies are written in.
const policyVersion = "2012-10-17"

// Scope is what policies are made for: an account, and what of it a
// configuration uses.
type Scope struct {
	Region, Account string

	Registration Registration
	Registry     Source
	Assets       AssetLibrary
	Approval     string // the function that approves requests; empty: none does
	Issuer       IssuerScope
	Group        string
	Rerun        Rerun
	Packages     PackagesConfig
	// Observes says that nothing is changed at AWS.
	Observes bool

	Topics   protocol.Topics
	Identity Identity
	ClientID string // of the daemon
	Inbox    string
	// Presence is as MQTTConfig has it.
	Presence bool
	// Table is where a topic rule writes who connects. Empty: none does.
	Table string
	// Journal is the table of a store that is shared. Empty: it is not.
	Journal string
	// OwnCertificate says that the daemon shows the broker a certificate,
	// whose policy is BrokerPolicy, and not the credentials of its calls.
	OwnCertificate bool
}

// IssuerScope is what signs.
type IssuerScope struct {
	Kind    string // ssm, kms, pca or iot
	CA      certificate.ID
	Key     string   // of KMS: an id, an alias or an ARN
	CAs     []string // of ACM PCA, by ARN
	Role    string   // that is assumed for them
	FromCSR bool
}

// The kinds of issuers.
const (
	ssmIssuer = "ssm"
	kmsIssuer = "kms"
	pcaIssuer = "pca"
	iotIssuer = "iot"
)

// names makes the ARNs of the scope.
func (s Scope) names() names { return names{PartitionOf(s.Region), s.Region, s.Account} }

// PartitionOf returns the partition that a region is in.
func PartitionOf(region string) string {
	for prefix, partition := range map[string]string{"cn-": "aws-cn", "us-gov-": "aws-us-gov", "eusc-": "aws-eusc"} {
		if strings.HasPrefix(region, prefix) {
			return partition
		}
	}
	return "aws"
}

// DaemonPolicy returns the policy of the IAM identity that the daemon calls AWS
// as: every action that it calls with this configuration, and no other.
func (s Scope) DaemonPolicy() Policy {
	var statements []Statement
	for _, g := range s.grants() {
		statements = append(statements, allow(g.sid, g.actions(), g.on, g.condition))
	}
	if !s.OwnCertificate {
		statements = append(statements, s.broker()...)
	}
	return policy(statements)
}

// BrokerPolicy returns the AWS IoT policy of the certificate that the daemon
// shows the broker, where it shows one.
func (s Scope) BrokerPolicy() Policy { return policy(s.broker()) }

// RulePolicy returns the policy of the role that the topic rules act in.
func (s Scope) RulePolicy() Policy {
	n := s.names()
	var all []Statement
	if s.Identity == ByRule {
		all = append(all, allow("Envelopes", []string{"iot:Publish"}, []string{n.iot("topic/" + s.Inbox + "/*")}, nil))
	}
	if s.Table != "" {
		all = append(all, allow("Presence", []string{"dynamodb:PutItem"}, []string{n.table(s.Table)}, nil))
	}
	return policy(all)
}

// RuleTrust returns who may act in the role of the topic rules: AWS IoT, for the
// rules of this daemon.
func (s Scope) RuleTrust() Policy {
	statement := allow("", []string{"sts:AssumeRole"}, nil, Condition{
		"StringEquals": {"aws:SourceAccount": s.Account},
		"ArnLike":      {"aws:SourceArn": s.names().iot("rule/" + ruleName(s.ClientID, "*"))},
	})
	statement.Principal = map[string]string{"Service": "iot.amazonaws.com"}
	return policy([]Statement{statement})
}

// Size is how many characters a policy has, as AWS IoT counts them: without white
// space.
func (p Policy) Size() int { return len(p.text()) }

// text is the policy as AWS takes it.
func (p Policy) text() string {
	text, err := json.Marshal(p)
	if err != nil {
		panic("aws: a policy of texts: " + err.Error())
	}
	return string(text)
}

func policy(statements []Statement) Policy {
	return Policy{Version: policyVersion, Statement: statements}
}

func allow(sid string, actions, on []string, condition Condition) Statement {
	return Statement{Sid: sid, Effect: "Allow", Action: actions, Resource: on, Condition: condition}
}

// anyLevel stands in a topic of a policy for any text.
const anyLevel = "*"

// broker returns what the daemon does at the broker.
func (s Scope) broker() []Statement {
	n := s.names()
	bus := MQTTConfig{ClientID: s.ClientID, Topics: s.Topics, Identity: s.Identity, Inbox: s.Inbox, Presence: s.Presence, Executions: !s.Observes}
	filters := bus.filters()
	if s.Presence {
		filters = append(filters, presenceFilter)
	}
	if !s.Observes {
		filters = append(filters, executionFilter)
	}
	var clients, subscribes, receives []string
	for _, id := range append(bus.clientIDs(), s.ClientID+examines) { // who examines uses what the daemon may
		clients = append(clients, n.iot("client/"+id))
	}
	for _, filter := range filters {
		subscribes = append(subscribes, n.iot("topicfilter/"+filter))
		receives = append(receives, n.iot("topic/"+strings.NewReplacer("+", anyLevel, "#", anyLevel).Replace(filter)))
	}
	statements := []Statement{
		allow("BrokerConnect", []string{"iot:Connect"}, clients, nil),
		allow("BrokerSubscribe", []string{"iot:Subscribe"}, subscribes, nil),
		allow("BrokerReceive", []string{"iot:Receive"}, receives, nil),
	}
	if s.Observes {
		return statements
	}
	t := s.Topics
	return append(statements, allow("BrokerReply", []string{"iot:Publish"},
		topics(n, t.GetAccepted, t.GetRejected, t.AckAccepted, t.AckRejected), nil))
}

// topics returns the ARNs of topics, for whichever device.
func topics(n names, templates ...string) []string {
	var all []string
	for _, t := range templates {
		all = append(all, n.iot("topic/"+protocol.Fill(t, anyLevel)))
	}
	return all
}

// thingName is AWS IoT's variable for the thing of the connection. It has a
// value only where the certificate is attached to the thing and the client id
// is the thing's name, or where the certificate is that thing's alone; without
// one nothing matches.
const thingName = "${iot:Connection.Thing.ThingName}"

// DevicePolicyLimit is how many characters a policy of AWS IoT may have, besides
// white space.
const DevicePolicyLimit = 2048

// DevicePolicy returns the AWS IoT policy of the devices' certificates: each
// device speaks as itself, in the topics of the protocol and those of its jobs.
func (s Scope) DevicePolicy() Policy {
	n, t := s.names(), s.Topics
	arns := func(kind string, templates ...string) []string {
		var all []string
		for _, template := range templates {
			all = append(all, n.iot(kind+"/"+protocol.Fill(template, thingName)))
		}
		return all
	}
	const job = "$aws/things/" + protocol.ThingName + "/jobs/"
	// Both replies of an action stand one level below its request, where devices
	// subscribe to all of that level.
	document := protocol.NewJobDocument(t)
	replies := []string{
		strings.TrimSuffix(document.Get.Subscribe, "+") + anyLevel, strings.TrimSuffix(document.Ack.Subscribe, "+") + anyLevel, job + anyLevel,
	}
	return policy([]Statement{
		allow("", []string{"iot:Connect"}, arns("client", protocol.ThingName), Condition{"Bool": {"iot:Connection.Thing.IsAttached": "true"}}),
		allow("", []string{"iot:Publish"}, arns("topic", t.Get, t.Ack, job+"get", job+"start-next", job+"*/get", job+"*/update"), nil),
		allow("", []string{"iot:Subscribe"}, arns("topicfilter", replies...), nil),
		allow("", []string{"iot:Receive"}, arns("topic", replies...), nil),
	})
}

// jobPrefix begins the id of every job of ours, also of one whose topics were
// others.
func jobPrefix(group string, t protocol.Topics) string {
	id, _, _ := strings.Cut(jobs.New(group, t).ID, "-")
	return id + "-"
}
