package main

import (
	"context"
	"crypto/tls"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/backend/backendtest"
	"github.com/certvendor/certvendor/internal/control"
	"github.com/certvendor/certvendor/internal/fleet"
)

// restoredFleet is devices that rotated before a backup and after it, and whose
// store was lost then.
type restoredFleet struct {
	*crashFleet
	backup  string
	retired map[string][]tls.Certificate // of each device, oldest first
}

// lostFleet lets 50 devices rotate, backs up, lets them rotate again, stops the
// daemon, and takes its store away.
func lostFleet(t *testing.T) *restoredFleet {
	t.Helper()
	f := &restoredFleet{retired: map[string][]tls.Certificate{}}
	f.crashFleet = newCrashFleet(t, crashPlan{agents: 40, byPackage: 10}, rand.New(rand.NewPCG(1, 1)))
	f.backup = filepath.Join(f.dir, "b.tar")
	f.rotate()
	f.run("backup", "--out", f.backup)
	f.pack()
	f.rotate()
	f.terminate()
	f.loseStore()
	return f
}

// run carries out a verb that must succeed.
func (f *restoredFleet) run(args ...string) string {
	f.t.Helper()
	out, err := f.certvendor(args...).CombinedOutput()
	if err != nil {
		f.t.Fatalf("certvendor %v: %v: %s", args, err, out)
	}
	return string(out)
}

func (f *restoredFleet) data(name string) string { return filepath.Join(f.dir, "data", name) }

func (f *restoredFleet) loseStore() {
	f.t.Helper()
	for _, name := range []string{"certvendor.db", "certvendor.db-wal", "certvendor.db-shm"} {
		if err := os.Remove(f.data(name)); err != nil && !os.IsNotExist(err) {
			f.t.Fatal(err)
		}
	}
}

// pack makes the packages of those who rotate by one.
func (f *restoredFleet) pack() {
	f.t.Helper()
	for _, c := range f.devices {
		if c.conduct != rotatesByPackage {
			continue
		}
		if _, err := f.client.CreatePackage(f.t.Context(), c.name); err != nil {
			f.t.Fatal(err)
		}
	}
}

// rotate has every device rotate once, and notes what it gives up.
func (f *restoredFleet) rotate() {
	f.t.Helper()
	for _, c := range f.devices {
		f.retired[c.name] = append(f.retired[c.name], f.current(c))
	}
	f.join(f.devices)
	ctx, cancel := context.WithTimeout(f.t.Context(), 2*patience)
	defer cancel()
	var living errgroup.Group
	for _, c := range f.devices {
		living.Go(func() error { return f.live(ctx, c) })
	}
	if err := living.Wait(); err != nil {
		f.t.Fatalf("%v\n%s", err, f.log())
	}
	f.awaitNoMember()
}

func (f *restoredFleet) current(c *crashed) tls.Certificate {
	f.t.Helper()
	agent, err := f.agent(c)
	if err != nil {
		f.t.Fatal(err)
	}
	return agent.Current()
}

// awaitNoMember waits for what goes on behind the acks.
func (f *restoredFleet) awaitNoMember() {
	f.t.Helper()
	for limit := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		status, err := f.client.Status(f.t.Context())
		if err != nil {
			f.t.Fatal(err)
		}
		if status.Members == 0 && status.Retirements == 0 {
			return
		}
		if time.Now().After(limit) {
			f.t.Fatalf("not all have left the group: %+v", status)
		}
	}
}

func (f *restoredFleet) serveAgain() {
	f.t.Helper()
	f.start()
	f.ready()
}

// connect returns how many devices connect with their newest certificate, and
// how many with one that was retired.
func (f *restoredFleet) connect() (newest, retired int) {
	f.t.Helper()
	for _, c := range f.devices {
		if fleet.CanConnect(f.t.Context(), f.target, c.name, f.current(c)) == nil {
			newest++
		}
		for _, old := range f.retired[c.name] {
			if fleet.CanConnect(f.t.Context(), f.target, c.name, old) == nil {
				retired++
			}
		}
	}
	return newest, retired
}

// TestRestoredFleet loses the store after 50 rotations that no backup has: with
// the audit, every device connects with its newest certificate, and nobody with
// one that was retired before or after the backup.
func TestRestoredFleet(t *testing.T) {
	f := lostFleet(t)
	t.Log(f.run("restore", f.backup))
	f.serveAgain()
	if newest, retired := f.connect(); newest != len(f.devices) || retired != 0 {
		t.Errorf("of %d devices %d connect with their newest certificate; %d of %d retired ones are taken",
			len(f.devices), newest, retired, 2*len(f.devices))
	}
	f.run("audit", "verify")
	f.pack()
	f.rotate() // all goes on
	if newest, retired := f.connect(); newest != len(f.devices) || retired != 0 {
		t.Errorf("a rotation later, %d of %d connect, and %d with what was retired", newest, len(f.devices), retired)
	}
	f.run("audit", "verify")
	f.terminate()
}

// TestLossyFleet loses the audit as well. Every device is taken in with its
// newest certificate; nothing is removed from anybody.
func TestLossyFleet(t *testing.T) {
	f := lostFleet(t)
	if err := os.RemoveAll(f.data("audit")); err != nil {
		t.Fatal(err)
	}
	if out, err := f.certvendor("restore", f.backup).CombinedOutput(); err == nil {
		t.Fatalf("restored without the audit: %s", out)
	}
	t.Log(f.run("restore", f.backup, "--lossy"))
	f.serveAgain()
	for _, c := range f.devices {
		if err := fleet.CanConnect(t.Context(), f.target, c.name, f.current(c)); err != nil {
			t.Errorf("device %s (%s) with its newest certificate: %v", c.name, c.conduct, err)
		}
		if fleet.CanConnect(t.Context(), f.target, c.name, f.retired[c.name][0]) == nil {
			t.Errorf("device %s connects with what was retired before the backup", c.name)
		}
	}
	f.inspectAdopted()
	f.run("audit", "verify")
	f.terminate()
}

func (f *restoredFleet) inspectAdopted() {
	f.t.Helper()
	if _, err := f.client.Sweep(f.t.Context(), false); err != nil {
		f.t.Fatal(err)
	}
	status, err := f.client.Status(f.t.Context())
	if err != nil || !status.Frozen.Retiring || status.Frozen.Vending {
		f.t.Errorf("frozen: %+v, %v", status.Frozen, err)
	}
	for _, c := range f.devices {
		d, err := f.client.Device(f.t.Context(), c.name)
		if err != nil {
			f.t.Fatal(err)
		}
		newest := certificate.IDOf(f.current(c).Certificate[0])
		if !adopted(d.Certificates, newest) {
			f.t.Errorf("device %s: %.12s is not adopted: %+v", c.name, newest, d.Certificates)
		}
	}
}

func adopted(all []control.Certificate, id certificate.ID) bool {
	for _, c := range all {
		if c.ID == id {
			return c.Kind == certificate.Adopted && c.Standing == certificate.Active
		}
	}
	return false
}

// TestKilledRestore kills restores at any moment. After each, a daemon finds
// the old world, whose one device it knows, or all of the new one.
func TestKilledRestore(t *testing.T) {
	f := &restoredFleet{crashFleet: newCrashFleet(t, crashPlan{agents: 5}, rand.New(rand.NewPCG(1, 1)))}
	f.backup = filepath.Join(f.dir, "b.tar")
	f.run("backup", "--out", f.backup)
	f.terminate()
	// Another world in its place, of which the audit's files say nothing.
	if err := os.Rename(f.data(""), filepath.Join(f.dir, "first")); err != nil {
		t.Fatal(err)
	}
	f.serveAgain()
	other, err := f.add("other", rotatesByCSR)
	if err != nil {
		t.Fatal(err)
	}
	f.terminate()
	olds, news, step := 0, 0, 8*time.Millisecond
	if backendtest.RaceDetector {
		step *= 5
	}
	for after := time.Duration(0); news == 0 || olds == 0; after += step {
		if after > patience {
			t.Fatalf("in %d restores nothing came of it", olds)
		}
		cmd := f.certvendor("restore", f.backup, "--replace", "--audit", filepath.Join(f.dir, "first", "audit"))
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(after) // any moment will do
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		f.serveAgain()
		switch n := f.known(); {
		case n[other.name] && len(n) == 1:
			olds++
		case !n[other.name] && len(n) == len(f.devices):
			news++
		default:
			t.Fatalf("killed after %s, a restore left a world that knows %v", after, n)
		}
		f.run("audit", "verify")
		f.terminate()
	}
	t.Logf("killed, %d restores left the old world, and %d the new one", olds, news)
}

func (f *restoredFleet) known() map[string]bool {
	f.t.Helper()
	all := map[string]bool{}
	for d, err := range f.client.Devices(f.t.Context(), nil) {
		if err != nil {
			f.t.Fatal(err)
		}
		all[d.Name] = true
	}
	return all
}
