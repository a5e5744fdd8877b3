package aws

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/protocol"
)

const templateFile = "../../deploy/cloudformation.yaml"

// stack is the template of CloudFormation as AWS evaluates it, as far as ours
// goes.
type stack struct {
	t          *testing.T
	template   map[string]any
	parameters map[string]string
}

func newStack(t *testing.T, parameters map[string]string) *stack {
	t.Helper()
	text, err := os.ReadFile(templateFile)
	if err != nil {
		t.Fatal(err)
	}
	s := &stack{t: t, parameters: map[string]string{
		"AWS::Partition": "aws-cn", "AWS::Region": "cn-north-1", "AWS::AccountId": "123456789012",
	}}
	if err := yaml.Unmarshal(text, &s.template); err != nil {
		t.Fatal(err)
	}
	for name, about := range s.template["Parameters"].(map[string]any) {
		if value, some := about.(map[string]any)["Default"]; some {
			s.parameters[name] = fmt.Sprint(value)
		}
		if value, some := parameters[name]; some {
			s.parameters[name] = value
		}
	}
	return s
}

// property returns a property of a resource, evaluated.
func (s *stack) property(resource string, path ...string) any {
	s.t.Helper()
	about, is := s.template["Resources"].(map[string]any)[resource].(map[string]any)
	if !is {
		s.t.Fatalf("there is no resource %s", resource)
	}
	value := s.evaluate(about["Properties"])
	for _, name := range path {
		members, is := value.(map[string]any)
		if !is {
			s.t.Fatalf("%s has no %v", resource, path)
		}
		value = members[name]
	}
	return value
}

// dropped is what Ref of AWS::NoValue leaves.
type dropped struct{}

func (s *stack) evaluate(value any) any {
	switch v := value.(type) {
	case []any:
		var all []any
		for _, entry := range v {
			if is := s.evaluate(entry); is != (dropped{}) {
				all = append(all, is)
			}
		}
		return all
	case map[string]any:
		if len(v) == 1 {
			for function, of := range v {
				if is, done := s.call(function, of); done {
					return is
				}
			}
		}
		all := map[string]any{}
		for name, entry := range v {
			all[name] = s.evaluate(entry)
		}
		return all
	}
	return value
}

var variable = regexp.MustCompile(`\$\{(!?)([^}]*)\}`)

func (s *stack) call(function string, of any) (value any, done bool) {
	switch function {
	case "Ref":
		name := of.(string)
		if name == "AWS::NoValue" {
			return dropped{}, true
		}
		if value, is := s.parameters[name]; is {
			return value, true
		}
		return "<" + name + ">", true
	case "Fn::GetAtt":
		return fmt.Sprintf("<%v>", of), true
	case "Fn::If":
		parts := of.([]any)
		if parts[0] != "HasPackages" {
			s.t.Fatalf("condition %v", parts[0])
		}
		if s.parameters["PackagesBucket"] != "" {
			return s.evaluate(parts[1]), true
		}
		return s.evaluate(parts[2]), true
	case "Fn::Sub":
		return variable.ReplaceAllStringFunc(of.(string), func(found string) string {
			parts := variable.FindStringSubmatch(found)
			value, is := s.parameters[parts[2]]
			switch {
			case parts[1] == "!":
				return "${" + parts[2] + "}"
			case !is:
				s.t.Errorf("%s: there is no such parameter", found)
			}
			return value
		}), true
	}
	return nil, false
}

// same holds what a template has against what the code makes, as JSON.
func (s *stack) same(what string, got any, want any) {
	s.t.Helper()
	var texts [2]string
	for i, value := range []any{got, want} {
		text, err := json.Marshal(value)
		if err != nil {
			s.t.Fatal(err)
		}
		var plain any
		if err := json.Unmarshal(text, &plain); err != nil {
			s.t.Fatal(err)
		}
		text, err = json.MarshalIndent(plain, "", " ")
		if err != nil {
			s.t.Fatal(err)
		}
		texts[i] = string(text)
	}
	if texts[0] != texts[1] {
		s.t.Errorf("%s is\n%s\nand certvendor makes\n%s", what, texts[0], texts[1])
	}
}

// The template has what `certvendor policy` prints and `certvendor setup` makes.
func TestTemplateIsWhatTheCodeMakes(t *testing.T) {
	key, ca := NewRuleKey(), strings.Repeat("ab", 32)
	for _, bucket := range []string{"", "mill"} {
		s := newStack(t, map[string]string{"CA": ca, "RuleKey": string(key), "PackagesBucket": bucket, "ThingGroupName": "spinners"})
		scope := testScope(func(scope *Scope) {
			scope.Region, scope.Group, scope.Issuer.CA = "cn-north-1", "spinners", certificate.ID(ca)
			scope.Presence, scope.Table = false, PresenceTable("certvendor")
			scope.Packages = PackagesConfig{Bucket: bucket, Prefix: "certificates/", Suffix: ".zip"}
		})
		inline := func(role string) any {
			return s.property(role, "Policies").([]any)[0].(map[string]any)["PolicyDocument"]
		}
		s.same("the daemon's policy", inline("DaemonRole"), scope.DaemonPolicy())
		s.same("the rules' policy", inline("RuleRole"), scope.RulePolicy())
		s.same("who trusts the rules", s.property("RuleRole", "AssumeRolePolicyDocument"), scope.RuleTrust())
		s.same("the devices' policy", s.property("DevicePolicy", "PolicyDocument"), scope.DevicePolicy())
		if most := 10_240; scope.DaemonPolicy().Size() > most { // IAM quotas: the inline policies of a role
			t.Errorf("the daemon's policy has %d characters, and a role has room for %d", scope.DaemonPolicy().Size(), most)
		}
		s.rules(SetupConfig{
			Owner: "certvendor", Topics: protocol.DefaultTopics(), Identity: ByRule, Key: key, Table: PresenceTable("certvendor"),
		}, scope)
		s.same("the role's name", s.property("RuleRole", "RoleName"), "certvendor-cn-north-1-rules")
		s.same("the table's name", s.property("PresenceTable", "TableName"), scope.Table)
		s.same("the group's name", s.property("RotationGroup", "ThingGroupName"), scope.Group)
		s.same("the group's description", s.property("RotationGroup", "ThingGroupProperties", "ThingGroupDescription"), groupDescription)
		for _, resource := range []string{"DaemonRole", "RuleRole", "PresenceTable", "RotationGroup", "GetRule", "AckRule", "ConnectedRule", "ConnectFailedRule"} {
			s.same(resource+"'s tags", s.property(resource, "Tags"), []map[string]string{{"Key": ownerTag, "Value": "certvendor"}})
		}
	}
}

// rules holds the topic rules against those that setup makes.
func (s *stack) rules(c SetupConfig, scope Scope) {
	s.t.Helper()
	c.Clients = &Clients{}
	c.Clients.Config.Region = scope.Region
	rules, err := c.rules(account{names: scope.names(), owner: c.Owner})
	if err != nil {
		s.t.Fatal(err)
	}
	for _, rule := range rules {
		resource := map[string]string{
			"certvendor_get": "GetRule", "certvendor_ack": "AckRule",
			"certvendor_connected": "ConnectedRule", "certvendor_connect_failed": "ConnectFailedRule",
		}[rule.name]
		payload := s.property(resource, "TopicRulePayload").(map[string]any)
		s.same(resource+"'s name", s.property(resource, "RuleName"), rule.name)
		s.same(resource+"'s statement", payload["Sql"], rule.sql)
		s.same(resource+"'s version", payload["AwsIotSqlVersion"], RuleSQLVersion)
		s.same(resource+"'s description", payload["Description"], rule.about)
		action := payload["Actions"].([]any)[0].(map[string]any)
		own := rule.actions[0]
		switch {
		case own.Republish != nil:
			s.same(resource, action, map[string]any{"Republish": map[string]any{"RoleArn": "<[RuleRole Arn]>", "Topic": *own.Republish.Topic, "Qos": *own.Republish.Qos}})
		case own.DynamoDBv2 != nil:
			s.same(resource, action, map[string]any{"DynamoDBv2": map[string]any{
				"RoleArn": "<[RuleRole Arn]>", "PutItem": map[string]any{"TableName": "<PresenceTable>"},
			}})
		}
	}
}

// The template's resources are those that the documents name.
func TestTemplateHasWhatTheDocsSay(t *testing.T) {
	s := newStack(t, nil)
	docs, err := os.ReadFile("../../docs/aws.md")
	if err != nil {
		t.Fatal(err)
	}
	var kinds []string
	for _, about := range s.template["Resources"].(map[string]any) {
		kinds = append(kinds, about.(map[string]any)["Type"].(string))
	}
	slices.Sort(kinds)
	want := []string{"AWS::DynamoDB::Table", "AWS::IAM::Role", "AWS::IoT::Policy", "AWS::IoT::ThingGroup", "AWS::IoT::TopicRule", "AWS::S3::Bucket"}
	if got := slices.Compact(slices.Clone(kinds)); !reflect.DeepEqual(got, want) {
		t.Errorf("resources %v, want %v", got, want)
	}
	for _, name := range []string{"deploy/cloudformation.yaml", "certvendor-presence", "certvendor_get", "certvendor_connect_failed", "certvendor-device"} {
		if !strings.Contains(string(docs), name) {
			t.Errorf("docs/aws.md does not name %s", name)
		}
	}
}

// TestTemplateIsSound has cfn-lint look at it, where that is installed.
func TestTemplateIsSound(t *testing.T) {
	program, err := exec.LookPath("cfn-lint")
	if err != nil {
		t.Skip("needs cfn-lint on PATH: pip install cfn-lint")
	}
	if out, err := exec.CommandContext(t.Context(), program, "-t", templateFile).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
