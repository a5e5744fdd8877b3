package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/certvendor/certvendor/internal/aws"
)

// The scripts of testdata/aws run this program against moto.
func TestAWSScripts(t *testing.T) {
	endpoint := startMoto(t)
	own := map[string]string{
		"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE", "AWS_SECRET_ACCESS_KEY": "secret",
		"AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull,
	}
	for name, value := range own {
		t.Setenv(name, value)
	}
	clients := dialMoto(t, endpoint, aws.Account{Region: "eu-west-1"})
	// The account of doctor's trials, where nobody else makes anything.
	trialAccount := dialMoto(t, endpoint, aws.Account{Region: "eu-west-2", Role: "arn:aws:iam::222222222222:role/test"})
	// And that of the first device.
	firstAccount := dialMoto(t, endpoint, aws.Account{Region: "eu-west-3", Role: "arn:aws:iam::333333333333:role/test"})
	testscript.Run(t, testscript.Params{
		Dir: "testdata/aws",
		Setup: func(e *testscript.Env) error {
			for name, value := range own {
				e.Setenv(name, value)
			}
			e.Setenv("CERTVENDOR_AWS_ENDPOINT_URL", endpoint)
			e.Setenv("CERTVENDOR_CONTROL_SOCKET", filepath.Join(e.WorkDir, "s")) // a Unix socket's path is short
			e.Setenv("CERTVENDOR_METRICS_LISTEN", "")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"mode": mode, "sameas": sameAs, "secret": secret, "authority": authority, "keyless": keyless, "capture": capture,
			"ready": ready, "terminate": terminate,
			"broker":        func(ts *testscript.TestScript, _ bool, args []string) { startBroker(ts, trialAccount, args) },
			"first-broker":  func(ts *testscript.TestScript, _ bool, args []string) { startBroker(ts, firstAccount, args) },
			"first-policy":  func(ts *testscript.TestScript, _ bool, args []string) { createPolicy(ts, firstAccount, args) },
			"first-rotates": rotatesOnAWS,
			"trials":        func(ts *testscript.TestScript, _ bool, args []string) { trials(ts, trialAccount, args) },
			"untouched":     func(ts *testscript.TestScript, _ bool, _ []string) { untouched(ts, trialAccount) },
			"account":       func(ts *testscript.TestScript, _ bool, args []string) { account(ts, clients, args) },
			"foreign-rule": func(ts *testscript.TestScript, _ bool, args []string) {
				_, err := clients.IoT.CreateTopicRule(t.Context(), &iot.CreateTopicRuleInput{
					RuleName: &args[0], TopicRulePayload: &types.TopicRulePayload{
						Sql: new("SELECT * FROM '" + args[1] + "'"),
						Actions: []types.Action{{Lambda: &types.LambdaAction{
							FunctionArn: new("arn:aws:lambda:eu-west-1:123456789012:function:cdf-certificatevendor"),
						}}},
					},
				})
				ts.Check(err)
			},
		},
	})
}

func startMoto(t *testing.T) string {
	t.Helper()
	there, err := hasMoto()
	if err != nil {
		t.Fatal(err)
	}
	if !there {
		t.Skip(getMoto)
	}
	url, stop, err := launchMoto()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return url
}

func dialMoto(t *testing.T, endpoint string, account aws.Account) *aws.Clients {
	t.Helper()
	quotas, err := aws.NewQuotas(1, nil, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	account.Endpoint, account.Quotas = endpoint, quotas
	clients, err := aws.Dial(t.Context(), account)
	if err != nil {
		t.Fatal(err)
	}
	return clients
}

// account KIND-NAME... checks what the account has of groups, roles, topic rules
// and tables, and that it has a job where it has a group.
func account(ts *testscript.TestScript, c *aws.Clients, want []string) {
	ctx, have := context.Background(), []string{}
	groups, err := c.IoT.ListThingGroups(ctx, &iot.ListThingGroupsInput{})
	ts.Check(err)
	for _, g := range groups.ThingGroups {
		have = append(have, "group "+*g.GroupName)
	}
	roles, err := c.IAM.ListRoles(ctx, &iam.ListRolesInput{})
	ts.Check(err)
	for _, r := range roles.Roles {
		have = append(have, "role "+*r.RoleName)
	}
	rules, err := c.IoT.ListTopicRules(ctx, &iot.ListTopicRulesInput{})
	ts.Check(err)
	for _, r := range rules.Rules {
		have = append(have, "rule "+*r.RuleName)
	}
	tables, err := c.Dynamo.ListTables(ctx, &dynamodb.ListTablesInput{})
	ts.Check(err)
	for _, name := range tables.TableNames {
		have = append(have, "table "+name)
	}
	made, err := c.IoT.ListJobs(ctx, &iot.ListJobsInput{})
	ts.Check(err)
	if len(made.Jobs) != len(groups.ThingGroups) {
		ts.Fatalf("%d jobs for %d groups", len(made.Jobs), len(groups.ThingGroups))
	}
	slices.Sort(have)
	if slices.Equal(want, []string{"none"}) {
		want = []string{}
	}
	if !slices.Equal(have, want) {
		ts.Fatalf("the account has %q, want %q", have, want)
	}
}

// sameas FILE OLD=NEW... checks that the last output is the file's text, with
// other words in it.
func sameAs(ts *testscript.TestScript, _ bool, args []string) {
	want := strings.Join(strings.Fields(ts.ReadFile(args[0])), " ")
	for _, words := range args[1:] {
		from, to, _ := strings.Cut(words, "=")
		want = regexp.MustCompile(`\b`+from+`\b`).ReplaceAllString(want, to)
	}
	if got := strings.Join(strings.Fields(ts.ReadFile("stdout")), " "); got != want {
		ts.Fatalf("printed\n%s\nwant\n%s", got, want)
	}
}

// secret FILE checks that the last output does not hold what a file holds.
func secret(ts *testscript.TestScript, _ bool, args []string) {
	text := strings.TrimSpace(ts.ReadFile(args[0]))
	if len(text) != 64 || strings.Contains(ts.ReadFile("stdout")+ts.ReadFile("stderr"), text) {
		ts.Fatalf("the key of %s is printed, or is none", args[0])
	}
}

// authority NAME makes a CA as NAME.crt and NAME.key.
func authority(ts *testscript.TestScript, _ bool, args []string) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ts.Check(err)
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: args[0]}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(10, 0, 0),
	}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, key.Public(), key)
	ts.Check(err)
	writePEM(ts, args[0]+".crt", "CERTIFICATE", der)
	der, err = x509.MarshalPKCS8PrivateKey(key)
	ts.Check(err)
	writePEM(ts, args[0]+".key", "PRIVATE KEY", der)
}

// keyless FILE checks that nothing of a key is in the last output.
func keyless(ts *testscript.TestScript, _ bool, args []string) {
	said := ts.ReadFile("stdout") + ts.ReadFile("stderr")
	for line := range strings.Lines(ts.ReadFile(args[0])) {
		if line = strings.TrimSpace(line); strings.Contains(said, line[:16]) {
			ts.Fatalf("the key in %s is printed", args[0])
		}
	}
}
