package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/certvendor/certvendor/internal/control"
	"github.com/certvendor/certvendor/internal/store/storetest"
)

// growthPlan says how large the stores are that are held against each other.
type growthPlan struct {
	sizes   []int
	callers int // devices that really ask, on each daemon
	rounds  int
}

// thisGrowthPlan reads GROWTH_SIZES, as 100,100000, for those who want others.
func thisGrowthPlan(t *testing.T) growthPlan {
	plan := growthPlan{sizes: []int{100, 2_000}, callers: 5, rounds: 2}
	if os.Getenv("LONG_TESTS") != "" {
		plan = growthPlan{sizes: []int{100, 1_000, 100_000, 1_000_000}, callers: 50, rounds: 20}
	}
	if text := os.Getenv("GROWTH_SIZES"); text != "" {
		plan.sizes = nil
		for _, one := range strings.Split(text, ",") {
			n, err := strconv.Atoi(one)
			if err != nil {
				t.Fatalf("GROWTH_SIZES: %v", err)
			}
			plan.sizes = append(plan.sizes, n)
		}
	}
	return plan
}

// TestGrowth runs daemons over stores of different sizes, all at once, and
// holds what they take for the same things against each other; with
// LONG_TESTS=1 up to a million devices. It prints a table, and fails if an
// answer is wrong, never because of how long it took.
func TestGrowth(t *testing.T) {
	plan := thisGrowthPlan(t)
	t.Logf("load before: %s", load())
	var all []*grown
	for _, n := range plan.sizes {
		all = append(all, grow(t, n, plan.callers))
	}
	for round := range plan.rounds {
		for i := range all { // each is first in turn
			all[(i+round)%len(all)].round()
		}
	}
	for _, g := range all {
		g.sweep()
	}
	for range 3 {
		for _, g := range all {
			g.list()
		}
	}
	for _, g := range all {
		g.addAll()
	}
	t.Logf("load after: %s\n%s", load(), growthTable(all))
	for _, g := range all {
		if out, err := g.certvendor("audit", "verify").CombinedOutput(); err != nil {
			t.Errorf("of %d: audit verify: %v: %s", g.n, err, out)
		}
		g.terminate()
	}
}

// grown is a daemon over a store with so many devices, and what was measured.
type grown struct {
	*process
	n         int
	callers   []*caller
	filled    time.Duration
	started   time.Duration
	gets      []time.Duration
	idle, due time.Duration // a sweep with nothing, or a retirement of every caller, to do
	lists     map[string][]time.Duration
	joined    time.Duration
	resident  [2]int // MiB, after the start and in the end
}

// growthVerbs are what must answer soon in a large fleet.
var growthVerbs = []string{"device list --json", "certificate list --expiring-within 30d --json", "campaign plan all --all --json"}

func grow(t *testing.T, n, callers int) *grown {
	t.Helper()
	g := &grown{process: newProcess(t), n: n, lists: map[string][]time.Duration{}}
	g.configure("rotation:", "rotation: {grace: 1s, settle: 1s, sweep_every: 24h, per_minute: 60}\n"+
		"vending: {new_keys: 100000/24h}\nlimits: {per_device: 100000/s, burst: 100000}")
	if out, err := g.certvendor("ca", "init").CombinedOutput(); err != nil {
		t.Fatalf("ca init: %v: %s", err, out)
	}
	began := time.Now()
	if err := storetest.Fill(t.Context(), filepath.Join(g.dir, "data", "certvendor.db"), n, time.Now()); err != nil {
		t.Fatal(err)
	}
	g.filled = time.Since(began)
	began = time.Now()
	g.start()
	g.ready()
	g.started, g.resident[0] = time.Since(began), g.memory()
	for i := range callers {
		// Their names lie all over the fleet's.
		g.callers = append(g.callers, newCaller(g.process, fmt.Sprintf("device-%07d-x", i*n/callers)))
	}
	return g
}

// round has every caller get a certificate for a new key, one after the other.
func (g *grown) round() {
	g.t.Helper()
	for _, c := range g.callers {
		request := c.request()
		began := time.Now()
		c.get(request)
		g.gets = append(g.gets, time.Since(began))
	}
}

// sweep measures a sweep that has nothing to do, and one that takes the first
// certificate of every caller away.
func (g *grown) sweep() {
	g.t.Helper()
	g.idle = g.swept(0)
	for _, c := range g.callers {
		c.ack()
	}
	var last time.Time
	for limit := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		status, err := g.client.Status(g.t.Context())
		if err != nil {
			g.t.Fatal(err)
		}
		if status.Retirements >= len(g.callers) {
			last = time.Now()
			break
		}
		if time.Now().After(limit) {
			g.t.Fatalf("of %d: %d retirements are due", g.n, status.Retirements)
		}
	}
	time.Sleep(time.Until(last.Add(1100 * time.Millisecond))) // the grace
	g.due = g.swept(1)
}

func (g *grown) swept(least int) time.Duration {
	g.t.Helper()
	began := time.Now()
	swept, err := g.client.Sweep(g.t.Context(), false)
	if err != nil || swept.Retired < least {
		g.t.Errorf("of %d: swept %+v, %v", g.n, swept, err)
	}
	return time.Since(began)
}

// list has the program print its long lists, and looks whether all is there.
func (g *grown) list() {
	g.t.Helper()
	for _, verb := range growthVerbs {
		var out bytes.Buffer
		cmd := g.certvendor(strings.Fields(verb)...)
		cmd.Stdout, cmd.Stderr = &out, os.Stderr
		began := time.Now()
		if err := cmd.Run(); err != nil {
			g.t.Fatalf("of %d: %s: %v", g.n, verb, err)
		}
		g.lists[verb] = append(g.lists[verb], time.Since(began))
		g.inspect(verb, out.Bytes())
	}
}

func (g *grown) inspect(verb string, text []byte) {
	g.t.Helper()
	all := g.n + len(g.callers)
	switch strings.Fields(verb)[0] {
	case "device":
		var devices []control.FleetDevice
		if err := json.Unmarshal(text, &devices); err != nil || len(devices) != all {
			g.t.Errorf("of %d: %s printed %d devices, %v", g.n, verb, len(devices), err)
		}
	case "certificate":
		var certificates []control.HeldCertificate
		err := json.Unmarshal(text, &certificates)
		soon := time.Now().Add(30*24*time.Hour + time.Minute)
		late := slices.IndexFunc(certificates, func(c control.HeldCertificate) bool { return c.NotAfter.After(soon) })
		if err != nil || late >= 0 || len(certificates) < g.n/13 {
			g.t.Errorf("of %d: %s printed %d certificates, one too late at %d, %v", g.n, verb, len(certificates), late, err)
		}
	case "campaign":
		var plan struct {
			Devices int
			Skipped map[string]int
		}
		err := json.Unmarshal(text, &plan)
		for _, n := range plan.Skipped {
			plan.Devices += n
		}
		if err != nil || plan.Devices != all {
			g.t.Errorf("of %d: %s is about %d devices, %v", g.n, verb, plan.Devices, err)
		}
	}
}

// addAll puts all devices into the rotation group.
func (g *grown) addAll() {
	g.t.Helper()
	began := time.Now()
	if out, err := g.certvendor("rotation", "add", "--all").CombinedOutput(); err != nil {
		g.t.Fatalf("of %d: %v: %.400s", g.n, err, out)
	}
	g.joined, g.resident[1] = time.Since(began), g.memory()
	status, err := g.client.Status(g.t.Context())
	if err != nil || status.Members != g.n+len(g.callers) {
		g.t.Errorf("of %d: %d members, %v", g.n, status.Members, err)
	}
}

// memory returns how many MiB the daemon has resident.
func (g *grown) memory() int {
	g.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", g.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "VmRSS:" {
			kib, _ := strconv.Atoi(fields[1])
			return kib >> 10
		}
	}
	return 0
}

func load() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Join(strings.Fields(string(text))[:3], " ")
}

// growthTable is the figures as a table, the smallest store first.
func growthTable(all []*grown) string {
	var b strings.Builder
	row := func(what string, of func(*grown) string) {
		fmt.Fprintf(&b, "| %s |", what)
		for _, g := range all {
			fmt.Fprintf(&b, " %s |", of(g))
		}
		b.WriteByte('\n')
	}
	ms := func(d time.Duration) string { return fmt.Sprintf("%.2f ms", float64(d.Microseconds())/1000) }
	seconds := func(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }
	ratio := func(of func(*grown) time.Duration) func(*grown) string {
		return func(g *grown) string { return fmt.Sprintf("%.2f", float64(of(g))/float64(of(all[0]))) }
	}
	median := func(g *grown) time.Duration { return quantile(g.gets, 0.5) }
	late := func(g *grown) time.Duration { return quantile(g.gets, 0.99) }
	row("devices", func(g *grown) string { return strconv.Itoa(g.n) })
	row("---", func(*grown) string { return "---" })
	row("get p50", func(g *grown) string { return ms(median(g)) })
	row("get p50, times the first", ratio(median))
	row("get p99", func(g *grown) string { return ms(late(g)) })
	row("get p99, times the first", ratio(late))
	row("start-up", func(g *grown) string { return seconds(g.started) })
	row("sweep, nothing due", func(g *grown) string { return ms(g.idle) })
	row(fmt.Sprintf("sweep, %d retirements due", len(all[0].callers)), func(g *grown) string { return ms(g.due) })
	for _, verb := range growthVerbs {
		row("`"+verb+"`", func(g *grown) string { return seconds(quantile(g.lists[verb], 0.5)) })
	}
	row("`rotation add --all`", func(g *grown) string { return seconds(g.joined) })
	row("the same, a device", func(g *grown) string {
		return fmt.Sprintf("%d µs", g.joined.Microseconds()/int64(g.n+len(g.callers)))
	})
	row("resident after the start", func(g *grown) string { return fmt.Sprintf("%d MiB", g.resident[0]) })
	row("resident in the end", func(g *grown) string { return fmt.Sprintf("%d MiB", g.resident[1]) })
	row("gets measured", func(g *grown) string { return strconv.Itoa(len(g.gets)) })
	return b.String()
}

func quantile(all []time.Duration, q float64) time.Duration {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}
