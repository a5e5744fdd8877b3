package store_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/internal/store/storetest"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

// start is when every test begins, by its own clock.
var start = time.Date(2026, 3, 1, 12, 0, 0, 5, time.UTC)

// clock is a clock that moves when it is told to.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) add(d time.Duration) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
	return c.now
}

// world is an open store with what tests need around it.
type world struct {
	*store.Store
	t     *testing.T
	ctx   context.Context
	clock *clock
	cfg   store.Config
	// shadow gets every commit of the test, so that what a copy makes of it can
	// be held against the store in the end. Nil: the test has a log of its own.
	shadow *storetest.Log
}

// fresh returns a new store's file, which is made once: that takes longer than
// most tests.
var fresh = sync.OnceValue(func() []byte {
	dir, err := os.MkdirTemp("", "store")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "store.db")
	s, err := store.Open(context.Background(), store.Config{Path: path, Instance: "one"})
	if err != nil {
		panic(err)
	}
	s.Close()
	text, err := os.ReadFile(path)
	if err != nil {
		panic(err)
	}
	return text
})

// open opens a store in a new directory; change may alter how.
func open(t *testing.T, change ...func(*store.Config)) *world {
	t.Helper()
	c := &clock{now: start}
	cfg := store.Config{Path: filepath.Join(t.TempDir(), "store.db"), Instance: "one", Now: c.Now}
	for _, fn := range change {
		fn(&cfg)
	}
	w := &world{t: t, ctx: t.Context(), clock: c, cfg: cfg}
	if w.cfg.Log == nil {
		w.shadow = &storetest.Log{}
		w.cfg.Log, w.cfg.LogName = w.shadow, "shadow"
	}
	w.ok(os.WriteFile(cfg.Path, fresh(), 0o600))
	w.open()
	t.Cleanup(func() { w.Close() })
	t.Cleanup(w.holdAgainstCopy)
	return w
}

func (w *world) open() {
	w.t.Helper()
	s, err := store.Open(w.ctx, w.cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.Store = s
	if w.shadow != nil {
		w.ok(store.LeadQuietly(w.ctx, s))
	}
}

// reopen closes the store and opens it again, as a restart does.
func (w *world) reopen() {
	w.t.Helper()
	if err := w.Close(); err != nil {
		w.t.Fatal(err)
	}
	w.open()
}

func (w *world) ok(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) is(err, want error) {
	w.t.Helper()
	if !errors.Is(err, want) {
		w.t.Fatalf("got error %v, want %v", err, want)
	}
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func (w *world) device(id registry.DeviceID) registry.DeviceID {
	w.t.Helper()
	w.ok(w.Devices().Add(w.ctx, id, nil))
	return id
}

// register makes a certificate that the device holds.
func (w *world) register(id registry.DeviceID, name string) certificate.Certificate {
	w.t.Helper()
	c := fake(name)
	w.ok(w.Certificates().Register(w.ctx, id, c))
	return c
}

func (w *world) held(id registry.DeviceID) []certificate.Holding {
	w.t.Helper()
	return must[[]certificate.Holding](w.t)(w.Certificates().Held(w.ctx, id))
}

func (w *world) holding(id registry.DeviceID, c certificate.ID) certificate.Holding {
	w.t.Helper()
	h, ok := certificate.Find(w.held(id), c)
	if !ok {
		w.t.Fatalf("device %s does not hold %.8s", id, c)
	}
	return h
}

func (w *world) find(id registry.DeviceID) rotation.History {
	w.t.Helper()
	return must[rotation.History](w.t)(w.Journal().Find(w.ctx, id))
}

func (w *world) seen(id registry.DeviceID, c certificate.ID, at time.Time) error {
	return w.Certificates().Seen(w.ctx, certificate.Sighting{Device: id, Certificate: c, At: at, Evidence: certificate.Connection})
}

func (w *world) events(id registry.DeviceID) []string {
	w.t.Helper()
	var kinds []string
	for _, e := range must[[]store.Event](w.t)(w.Audit().Timeline(w.ctx, id)) {
		kind := e.Kind
		if e.Detail["state"] != "" {
			kind += " " + e.Detail["state"]
		}
		kinds = append(kinds, kind)
	}
	return kinds
}

func (w *world) wantEvents(id registry.DeviceID, want ...string) {
	w.t.Helper()
	if got := w.events(id); !slices.Equal(got, want) {
		w.t.Errorf("events of %s:\n got %q\nwant %q", id, got, want)
	}
}

// fake returns a certificate whose DER is its name: the store reads none.
func fake(name string) certificate.Certificate {
	der := []byte("der of " + name)
	return certificate.Certificate{
		ID: certificate.IDOf(der), DER: der, Chain: [][]byte{[]byte("issuing"), []byte("root")},
		Key: certificate.KeyIDOf([]byte(name)), KeyType: "p256", Serial: "5f" + fmt.Sprintf("%x", name),
		Subject: "CN=" + name, Issuer: "CN=issuing", NotBefore: start.Truncate(time.Second),
		NotAfter: start.Truncate(time.Second).AddDate(3, 0, 0), Standing: certificate.Active, Kind: certificate.First,
		Policies: []string{"fleet"}, Created: start,
	}
}

// real returns a self-signed certificate as issuers make them.
func real(t *testing.T, name string, notAfter time.Time) certificate.Certificate {
	t.Helper()
	key := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Unix(0, 0), NotAfter: notAfter,
	}
	der := must[[]byte](t)(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))
	return must[certificate.Certificate](t)(certificate.New(der, [][]byte{der}))
}

// intended returns a device's next rotation, as vending opens it.
func (w *world) intended(id registry.DeviceID, key string) rotation.Rotation {
	w.t.Helper()
	h := w.find(id)
	return rotation.Rotation{
		Device: id, Number: h.Next(), State: rotation.Intended, Key: certificate.KeyIDOf([]byte(key)),
		Over: "over", Nonce: "nonce", Profile: "default", Opened: w.clock.Now(),
		Held:  []certificate.ID{"a", "b"},
		Lease: rotation.Lease{Instance: w.cfg.Instance, Until: w.clock.Now().Add(rotation.LeaseTime)},
	}
}

func (w *world) advance(c rotation.Change) rotation.Rotation {
	w.t.Helper()
	return must[rotation.Rotation](w.t)(w.Journal().Advance(w.ctx, c))
}

// vend takes a rotation for a new certificate to vended, as vending does.
func (w *world) vend(id registry.DeviceID, name string, givesWay *rotation.Rotation) (rotation.Rotation, certificate.Certificate) {
	w.t.Helper()
	r := must[rotation.Rotation](w.t)(w.Journal().Open(w.ctx, w.intended(id, name), givesWay))
	c := fake(name)
	c.Kind = certificate.Rotated
	r.State, r.Certificate = rotation.Issued, c.ID
	r = w.advance(rotation.Change{Rotation: r, Certificate: &c})
	w.ok(w.Certificates().Register(w.ctx, id, c))
	r.State, r.VendedAt, r.Lease = rotation.Vended, w.clock.Now(), rotation.Lease{}
	return w.advance(rotation.Change{Rotation: r}), c
}
