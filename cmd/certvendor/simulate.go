package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"runtime/debug"
	"time"

	"github.com/spf13/cobra"

	"github.com/certvendor/certvendor/internal/config"
	"github.com/certvendor/certvendor/internal/control"
	"github.com/certvendor/certvendor/internal/fleet"
)

// Bounds of a simulation.
const (
	maxSimulated    = 100_000
	maxInstallDelay = time.Hour
	addedAtOnce     = 16 // requests to the control socket at a time
	playersGC       = 400
)

// simulateFlags are what `simulate` is told.
type simulateFlags struct {
	devices, concurrency  int
	firmware, faults      string
	broker                string
	seed                  uint64
	installDelay, timeout time.Duration
	stay                  time.Duration
	keep, await           bool
	jobsFirst             bool
}

func (c *cli) simulate() *cobra.Command {
	var f simulateFlags
	cmd := &cobra.Command{
		Use:   "simulate --devices N",
		Short: "Let simulated devices, and what goes wrong with them, rotate against the running daemon",
		Long: `Enter devices at the running daemon, named sim-<run>-00001 and so on, put each
into the rotation group and let it rotate: real TLS, real MQTT, keys made on the
devices, and on each device and its network the faults that --faults says. At the
end the daemon's inventory is held against what each device has on its disk. A
device without a certificate that works is a violation: it is printed with its
timeline, and the exit code is 1. One that kept a working certificate and did not
rotate is printed with the reason, the first ten with their timelines.

Faults, each with its probability for a device (name=p,...; all=p for the rest):
power-cut, disconnect, lost-reply, lost-ack, late-ack, ack-after-ttl, ack-on-old,
duplicate-request, dark, slow-reader, garbage, clock-skew, and by its name only
job-failed, for firmware that cannot rotate. The same --seed draws the same plan.

The time is that from the first device's start to the last one's end. Entering
the devices, which makes their first keys, and judging them are outside of it;
with --jobs-first, giving them their jobs is, too.

Firmware agent keeps its old pair until the new one works; cdf has one key slot,
acks once, and asks again with another key. The devices are removed at the end
unless --keep is given; what the daemon recorded of them stays.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !cmd.Flags().Changed("seed") {
				f.seed = rand.Uint64N(1_000_000)
			}
			return c.ask(func(ctx context.Context, daemon *control.Client, _ []string) error {
				return c.runSimulation(ctx, daemon, f)
			})(cmd, nil)
		},
	}
	flags := cmd.Flags()
	flags.IntVar(&f.devices, "devices", 0, "how many devices")
	flags.StringVar(&f.firmware, "firmware", string(fleet.Agent), "what they run: agent or cdf")
	flags.Var((*span)(&f.installDelay), "install-delay", "how long they stay on the old certificate after the vend")
	flags.StringVar(&f.faults, "faults", "", "what goes wrong, and how likely: power-cut=0.2,lost-ack=0.1")
	flags.Uint64Var(&f.seed, "seed", 0, "what the faults are drawn from (default any)")
	flags.IntVar(&f.concurrency, "concurrency", 96, "how many devices are at work at a time")
	flags.Var((*span)(&f.stay), "stay", "how long each device stays connected when it has rotated, and carries out further jobs; an interrupt ends it")
	flags.BoolVar(&f.await, "await-job", false, "wait for the job that an operator or a campaign gives the devices, instead of asking for it")
	flags.BoolVar(&f.jobsFirst, "jobs-first", false, "give every device its job before the first one starts, so that the time is that of the rotations alone")
	flags.BoolVar(&f.keep, "keep", false, "leave the devices, and their disks, where they are")
	flags.StringVar(&f.broker, "broker", "", "the broker's address, instead of standalone.broker.listen in --config")
	flags.Var((*span)(&f.timeout), "timeout", "when to give up (default as long as the daemon's pace needs, and ten minutes)")
	return cmd
}

// check refuses what cannot be simulated.
func (f simulateFlags) check() (fleet.Faults, error) {
	switch {
	case f.devices < 1 || f.devices > maxSimulated:
		return nil, fmt.Errorf("simulate: --devices %d: must be from 1 to %d", f.devices, maxSimulated)
	case f.concurrency < 1 || f.concurrency > 5000:
		return nil, fmt.Errorf("simulate: --concurrency %d: must be from 1 to 5000", f.concurrency)
	case f.firmware != string(fleet.Agent) && f.firmware != string(fleet.CDF):
		return nil, fmt.Errorf("simulate: --firmware %.40q: must be %s or %s", f.firmware, fleet.Agent, fleet.CDF)
	case f.installDelay < 0 || f.installDelay > maxInstallDelay:
		return nil, fmt.Errorf("simulate: --install-delay %s: must be from 0s to %s", f.installDelay, maxInstallDelay)
	case f.stay < 0 || f.stay > maxInstallDelay:
		return nil, fmt.Errorf("simulate: --stay %s: must be from 0s to %s", f.stay, maxInstallDelay)
	case f.jobsFirst && f.await:
		return nil, errors.New("simulate: --jobs-first gives the job that --await-job waits for: leave one of them out")
	case f.timeout < 0:
		return nil, fmt.Errorf("simulate: --timeout %s: must not be negative", f.timeout)
	}
	faults, err := fleet.ParseFaults(f.faults)
	if err != nil {
		return nil, fmt.Errorf("simulate: --faults: %w", err)
	}
	return faults, nil
}

// runSimulation is the simulation from its flags to its exit code.
func (c *cli) runSimulation(ctx context.Context, daemon *control.Client, f simulateFlags) error {
	faults, err := f.check()
	if err != nil {
		return err
	}
	s := simulation{demo: demo{cli: c, daemon: daemon}, flags: f, plans: fleet.Plans(f.seed, f.devices, faults)}
	if err := s.findBroker(); err != nil {
		return fmt.Errorf("simulate: %w", err)
	}
	// The devices share the CPUs with the daemon: they collect seldom.
	defer debug.SetGCPercent(debug.SetGCPercent(playersGC))
	result, err := s.run(ctx)
	if err != nil {
		return fmt.Errorf("simulate: %w", err)
	}
	if err := c.print(result.simulated, result.words); err != nil {
		return err
	}
	if result.Violations > 0 {
		return errReported
	}
	return nil
}

// maxTTL is the longest rotation.ttl that simulated devices wait for.
const maxTTL = 15 * time.Second

// findBroker says where the devices connect to, and how the daemon's
// configuration wants them to behave. Without a configuration, --broker says
// the one and the defaults the other.
func (s *simulation) findBroker() error {
	cfg, err := s.load()
	switch {
	case err == nil:
	case s.flags.broker != "":
		cfg = config.Default()
	default:
		return fmt.Errorf("find the broker: %w; name --config or --broker", err)
	}
	s.options.Topics = cfg.Topics()
	if cfg.Rotation.TTL <= maxTTL {
		s.options.TTL = cfg.Rotation.TTL
	}
	if s.options.Broker = s.flags.broker; s.options.Broker != "" {
		return nil
	}
	s.options.Broker, err = reachable(cfg.Standalone.Broker.Listen, cfg.Standalone.Names)
	return err
}

// reachable returns where a listener is reached: one that listens everywhere by
// a name that is in its certificate.
func reachable(listen string, names []string) (string, error) {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return "", fmt.Errorf("find the broker: %w", err)
	}
	if port == "0" {
		return "", errors.New("standalone.broker.listen is any free port: name the one it took with --broker")
	}
	if ip := net.ParseIP(host); host != "" && (ip == nil || !ip.IsUnspecified()) {
		return listen, nil
	}
	host = "localhost"
	if len(names) > 0 {
		host = names[0]
	}
	return net.JoinHostPort(host, port), nil
}
