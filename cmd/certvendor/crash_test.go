package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/certvendor/certvendor/internal/control"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/rotation"
)

// crashPlan says how many devices of each conduct live through how many kills.
type crashPlan struct {
	askers, agents, byPackage, cdf int
	kills                          int // once devices are at work; a few more come during the start
	within                         time.Duration
}

func (p crashPlan) devices() int { return p.askers + p.agents + p.byPackage + p.cdf }

func thisCrashPlan() crashPlan {
	switch {
	case os.Getenv("LONG_TESTS") != "":
		return crashPlan{askers: 20, agents: 220, byPackage: 40, cdf: 220, kills: 60, within: time.Hour}
	case testing.Short():
		return crashPlan{askers: 5, agents: 5, byPackage: 5, cdf: 5, kills: 4, within: 2 * time.Minute}
	}
	return crashPlan{askers: 8, agents: 14, byPackage: 8, cdf: 20, kills: 8, within: 2 * time.Minute}
}

// TestKilledDaemon kills the daemon at random moments, at its work and at its
// start, while devices rotate or ask; with LONG_TESTS=1 there are 500 of them.
// In the end every device has rotated, there is one certificate for each key,
// and nothing is half done.
func TestKilledDaemon(t *testing.T) {
	seed, err := strconv.ParseUint(os.Getenv("CRASH_SEED"), 10, 64)
	if err != nil {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("CRASH_SEED=%d", seed)
	random, plan := rand.New(rand.NewPCG(seed, seed)), thisCrashPlan()
	f := newCrashFleet(t, plan, random)
	ctx, cancel := context.WithTimeout(t.Context(), plan.within)
	defer cancel()
	living, ctx := errgroup.WithContext(ctx)
	began := time.Now()
	f.crash(plan.kills, random, func(devices []*crashed) {
		f.join(devices) // first: a later membership outlives the rotation
		for _, c := range devices {
			living.Go(func() error { return f.live(ctx, c) })
		}
	})
	close(f.calm)
	if err := living.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, f.log())
	}
	status := f.settle(plan.devices())
	t.Logf("%d devices rotated through %d kills in %.1f s: %v", plan.devices(), f.kills, time.Since(began).Seconds(), status.Rotations)
	f.inspectAll()
	if out, err := f.certvendor("audit", "verify").CombinedOutput(); err != nil {
		t.Errorf("audit verify: %v: %s", err, out)
	}
	f.terminate()
}

// crash kills the daemon again and again, and leaves one that runs. Some more
// devices are let in before each kill.
func (f *crashFleet) crash(kills int, random *rand.Rand, letIn func([]*crashed)) {
	f.t.Helper()
	letIn(f.askers)
	moment := func() time.Duration { return time.Duration(random.IntN(400)) * time.Millisecond }
	for i := range kills {
		f.ready()
		letIn(f.devices[i*len(f.devices)/kills : (i+1)*len(f.devices)/kills])
		time.Sleep(moment())
		f.restart()
		if i%3 == 2 { // it does not get as far
			time.Sleep(moment())
			f.restart()
		}
	}
	f.ready()
}

// restart kills the daemon, and starts it again.
func (f *crashFleet) restart() {
	f.t.Helper()
	f.kills++
	f.kill()
	f.start()
}

// settle waits until the daemon has nothing left to do for so many devices.
func (f *crashFleet) settle(devices int) (status control.Status) {
	f.t.Helper()
	for limit := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		if _, err := f.client.Sweep(f.t.Context(), false); err != nil {
			f.t.Fatal(err)
		}
		var err error
		if status, err = f.client.Status(f.t.Context()); err != nil {
			f.t.Fatal(err)
		}
		if done(status, devices) {
			return status
		}
		if time.Now().After(limit) {
			f.t.Errorf("something stays half done: %+v", status)
			for s, err := range f.client.Stuck(f.t.Context()) {
				f.t.Errorf("stuck: %+v, %v", s, err)
			}
			return status
		}
	}
}

// done reports whether so many devices have finished one rotation each, and
// nothing else is left. What gave way is that of CDF firmware, which asks with
// another key each time.
func done(s control.Status, devices int) bool {
	for state, n := range s.Rotations {
		if state != rotation.Finished && state != rotation.Superseded && n > 0 {
			return false
		}
	}
	for status, n := range s.Executions {
		if status != protocol.JobSucceeded && status != protocol.JobRemoved && n > 0 {
			return false
		}
	}
	return s.Rotations[rotation.Finished] == devices && s.Members == 0 && s.Waiting == 0 &&
		s.Retirements == 0 && s.Stuck == 0 && s.Orphans == 0 && !s.Frozen.Retiring && !s.Frozen.Vending
}

// TestSecondDaemon starts a second daemon on the data directory of one that
// runs: it ends with one line that names the first, which goes on.
func TestSecondDaemon(t *testing.T) {
	d := newProcess(t)
	d.start()
	d.ready()
	second := d.certvendor("serve")
	var out, errs bytes.Buffer
	second.Stdout, second.Stderr = &out, &errs
	err := second.Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() <= 0 {
		t.Errorf("the second daemon ended with %v", err)
	}
	line := errs.String()
	if out.Len() > 0 || strings.Count(line, "\n") != 1 || !strings.Contains(line, fmt.Sprintf(" pid %d,", d.cmd.Process.Pid)) {
		t.Errorf("it said %q and %q; the first has pid %d", out.String(), line, d.cmd.Process.Pid)
	}
	if err := d.client.Ready(t.Context()); err != nil {
		t.Error(err)
	}
	d.terminate()
}
