// Command bench measures certvendor beside its peers, on this machine, in one
// run. `make bench-peers` runs it whole.
//
// Read peers.go for what a run is, rounds.go for how one is measured and what
// is dropped, targets.go for what is asked of it, and package system for how
// each program is run.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	// The load shares the CPUs with what it measures: it collects seldom.
	debug.SetGCPercent(400)
	if err := bench(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

const usage = "usage: bench [--short] [--rounds N] [--write FILE] | bench profile [--kinds cpu,mutex,block,allocs] [--workers 64] [--out DIR] [--lasts 5s] | bench compare --against PROGRAM [--rounds N]"

// bench carries out a command line.
func bench(ctx context.Context, args []string) error {
	here, err := os.Getwd()
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(here, "..", "cmd", "certvendor")); err != nil {
		return errors.New("run it in the folder bench of the repository, as `make bench-peers` does")
	}
	work, err := os.MkdirTemp("", "certvendor-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	if len(args) > 0 && args[0] == "profile" {
		return profile(ctx, here, work, args[1:])
	}
	if len(args) > 0 && args[0] == "compare" {
		return compare(ctx, here, work, args[1:])
	}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	short := flags.Bool("short", false, "a minute, with the peers that are built already; it fails on what is wrong, not on what is slow")
	rounds := flags.Int("rounds", wholePlan.rounds, "how many rounds; RSA has as many, at most 3")
	write := flags.String("write", "", "the document whose tables are replaced")
	if err := flags.Parse(args); err != nil || flags.NArg() > 0 {
		return errors.Join(err, errors.New(usage))
	}
	plan := wholePlan
	if *short {
		plan = shortPlan
	} else {
		plan.rounds, plan.rsaRounds = *rounds, min(*rounds, plan.rsaRounds)
	}
	report, err := measureAll(ctx, here, work, plan)
	if err != nil {
		return err
	}
	text := report.markdown()
	fmt.Print(text)
	if *write != "" {
		return replace(*write, "peers", text)
	}
	return nil
}
