package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/certvendor/certvendor/bench/machine"
	"github.com/certvendor/certvendor/bench/system"
)

// fleetPlan is how many devices there are.
type fleetPlan struct {
	rotations   int // whole rotations, alone
	connections int // that are open and idle
	beside      int // whole rotations beside those, and as many without them
	handshakes  time.Duration
}

var (
	wholeFleet = fleetPlan{rotations: 5000, connections: 10_000, beside: 2000, handshakes: 3 * time.Second}
	shortFleet = fleetPlan{rotations: 50, connections: 200, beside: 50, handshakes: time.Second}
)

// devicesAtOnce is how many simulated devices are at work at a time.
const devicesAtOnce = 64

// pace lets the devices have their job as fast as they come: by default 120 a
// minute get it, which is what would be measured. No other limit is changed.
const pace = "rotation: {per_minute: 1000000, max_in_flight: 100000}\n"

// fleetReport is what was found with whole fleets.
type fleetReport struct {
	fleetPlan
	handshakesPerSecond float64 // both ends, on this machine
	alone               system.Rotated
	without, with       system.Rotated // the same fleet without and with the idle connections
	connected           time.Duration
	perConnection       int // octets resident
}

// fleets measures whole rotations, and rotations beside idle connections.
func fleets(ctx context.Context, dir string, p programs, plan fleetPlan) (*fleetReport, error) {
	ca, err := system.MakeCA(filepath.Join(dir, "ca"), system.P256)
	if err != nil {
		return nil, err
	}
	daemon, err := system.StartCertvendor(ctx, filepath.Join(dir, "certvendor"), p.certvendor, ca, pace)
	if err != nil {
		return nil, err
	}
	defer daemon.Close()
	r := &fleetReport{fleetPlan: plan}
	if err := r.whole(ctx, daemon, ca); err != nil {
		return nil, err
	}
	if r.without, err = r.simulate(ctx, daemon, plan.beside); err != nil {
		return nil, err
	}
	return r, r.idle(ctx, daemon)
}

// whole measures whole rotations, and the machine's handshakes before and after:
// it is not as fast at one moment as at another.
func (r *fleetReport) whole(ctx context.Context, daemon *system.Certvendor, ca *system.CA) error {
	before, err := r.shake(ca)
	if err != nil {
		return err
	}
	if r.alone, err = r.simulate(ctx, daemon, r.rotations); err != nil {
		return err
	}
	after, err := r.shake(ca)
	r.handshakesPerSecond = (before + after) / 2
	return err
}

// shake makes handshakes, on a machine that is quiet if it can be had.
func (r *fleetReport) shake(ca *system.CA) (perSecond float64, err error) {
	if err := machine.AwaitQuiet(quiet); err != nil {
		return 0, err
	}
	return system.Handshakes(ca, r.handshakes)
}

// idle opens the connections, has a fleet rotate beside them, and asks each
// whether it is alive.
func (r *fleetReport) idle(ctx context.Context, daemon *system.Certvendor) error {
	devices, err := daemon.AddDevices(ctx, r.connections)
	if err != nil {
		return err
	}
	before, err := machine.Resident(daemon.PIDs()[0])
	if err != nil {
		return err
	}
	began := time.Now()
	conns, err := daemon.ConnectAll(ctx, devices)
	if err != nil {
		return err
	}
	defer func() {
		for _, conn := range conns {
			_ = conn.Close() // the daemon is about to end
		}
	}()
	r.connected = time.Since(began)
	after, err := machine.Resident(daemon.PIDs()[0])
	if err != nil {
		return err
	}
	r.perConnection = (after - before) / r.connections
	if r.with, err = r.simulate(ctx, daemon, r.beside); err != nil {
		return err
	}
	for i, conn := range conns {
		if err := conn.Ping(); err != nil {
			return fmt.Errorf("the connection of %s has ended: %w", devices[i].Name, err)
		}
	}
	return nil
}

// simulate has a fleet rotate, on a machine that is quiet if it can be had.
func (r *fleetReport) simulate(ctx context.Context, daemon *system.Certvendor, devices int) (system.Rotated, error) {
	if err := machine.AwaitQuiet(quiet); err != nil {
		return system.Rotated{}, err
	}
	return daemon.Simulate(ctx, devices, devicesAtOnce)
}

// targets are what is asked of whole fleets.
func (r *fleetReport) targets() []target {
	gib := 0.0
	if r.perConnection > 0 {
		gib = float64(1<<30) / float64(r.perConnection)
	}
	share := func(a, b float64) float64 {
		if b == 0 {
			return 0
		}
		return a / b
	}
	return []target{
		{what: fmt.Sprintf("whole rotations/s of %d devices / mTLS handshakes/s, of which each makes two", r.rotations), meet: 0.6, goal: 0.6, format: "%.2f",
			measured: share(r.alone.PerSecond, r.handshakesPerSecond), rounds: 1},
		{what: "idle mTLS devices per GiB", meet: 25_000, goal: 25_000, format: "%.0f", measured: gib, rounds: 1},
		{what: fmt.Sprintf("rotations/s beside %d idle connections / without them", r.connections), meet: 0.9, goal: 0.9, format: "%.2f",
			measured: share(r.with.PerSecond, r.without.PerSecond), rounds: 1},
	}
}

func (r *fleetReport) markdown() string {
	var b strings.Builder
	b.WriteString("\n| whole fleets | |\n|---|---|\n")
	row := func(what, format string, values ...any) {
		fmt.Fprintf(&b, "| %s | %s |\n", what, fmt.Sprintf(format, values...))
	}
	row("mTLS handshakes/s of this machine, both ends, TLS 1.3", "%.0f", r.handshakesPerSecond)
	row(fmt.Sprintf("%d devices: connect, job, get, reconnect, ack", r.rotations), "%.0f/s; connect p50 %.0f ms, get p50 %.0f ms, p99 %.0f ms",
		r.alone.PerSecond, r.alone.Connect.P50Millis, r.alone.Get.P50Millis, r.alone.Get.P99Millis)
	row(fmt.Sprintf("%d idle connections", r.connections), "in %s; %.1f kB resident each", r.connected.Round(100*time.Millisecond), float64(r.perConnection)/1000)
	row(fmt.Sprintf("%d devices without them, then beside them", r.beside), "%.0f/s, then %.0f/s", r.without.PerSecond, r.with.PerSecond)
	return b.String()
}
