package app_test

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/rs/zerolog"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/app"
	"github.com/certvendor/certvendor/internal/config"
	"github.com/certvendor/certvendor/internal/control"
	"github.com/certvendor/certvendor/protocol"
)

// wall is a wall clock that somebody sets while the program runs.
type wall struct{ by atomic.Int64 }

func (w *wall) set(by time.Duration) { w.by.Store(int64(by)) }

// now returns the time as the runtime does after somebody has set the system's
// clock: another wall time, and the monotonic reading beside it as if nothing
// had happened. Only the kernel makes such a value otherwise: Add moves both.
// The seconds stand from bit 30 on in the first word (src/time/time.go).
func (w *wall) now() time.Time {
	t := time.Now()
	*(*uint64)(unsafe.Pointer(&t)) += uint64(w.by.Load()/int64(time.Second)) << 30
	return t
}

// TestWall shows that the clock of these tests does what it says.
func TestWall(t *testing.T) {
	for _, by := range []time.Duration{-365 * day, -day, day, 10 * 365 * day} {
		var c wall
		before := c.now()
		c.set(by)
		after := c.now()
		if d := after.Sub(before); d < 0 || d > time.Hour {
			t.Errorf("set by %s, the monotonic clock moved by %s", by, d)
		}
		if d := after.Round(0).Sub(before.Round(0)) - by; d < -time.Hour || d > time.Hour {
			t.Errorf("set by %s, the wall clock is %s off", by, d)
		}
	}
}

const day = 24 * time.Hour

// startOn runs a daemon by a clock, with a CA made at another time. Its
// listeners show a certificate that is valid at any time of these tests, since
// the clients here go by the right one.
func startOn(t *testing.T, clock *wall, caMade time.Duration, change func(*config.Config)) *world {
	t.Helper()
	certificateFile, keyFile := serverFiles(t)
	return startBy(t, func(c *config.Config) {
		c.Standalone.ServerCertificate, c.Standalone.ServerKey = certificateFile, keyFile
		change(c)
	}, func(ctx context.Context, c config.Config, log zerolog.Logger) (*app.App, error) {
		var then wall
		then.set(caMade)
		if err := app.InitCAAt(ctx, c, then.now); err != nil {
			return nil, err
		}
		return app.NewAt(ctx, c, log, clock.now)
	})
}

func serverFiles(t *testing.T) (certificateFile, keyFile string) {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"},
		NotBefore: time.Now().AddDate(-20, 0, 0), NotAfter: time.Now().AddDate(20, 0, 0),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	return write("server.crt", "CERTIFICATE", der), write("server.key", "PRIVATE KEY", pkcs8)
}

// rotate takes a device through a whole rotation and returns its connection on
// the new certificate.
func (w *world) rotate(t *testing.T, a *actor, over *peer) *peer {
	t.Helper()
	a.get(t, over)
	next := w.open(t, a.name, a.name+"/candidate", a.next)
	if accepted, reply := next.ask(protocol.Ack, "{}"); !accepted {
		t.Fatalf("ack of %s: %s", a.name, reply)
	}
	w.settle(t)
	return next
}

func (w *world) standing(t *testing.T, a *actor, c tls.Certificate) certificate.Standing {
	t.Helper()
	for _, held := range w.detail(t, a.name).Certificates {
		if string(held.ID) == idOf(c) {
			return held.Standing
		}
	}
	t.Fatalf("%s does not hold %.12s", a.name, idOf(c))
	return ""
}

func (w *world) whyStuck(t *testing.T, a *actor) string {
	t.Helper()
	for s, err := range w.client.Stuck(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if s.Device == a.name {
			return s.Why
		}
	}
	return ""
}

// TestClockSet sets the clock of a daemon that runs. Vending goes on; nothing
// is removed, though the clock says that it is due, until an operator trusts
// the clock.
func TestClockSet(t *testing.T) {
	for _, c := range []struct {
		name  string
		by    time.Duration
		grace time.Duration
	}{
		{"forward by a day", day, time.Hour},
		{"forward by a year", 365 * day, time.Hour},
		{"back by a day", -day, 0},
		{"back by a year", -365 * day, 0},
	} {
		t.Run(c.name, func(t *testing.T) { clockSet(t, c.by, c.grace) })
	}
}

func clockSet(t *testing.T, by, grace time.Duration) {
	var clock wall
	w := startOn(t, &clock, -2*365*day, func(c *config.Config) { c.Rotation.Grace, c.Rotation.Settle = grace, 0 })
	before, after := w.actor(t, "before"), w.actor(t, "after")
	stays := w.rotate(t, before, w.open(t, "before", "before", before.old))
	over := w.open(t, "after", "after", after.old)
	if status, text := w.readyz(); status != http.StatusOK || text != "ready\n" {
		t.Fatalf("before: /readyz says %d %q", status, text)
	}

	clock.set(by)
	if status, text := w.readyz(); status != http.StatusOK || !strings.Contains(text, "the clock was set by") {
		t.Errorf("/readyz says %d %q", status, text)
	}
	if w.metric(t, "certvendor_clock_trusted") != 0 {
		t.Error("the metrics call the clock trusted")
	}
	next := w.rotate(t, after, over)
	stays.quiet()
	// Whose removal the clock makes due: the old rotation's when it went
	// forward, the new one's, which had no grace, when it went back.
	due := after
	if grace > 0 {
		due = before
	}
	w.sweeps(t, false)
	if s := w.standing(t, due, due.old); s != certificate.Active {
		t.Errorf("by a clock that was set, the old certificate of %s is %s", due.name, s)
	}
	if why := w.whyStuck(t, due); !strings.Contains(why, "the clock was set by") {
		t.Errorf("why it is kept: %q", why)
	}
	if by > 0 { // by a clock that went back, it is not valid yet
		w.open(t, due.name, due.name+"/old", due.old)
	}
	next.heard()
	w.open(t, due.name, due.name+"/again", due.next) // the device is seen on what it has now

	w.sweeps(t, true)
	if s := w.standing(t, due, due.old); s == certificate.Active {
		t.Errorf("after the operator's word, the old certificate of %s is %s: %s", due.name, s, w.whyStuck(t, due))
	}
	if status, text := w.readyz(); status != http.StatusOK || text != "ready\n" {
		t.Errorf("after: /readyz says %d %q", status, text)
	}
	if _, err := w.client.VerifyAudit(t.Context()); err != nil {
		t.Error(err)
	}
}

func (w *world) sweeps(t *testing.T, trust bool) {
	t.Helper()
	if _, err := w.client.Sweep(t.Context(), trust); err != nil {
		t.Fatal(err)
	}
}

// TestClockPutRight has a device rotate while the clock is wrong, and then the
// clock put right: the device works on, whichever certificate its firmware
// kept.
func TestClockPutRight(t *testing.T) {
	for _, by := range []time.Duration{-365 * day, -day, day, 365 * day} {
		t.Run(by.String(), func(t *testing.T) {
			var clock wall
			w := startOn(t, &clock, -2*365*day, func(c *config.Config) { c.Rotation.Grace, c.Rotation.Settle = 0, 0 })
			d := w.actor(t, "dev")
			over := w.open(t, "dev", "dev", d.old)
			clock.set(by)
			w.open(t, "dev", "dev/again", d.old)
			w.rotate(t, d, over)
			clock.set(0)
			w.open(t, "dev", "dev/next", d.next)
			w.sweeps(t, true)
			w.open(t, "dev", "dev/last", d.next)
		})
	}
}

// TestClockSetBeforeCARetires: by a clock that was set, the certificate of a device
// has expired, and its CA is of no use to anybody. It is retired for that no more than
// the certificate is.
func TestClockSetBeforeCARetires(t *testing.T) {
	var clock wall
	w := startOn(t, &clock, -2*365*day, func(*config.Config) {})
	a := w.actor(t, "asleep")
	all, _, err := w.client.CAs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	former := control.CARetireRequest{}
	for _, ca := range all {
		if ca.Role == "issuing" {
			former.ID = string(ca.ID)
		}
	}
	if _, err := w.client.RotateCA(t.Context()); err != nil {
		t.Fatal(err)
	}
	clock.set(4 * 365 * day)
	if told, err := w.client.RetireCA(t.Context(), former); err == nil {
		t.Errorf("retired: %+v", told)
	}
	clock.set(0)
	if s := w.standing(t, a, a.old); s != certificate.Active {
		t.Fatalf("the certificate of %s is %s", a.name, s)
	}
	w.open(t, a.name, a.name, a.old).quiet()
	former.Lose = 1
	if told, err := w.client.RetireCA(t.Context(), former); err != nil || !told.Done {
		t.Errorf("with leave: %+v, %v", told, err)
	}
}
