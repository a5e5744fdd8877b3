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
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/control"
	"github.com/certvendor/certvendor/internal/fleet"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/rotation"
)

// What a daemon that is killed goes through.
const (
	crashDevices = 50
	crashAskers  = 10 // of them only ask, again and again, with one key
	crashByPack  = 8  // of them rotate by package
	crashKills   = 8  // once devices are at work; a few more come during the start
	crashKillsIf = 4  // in short mode
	crashTime    = 2 * time.Minute
)

// TestKilledDaemon kills the daemon at random moments, at its work and at its
// start, while fifty devices rotate or ask. In the end every device has
// rotated, there is one certificate for each key, and nothing is half done.
func TestKilledDaemon(t *testing.T) {
	seed, err := strconv.ParseUint(os.Getenv("CERTVENDOR_TEST_SEED"), 10, 64)
	if err != nil {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("CERTVENDOR_TEST_SEED=%d", seed)
	random := rand.New(rand.NewPCG(seed, seed))
	f := newCrashFleet(t)
	ctx, cancel := context.WithTimeout(t.Context(), crashTime)
	defer cancel()
	living, ctx := errgroup.WithContext(ctx)
	f.join(f.devices[:crashAskers]) // before they ask: a later membership outlives the rotation
	for _, c := range f.devices {
		living.Go(func() error { return f.live(ctx, c) })
	}
	f.crash(random)
	close(f.calm)
	if err := living.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, f.log())
	}
	f.settle()
	var looking sync.WaitGroup
	for _, c := range f.devices {
		looking.Go(func() { f.inspect(c) })
	}
	looking.Wait()
	if out, err := f.certvendor("audit", "verify").CombinedOutput(); err != nil {
		t.Errorf("audit verify: %v: %s", err, out)
	}
	f.terminate()
}

// crash kills the daemon again and again, and leaves one that runs. A few
// devices more get their job before each kill.
func (f *crashFleet) crash(random *rand.Rand) {
	f.t.Helper()
	agents, kills := f.devices[crashAskers:], crashKills
	if testing.Short() {
		kills = crashKillsIf
	}
	moment := func() time.Duration { return time.Duration(random.IntN(400)) * time.Millisecond }
	for i := range kills {
		f.ready()
		f.join(agents[i*len(agents)/kills : (i+1)*len(agents)/kills])
		time.Sleep(moment())
		f.kill()
		f.start()
		if i%3 == 2 { // it does not get as far
			time.Sleep(moment())
			f.kill()
			f.start()
		}
	}
	f.ready()
}

// settle waits until the daemon has nothing left to do.
func (f *crashFleet) settle() {
	f.t.Helper()
	var status control.Status
	for limit := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		if _, err := f.client.Sweep(f.t.Context(), false); err != nil {
			f.t.Fatal(err)
		}
		var err error
		if status, err = f.client.Status(f.t.Context()); err != nil {
			f.t.Fatal(err)
		}
		if f.done(status) {
			return
		}
		if time.Now().After(limit) {
			f.t.Errorf("something stays half done: %+v", status)
			for s, err := range f.client.Stuck(f.t.Context()) {
				f.t.Errorf("stuck: %+v, %v", s, err)
			}
			return
		}
	}
}

// done reports whether every rotation is finished and nothing is left of it.
func (f *crashFleet) done(s control.Status) bool {
	for state, n := range s.Rotations {
		if state != rotation.Finished && n > 0 {
			return false
		}
	}
	for status, n := range s.Executions {
		if status != protocol.JobSucceeded && status != protocol.JobRemoved && n > 0 {
			return false
		}
	}
	return s.Rotations[rotation.Finished] == crashDevices && s.Members == 0 && s.Waiting == 0 &&
		s.Retirements == 0 && s.Stuck == 0 && s.Orphans == 0 && !s.Frozen.Retiring && !s.Frozen.Vending
}

// inspect holds what a device has against what the daemon knows of it.
func (f *crashFleet) inspect(c *crashed) {
	f.t.Helper()
	current := c.next
	if !c.asks {
		agent, err := f.agent(c) // what is on its disk
		if err != nil {
			f.t.Errorf("device %s: %v", c.name, err)
			return
		}
		current = agent.Current()
	}
	first, last := certificate.IDOf(c.first.Certificate[0]), certificate.IDOf(current.Certificate[0])
	if err := fleet.CanConnect(f.t.Context(), f.target, c.name, current); err != nil || first == last {
		f.t.Errorf("device %s, on %s after %s: %v", c.name, last, first, err)
	}
	if fleet.CanConnect(f.t.Context(), f.target, c.name, c.first) == nil {
		f.t.Errorf("device %s still connects with its first certificate", c.name)
	}
	d, err := f.client.Device(f.t.Context(), c.name)
	if err != nil {
		f.t.Error(err)
		return
	}
	if len(d.Rotations) != 1 || len(d.Rotations[0].Left) > 0 || d.Rotations[0].Certificate != last || d.Member {
		f.t.Errorf("device %s: member %t, rotations %+v", c.name, d.Member, d.Rotations)
	}
	standings := map[certificate.ID]certificate.Standing{}
	for _, held := range d.Certificates {
		standings[held.ID] = held.Standing
	}
	if len(standings) != 2 || standings[first] != certificate.Inactive || standings[last] != certificate.Active {
		f.t.Errorf("device %s: holds %v, and should hold %s besides %s", c.name, standings, last, first)
	}
	for id := range c.received {
		if id != last {
			f.t.Errorf("device %s was given %s besides %s: for one key, or one package", c.name, id, last)
		}
	}
	f.oneEach(c.name, d.Timeline)
}

// oneEach fails the test unless the audit knows of one certificate for each
// key.
func (f *crashFleet) oneEach(name string, timeline []control.Event) {
	f.t.Helper()
	keys := map[string]int{}
	for _, e := range timeline {
		if e.Kind == "certificate.registered" {
			keys[e.Detail["key"]]++
		}
	}
	for key, n := range keys {
		if n != 1 || key == "" {
			f.t.Errorf("device %s: %d certificates for key %q", name, n, key)
		}
	}
	if len(keys) != 2 {
		f.t.Errorf("device %s: certificates were made for %d keys", name, len(keys))
	}
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
