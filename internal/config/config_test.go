package config

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/certvendor/certvendor/rotation"
	"github.com/certvendor/certvendor/vending"
)

const shipped = "../../config.yaml"

var sameSecret = cmpopts.EquateComparable(Secret{})

func TestShippedFileIsTheDefaults(t *testing.T) {
	text, err := os.ReadFile(shipped)
	if err != nil {
		t.Fatal(err)
	}
	// Decoded over nothing, so that a key the file does not name shows.
	var got Config
	if err := decode(text, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Default(), got, sameSecret); diff != "" {
		t.Errorf("config.yaml is not what Default returns (-default +file):\n%s", diff)
	}
}

func TestShippedFileNamesEveryField(t *testing.T) {
	text, err := os.ReadFile(shipped)
	if err != nil {
		t.Fatal(err)
	}
	var tree map[string]any
	if err := yaml.Unmarshal(text, &tree); err != nil {
		t.Fatal(err)
	}
	named := map[string]bool{}
	var walk func(path string, node map[string]any)
	walk = func(path string, node map[string]any) {
		for name, value := range node {
			if section, ok := value.(map[string]any); ok {
				walk(join(path, name), section)
				continue
			}
			named[join(path, name)] = true
		}
	}
	walk("", tree)
	var config Config
	for key := range leaves(&config) {
		if !named[key] {
			t.Errorf("config.yaml does not name %s", key)
		}
	}
}

// Where nothing is said, what a device may do stays as it was on AWS, whose policies
// count; elsewhere nothing is inherited.
func TestPolicyModeGoesByTheBackend(t *testing.T) {
	for _, c := range []struct {
		backend Backend
		mode    vending.PolicyMode
		want    vending.PolicyMode
	}{
		{StandaloneBackend, "", vending.PolicyDefault}, {AWSBackend, "", vending.PolicyInherit},
		{AWSBackend, vending.PolicyDefault, vending.PolicyDefault}, {StandaloneBackend, vending.PolicyNone, vending.PolicyNone},
	} {
		config := Default()
		config.Backend, config.Policy.Mode = c.backend, c.mode
		if got := config.PolicyRule(); got.Mode != c.want {
			t.Errorf("%+v: %s", c, got.Mode)
		}
	}
}

// The status is an attribute, or none.
func TestStatus(t *testing.T) {
	for status, sound := range map[Status]bool{
		{"status", "active"}: true, {}: true, {"cdf/state", "a.b:c=d"}: true,
		{"status", ""}: false, {"", "active"}: false, {"two words", "x"}: false, {"certificateId", "x"}: false, {"status", "a b"}: false,
	} {
		config := Default()
		config.Rotation.Status = status
		if err := config.Validate(); (err == nil) != sound {
			t.Errorf("%+v: %v", status, err)
		}
		if got := config.Terms().Status; got != rotation.Attribute(status) {
			t.Errorf("%+v became %+v", status, got)
		}
	}
}

func TestDefaultIsValid(t *testing.T) {
	if err := Default().Validate(); err != nil {
		t.Error(err)
	}
	if got, want := Default().Terms().MaxRetirePerHour, 2*120*60; got != want {
		t.Errorf("circuit breaker at %d, want %d", got, want)
	}
}

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLoad(t *testing.T) {
	path := write(t, "rotation:\n  grace: 1h\nstandalone:\n  names: [one.example]\n  client_ca: [foreign.pem, /abs.pem]\nvending: {new_keys: 2/m}\n")
	got, err := Load(path, []string{"CERTVENDOR_ROTATION_GRACE=0s", "CERTVENDOR_STANDALONE_PACKAGES_KEEP=true",
		"CERTVENDOR_CSR_CN=a-{thing}, b-{thing}", "CERTVENDOR_LIMITS_PER_DEVICE=3/10s", "CERTVENDOR_WEBHOOK_CA_DAYS=30, 7", "HOME=/x"})
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Dir(path)
	want := Default()
	want.Rotation.Grace = 0
	want.Standalone.Packages.Keep = true
	want.CSR.CN = []string{"a-{thing}", "b-{thing}"}
	want.Limits.PerDevice = Rate{3, 10 * time.Second}
	want.Vending.NewKeys = Rate{2, time.Minute}
	want.Standalone.Names = []string{"one.example"}
	want.Webhook.CADays = []int{30, 7}
	want.Standalone.ClientCA = []string{filepath.Join(dir, "foreign.pem"), "/abs.pem"}
	want.Standalone.Data, want.AWS.Data = filepath.Join(dir, "data"), filepath.Join(dir, "data")
	want.Control.Socket = filepath.Join(dir, "data/control.sock")
	if diff := cmp.Diff(want, got, sameSecret); diff != "" {
		t.Error(diff)
	}
}

func TestLoadRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		text string
		env  []string
		want []string
	}{
		"an unknown key":         {text: "control:\n  sockte: x\n", want: []string{":2:3: unknown key \"control.sockte\""}},
		"an unknown section":     {text: "\nrotations:\n  grace: 1h\n", want: []string{":2:1: unknown key \"rotations\""}},
		"a repeated key":         {text: "log:\n  level: info\n  level: debug\n", want: []string{":3:"}},
		"a second document":      {text: "backend: standalone\n---\nbackend: standalone\n", want: []string{"a second document"}},
		"a duration, no unit":    {text: "rotation:\n  grace: 5\n", want: []string{":2:", "rotation.grace: must be a duration"}},
		"half a number":          {text: "limits:\n  burst: 1.5\n", want: []string{":2:", "limits.burst: must be a whole number"}},
		"a huge number":          {text: "limits:\n  burst: 99999999999999999999\n", want: []string{":2:", "whole number"}},
		"a rate without time":    {text: "limits:\n  per_device: 10\n", want: []string{":2:", "limits.per_device: must be a number"}},
		"a list for a value":     {text: "log:\n  level: [info]\n", want: []string{":2:", "log.level: must be a single value"}},
		"a value for a list":     {text: "csr:\n  cn: x\n", want: []string{":2:", "csr.cn: must be a list"}},
		"a value for a section":  {text: "log: info\n", want: []string{":1:", "log: must hold keys"}},
		"a list for everything":  {text: "- a\n", want: []string{"must hold keys"}},
		"no value":               {text: "rotation:\n  grace:\n", want: []string{":2:", "rotation.grace: has no value"}},
		"an empty section":       {text: "rotation:\n", want: []string{"rotation: has no value"}},
		"a yes":                  {text: "standalone:\n  packages:\n    keep: yes\n", want: []string{":3:", "must be true or false"}},
		"an alias":               {text: "log: &a\n  level: info\ncontrol: *a\n", want: []string{":1:", "must hold keys"}},
		"broken YAML":            {text: "log: [\n", want: []string{"config.yaml:1:"}},
		"an unknown back end":    {text: "backend: azure\n", want: []string{"backend: \"azure\" is none of standalone, aws"}},
		"an unknown policy mode": {text: "policy: {mode: some}\n", want: []string{"policy.mode: \"some\""}},
		"an unknown binding":     {text: "admit: {binding: none}\n", want: []string{"admit.binding: \"none\""}},
		"two problems":           {text: "rotation: {previous: burn, per_minute: 0}\n", want: []string{"rotation.previous: \"burn\"", "config.yaml: rotation.per_minute: must be"}},
		"a pace beyond":          {text: "rotation: {per_minute: 1000001}\n", want: []string{"rotation.per_minute"}},
		"kept too short":         {text: "rotation: {keep: 1h}\n", want: []string{"rotation.keep: must be 0s, which keeps all, or at least 24h"}},
		"kept shorter than keys": {text: "rotation: {keep: 25h}\nvending: {new_keys: 6/26h}\n", want: []string{"rotation.keep"}},
		"due at once":            {text: "rotation: {auto: {before: 30d}}\nvending: {validity: 24h}\n", want: []string{"rotation.auto.before: must be at most half of vending.validity"}},
		"due for ever":           {text: "rotation: {auto: {before: 51%}}\n", want: []string{":1:", "rotation.auto.before: must be a duration such as 30d"}},
		"due, no unit":           {text: "rotation: {auto: {before: 30}}\n", want: []string{":1:", "rotation.auto.before: must be a duration such as 30d"}},
		"a name to leave out":    {text: "rotation: {auto: {except: [gateway]}}\n", want: []string{"rotation.auto.except: \"gateway\" must be name=value"}},
		"a pace of auto":         {text: "rotation: {auto: {campaign: {per_minute: 0}}}\n", want: []string{"rotation.auto.campaign.per_minute: 0 is not from 1"}},
		"an abort rule of auto":  {text: "rotation: {auto: {campaign: {abort: {failed: many}}}}\n", want: []string{":1:", "rotation.auto.campaign.abort.failed: must be a number"}},
		"a window of auto":       {text: "rotation: {auto: {campaign: {window: {from: \"25:00\", to: \"05:00\"}}}}\n", want: []string{"rotation.auto.campaign.window.from: \"25:00\" must be a time of the day"}},
		"a plain webhook":        {text: "webhook: {url: \"http://hunter2.example/\", secret: \"env:X\"}\n", want: []string{"webhook.url: must be an https:// URL"}},
		"a webhook's password":   {text: "webhook: {url: \"https://me:hunter2@x/\", secret: \"env:X\"}\n", want: []string{"webhook.url: must hold no user"}},
		"no webhook at all":      {text: "webhook: {url: \"https://x:hunter2/\", secret: \"env:X\"}\n", want: []string{"webhook.url: must be an https:// URL"}},
		"a webhook, unsigned":    {text: "webhook: {url: \"https://x/hunter2\"}\n", want: []string{"webhook.secret: must be set together"}},
		"a webhook's secret":     {text: "webhook: {secret: hunter2}\n", want: []string{":1:", "webhook.secret: must be a reference"}},
		"an event nobody knows":  {text: "webhook: {events: [campaign.begun]}\n", want: []string{"webhook.events: \"campaign.begun\" is none of campaign.started,"}},
		"days before the end":    {text: "webhook: {ca_days: [30, 0]}\n", want: []string{"webhook.ca_days: 0 is not from 1"}},
		"days in words":          {text: "webhook: {ca_days: [soon]}\n", want: []string{":1:", "webhook.ca_days: must be a whole number"}},
		"a plain approval":       {text: "approval: {url: \"http://hunter2.example/\"}\n", want: []string{"approval.url: must be an https:// URL"}},
		"a function at home":     {text: "approval: {function: f}\n", want: []string{"approval.function: only backend aws has functions"}},
		"approval without end":   {text: "approval: {url: \"https://x/\", timeout: 5s}\n", want: []string{"approval.timeout: must be more than zero and less than vending.patience"}},
		"a token for nobody":     {text: "approval: {token: \"env:X\"}\n", want: []string{"approval.token: must not be set without approval.url"}},
		"tried too short":        {text: "webhook: {keep: 1m}\n", want: []string{"webhook.keep: must be at least 1h"}},
		"days from outside":      {env: []string{"CERTVENDOR_WEBHOOK_CA_DAYS=30,soon"}, want: []string{"CERTVENDOR_WEBHOOK_CA_DAYS: must be a whole number"}},
		"a topic with wildcard":  {text: "mqtt: {topics: {get: a/+/b}}\n", want: []string{"mqtt.topics.get"}},
		"replies apart":          {text: "mqtt: {topics: {get_rejected: \"x/{thingName}/no\"}}\n", want: []string{"mqtt.topics.get_rejected: must stand beside"}},
		"an address":             {text: "standalone: {broker: {listen: localhost}}\n", want: []string{"standalone.broker.listen", "host:port"}},
		"a plain link":           {text: "standalone: {packages: {url: \"http://x/\"}}\n", want: []string{"standalone.packages.url"}},
		"half a server":          {text: "standalone: {server_key: k.pem}\n", want: []string{"standalone.server_key: must be set together"}},
		"the protocol's topics":  {text: "standalone: {broker: {topics: {publish: [\"cdf/+/+/get/accepted\"]}}}\n", want: []string{"standalone.broker.topics.publish", "is the protocol's"}},
		"the broker's topics":    {text: "standalone: {broker: {topics: {subscribe: [\"$aws/#\"]}}}\n", want: []string{"standalone.broker.topics.subscribe"}},
		"a secret in the open":   {text: "ca: {passphrase: hunter2}\n", want: []string{":1:", "ca.passphrase: must be a reference"}},
		"an unknown variable":    {env: []string{"CERTVENDOR_ROTATION_GRCE=1h"}, want: []string{"CERTVENDOR_ROTATION_GRCE: overrides no key"}},
		"a wrong variable":       {env: []string{"CERTVENDOR_ROTATION_GRACE=soon"}, want: []string{"CERTVENDOR_ROTATION_GRACE: must be a duration"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Load(write(t, tc.text), tc.env)
			if err == nil {
				t.Fatal("was taken")
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not say %q", err, want)
				}
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Error("the error repeats the secret")
			}
		})
	}
}

func TestLoadWithoutFile(t *testing.T) {
	_, err := Load(filepath.Join(t.TempDir(), "none.yaml"), nil)
	if err == nil || !strings.Contains(err.Error(), "none.yaml") || !strings.Contains(err.Error(), "--config") {
		t.Errorf("got %v, want an error that names the file and what to do", err)
	}
}

func TestEmptyFileIsTheDefaults(t *testing.T) {
	for _, text := range []string{"", "\n", "# nothing\n", "---\n# nothing\n"} {
		got := Default()
		if err := decode([]byte(text), &got); err != nil {
			t.Errorf("%q: %v", text, err)
		}
		if diff := cmp.Diff(Default(), got, sameSecret); diff != "" {
			t.Errorf("%q: %s", text, diff)
		}
	}
}

// Two keys with one environment name could not be told apart.
func TestEnvNamesAreUnique(t *testing.T) {
	var config Config
	names := map[string]string{}
	for key := range leaves(&config) {
		if other, ok := names[EnvName(key)]; ok {
			t.Errorf("%s and %s are both %s", key, other, EnvName(key))
		}
		names[EnvName(key)] = key
	}
	if !slices.Contains([]string{names["CERTVENDOR_ROTATION_MAX_RETIRE_PER_HOUR"]}, "rotation.max_retire_per_hour") {
		t.Error("rotation.max_retire_per_hour has no variable")
	}
}

func FuzzDecode(f *testing.F) {
	if text, err := os.ReadFile(shipped); err == nil {
		f.Add(text)
	}
	for _, seed := range []string{"", "a: &a [*a]", "? {a: b}\n: c", "<<: *x", "log: !!str x", "\x00", "- - - -", "a:\n\t- b", "{", "log: {level: |\n x\n}"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		config := Default()
		if err := decode(text, &config); err == nil {
			_ = config.Validate()
		}
	})
}
