package app_test

import (
	"crypto/tls"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/certvendor/certvendor/internal/app"
	"github.com/certvendor/certvendor/internal/aws"
	"github.com/certvendor/certvendor/internal/config"
	"github.com/certvendor/certvendor/internal/control"
	"github.com/certvendor/certvendor/internal/fleet"
	"github.com/certvendor/certvendor/protocol"
)

const (
	rulesFile     = "../../deploy/prometheus/certvendor.rules.yaml"
	ruleTestsFile = "../../deploy/prometheus/certvendor.test.yaml"
	dashboardFile = "../../deploy/grafana/certvendor.json"
	operations    = "../../docs/operations.md"
)

// rule is an alert, as far as it is looked at here.
type rule struct {
	Alert       string            `yaml:"alert"`
	Expr        string            `yaml:"expr"`
	Labels      map[string]string `yaml:"labels"`
	Annotations map[string]string `yaml:"annotations"`
}

// TestAlertsAndDashboardAskForWhatIsThere looks up every metric and label that
// the shipped alerts and the dashboard name on the page of a running daemon.
func TestAlertsAndDashboardAskForWhatIsThere(t *testing.T) {
	w := start(t, func(c *config.Config) { c.Rotation.SweepEvery = 10 * time.Millisecond })
	w.makesEveryMetric(t)
	exposed, onAWS := w.exposed(t), exposedOnAWS(t)
	maps.Copy(exposed, onAWS)
	asked := map[string]bool{}
	withShared := samples(app.StandbyPage(1)) // of which this one is none
	maps.Copy(withShared, exposed)
	for _, r := range alerts(t) {
		asks(t, r.Alert, r.Expr, withShared, asked)
	}
	for _, expr := range expressions(t) {
		asks(t, "dashboard", expr, exposed, asked)
	}
	for name := range exposed {
		if strings.HasPrefix(name, "certvendor_") && !asked[name] && onAWS[name] == nil {
			t.Errorf("neither an alert nor the dashboard asks for %s", name)
		}
	}
}

// TestEveryAlertIsExplainedAndTried holds the alerts against the manual, which
// has a row for each, and against what promtool tries.
func TestEveryAlertIsExplainedAndTried(t *testing.T) {
	manual, tries := read(t, operations), read(t, ruleTestsFile)
	for _, r := range alerts(t) {
		if !strings.Contains(manual, "\n| `"+r.Alert+"` |") {
			t.Errorf("%s has no row for %s", operations, r.Alert)
		}
		if !strings.Contains(tries, `alertname="`+r.Alert+`"`) {
			t.Errorf("%s does not try %s", ruleTestsFile, r.Alert)
		}
		if s := r.Labels["severity"]; s != "critical" && s != "warning" {
			t.Errorf("%s has severity %q", r.Alert, s)
		}
		if r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
			t.Errorf("%s does not say what it is about", r.Alert)
		}
	}
}

// TestFrozenIsMeasured freezes and thaws; that a daemon is not ready, or does not
// trust its clock, is measured where the surroundings fail.
func TestFrozenIsMeasured(t *testing.T) {
	w := start(t, nil)
	shows := func(want string) {
		t.Helper()
		got := ""
		for _, name := range []string{
			`certvendor_ready`, `certvendor_clock_trusted`, `certvendor_frozen{what="vending"}`, `certvendor_frozen{what="retiring"}`,
		} {
			got += strconv.FormatFloat(w.metric(t, name), 'f', -1, 64)
		}
		if got != want {
			t.Errorf("ready, clock trusted, vending and retiring frozen: %s, not %s", got, want)
		}
	}
	shows("1100")
	if _, err := w.client.Freeze(t.Context(), control.What{Retiring: true}, "a test"); err != nil {
		t.Fatal(err)
	}
	shows("1101")
	if _, err := w.client.Thaw(t.Context(), control.What{Retiring: true}); err != nil {
		t.Fatal(err)
	}
	shows("1100")
}

// makesEveryMetric has happen what some metrics begin with: a rotation, a
// sweep, and a connection that is refused.
func (w *world) makesEveryMetric(t *testing.T) {
	t.Helper()
	d := w.add("watched", fleet.Agent)
	if err := w.client.Join(t.Context(), []string{d.Name}, func(control.Outcome) {}); err != nil {
		t.Fatal(err)
	}
	report, err := fleet.Run(t.Context(), fleet.Options{
		Target: w.target, Devices: []fleet.Device{d}, Directory: t.TempDir(), RefusedWithin: patience,
	})
	if err != nil || report.Rotated != 1 {
		t.Fatalf("%d rotated, %v", report.Rotated, err)
	}
	if _, code, err := w.knock(t, &tls.Certificate{}, d.Name); err == nil && code == 0 {
		t.Fatal("a connection without a certificate was not refused")
	}
	eventually(t, "a sweep and a refusal are counted", func() bool {
		page := w.page(t)
		return strings.Contains(page, "\ncertvendor_sweeps_total{") && strings.Contains(page, "\ncertvendor_broker_refused_total{")
	})
}

// sample is a line of /metrics: a name, and labels where there are any.
var sample = regexp.MustCompile(`(?m)^([a-z_]+)(?:\{(.*)\})? \S+$`)

// exposed returns the labels of every metric, by its name: each label as
// name, and as name="value".
func (w *world) exposed(t *testing.T) map[string]map[string]bool {
	t.Helper()
	return samples(w.page(t))
}

func samples(page string) map[string]map[string]bool {
	found := map[string]map[string]bool{}
	for _, line := range sample.FindAllStringSubmatch(page, -1) {
		if found[line[1]] == nil {
			found[line[1]] = map[string]bool{}
		}
		for _, label := range matcher.FindAllStringSubmatch(line[2], -1) {
			found[line[1]][label[1]] = true
			found[line[1]][label[1]+"="+label[3]] = true
		}
	}
	return found
}

// exposedOnAWS is exposed of what only the bus of AWS counts.
func exposedOnAWS(t *testing.T) map[string]map[string]bool {
	t.Helper()
	bus, err := aws.NewMQTTBus(aws.MQTTConfig{
		Way: &aws.MutualTLS{}, ClientID: "certvendor", Topics: protocol.DefaultTopics(), Identity: aws.Direct, Now: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	counts := prometheus.NewRegistry()
	counts.MustRegister(app.BusMetrics(bus))
	families, err := counts.Gather()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]map[string]bool{}
	for _, family := range families {
		found[family.GetName()] = map[string]bool{}
		for _, metric := range family.GetMetric() {
			for _, label := range metric.GetLabel() {
				found[family.GetName()][label.GetName()] = true
				found[family.GetName()][label.GetName()+"="+label.GetValue()] = true
			}
		}
	}
	return found
}

func (w *world) page(t *testing.T) string {
	t.Helper()
	answer, err := http.Get("http://" + w.app.MetricsAddr() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		t.Fatalf("GET /metrics: %s, %v", answer.Status, err)
	}
	return string(text)
}

var (
	selector = regexp.MustCompile(`\b((?:certvendor|process|go)_[a-z_]+)(?:\{([^}]*)\})?`)
	matcher  = regexp.MustCompile(`([a-z_]+)(=~|!~|!=|=)"([^"]*)"`)

	// Those that Prometheus adds.
	targetLabels = []string{"job", "instance"}
	// Those whose values come with what happens; their labels are looked at.
	counters = regexp.MustCompile(`_total$`)
)

// asks looks up what an expression selects, and notes it in asked.
func asks(t *testing.T, who, expr string, exposed map[string]map[string]bool, asked map[string]bool) {
	t.Helper()
	for _, s := range selector.FindAllStringSubmatch(expr, -1) {
		name := s[1]
		labels, ok := exposed[name]
		if !ok {
			t.Errorf("%s asks for %s, which is not exposed", who, name)
			continue
		}
		base := name
		for _, suffix := range []string{"_bucket", "_count", "_sum"} {
			base = strings.TrimSuffix(base, suffix)
		}
		for _, part := range []string{name, base + "_bucket", base + "_count", base + "_sum"} {
			asked[part] = true
		}
		for _, m := range matcher.FindAllStringSubmatch(s[2], -1) {
			if slices.Contains(targetLabels, m[1]) {
				continue
			}
			if !labels[m[1]] {
				t.Errorf("%s asks for label %s of %s, which has %v", who, m[1], name, slices.Sorted(maps.Keys(labels)))
			}
			if m[2] == "=" && !counters.MatchString(name) && !labels[m[1]+"="+m[3]] {
				t.Errorf("%s asks for %s=%q of %s, which there is not", who, m[1], m[3], name)
			}
		}
	}
}

func alerts(t *testing.T) []rule {
	t.Helper()
	var file struct {
		Groups []struct {
			Rules []rule `yaml:"rules"`
		} `yaml:"groups"`
	}
	if err := yaml.Unmarshal([]byte(read(t, rulesFile)), &file); err != nil {
		t.Fatal(err)
	}
	var all []rule
	for _, g := range file.Groups {
		all = append(all, g.Rules...)
	}
	if len(all) == 0 {
		t.Fatalf("no alert in %s", rulesFile)
	}
	return all
}

// expressions returns what the dashboard's panels ask for.
func expressions(t *testing.T) []string {
	t.Helper()
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal([]byte(read(t, dashboardFile)), &dashboard); err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, p := range dashboard.Panels {
		if len(p.Targets) == 0 {
			t.Errorf("the panel %q asks for nothing", p.Title)
		}
		for _, target := range p.Targets {
			all = append(all, target.Expr)
		}
	}
	return all
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
