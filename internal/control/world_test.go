package control

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/certificate/issuing"
	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/jobs"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
	"github.com/certvendor/certvendor/vending"
)

// world is a server on a real store and a real CA, and a client of it.
type world struct {
	*Client
	t      *testing.T
	ctx    context.Context
	store  *store.Store
	server *Server
	remote Remote
	ca     *x509.Certificate
	caKey  *ecdsa.PrivateKey
	files  *files
	poked  int

	mu    sync.Mutex
	notes []Event
}

// open starts the server; change may alter its ports first.
func open(t *testing.T, change ...func(*Ports)) *world {
	t.Helper()
	w := &world{t: t, ctx: t.Context(), files: &files{kept: map[registry.DeviceID][]byte{}}}
	var err error
	w.store, err = store.Open(w.ctx, store.Config{Path: filepath.Join(t.TempDir(), "store.db"), Instance: "test"})
	w.must(err)
	w.makeCA()
	ports := w.ports()
	for _, c := range change {
		c(&ports)
	}
	path := filepath.Join(socketDir(t), "s")
	_, err = w.store.Jobs().Ensure(w.ctx, ports.Job)
	w.must(err)
	w.server, err = Open(w.ctx, Socket{Path: path}, w.remote, ports)
	w.must(err)
	served := make(chan error, 1)
	go func() { served <- w.server.Serve() }()
	w.Client = Dial(path)
	t.Cleanup(func() {
		w.Client.Close()
		if err := errors.Join(w.server.Shutdown(context.Background()), <-served, w.store.Close()); err != nil {
			t.Error(err)
		}
	})
	return w
}

// socketDir is a directory with a short path: that of a socket has a limit.
func socketDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "cv")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) makeCA() {
	var err error
	w.caKey, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	w.must(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Test CA"}, SubjectKeyId: []byte{1},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, w.caKey.Public(), w.caKey)
	w.must(err)
	w.ca, err = x509.ParseCertificate(der)
	w.must(err)
}

func (w *world) ports() Ports {
	issuer, err := issuing.New(issuing.Config{Chain: []*x509.Certificate{w.ca}, Signer: w.caKey, Now: time.Now})
	w.must(err)
	return Ports{
		Registry: w.store.Devices(), Registrar: w.store.Devices(), Devices: w.store.Devices(),
		Inventory: w.store.Certificates(), Certificates: w.store.Certificates(),
		Journal: w.store.Journal(), Rotations: w.store.Journal(), Brakes: w.store.Brakes(),
		Group: w.store.Group(), Jobs: w.store.Jobs(), ByHand: w.closer(), Issuer: issuer, Packages: w.files,
		Now: time.Now, Validity: time.Hour, Backdate: time.Minute, Policies: []string{"a-policy"}, PerMinute: 60,
		Job: jobs.New("group", protocol.DefaultTopics()),
		BuildPackage: func(key crypto.Signer, c certificate.Certificate, _ []byte) ([]byte, error) {
			if !issuing.SameKey(key.Public(), mustX509(c).PublicKey) {
				return nil, errors.New("not the certificate's key")
			}
			return []byte("zip"), nil
		},
		ListPackages: func(context.Context, registry.DeviceID, int) ([]Package, error) { return nil, nil },
		RepeatedKeys: w.store.Certificates().RepeatedKeys,
		Roots:        func() []byte { return []byte("roots") },
		Authority:    &caKeeper{},
		CAs:          func() []CA { return []CA{{Role: "issuing", Subject: w.ca.Subject.String()}} },
		Sweep: func(_ context.Context, trust bool) (rotation.Swept, error) {
			if trust {
				return rotation.Swept{Retired: 1}, nil
			}
			return rotation.Swept{}, nil
		},
		AddedMember: func() { w.poked++ },
		Note: func(_ context.Context, e Event) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.notes = append(w.notes, e)
			return nil
		},
		Timeline: func(_ context.Context, id registry.DeviceID) ([]Event, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			var events []Event
			for _, e := range w.notes {
				if e.Device == id {
					events = append(events, e)
				}
			}
			return events, nil
		},
		Campaigns:   Campaigns{CampaignStore: w.store.Campaigns(), Running: w.store.Campaigns()},
		VerifyAudit: w.store.Audit().Verify,
		Ready:       func(context.Context) error { return nil },
	}
}

// closer carries out what is asked for by hand.
func (w *world) closer() *rotation.Closer {
	terms := rotation.Terms{
		Previous: certificate.Deactivate, Retire: rotation.Replaced, TTL: time.Hour, Recent: time.Hour, MaxRetirePerHour: 100,
	}
	return rotation.NewCloser(rotation.Ports{
		Journal: w.store.Journal(), Retirements: w.store.Journal(), Inventory: w.store.Certificates(),
		Revoker: w.store.Certificates(), Group: w.store.Group(),
		Registry: w.store.Devices(), Packages: w.files, Brakes: w.store.Brakes(),
	}, rotation.NewClock(time.Now, nil, time.Time{}, time.Hour), func(string) rotation.Terms { return terms })
}

func mustX509(c certificate.Certificate) *x509.Certificate {
	parsed, err := c.X509()
	if err != nil {
		panic(err)
	}
	return parsed
}

// files are packages in memory.
type files struct {
	vending.Packages
	mu   sync.Mutex
	kept map[registry.DeviceID][]byte
	fail error
}

func (f *files) Put(_ context.Context, id registry.DeviceID, _ certificate.ID, zip []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail == nil {
		f.kept[id] = zip
	}
	return f.fail
}

func newCSR(t *testing.T, key crypto.Signer) string {
	t.Helper()
	csr, err := NewRequest(key, "whatever-it-says")
	if err != nil {
		t.Fatal(err)
	}
	return csr
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// leaf makes a certificate of the world's CA, as if elsewhere.
func (w *world) leaf(name string) certificate.Certificate {
	return w.leafFor(name, newKey(w.t).Public())
}

func (w *world) leafFor(name string, key crypto.PublicKey) certificate.Certificate {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, w.ca, key, w.caKey)
	w.must(err)
	c, err := certificate.New(der, nil)
	w.must(err)
	return c
}

// add enters a device with a certificate.
func (w *world) add(name string) Added {
	w.t.Helper()
	added, err := w.AddDevice(w.ctx, AddRequest{Name: name, CSR: newCSR(w.t, newKey(w.t))})
	w.must(err)
	return added
}

// count returns how many certificates there are in all.
func (w *world) count() int {
	w.t.Helper()
	all, err := w.store.Certificates().List(w.ctx, certificate.Query{})
	w.must(err)
	return len(all)
}
