package app_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/certvendor/certvendor/device"
	"github.com/certvendor/certvendor/internal/app"
	"github.com/certvendor/certvendor/internal/config"
	"github.com/certvendor/certvendor/internal/control"
	"github.com/certvendor/certvendor/internal/fleet"
)

// world is a daemon under test, and what a fleet needs to reach it.
type world struct {
	*testing.T
	app    *app.App
	config config.Config
	client *control.Client
	target fleet.Target
	log    *lines
}

// lines is a log that can be read while it is written.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// start runs a daemon in a temporary directory, on ports of its own.
func start(t *testing.T, change func(*config.Config)) *world {
	t.Helper()
	return startBy(t, change, app.New)
}

// startBy is start for a daemon that is made in another way.
func startBy(t *testing.T, change func(*config.Config), make func(context.Context, config.Config, zerolog.Logger) (*app.App, error)) *world {
	t.Helper()
	dir := t.TempDir()
	c := config.Default()
	c.Standalone.Data = filepath.Join(dir, "data")
	c.Control.Socket = filepath.Join(dir, "sock", "s")
	c.Metrics.Listen, c.Standalone.Broker.Listen, c.Standalone.Packages.Listen = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	c.Rotation.Grace, c.Rotation.PerMinute = 0, 60_000
	if change != nil {
		change(&c)
	}
	w := &world{T: t, config: c, log: &lines{}}
	var err error
	if w.app, err = make(t.Context(), c, zerolog.New(w.log)); err != nil {
		t.Fatal(err)
	}
	if err := w.app.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.stop)
	w.client = control.Dial(c.Control.Socket)
	t.Cleanup(w.client.Close)
	_, roots, err := w.client.CAs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(roots))
	w.target = fleet.Target{Broker: w.app.BrokerAddr(), Roots: pool}
	return w
}

// stop ends the daemon, as its supervisor would.
func (w *world) stop() {
	w.Helper()
	if err := w.app.Stop(context.Background()); err != nil {
		w.Error(err)
	}
}

// add registers a device and returns it with its first certificate.
func (w *world) add(name string, firmware fleet.Firmware) fleet.Device {
	w.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		w.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}}, key)
	if err != nil {
		w.Fatal(err)
	}
	added, err := w.client.AddDevice(w.Context(), control.AddRequest{
		Name: name, CSR: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr})),
	})
	if err != nil {
		w.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		w.Fatal(err)
	}
	return fleet.Device{
		Name: name, Firmware: firmware, Certificate: []byte(added.Certificate),
		Key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
	}
}

// TestWholeRotations has a small fleet rotate end to end, by CSR and by
// package, with good firmware and with the firmware that is found in the field.
func TestWholeRotations(t *testing.T) {
	w := start(t, nil)
	var devices []fleet.Device
	var names []string
	for i := range 12 {
		d := w.add(fmt.Sprintf("dev-%02d", i), fleet.Agent)
		switch {
		case i < 3:
			d.Flow = device.ByPackage
			if _, err := w.client.CreatePackage(t.Context(), d.Name); err != nil {
				t.Fatal(err)
			}
		case i < 6:
			d.Firmware = fleet.CDF
		case i == 6:
			d.Firmware = fleet.EarlyAcker
		case i == 7:
			d.Firmware, d.Victim = fleet.Impersonator, "dev-08"
		}
		devices, names = append(devices, d), append(names, d.Name)
	}
	if err := w.client.Join(t.Context(), names, func(o control.Outcome) {}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	options := fleet.Options{Target: w.target, Devices: devices, Directory: t.TempDir(), RefusedWithin: 10 * time.Second}
	report, err := fleet.Run(ctx, options)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range report.Results {
		t.Logf("%s %s rotated=%t acked=%t total=%s %v %v", r.Device, r.Firmware, r.Rotated, r.Acked, r.Total, r.Notes, r.Err)
	}
	if report.Rotated != len(devices) {
		t.Errorf("%d of %d rotated\n%s", report.Rotated, len(devices), w.log)
	}
	for _, v := range fleet.Verify(ctx, options, report) {
		t.Errorf("violation: %+v", v)
	}
	t.Run("case_97_measured", func(t *testing.T) {
		for name, least := range map[string]float64{
			`certvendor_requests_total{action="ack",reason="",verdict="accepted"}`: 12,
			`certvendor_requests_total{action="get",reason="",verdict="accepted"}`: 12,
			`certvendor_issue_seconds_count`:                                       12,
			`certvendor_ready`:                                                     1,
		} {
			if n := w.metric(t, name); n < least {
				t.Errorf("%s is %g, of 12 devices", name, n)
			}
		}
		for _, name := range []string{`certvendor_orphans`, `certvendor_group_members`, `certvendor_rotations{state="vended"}`} {
			eventually(t, name+" is 0, since all have rotated", func() bool { return w.metric(t, name) == 0 })
		}
	})
}
