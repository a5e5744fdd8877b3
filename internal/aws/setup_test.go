package aws

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"

	"github.com/certvendor/certvendor/jobs"
	"github.com/certvendor/certvendor/protocol"
)

func setupConfig(clients *Clients) SetupConfig {
	topics := protocol.DefaultTopics()
	return SetupConfig{
		Clients: clients, Owner: "certvendor", Topics: topics, Identity: ByRule, Key: RuleKey(strings.Repeat("5e", 32)),
		Table: PresenceTable("certvendor"), Job: jobs.New("rotate", topics), Settings: JobSettings{InProgressTimeout: time.Hour},
	}
}

func newSetup(t *testing.T, c SetupConfig) *Setup {
	t.Helper()
	s, err := NewSetup(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func plan(t *testing.T, s *Setup) []Step {
	t.Helper()
	steps, err := s.Plan(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return steps
}

func planRemoval(t *testing.T, s *Setup) []Step {
	t.Helper()
	steps, err := s.PlanRemoval(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return steps
}

// carry carries out a plan and returns what was told of it.
func carry(t *testing.T, s *Setup, steps []Step) []Step {
	t.Helper()
	var done []Step
	if err := s.Carry(t.Context(), steps, func(step Step) { done = append(done, step) }); err != nil {
		t.Fatal(err)
	}
	return done
}

// texts writes steps for comparison.
func texts(steps []Step) []string {
	var all []string
	for _, s := range steps {
		text := fmt.Sprintf("%s %s", s.Do, s.Resource)
		if s.Why != "" {
			text += ": " + s.Why
		}
		all = append(all, text)
	}
	return all
}

func wantSteps(t *testing.T, got []Step, want ...string) {
	t.Helper()
	if is := texts(got); !slices.Equal(is, want) {
		t.Errorf("steps:\n%s\nwant:\n%s", strings.Join(is, "\n"), strings.Join(want, "\n"))
	}
}

// What a plan lists is what is made then, a second one finds nothing to do, and
// nothing is left when it is taken away.
func TestSetup(t *testing.T) {
	clients := dialMoto(t, newAccount(), nil)
	s := newSetup(t, setupConfig(clients))
	id := s.config.Job.ID
	before := inventoryOf(t, clients)
	planned := plan(t, s)
	wantSteps(t, planned,
		"create role certvendor-eu-west-1-rules", "create table certvendor-presence",
		"create topic rule certvendor_get", "create topic rule certvendor_ack",
		"create topic rule certvendor_connected", "create topic rule certvendor_connect_failed",
		"create thing group rotate", "create job "+id, "update events JOB_EXECUTION: they are off")
	if after := inventoryOf(t, clients); !slices.Equal(before, after) {
		t.Errorf("planning has made %v", after)
	}
	if done := carry(t, s, planned); !slices.Equal(texts(done), texts(planned)) {
		t.Errorf("done %v", texts(done))
	}
	made := inventoryOf(t, clients)
	if want := []string{
		"group rotate", "job " + id, "role certvendor-eu-west-1-rules", "rule certvendor_ack", "rule certvendor_connect_failed",
		"rule certvendor_connected", "rule certvendor_get", "table certvendor-presence",
	}; !slices.Equal(made, want) {
		t.Errorf("the account has %v, want %v", made, want)
	}
	again := newSetup(t, setupConfig(clients))
	for _, step := range plan(t, again) {
		if step.Do != DoKeep {
			t.Errorf("a second setup would %s %s: %s", step.Do, step.Resource, step.Why)
		}
	}
	if done := carry(t, again, plan(t, again)); len(done) > 0 {
		t.Errorf("a second setup has done %v", texts(done))
	}
	removal := planRemoval(t, again)
	wantSteps(t, removal, "leave events JOB_EXECUTION: a setting of the account, which others may use",
		"delete job "+id, "delete thing group rotate", "delete topic rule certvendor_connect_failed", "delete topic rule certvendor_connected",
		"delete topic rule certvendor_ack", "delete topic rule certvendor_get", "delete table certvendor-presence",
		"delete role certvendor-eu-west-1-rules")
	if err := again.Remove(t.Context(), removal, func(Step) {}); err != nil {
		t.Fatal(err)
	}
	if left := inventoryOf(t, clients); !slices.Equal(left, before) {
		t.Errorf("left behind: %v", left)
	}
}

// inventoryOf lists what an account has of what a setup may make.
func inventoryOf(t *testing.T, c *Clients) []string {
	t.Helper()
	var all []string
	add := func(kind string, names []string, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			all = append(all, kind+" "+name)
		}
	}
	groups, err := c.IoT.ListThingGroups(t.Context(), &iot.ListThingGroupsInput{})
	add("group", namesOf(groups.ThingGroups, func(g types.GroupNameAndArn) string { return *g.GroupName }), err)
	all = append(all, jobsOf(t, c)...)
	roles, err := c.IAM.ListRoles(t.Context(), &iam.ListRolesInput{})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range roles.Roles {
		add("role", []string{*r.RoleName}, nil)
	}
	rules, err := c.IoT.ListTopicRules(t.Context(), &iot.ListTopicRulesInput{})
	add("rule", namesOf(rules.Rules, func(r types.TopicRuleListItem) string { return *r.RuleName }), err)
	tables, err := c.Dynamo.ListTables(t.Context(), &dynamodb.ListTablesInput{})
	add("table", tables.TableNames, err)
	slices.Sort(all)
	return all
}

func jobsOf(t *testing.T, c *Clients) []string {
	t.Helper()
	found, err := c.IoT.ListJobs(t.Context(), &iot.ListJobsInput{})
	if err != nil {
		t.Fatal(err)
	}
	return namesOf(found.Jobs, func(j types.JobSummary) string { return "job " + *j.JobId })
}

func namesOf[T any](all []T, name func(T) string) []string {
	var names []string
	for _, one := range all {
		names = append(names, name(one))
	}
	return names
}

// What has changed since is brought up to date, and the key is not told.
func TestSetupBringsUpToDate(t *testing.T) {
	clients := dialMoto(t, newAccount(), nil)
	c := setupConfig(clients)
	s := newSetup(t, c)
	carry(t, s, plan(t, s))
	c.Key, c.Settings.InProgressTimeout = NewRuleKey(), 2*time.Hour
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(clients.IoT.DisableTopicRule(t.Context(), &iot.DisableTopicRuleInput{RuleName: new("certvendor_connected")}))
	must(clients.IAM.PutRolePolicy(t.Context(), &iam.PutRolePolicyInput{
		RoleName: new("certvendor-eu-west-1-rules"), PolicyName: new(rolePolicy), PolicyDocument: new(`{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Action":"iot:Publish","Resource":"*"}]}`),
	}))
	must(clients.IoT.CancelJob(t.Context(), &iot.CancelJobInput{JobId: &c.Job.ID}))
	s = newSetup(t, c)
	steps := plan(t, s)
	wantSteps(t, steps,
		"update role certvendor-eu-west-1-rules: what it may do", "keep table certvendor-presence",
		"update topic rule certvendor_get: its statement", "update topic rule certvendor_ack: its statement",
		"update topic rule certvendor_connected: it is disabled", "keep topic rule certvendor_connect_failed",
		"keep thing group rotate", "create job "+c.Job.ID+"-2", "keep events JOB_EXECUTION")
	if strings.Contains(fmt.Sprint(steps), string(c.Key)) {
		t.Error("the key is told")
	}
	carry(t, s, steps)
	c.Settings.InProgressTimeout = 3 * time.Hour
	s = newSetup(t, c)
	wantChanges(t, s, "update job "+c.Job.ID+"-2: how long a device may be at work on it")
	carry(t, s, plan(t, s))
	wantChanges(t, s)
	for _, step := range planRemoval(t, s) {
		if step.Kind == JobKind && step.Do != DoDelete {
			t.Errorf("%s is left", step.Resource)
		}
	}
}

func wantChanges(t *testing.T, s *Setup, want ...string) {
	t.Helper()
	changes := slices.DeleteFunc(plan(t, s), func(step Step) bool { return step.Do == DoKeep })
	wantSteps(t, changes, want...)
}

// Nothing of somebody else's is changed or taken away.
func TestSetupLeavesWhatIsNotOurs(t *testing.T) {
	clients := dialMoto(t, newAccount(), nil)
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	lambda := []types.Action{{Lambda: &types.LambdaAction{FunctionArn: new("arn:aws:lambda:eu-west-1:1:function:cdf")}}}
	rule := func(name, from string, actions []types.Action) {
		t.Helper()
		must(clients.IoT.CreateTopicRule(t.Context(), &iot.CreateTopicRuleInput{RuleName: &name, TopicRulePayload: &types.TopicRulePayload{
			Sql: new("SELECT * FROM '" + from + "'"), Actions: actions,
		}}))
	}
	must(clients.IoT.CreateThingGroup(t.Context(), &iot.CreateThingGroupInput{ThingGroupName: new("rotate")}))
	rule("certvendor_ack", "elsewhere", lambda)
	s := newSetup(t, setupConfig(clients))
	err := s.Carry(t.Context(), plan(t, s), func(step Step) { t.Errorf("has done %v", step) })
	if !errors.Is(err, ErrNotOurs) || !strings.Contains(err.Error(), "topic rule certvendor_ack") {
		t.Errorf("got %v", err)
	}
	other := setupConfig(clients)
	other.Owner, other.Table = "vendor/2", PresenceTable("vendor/2")
	s = newSetup(t, other)
	carry(t, s, plan(t, s))
	var left []string
	for _, step := range planRemoval(t, newSetup(t, setupConfig(clients))) {
		if step.Do == DoDelete {
			t.Errorf("%s of another daemon would be taken away", step.Resource)
		}
		left = append(left, texts([]Step{step})...)
	}
	if !slices.Contains(left, "leave thing group rotate: it does not carry the tag certvendor=certvendor") {
		t.Errorf("left: %v", left)
	}
	rule("cdf_get", "cdf/certificates/+/get", lambda)
	rule("logger", "#", []types.Action{{S3: &types.S3Action{BucketName: new("b"), Key: new("k"), RoleArn: new("r")}}})
	rule("relay", "cdf/#", []types.Action{{Republish: &types.RepublishAction{RoleArn: new("r"), Topic: new("x/y")}}})
	found, err := s.Others(t.Context())
	if want := []Other{
		{"cdf_get", "cdf/certificates/+/get", "calls arn:aws:lambda:eu-west-1:1:function:cdf"}, {"relay", "cdf/#", "republishes to x/y"},
	}; err != nil || !slices.Equal(found, want) {
		t.Errorf("found %v, %v; want %v", found, err, want)
	}
}

// Things in the group keep it.
func TestSetupLeavesAGroupWithThings(t *testing.T) {
	clients := dialMoto(t, newAccount(), nil)
	s := newSetup(t, setupConfig(clients))
	carry(t, s, plan(t, s))
	if _, err := clients.IoT.CreateThing(t.Context(), &iot.CreateThingInput{ThingName: new("pump-1")}); err != nil {
		t.Fatal(err)
	}
	_, err := clients.IoT.AddThingToThingGroup(t.Context(), &iot.AddThingToThingGroupInput{
		ThingGroupName: new("rotate"), ThingName: new("pump-1"),
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range planRemoval(t, s) {
		if step.Kind == GroupKind && (step.Do != DoLeave || step.Why != "things are in it: 1") {
			t.Errorf("%v", step)
		}
	}
}

// refusing fails the calls that a text is in the path or the target of.
type refusing struct {
	text string
	next http.RoundTripper
}

func (r *refusing) RoundTrip(request *http.Request) (*http.Response, error) {
	if r.text != "" && strings.Contains(request.URL.Path+request.Header.Get("X-Amz-Target"), r.text) {
		return nil, errors.New("refused by the test")
	}
	return r.next.RoundTrip(request)
}

// A setup that was cut off goes on where it was.
func TestSetupGoesOn(t *testing.T) {
	gate := &refusing{}
	clients := dialMoto(t, newAccount(), func(next http.RoundTripper) http.RoundTripper { gate.next = next; return gate })
	s := newSetup(t, setupConfig(clients))
	steps := plan(t, s)
	gate.text = "/rules/certvendor_connected"
	var done []Step
	err := s.Carry(t.Context(), steps, func(step Step) { done = append(done, step) })
	if err == nil || !strings.HasPrefix(err.Error(), "topic rule certvendor_connected: create it: ") || len(done) != 4 {
		t.Fatalf("done %v, %v", texts(done), err)
	}
	gate.text = ""
	s = newSetup(t, setupConfig(clients))
	rest := plan(t, s)
	wantSteps(t, slices.DeleteFunc(slices.Clone(rest), func(step Step) bool { return step.Do == DoKeep }), texts(steps[4:])...)
	carry(t, s, rest)
	gate.text = "DeleteTable"
	if err := s.Remove(context.WithoutCancel(t.Context()), planRemoval(t, s), func(Step) {}); err == nil {
		t.Fatal("removed")
	}
	gate.text = ""
	if err := s.Remove(t.Context(), planRemoval(t, s), func(Step) {}); err != nil {
		t.Fatal(err)
	}
	if left := inventoryOf(t, clients); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// A campaign's job and group go too, also where the group is gone already.
func TestSetupTakesAwayWhatCampaignsHad(t *testing.T) {
	clients := dialMoto(t, newAccount(), nil)
	s := newSetup(t, setupConfig(clients))
	carry(t, s, plan(t, s))
	at := remoteJobs{iot: clients.IoT, names: s.account.names, owner: s.account.owner}
	for _, suffix := range []string{"-00ff00ff", "-0123abcd"} {
		if err := (&groupPart{account: s.account, name: "rotate" + suffix}).make(t.Context(), Step{}); err != nil {
			t.Fatal(err)
		}
		job := s.config.Job
		job.Group += suffix
		if err := at.create(t.Context(), job.ID+suffix, job); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := clients.IoT.DeleteThingGroup(t.Context(), &iot.DeleteThingGroupInput{ThingGroupName: new("rotate-0123abcd")}); err != nil {
		t.Fatal(err)
	}
	other := "rotate-by-hand"
	if _, err := clients.IoT.CreateThingGroup(t.Context(), &iot.CreateThingGroupInput{ThingGroupName: &other}); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(t.Context(), planRemoval(t, s), func(Step) {}); err != nil {
		t.Fatal(err)
	}
	if left := inventoryOf(t, clients); !slices.Equal(left, []string{"group " + other}) {
		t.Errorf("left behind: %v", left)
	}
}

// Who hears of requests directly, and of no presence, needs no rules. What a former
// configuration of his has made is taken away all the same.
func TestSetupWithoutRules(t *testing.T) {
	clients := dialMoto(t, newAccount(), nil)
	full := newSetup(t, setupConfig(clients))
	carry(t, full, plan(t, full))
	c := setupConfig(clients)
	c.Identity, c.Table, c.Key = Direct, "", ""
	s := newSetup(t, c)
	wantSteps(t, plan(t, s), "keep thing group rotate", "keep job "+c.Job.ID, "keep events JOB_EXECUTION")
	if err := s.Remove(t.Context(), planRemoval(t, s), func(Step) {}); err != nil {
		t.Fatal(err)
	}
	if left := inventoryOf(t, clients); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// A role of somebody else's is used as it is.
func TestSetupWithARoleOfOnesOwn(t *testing.T) {
	clients := dialMoto(t, newAccount(), nil)
	c := setupConfig(clients)
	c.Role, c.Owner = "arn:aws:iam::123456789012:role/rules", strings.Repeat("long", 20)
	s := newSetup(t, c)
	carry(t, s, plan(t, s))
	rule, err := clients.IoT.GetTopicRule(t.Context(), &iot.GetTopicRuleInput{RuleName: new(ruleName(c.Owner, "get"))})
	if err != nil {
		t.Fatal(err)
	}
	if is := *rule.Rule.Actions[0].Republish.RoleArn; is != c.Role {
		t.Errorf("the rule acts as %s", is)
	}
	for _, what := range inventoryOf(t, clients) {
		if strings.HasPrefix(what, "role ") {
			t.Errorf("has made %s", what)
		}
	}
	c.Role = ""
	if _, err := NewSetup(t.Context(), c); err == nil || !strings.Contains(err.Error(), "aws.broker.rule_role") {
		t.Errorf("a name that is too long for a role: %v", err)
	}
}

// late is AWS IoT before IAM has told it of a role.
type late struct {
	left int
	next http.RoundTripper
}

func (l *late) RoundTrip(request *http.Request) (*http.Response, error) {
	if l.left == 0 || request.Method != http.MethodPost || !strings.HasPrefix(request.URL.Path, "/rules/") {
		return l.next.RoundTrip(request)
	}
	l.left--
	return &http.Response{
		StatusCode: http.StatusBadRequest, Header: http.Header{"X-Amzn-Errortype": {invalidRequest}}, Request: request,
		Body: io.NopCloser(strings.NewReader(`{"message": "iot is unable to perform sts:AssumeRole"}`)),
	}, nil
}

// A role that was made a moment ago is waited for, and no other.
func TestSetupWaitsForItsRole(t *testing.T) {
	iam := &late{left: 1}
	clients := dialMoto(t, newAccount(), func(next http.RoundTripper) http.RoundTripper { iam.next = next; return iam })
	s := newSetup(t, setupConfig(clients))
	carry(t, s, plan(t, s))
	if iam.left > 0 {
		t.Error("nothing was refused")
	}
	if _, err := clients.IoT.DeleteTopicRule(t.Context(), &iot.DeleteTopicRuleInput{RuleName: new("certvendor_get")}); err != nil {
		t.Fatal(err)
	}
	iam.left, s = 1, newSetup(t, setupConfig(clients))
	if err := s.Carry(t.Context(), plan(t, s), func(Step) {}); err == nil || !strings.Contains(err.Error(), "sts:AssumeRole") {
		t.Errorf("got %v", err)
	}
}

func TestOverlap(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"cdf/certificates/+/get", "cdf/certificates/+/get", true},
		{"cdf/certificates/+/+", "cdf/certificates/+/get", true},
		{"cdf/certificates/pump/get", "cdf/certificates/+/get", true},
		{"#", "cdf/certificates/+/get", true},
		{"cdf/certificates/+/get/#", "cdf/certificates/+/get", false},
		{"cdf/certificates/#", "cdf/+/+/get", true},
		{"cdf/certificates/+/get/+", "cdf/certificates/+/get", false},
		{"cdf/certificates/+", "cdf/certificates/+/get", false},
		{"cdf/certificates/+/ack", "cdf/certificates/+/get", false},
	} {
		if got := overlap(c.a, c.b); got != c.want {
			t.Errorf("overlap(%s, %s) = %v", c.a, c.b, got)
		}
	}
}
