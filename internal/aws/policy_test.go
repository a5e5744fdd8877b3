package aws

import (
	"context"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/smithy-go/middleware"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/protocol"
)

func testScope(change ...func(*Scope)) Scope {
	s := Scope{
		Region: "eu-west-1", Account: "123456789012", Registration: WithCA, Registry: ThingsSource,
		Issuer: IssuerScope{Kind: ssmIssuer, CA: certificate.ID(strings.Repeat("ab", 32))},
		Group:  "rotate", Rerun: Readd, Topics: protocol.DefaultTopics(), Identity: ByRule, ClientID: "certvendor", Inbox: Inbox,
		Presence: true,
	}
	for _, fn := range change {
		fn(&s)
	}
	return s
}

// everyScope is as many configurations as it takes for every call to be made in
// one of them.
func everyScope() []Scope {
	return []Scope{
		testScope(func(s *Scope) { s.Packages = PackagesConfig{Bucket: "mill", KMSKey: "alias/mill"} }),
		testScope(func(s *Scope) { s.Registration, s.Rerun = WithoutCA, DeleteExecution }),
		testScope(func(s *Scope) { s.Presence, s.Table = false, "presence" }),
		testScope(func(s *Scope) { s.Journal = "journal" }),
		testScope(func(s *Scope) { s.Rerun = JobPerCampaign }),
		testScope(func(s *Scope) { s.Issuer = IssuerScope{Kind: kmsIssuer, Key: "k"} }),
		testScope(func(s *Scope) { s.Issuer = IssuerScope{Kind: pcaIssuer, CAs: []string{fakeCA}} }),
		testScope(func(s *Scope) {
			s.Issuer = IssuerScope{Kind: pcaIssuer, CAs: []string{fakeCA}, Role: "arn:aws:iam::1:role/ca"}
		}),
		testScope(func(s *Scope) { s.Issuer.Kind = iotIssuer }),
		testScope(func(s *Scope) { s.Registry, s.Assets.Function = AssetsSource, "assets" }),
		testScope(func(s *Scope) {
			s.Registry, s.Assets.URL = AssetsSource, "https://abc.execute-api.eu-west-1.amazonaws.com/p"
		}),
	}
}

// What stands in a policy for the sake of another call, or is called without
// the SDK's types, and so is not found in the source.
var notInSource = []string{"s3:ListBucket", "kms:Decrypt", "kms:GenerateDataKey", "sts:AssumeRole", "execute-api:Invoke", "iot:TagResource"}

// freeOfCharge is what everybody may call.
var freeOfCharge = []string{"sts:GetCallerIdentity"}

// Every call of the SDK in the daemon's code is in a policy, and every call in a
// policy is in the code.
func TestDaemonPolicyHasWhatTheCodeCalls(t *testing.T) {
	called := callsInSource(t, func(file string) bool {
		return !slices.ContainsFunc(theOperators, func(prefix string) bool { return strings.HasPrefix(file, prefix) })
	})
	granted := map[string]bool{}
	for _, s := range everyScope() {
		for _, g := range s.grants() {
			for _, call := range g.calls {
				granted[g.service+":"+call] = true
			}
		}
	}
	for call, file := range called {
		if !granted[call] && !slices.Contains(freeOfCharge, call) {
			t.Errorf("%s calls %s, which is in no policy: see grants in policy_grants.go", file, call)
		}
	}
	for call := range granted {
		if called[call] == "" && !slices.Contains(notInSource, call) {
			t.Errorf("a policy has %s, which nobody calls", call)
		}
	}
}

// theOperators are the files of verbs that an operator calls as himself, by
// what their names begin with.
var theOperators = []string{"setup", "ca_register", "doctor", "policy"}

// Every call of setup is among those that the documentation lists.
func TestCallsOfSetupAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/aws.md")
	if err != nil {
		t.Fatal(err)
	}
	_, listed, _ := strings.Cut(string(text), "What `setup` calls")
	listed, _, _ = strings.Cut(listed, "\n\n")
	called := callsInSource(t, func(file string) bool {
		return strings.HasPrefix(file, "setup") || file == "jobs_remote.go" || file == "jobs_group.go"
	})
	if len(called) < 20 {
		t.Errorf("only %d calls are found", len(called))
	}
	for call, file := range called {
		_, name, _ := strings.Cut(call, ":")
		daemons := slices.Contains([]string{"AddThingToThingGroup", "RemoveThingFromThingGroup", "GetCallerIdentity"}, name)
		if !daemons && !slices.Contains(strings.FieldsFunc(listed, func(r rune) bool { return strings.ContainsRune(" ,;:.()\n", r) }), name) {
			t.Errorf("%s calls %s, which docs/aws.md does not list", file, call)
		}
	}
}

// callsInSource returns the calls of some files, by service, and a file that
// makes each.
func callsInSource(t *testing.T, in func(file string) bool) map[string]string {
	t.Helper()
	services := map[string]string{
		"iot": "iot", "s3": "s3", "ssm": "ssm", "kms": "kms", "acmpca": "acm-pca", "sts": "sts", "lambda": "lambda", "dynamodb": "dynamodb",
		"iam": "iam",
	}
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	calls := map[string]string{}
	for _, f := range files {
		name := f.Name()
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") || !in(name) {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(node ast.Node) bool {
			literal, is := node.(*ast.CompositeLit)
			if !is {
				return true
			}
			if of, is := literal.Type.(*ast.SelectorExpr); is {
				call, isInput := strings.CutSuffix(of.Sel.Name, "Input")
				if service := services[fmt.Sprint(of.X)]; isInput && service != "" {
					calls[service+":"+call] = name
				}
			}
			return true
		})
	}
	return calls
}

func TestDaemonPolicyByConfiguration(t *testing.T) {
	all := func(s Scope) string {
		var actions []string
		for _, statement := range s.DaemonPolicy().Statement {
			actions = append(actions, statement.Action...)
			for _, on := range statement.Resource {
				if on == "*" && statement.Condition == nil {
					t.Errorf("%v is allowed on everything everywhere", statement.Action)
				}
			}
		}
		slices.Sort(actions)
		return strings.Join(slices.Compact(actions), " ")
	}
	plain := all(testScope())
	for name, c := range map[string]struct {
		change         func(*Scope)
		more, less     []string
		exactlyAsPlain bool
	}{
		"without a CA":  {func(s *Scope) { s.Registration = WithoutCA }, []string{"iot:RegisterCertificateWithoutCA"}, []string{"iot:RegisterCertificate"}, false},
		"another rerun": {func(s *Scope) { s.Rerun = DeleteExecution }, []string{"iot:DeleteJobExecution"}, nil, false},
		"packages": {func(s *Scope) { s.Packages = PackagesConfig{Bucket: "mill"} },
			[]string{"s3:DeleteObject", "s3:GetObject", "s3:ListBucket", "s3:PutObject"}, nil, false},
		"packages, their own key": {func(s *Scope) { s.Packages = PackagesConfig{Bucket: "mill", KMSKey: "k"} },
			[]string{"s3:DeleteObject", "s3:GetObject", "s3:ListBucket", "s3:PutObject", "kms:GenerateDataKey"}, nil, false},
		"a key in KMS": {func(s *Scope) { s.Issuer.Kind, s.Issuer.Key = kmsIssuer, "alias/ca" },
			[]string{"kms:GetPublicKey", "kms:Sign"}, []string{"ssm:GetParameter", "kms:Decrypt"}, false},
		"ACM PCA": {func(s *Scope) { s.Issuer = IssuerScope{Kind: pcaIssuer, CAs: []string{fakeCA}} },
			[]string{"acm-pca:DescribeCertificateAuthority", "acm-pca:GetCertificate", "acm-pca:GetCertificateAuthorityCertificate", "acm-pca:IssueCertificate"},
			[]string{"ssm:GetParameter", "kms:Decrypt"}, false},
		"ACM PCA of another account": {func(s *Scope) { s.Issuer = IssuerScope{Kind: pcaIssuer, CAs: []string{fakeCA}, Role: "r"} },
			[]string{"sts:AssumeRole"}, []string{"ssm:GetParameter", "kms:Decrypt"}, false},
		"a function that approves": {func(s *Scope) { s.Approval = "approve" }, []string{"lambda:InvokeFunction"}, nil, false},
		"AWS IoT's own CA": {func(s *Scope) { s.Issuer.Kind = iotIssuer },
			[]string{"iot:CreateCertificateFromCsr"}, []string{"ssm:GetParameter", "kms:Decrypt", "iot:DescribeCACertificate"}, false},
		"no registry": {func(s *Scope) { s.Registry = NoSource }, nil, []string{"iot:DescribeThing", "iot:UpdateThing", "iot:CreateThing"}, false},
		"an own certificate": {func(s *Scope) { s.OwnCertificate = true }, nil,
			[]string{"iot:Connect", "iot:Publish", "iot:Receive", "iot:Subscribe"}, false},
		"a shared store": {func(s *Scope) { s.Journal = "journal" }, []string{
			"dynamodb:BatchWriteItem", "dynamodb:CreateTable", "dynamodb:DescribeTable", "dynamodb:GetItem", "dynamodb:PutItem",
			"dynamodb:Query", "dynamodb:UpdateItem",
		}, nil, false},
		"the asset library's API": {func(s *Scope) {
			s.Registry, s.Assets.URL = AssetsSource, "https://abc.execute-api.eu-west-1.amazonaws.com/p"
		}, []string{"execute-api:Invoke"}, []string{"iot:DescribeThing", "iot:UpdateThing", "iot:CreateThing"}, false},
		"a table of presence": {func(s *Scope) { s.Presence, s.Table = false, "presence" }, []string{"dynamodb:GetItem", "dynamodb:Query"}, nil, false},
		"direct":              {func(s *Scope) { s.Identity = Direct }, nil, nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			want := append(strings.Fields(plain), c.more...)
			want = slices.DeleteFunc(want, func(action string) bool { return slices.Contains(c.less, action) })
			slices.Sort(want)
			if got := all(testScope(c.change)); got != strings.Join(want, " ") {
				t.Errorf("got  %s\nwant %s", got, strings.Join(want, " "))
			}
		})
	}
	observing := all(testScope(func(s *Scope) { s.Observes = true }))
	const reads = "iot:Connect iot:DescribeCACertificate iot:DescribeCertificate iot:DescribeThing iot:ListAttachedPolicies " +
		"iot:ListAuditFindings iot:ListCertificates iot:ListPrincipalThings iot:ListThingGroupsForThing iot:ListThingPrincipals " +
		"iot:ListThingPrincipalsV2 iot:ListThings iot:Receive iot:SearchIndex iot:Subscribe kms:Decrypt ssm:GetParameter"
	if observing != reads {
		t.Errorf("who observes may %s", observing)
	}
}

// Every connection of the bus may be made, and every filter of it is granted.
func TestBrokerPolicyHasEveryLine(t *testing.T) {
	for _, s := range []Scope{testScope(), testScope(func(s *Scope) { s.Identity, s.Presence = Direct, false })} {
		bus, err := NewMQTTBus(MQTTConfig{
			Way: nobodyThere{}, ClientID: s.ClientID, Topics: s.Topics, Identity: s.Identity, Keys: anyKeys(s.Identity),
			Presence: s.Presence, Executions: !s.Observes, Now: time.Now,
		})
		if err != nil {
			t.Fatal(err)
		}
		may := func(action, on string) {
			if p := s.BrokerPolicy(); !p.permits(action, s.names().iot(on), nil) {
				t.Errorf("%s on %s is not allowed", action, on)
			}
		}
		may("iot:Connect", "client/"+s.ClientID+examines) // and asks for filters of the daemon's
		for _, l := range bus.lines {
			may("iot:Connect", "client/"+l.clientID)
			for _, filter := range l.filters {
				may("iot:Subscribe", "topicfilter/"+filter)
				may("iot:Receive", "topic/"+strings.NewReplacer("+", "pump-7", "#", "pump-7/x").Replace(filter))
			}
		}
		for _, topic := range []string{s.Topics.Accepted("pump-7", protocol.Get), s.Topics.Rejected("pump-7", protocol.Ack)} {
			may("iot:Publish", "topic/"+topic)
		}
	}
}

// permits is what IAM and AWS IoT do with a policy that only allows.
func (p Policy) permits(action, on string, variables map[string]string) bool {
	for _, s := range p.Statement {
		if !slices.Contains(s.Action, action) {
			continue
		}
		for _, pattern := range s.Resource {
			for name, value := range variables {
				pattern = strings.ReplaceAll(pattern, "${"+name+"}", value)
			}
			if !strings.Contains(pattern, "${") && wildcard(pattern, on) {
				return true
			}
		}
	}
	return false
}

func wildcard(pattern, text string) bool {
	before, after, some := strings.Cut(pattern, "*")
	if !some {
		return pattern == text
	}
	rest, ok := strings.CutPrefix(text, before)
	for ok && len(rest) >= 0 {
		if wildcard(after, rest) {
			return true
		}
		if rest == "" {
			return false
		}
		rest = rest[1:]
	}
	return false
}

func TestDevicePolicy(t *testing.T) {
	p := testScope().DevicePolicy()
	if size := testScope(func(s *Scope) { s.Region = "us-gov-west-1" }).DevicePolicy().Size(); size > DevicePolicyLimit {
		t.Errorf("%d characters, and AWS IoT takes %d", size, DevicePolicyLimit)
	}
	arn := func(kind, name string) string { return "arn:aws:iot:eu-west-1:123456789012:" + kind + "/" + name }
	pump := map[string]string{"iot:Connection.Thing.ThingName": "pump-7"}
	for _, c := range []struct {
		action, on string
		want       bool
	}{
		{"iot:Connect", arn("client", "pump-7"), true},
		{"iot:Connect", arn("client", "pump-8"), false},
		{"iot:Publish", arn("topic", "cdf/certificates/pump-7/get"), true},
		{"iot:Publish", arn("topic", "cdf/certificates/pump-7/ack"), true},
		{"iot:Publish", arn("topic", "cdf/certificates/pump-7/get/accepted"), false},
		{"iot:Publish", arn("topic", "cdf/certificates/pump-8/get"), false},
		{"iot:Publish", arn("topic", "certvendor/in/pump-7/get"), false},
		{"iot:Publish", arn("topic", "$aws/things/pump-7/jobs/start-next"), true},
		{"iot:Publish", arn("topic", "$aws/things/pump-7/jobs/certvendor-1/update"), true},
		{"iot:Publish", arn("topic", "$aws/things/pump-8/jobs/start-next"), false},
		{"iot:Subscribe", arn("topicfilter", "cdf/certificates/pump-7/get/+"), true},
		{"iot:Subscribe", arn("topicfilter", "cdf/certificates/pump-7/ack/rejected"), true},
		{"iot:Subscribe", arn("topicfilter", "cdf/certificates/+/get/+"), false},
		{"iot:Subscribe", arn("topicfilter", "$aws/things/pump-7/jobs/notify-next"), true},
		{"iot:Subscribe", arn("topicfilter", "$aws/events/presence/connected/#"), false},
		{"iot:Receive", arn("topic", "cdf/certificates/pump-7/get/accepted"), true},
		{"iot:Receive", arn("topic", "cdf/certificates/pump-8/get/accepted"), false},
		{"iot:Receive", arn("topic", "$aws/things/pump-7/jobs/notify"), true},
	} {
		if got := p.permits(c.action, c.on, pump); got != c.want {
			t.Errorf("%s on %s: %t", c.action, c.on, got)
		}
		if c.want && p.permits(c.action, c.on, nil) {
			t.Errorf("%s on %s is allowed to a connection without a thing", c.action, c.on)
		}
	}
}

func TestRulePolicy(t *testing.T) {
	p := testScope(func(s *Scope) { s.Region, s.Table = "cn-north-1", "certvendor-presence" })
	for action, on := range map[string]string{
		"iot:Publish":      "arn:aws-cn:iot:cn-north-1:123456789012:topic/certvendor/in/pump-7/get",
		"dynamodb:PutItem": "arn:aws-cn:dynamodb:cn-north-1:123456789012:table/certvendor-presence",
	} {
		if !p.RulePolicy().permits(action, on, nil) {
			t.Errorf("%s on %s is not allowed: %+v", action, on, p.RulePolicy())
		}
	}
	rule, err := NewRule(p.Topics, protocol.Get, p.Inbox, NewRuleKey())
	if err != nil || !p.RulePolicy().permits("iot:Publish", p.names().iot("topic/"+strings.ReplaceAll(rule.Topic, "${topic(3)}", "pump-7")), nil) {
		t.Errorf("the rule may not publish to %s: %v", rule.Topic, err)
	}
	trust := p.RuleTrust().Statement[0]
	if trust.Principal["Service"] != "iot.amazonaws.com" || trust.Condition["StringEquals"]["aws:SourceAccount"] != "123456789012" {
		t.Errorf("trusts %+v", trust)
	}
}

// onWhat says which members of a call name what IAM looks at (Service
// Authorization Reference, AWS IoT, S3); a call that is not here has no
// resource.
var onWhat = map[string][]string{
	"AddThingToThingGroup": {"ThingName", "ThingGroupName"}, "RemoveThingFromThingGroup": {"ThingName", "ThingGroupName"},
	"AttachPolicy": {"Target"}, "DetachPolicy": {"Target"}, "AttachThingPrincipal": {"Principal", "ThingName"},
	"DetachThingPrincipal": {"Principal", "ThingName"}, "ListThingPrincipalsV2": {"ThingName"}, "ListPrincipalThings": {"Principal"},
	"DescribeThing": {"ThingName"}, "UpdateThing": {"ThingName"}, "CreateThing": {"ThingName"}, "DescribeCertificate": {"CertificateId"},
	"UpdateCertificate": {"CertificateId"}, "DeleteCertificate": {"CertificateId"}, "CreateThingGroup": {"ThingGroupName"},
	"DescribeThingGroup": {"ThingGroupName"}, "ListThingsInThingGroup": {"ThingGroupName"}, "CreateJob": {"JobId", "Targets"},
	"DescribeJob": {"JobId"}, "CancelJob": {"JobId"}, "ListJobExecutionsForJob": {"JobId"}, "DescribeJobExecution": {"JobId", "ThingName"},
	"DeleteJobExecution": {"JobId", "ThingName"}, "HeadObject": {"Key"}, "PutObject": {"Key"}, "DeleteObject": {"Key"},
}

// guarded returns clients that call only what a scope's policy permits, and what
// they have called.
func guarded(t *testing.T, c *Clients, s Scope) (*Clients, *[]string) {
	t.Helper()
	p, called := s.DaemonPolicy(), &[]string{}
	services := map[string]string{"IoT": "iot", "S3": "s3", "SSM": "ssm", "KMS": "kms", "ACM PCA": "acm-pca", "STS": "sts"}
	config := c.Config.Copy()
	config.APIOptions = append(config.APIOptions, func(stack *middleware.Stack) error {
		return stack.Initialize.Add(middleware.InitializeMiddlewareFunc("guard", func(
			ctx context.Context, in middleware.InitializeInput, next middleware.InitializeHandler,
		) (middleware.InitializeOutput, middleware.Metadata, error) {
			call := awsmiddleware.GetOperationName(ctx)
			g := grant{service: services[awsmiddleware.GetServiceID(ctx)], calls: []string{call}}
			*called = append(*called, g.service+":"+call)
			for _, action := range g.actions() {
				for _, on := range resources(s.names(), call, in.Parameters) {
					if !p.permits(action, on, nil) && !slices.Contains(freeOfCharge, action) {
						t.Errorf("%s on %s is called, and the policy does not allow it", action, on)
					}
				}
			}
			return next.HandleInitialize(ctx, in)
		}), middleware.After)
	})
	made := clients(config, true)
	made.Quotas = c.Quotas
	return made, called
}

// resources returns the ARNs that a call is about.
func resources(n names, call string, in any) []string {
	members := onWhat[call]
	if len(members) == 0 {
		return []string{"*"}
	}
	value := reflect.ValueOf(in).Elem()
	text := func(member string) string { return value.FieldByName(member).Elem().String() }
	var all []string
	for _, member := range members {
		switch member {
		case "ThingName":
			all = append(all, n.iot("thing/"+text(member)))
		case "ThingGroupName":
			all = append(all, n.group(text(member)))
		case "CertificateId":
			all = append(all, n.certificate(certificate.ID(text(member))))
		case "JobId":
			all = append(all, n.iot("job/"+text(member)))
		case "Key":
			all = append(all, n.bucket(text("Bucket")+"/"+text(member)))
		case "Targets":
			all = append(all, value.FieldByName(member).Interface().([]string)...)
		default: // an ARN
			all = append(all, text(member))
		}
	}
	return all
}

// A whole rotation, its job, the pacer and packages call nothing that the
// printed policy does not allow, on what it allows it.
func TestDaemonLivesByItsPolicy(t *testing.T) {
	var called *[]string
	c := newCourse(t, certificate.Delete, nil, func(config *Config) {
		n, err := (&World{config: *config}).caller(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		config.Clients, called = guarded(t, config.Clients, testScope(func(s *Scope) {
			s.Account, s.Group, s.Packages = n.account, config.Group, config.Packages
		}))
	})
	w := c.world
	w.ensure(t)
	c.must(w.registry.Add(c.ctx, courseThing, nil))
	c.must(w.group.Add(c.ctx, courseThing))
	w.pacedRound(t, c.clock)
	vended := c.rotate()
	c.wantWhole(vended)
	c.must(w.packages.Put(c.ctx, courseThing, vended, []byte("zip")))
	if _, err := w.packages.Find(c.ctx, courseThing); err != nil {
		t.Fatal(err)
	}
	c.must(w.packages.Spend(c.ctx, courseThing, vended))
	for _, want := range []string{
		"iot:RegisterCertificate", "iot:AttachPolicy", "iot:DeleteCertificate", "iot:AddThingToThingGroup", "iot:CreateJob",
		"s3:PutObject", "s3:HeadObject", "s3:DeleteObject",
	} {
		if !slices.Contains(*called, want) {
			t.Errorf("%s was not tried", want)
		}
	}
}
