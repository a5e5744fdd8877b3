package aws

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/backend/backendtest"
	"github.com/certvendor/certvendor/internal/backup"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

// backUp makes a backup of the course's world.
func (c *course) backUp() string {
	c.t.Helper()
	path := filepath.Join(c.t.TempDir(), "b.tar")
	file, err := os.Create(path)
	c.must(err)
	c.must(c.world.Backup(c.ctx, "test", true, file))
	c.must(file.Close())
	return path
}

// restore ends the world, makes it anew from a backup, and opens it. Without the
// audit, all that was done since the backup is lost, and a person looks at the
// fleet and thaws.
func (c *course) restore(file string, audit bool) {
	c.t.Helper()
	config := c.world.config
	c.must(c.world.Close())
	o := backup.Options{File: file, Replace: true, Lossy: !audit, Backdate: time.Minute}
	if !audit {
		o.Audit = c.t.TempDir()
	}
	_, err := Restore(c.ctx, Restoring{Data: config.Data, Region: "eu-west-1", Instance: "restorer", Now: c.clock.Now}, o)
	c.must(err)
	c.clock.Advance(time.Minute)
	c.reopen(config)
	_, err = c.world.Backend().Brakes.SetFrozen(c.ctx, func(f *rotation.Freeze) { *f = rotation.Freeze{} })
	c.must(err)
}

func (c *course) reopen(config Config) {
	c.t.Helper()
	world, err := Open(c.ctx, config)
	c.must(err)
	c.t.Cleanup(func() {
		if err := world.Close(); err != nil {
			c.t.Error(err)
		}
	})
	c.world = world
	c.serve()
}

// activeAtAWS returns how many certificates AWS has, and how many of them are
// ACTIVE.
func (c *course) atAWS() (all, active int) {
	c.t.Helper()
	list, err := c.clients.IoT.ListCertificates(c.ctx, &iot.ListCertificatesInput{})
	c.must(err)
	for _, one := range list.Certificates {
		if one.Status == types.CertificateStatusActive {
			active++
		}
	}
	return len(list.Certificates), active
}

// TestABackupAtEachCallOfARotation restores a backup that was made at any moment
// of a rotation that went on: with the audit's files and without them, the device
// keeps what it has, is issued nothing a second time, and rotates again.
func TestABackupAtEachCallOfARotation(t *testing.T) {
	for _, c := range []struct {
		mode           certificate.Mode
		outside, audit bool
	}{
		{certificate.Deactivate, false, true},
		{certificate.Deactivate, true, false},
		{certificate.Delete, false, false},
		{certificate.Delete, true, true},
	} {
		for n, call := range callsOf(t, c.mode) {
			if backendtest.RaceDetector && n%4 > 0 {
				continue
			}
			t.Run(fmt.Sprintf("%s/%02d_%s/outside=%t/audit=%t", c.mode, n+1, call, c.outside, c.audit), func(t *testing.T) {
				t.Parallel()
				restoredWithin(t, c.mode, n+1+openingCalls, c.outside, c.audit)
			})
		}
	}
}

func restoredWithin(t *testing.T, mode certificate.Mode, at int, outside, audit bool) {
	var file string
	var c *course
	calls := 0
	c = newCourse(t, mode, func(next http.RoundTripper) http.RoundTripper {
		return transport(func(r *http.Request) (*http.Response, error) {
			if calls++; calls == at {
				file = c.backUp()
			}
			return next.RoundTrip(r)
		})
	}, func(config *Config) { config.ActsOutside = outside })
	// moto says when a certificate was made by a clock of its own.
	c.clock.Advance(time.Until(c.clock.Now()).Abs() + time.Hour)
	used := c.rotate()
	if file == "" {
		t.Fatal("the call was not made: nothing is tested")
	}
	all, _ := c.atAWS()

	c.restore(file, audit)
	if c.world.Restored().IsZero() {
		t.Fatal("the world does not know that it was restored")
	}
	c.afterwards(used)
	// The same request again, as if its answer had been lost.
	if again := c.once(used, protocol.Get, c.csr()); again.accepted() && again.CertificateID != used {
		t.Errorf("%.8s is issued where %.8s was", again.CertificateID, used)
	}
	if again := c.once("", protocol.Get, c.csr()); again.accepted() && again.CertificateID != used {
		t.Errorf("%.8s is issued where %.8s was, to nobody knows whom", again.CertificateID, used)
	}
	c.afterwards(used)
	if now, _ := c.atAWS(); now > all {
		t.Errorf("%d certificates are registered, and were %d before the restore", now, all)
	}

	c.key, c.old = backendtest.NewKey(), used
	next := c.turn()
	c.quiet(next)
	c.clock.Advance(25 * time.Hour)
	c.quiet(next)
	if is := c.statusAtAWS(next); is != types.CertificateStatusActive {
		t.Errorf("the next certificate is %s", is)
	}
	if _, active := c.atAWS(); active != 1 {
		t.Errorf("%d certificates are ACTIVE after the next rotation", active)
	}
	marks, err := c.world.store.Unsettled().List(c.ctx, "", 0)
	c.must(err)
	if len(marks) > 0 {
		t.Errorf("still marked: %v", marks)
	}
}

// afterwards lets everything run that can take something away, while the device
// is on its certificate.
func (c *course) afterwards(used certificate.ID) {
	c.t.Helper()
	for range 2 {
		c.must(c.world.inventory.Settle(c.ctx))
		if _, err := c.closer.Sweep(c.ctx); err != nil {
			c.t.Error(err)
		}
		c.quiet(used)
		c.clock.Advance(25 * time.Hour)
	}
	if is := c.statusAtAWS(used); is != types.CertificateStatusActive {
		c.t.Fatalf("the certificate that the device uses is %s", is)
	}
	attached, err := c.clients.IoT.ListThingPrincipals(c.ctx, &iot.ListThingPrincipalsInput{ThingName: new(courseThing)})
	c.must(err)
	if !strings.Contains(strings.Join(attached.Principals, " "), string(used)) {
		c.t.Fatal("the certificate that the device uses is detached")
	}
}

// transport is a function that carries calls.
type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// A backup of another region is refused, and one of another backend.
func TestRestoreOfAnother(t *testing.T) {
	c := newCourse(t, certificate.Deactivate, nil)
	file := c.backUp()
	_, err := Restore(c.ctx, Restoring{Data: t.TempDir(), Region: "eu-north-1", Instance: "i", Now: c.clock.Now}, backup.Options{File: file, Lossy: true})
	if !errors.Is(err, backup.ErrRestore) || !strings.Contains(err.Error(), "aws.region is eu-north-1") {
		t.Error(err)
	}
	into := backup.Place{Data: t.TempDir(), Key: "standalone.data", Instance: "i", Now: c.clock.Now, World: Restoring{}}
	_, err = backup.Restore(c.ctx, into, backup.Options{File: file, Lossy: true})
	if !errors.Is(err, backup.ErrRestore) || !strings.Contains(err.Error(), "it is a backup of backend aws, and the configuration says standalone") {
		t.Error(err)
	}
}

// Until AWS was asked what a device has, the restored store is no answer: nothing
// is vended, and nothing is taken away, whatever the rule makes of it.
func TestNothingIsDoneBeforeAWSIsAsked(t *testing.T) {
	down := false
	c := newCourse(t, certificate.Deactivate, func(next http.RoundTripper) http.RoundTripper {
		return transport(func(r *http.Request) (*http.Response, error) {
			if down && strings.HasSuffix(r.URL.Path, "/principals-v2") {
				return answer(r, http.StatusInternalServerError, "InternalFailureException"), nil
			}
			return next.RoundTrip(r)
		})
	})
	_, err := c.world.inventory.Held(c.ctx, courseThing)
	c.must(err)
	file := c.backUp()
	used := c.rotate()
	c.restore(file, false)
	down = true
	all, active := c.atAWS()
	c.key = backendtest.NewKey()
	for _, over := range []certificate.ID{c.old, used, ""} {
		if is := c.once(over, protocol.Get, c.csr()); is.accepted() {
			t.Errorf("over %.8s it is vended a certificate", over)
		}
	}
	err = c.world.inventory.Retire(c.ctx, certificate.Removal{
		Device: courseThing, Certificate: c.old, Mode: certificate.Delete, Allowed: func([]certificate.Holding) error { return nil },
	})
	if kept := (rotation.Kept{}); err == nil || errors.As(err, &kept) {
		t.Errorf("a retirement: %v", err)
	}
	if allNow, activeNow := c.atAWS(); allNow != all || activeNow != active {
		t.Errorf("%d certificates, %d of them ACTIVE; before, %d and %d", allNow, activeNow, all, active)
	}
	down = false
	if is := c.once(used, protocol.Get, c.csr()); !is.accepted() {
		t.Errorf("when AWS answers again it is refused: %s", is.Message)
	}
}

// A rotation that was undone after the backup: the device is on its old
// certificate, which the restored store has as taken away.
func TestUndoneAfterTheBackup(t *testing.T) {
	c := newCourse(t, certificate.Deactivate, nil)
	used := c.rotate()
	file := c.backUp()
	_, err := c.closer.Undo(c.ctx, courseThing)
	c.must(err)
	if is := c.statusAtAWS(c.old); is != types.CertificateStatusActive {
		t.Fatalf("undone, the old one is %s", is)
	}
	c.restore(file, false)
	c.key = backendtest.NewKey()
	next := c.ask(c.old, protocol.Get, c.csr()).CertificateID
	for range 3 {
		c.clock.Advance(25 * time.Hour)
		c.once(c.old, protocol.Ack, "{}")
		_, err := c.closer.Sweep(c.ctx)
		c.must(err)
		c.must(c.world.inventory.Settle(c.ctx))
	}
	if is := c.statusAtAWS(c.old); is != types.CertificateStatusActive {
		t.Errorf("the certificate that the device uses is %s (others: %.8s, %.8s)", is, used, next)
	}
	c.ask(next, protocol.Ack, "{}")
}

// The daemon reads AWS's inventory by itself, once, after which no device is in
// doubt any more.
func TestInventoryIsReadAfterARestore(t *testing.T) {
	c := newCourse(t, certificate.Deactivate, nil)
	file := c.backUp()
	used := c.rotate()
	c.restore(file, false)
	if !c.world.inventory.inDoubt(courseThing) {
		t.Error("the device is in no doubt")
	}
	state := c.world.Syncer().State()
	if state.Source != SyncAll || !state.Full || !state.Phase.atWork() {
		t.Fatalf("the sync is %+v", state)
	}
	c.must(c.world.syncer.work(c.ctx))
	if c.world.inventory.inDoubt(courseThing) {
		t.Errorf("the device is in doubt still: %+v", c.world.Syncer().State())
	}
	for id, want := range map[certificate.ID]certificate.Standing{used: certificate.Active, c.old: certificate.Inactive} {
		at, err := c.world.store.Certificates().Place(c.ctx, courseThing, id)
		if err != nil || !at.Held || at.Standing != want {
			t.Errorf("certificate %.8s: %+v, %v; want %s", id, at, err, want)
		}
	}
	config := c.world.config
	c.must(c.world.Close())
	c.reopen(config)
	if state := c.world.Syncer().State(); state.Phase != SyncDone || c.world.inventory.inDoubt(courseThing) {
		t.Errorf("the next start reads it again: %+v", state)
	}
}

// What was revoked after the backup, and AWS had not heard of when the machine was
// lost, is revoked there.
func TestRevokedAfterTheBackup(t *testing.T) {
	c := newCourse(t, certificate.Deactivate, nil)
	_, err := c.world.inventory.Held(c.ctx, courseThing)
	c.must(err)
	file := c.backUp()
	c.must(c.world.store.Certificates().Revoke(c.ctx, certificate.Revocation{
		Certificate: c.old, Allowed: func(registry.DeviceID, []certificate.Holding) error { return nil },
	}))
	c.restore(file, true)
	c.must(c.world.inventory.Settle(c.ctx))
	if is := c.statusAtAWS(c.old); is != types.CertificateStatusRevoked {
		t.Errorf("it is %s", is)
	}
	marks, err := c.world.store.Unsettled().List(c.ctx, "", 0)
	if err != nil || len(marks) > 0 {
		t.Errorf("still marked: %v, %v", marks, err)
	}
}
