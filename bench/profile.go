package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/certvendor/certvendor/bench/system"
)

// profile writes what the daemon does under load, at 64 at a time, and prints
// the top of each profile.
func profile(ctx context.Context, here, work string, args []string) error {
	flags := flag.NewFlagSet("bench profile", flag.ContinueOnError)
	out := flags.String("out", filepath.Join(here, "bin", "profiles"), "the directory for the profiles")
	kinds := flags.String("kinds", "cpu,mutex,block,allocs", "which profiles")
	lasts := flags.Duration("lasts", 5*time.Second, "how long each takes")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if err := os.MkdirAll(*out, 0o755); err != nil {
		return err
	}
	p, err := build(ctx, here, false)
	if err != nil {
		return err
	}
	ca, err := system.MakeCA(filepath.Join(work, "ca"), system.P256)
	if err != nil {
		return err
	}
	daemon, err := system.StartCertvendor(ctx, filepath.Join(work, "certvendor"), p.certvendor, ca)
	if err != nil {
		return err
	}
	defer daemon.Close()
	for _, kind := range strings.Split(*kinds, ",") {
		file := filepath.Join(*out, kind+".pprof")
		if err := profileOne(ctx, daemon, kind, file, *lasts); err != nil {
			return err
		}
		if err := run(ctx, here, nil, "go", "tool", "pprof", "-top", "-cum", "-nodecount=40", file); err != nil {
			return err
		}
	}
	return nil
}

// profileOne takes one profile while the daemon is asked.
func profileOne(ctx context.Context, daemon *system.Certvendor, kind, file string, lasts time.Duration) error {
	load, check, err := daemon.Prepare(most, lasts)
	if err != nil {
		return err
	}
	written := make(chan error, 1)
	go func() { written <- daemon.Profile(ctx, kind, file, lasts-lasts/10) }()
	result, err := load()
	if err != nil {
		return err
	}
	if err := <-written; err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "\nbench: %s: %.0f certificates/s meanwhile\n", file, result.Rate())
	return check()
}
