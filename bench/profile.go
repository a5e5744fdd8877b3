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

// profile writes what the daemon does under load, and prints
// the top of each profile.
func profile(ctx context.Context, here, work string, args []string) error {
	flags := flag.NewFlagSet("bench profile", flag.ContinueOnError)
	out := flags.String("out", filepath.Join(here, "bin", "profiles"), "the directory for the profiles")
	kinds := flags.String("kinds", "cpu,mutex,block,allocs", "which profiles")
	idle := flags.Int("connections", 0, "instead, how many idle connections there are when the heap's profile is taken")
	workers := flags.Int("workers", most, "how many requests at a time")
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
	if *idle > 0 {
		return profileIdle(ctx, daemon, filepath.Join(*out, "heap.pprof"), *idle)
	}
	for _, kind := range strings.Split(*kinds, ",") {
		file := filepath.Join(*out, kind+".pprof")
		if err := profileOne(ctx, daemon, kind, file, *workers, *lasts); err != nil {
			return err
		}
		if err := run(ctx, here, nil, "go", "tool", "pprof", "-top", "-cum", "-nodecount=40", file); err != nil {
			return err
		}
	}
	return nil
}

// profileOne takes one profile while the daemon is asked.
func profileOne(ctx context.Context, daemon *system.Certvendor, kind, file string, workers int, lasts time.Duration) error {
	load, check, err := daemon.Prepare(workers, lasts)
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

// profileIdle takes a profile of the heap while so many connections are open.
func profileIdle(ctx context.Context, daemon *system.Certvendor, file string, connections int) error {
	devices, err := daemon.AddDevices(ctx, connections)
	if err != nil {
		return err
	}
	conns, err := daemon.ConnectAll(ctx, devices)
	if err != nil {
		return err
	}
	err = daemon.Profile(ctx, "heap", file, 0)
	for _, conn := range conns {
		_ = conn.Close() // the daemon is about to end
	}
	if err != nil {
		return err
	}
	return run(ctx, filepath.Dir(file), nil, "go", "tool", "pprof", "-sample_index=inuse_space", "-top", "-nodecount=40", file)
}
