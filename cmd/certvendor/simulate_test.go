package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/certvendor/certvendor/internal/config"
	"github.com/certvendor/certvendor/internal/control"
	"github.com/certvendor/certvendor/internal/fleet"
)

// worldToSimulate is a daemon with a rotation.ttl that a device can wait for, and
// its socket.
func worldToSimulate(t *testing.T, changes ...func(*config.Config)) (broker string, daemon *control.Client) {
	t.Helper()
	dir := t.TempDir()
	cfg := demoConfig(dir, 100)
	cfg.Rotation.TTL = time.Second
	for _, change := range changes {
		change(&cfg)
	}
	if len(cfg.Control.Socket) > 100 { // a Unix socket's path is short
		t.Skip("the temporary directory's path is too long for a socket")
	}
	world, stop, err := startWorld(t.Context(), cfg, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	daemon = control.Dial(filepath.Join(dir, "control.sock"))
	t.Cleanup(func() {
		daemon.Close()
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	return world.BrokerAddr(), daemon
}

// simulateOne runs a small simulation and returns what it printed.
func simulateOne(t *testing.T, ctx context.Context, daemon *control.Client, f simulateFlags) (result simulated, told string, err error) {
	t.Helper()
	var out, errs bytes.Buffer
	c := &cli{out: &out, errs: &errs, json: true, config: filepath.Join(t.TempDir(), "config.yaml")}
	if err := create(c.config, []byte("rotation:\n  ttl: 1s\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	err = c.runSimulation(ctx, daemon, f)
	if err == nil || errors.Is(err, errReported) {
		if err := json.Unmarshal(out.Bytes(), &result); err != nil {
			t.Fatalf("%v: %s", err, out.String())
		}
	}
	return result, errs.String(), err
}

// Each fault by itself, and all of them, with both firmwares, against the
// daemon as it is.
func TestSimulatedFaults(t *testing.T) {
	broker, daemon := worldToSimulate(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	faults := []string{"all=0.5"}
	for _, fault := range fleet.AllFaults() {
		faults = append(faults, string(fault)+"=1")
	}
	t.Run("each", func(t *testing.T) { simulateEach(t, ctx, daemon, broker, faults) })
	for d, err := range daemon.Devices(ctx, nil) {
		t.Errorf("%s was left behind, %v", d.Name, err)
	}
}

func simulateEach(t *testing.T, ctx context.Context, daemon *control.Client, broker string, faults []string) {
	for _, fault := range faults {
		for _, firmware := range []fleet.Firmware{fleet.Agent, fleet.CDF} {
			t.Run(fault+","+string(firmware), func(t *testing.T) {
				t.Parallel()
				got, told, err := simulateOne(t, ctx, daemon, simulateFlags{
					devices: 8, concurrency: 8, firmware: string(firmware), faults: fault, seed: 1, broker: broker,
				})
				if err != nil || got.Violations > 0 || got.Rotated != 8 || got.Failed > 0 {
					t.Errorf("%+v, %v\n%s", got, err, told)
				}
			})
		}
	}
}

// A violation is printed with all that the daemon knows of its device, and the
// program ends with 1.
func TestSimulationTellsOfViolations(t *testing.T) {
	broker, daemon := worldToSimulate(t)
	var out, errs bytes.Buffer
	s := simulation{
		demo:  demo{cli: &cli{out: &out, errs: &errs, config: "none.yaml"}, daemon: daemon},
		flags: simulateFlags{devices: 2, concurrency: 2, firmware: string(fleet.CDF), broker: broker}, plans: fleet.Plans(1, 2, nil),
	}
	dir := t.TempDir()
	ctx := t.Context()
	for _, err := range []error{s.findBroker(), s.prepare(ctx, dir), s.enter(ctx)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	report, err := s.play(ctx)
	if err != nil {
		t.Fatal(err)
	}
	// The second loses its disk, once it has been vended a certificate.
	if err := replace(filepath.Join(dir, s.options.Devices[1].Name, "slot.json"), nil); err != nil {
		t.Fatal(err)
	}
	verdicts, err := s.judge(ctx, report)
	if err != nil {
		t.Fatal(err)
	}
	result := sum(report, verdicts)
	if result.Violations != 1 || result.Rotated != 1 || result.Failed != 1 {
		t.Errorf("%+v", result)
	}
	s.tellAll(ctx, verdicts)
	for _, want := range []string{"VIOLATION " + s.options.Devices[1].Name + ": read the disk", "state=vended", "state=finished", "retirement.done", "ACTIVE"} {
		if !strings.Contains(errs.String(), want) {
			t.Errorf("does not say %q:\n%s", want, errs.String())
		}
	}
	if err := s.remove(ctx); err != nil {
		t.Error(err)
	}
}

// A simulation that is stopped in the middle does not end well, and takes its
// devices with it all the same.
func TestSimulationThatIsStopped(t *testing.T) {
	broker, daemon := worldToSimulate(t)
	got, _, err := simulateOne(t, t.Context(), daemon, simulateFlags{
		devices: 2, concurrency: 1, firmware: "agent", broker: broker, installDelay: time.Hour, timeout: 2 * time.Second,
	})
	if err != nil || got.Failed != 2 || got.Rotated != 0 || got.Violations != 0 {
		t.Errorf("one that took too long: %+v, %v", got, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, _, err = simulateOne(t, ctx, daemon, simulateFlags{
		devices: 2, concurrency: 1, firmware: "agent", broker: broker, installDelay: time.Hour,
	})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("ended with %v", err)
	}
	for d, err := range daemon.Devices(t.Context(), nil) {
		t.Errorf("%s was left behind, %v", d.Name, err)
	}
}

// Where the daemon does not give all devices their jobs, none starts.
func TestJobsThatAreNotGivenFirst(t *testing.T) {
	broker, daemon := worldToSimulate(t, func(cfg *config.Config) { cfg.Rotation.MaxInFlight = 1 })
	s := simulation{
		demo:  demo{cli: &cli{out: io.Discard, errs: io.Discard, config: "none.yaml"}, daemon: daemon},
		flags: simulateFlags{devices: 3, concurrency: 3, firmware: string(fleet.Agent), broker: broker}, plans: fleet.Plans(1, 3, nil),
	}
	ctx := t.Context()
	for _, err := range []error{s.findBroker(), s.prepare(ctx, t.TempDir()), s.enter(ctx)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := s.assign(ctx, time.Second); err == nil || !strings.Contains(err.Error(), "devices wait for their job, and none was given one for 1s: raise rotation.max_in_flight") {
		t.Errorf("got %v", err)
	}
	if err := s.remove(ctx); err != nil {
		t.Error(err)
	}
}

func TestSimulationInWords(t *testing.T) {
	verdicts := []fleet.Verdict{
		{Device: "good", Rotated: true},
		{Device: "slow", Why: errors.New("no answer")},
		{Device: "dead", Violation: io.EOF},
	}
	report := fleet.Report{Took: 2 * time.Second, Results: []fleet.Result{
		{Timing: fleet.Timing{Connect: 10 * time.Millisecond, Get: 20 * time.Millisecond, Ack: 30 * time.Millisecond}}, {}, {},
	}}
	result := sum(report, verdicts)
	result.seed = 42
	want := simulated{
		Devices: 3, Rotated: 1, Failed: 2, Violations: 1, Seconds: 2, RotationsPerSecond: 0.5,
		Connect: fleet.Latency{P50: 10, P95: 10, P99: 10}, Get: fleet.Latency{P50: 20, P95: 20, P99: 20}, Ack: fleet.Latency{P50: 30, P95: 30, P99: 30},
	}
	if result.simulated != want {
		t.Errorf("%+v", result.simulated)
	}
	var out bytes.Buffer
	result.words(&out)
	for _, want := range []string{"connect  10", "1 of 3 devices rotated in 2.0 s, 0.5 a second; 1 violation; seed 42"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("does not say %q:\n%s", want, out.String())
		}
	}
}

func TestWhereABrokerIsReached(t *testing.T) {
	names := []string{"broker.example", "127.0.0.1"}
	for listen, want := range map[string]string{
		"127.0.0.1:8883": "127.0.0.1:8883", "localhost:1": "localhost:1", "10.1.2.3:8883": "10.1.2.3:8883",
		":8883": "broker.example:8883", "0.0.0.0:8883": "broker.example:8883", "[::]:8883": "broker.example:8883",
	} {
		if got, err := reachable(listen, names); err != nil || got != want {
			t.Errorf("%s: %s, %v", listen, got, err)
		}
	}
	if got, err := reachable(":8883", nil); err != nil || got != "localhost:8883" {
		t.Errorf("%s, %v", got, err)
	}
	for _, listen := range []string{"127.0.0.1:0", "nowhere"} {
		if got, err := reachable(listen, names); err == nil {
			t.Errorf("%s: %s", listen, got)
		}
	}
}
