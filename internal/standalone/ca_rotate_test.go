package standalone

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/backup"
	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/internal/store/storetest"
	"github.com/certvendor/certvendor/registry"
)

// hold gives a device a certificate by the CA that issues now.
func hold(t *testing.T, w *World, device registry.DeviceID) certificate.Certificate {
	t.Helper()
	c := signed(t, w, device)
	if err := w.Store().Certificates().Register(t.Context(), device, c); err != nil {
		t.Fatal(err)
	}
	return c
}

func signed(t *testing.T, w *World, device registry.DeviceID) certificate.Certificate {
	t.Helper()
	subject, err := asn1.Marshal(pkix.Name{CommonName: string(device)}.ToRDNSequence())
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	c, err := w.CA().Issue(t.Context(), certificate.Order{
		Device: device, Key: deviceKey(t).Public(), RawSubject: subject, NotBefore: now.Add(-time.Minute), NotAfter: now.Add(time.Hour),
	})
	if err != nil {
		t.Fatal(err)
	}
	c.Standing, c.Kind = certificate.Active, certificate.Rotated
	return c
}

// connectable reports whether the broker's anchors verify a certificate of which
// its device sends nothing else.
func connectable(t *testing.T, w *World, c certificate.Certificate) bool {
	t.Helper()
	leaf, err := c.X509()
	if err != nil {
		t.Fatal(err)
	}
	_, err = leaf.Verify(x509.VerifyOptions{Roots: w.CA().ClientPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	return err == nil
}

func standingOf(t *testing.T, w *World, device registry.DeviceID, id certificate.ID) certificate.Standing {
	t.Helper()
	held, err := w.Store().Certificates().Held(t.Context(), device)
	if err != nil {
		t.Fatal(err)
	}
	h, _ := certificate.Find(held, id)
	return h.Standing
}

func issuerID(w *World) certificate.ID { return certificate.IDOf(w.CA().Issuer().Raw) }

// corporate is a root of somebody else's.
type corporate struct {
	key  *ecdsa.PrivateKey
	root *x509.Certificate
}

func newCorporate(t *testing.T, edits ...func(*x509.Certificate)) corporate {
	t.Helper()
	key := deviceKey(t)
	template := caTemplate("corporate root", 5, time.Now())
	template.SerialNumber, template.SubjectKeyId = big.NewInt(7), []byte{7}
	for _, edit := range edits {
		edit(template)
	}
	return corporate{key, parse(t, must(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)))}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func parse(t *testing.T, der []byte) *x509.Certificate {
	t.Helper()
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// sign makes the certificate that a request asks for.
func (c corporate) sign(t *testing.T, request []byte, edits ...func(*x509.Certificate)) []byte {
	t.Helper()
	block, _ := pem.Decode(request)
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil || csr.CheckSignature() != nil {
		t.Fatal(err, csr.CheckSignature())
	}
	template := leavesOnly(caTemplate("", 4, time.Now()))
	template.RawSubject, template.SerialNumber, template.SubjectKeyId = csr.RawSubject, big.NewInt(8), []byte{8}
	for _, edit := range edits {
		edit(template)
	}
	made := parse(t, must(x509.CreateCertificate(rand.Reader, template, c.root, csr.PublicKey, c.key)))
	return encodeCertificates([]*x509.Certificate{made, c.root})
}

// TestChangeOfCAKilledAtEachStep takes a copy of the data directory before each
// step, as a kill would leave it: a start finds the one CA or the other, with its
// key, and lets everybody in who was let in before.
func TestChangeOfCAKilledAtEachStep(t *testing.T) {
	corp := newCorporate(t)
	for name, change := range map[string]func(*World) error{
		"rotate": func(w *World) error { _, err := w.RotateCA(t.Context()); return err },
		"import": func(w *World) error {
			_, err := w.ImportCA(t.Context(), corp.sign(t, must(w.RequestCA(t.Context(), false))))
			return err
		},
		"import another": func(w *World) error {
			_, err := w.ImportCA(t.Context(), corp.sign(t, must(w.RequestCA(t.Context(), true))))
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			data := filepath.Join(t.TempDir(), "data")
			var first certificate.Certificate
			var old, next certificate.ID
			left := map[string]string{}
			inWorld(t, data, func(w *World) {
				addDevices(t, w, "a")
				first, old = hold(t, w, "a"), issuerID(w)
				w.step = func(what string) { left[what] = storetest.Killed(t, data, storeFile) }
				if err := change(w); err != nil {
					t.Fatal(err)
				}
				left["end"], next = storetest.Killed(t, data, storeFile), issuerID(w)
			})
			if old == next || len(left) < 3 {
				t.Fatalf("%d steps, from %.12s to %.12s", len(left), old, next)
			}
			for what, data := range left {
				// What writeFile leaves where the power goes while it writes.
				if err := os.WriteFile(filepath.Join(data, caDir, tmpPrefix+"1"), []byte("half a"), 0o600); err != nil {
					t.Fatal(err)
				}
				inWorld(t, data, func(w *World) {
					want := old
					if what == "committed" || what == "end" {
						want = next
					}
					if got := issuerID(w); got != want {
						t.Errorf("killed before %q: %.12s issues", what, got)
					}
					if !connectable(t, w, first) || !connectable(t, w, hold(t, w, "a")) {
						t.Errorf("killed before %q: a certificate does not connect", what)
					}
					if exists(filepath.Join(data, caDir, tmpPrefix+"1")) {
						t.Error("half a key is still there")
					}
					if _, err := w.Store().Audit().Verify(t.Context()); err != nil {
						t.Error(err)
					}
				})
			}
		})
	}
}

// TestRetirementOfCAKilledAtEachStep does the same of a retirement by which a
// certificate stops working.
func TestRetirementOfCAKilledAtEachStep(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	var first certificate.Certificate
	left := map[string]string{}
	inWorld(t, data, func(w *World) {
		addDevices(t, w, "a")
		first = hold(t, w, "a")
		old := issuerID(w)
		if err := w.RetireCA(t.Context(), old, 9); !errors.As(err, new(Refused)) {
			t.Errorf("retired the one that issues: %v", err)
		}
		must(w.RotateCA(t.Context()))
		var inUse store.InUse
		if err := w.RetireCA(t.Context(), old, 0); !errors.As(err, &inUse) || inUse.Uses.Certificates != 1 {
			t.Errorf("retired what is in use: %v", err)
		}
		w.step = func(what string) { left[what] = storetest.Killed(t, data, storeFile) }
		if err := w.RetireCA(t.Context(), old, 1); err != nil {
			t.Fatal(err)
		}
		left["end"] = storetest.Killed(t, data, storeFile)
	})
	for what, data := range left {
		inWorld(t, data, func(w *World) {
			standing, want := standingOf(t, w, "a", first.ID), certificate.Inactive
			if what == "retire" {
				want = certificate.Active
			}
			if standing != want || connectable(t, w, first) != (want == certificate.Active) {
				t.Errorf("killed before %q: %s, connects: %v", what, standing, connectable(t, w, first))
			}
			if err := w.Store().Certificates().Activate(t.Context(), "a", first.ID); want == certificate.Inactive && !errors.Is(err, certificate.ErrDistrusted) {
				t.Errorf("killed before %q: activated again: %v", what, err)
			}
		})
	}
}

// What was signed before a CA took over, and is registered after the old one was
// retired, never becomes anybody's.
func TestRegisterAfterRetirement(t *testing.T) {
	inWorld(t, filepath.Join(t.TempDir(), "data"), func(w *World) {
		addDevices(t, w, "a")
		late, old := signed(t, w, "a"), issuerID(w)
		must(w.RotateCA(t.Context()))
		if err := w.RetireCA(t.Context(), old, 0); err != nil {
			t.Fatal(err)
		}
		if err := w.Store().Certificates().Register(t.Context(), "a", late); !errors.Is(err, certificate.ErrDistrusted) {
			t.Errorf("registered: %v", err)
		}
		hold(t, w, "a")
		if _, err := w.CRL(t.Context(), string(old[:12]), time.Hour); !errors.As(err, new(Refused)) {
			t.Errorf("a CRL of a CA that is retired: %v", err)
		}
	})
}

// A package that waits is in use; what has expired, or is of a device that was
// removed, is not.
func TestUsesOfCA(t *testing.T) {
	inWorld(t, filepath.Join(t.TempDir(), "data"), func(w *World) {
		addDevices(t, w, "a", "b", "c", "removed")
		old := issuerID(w)
		birth := signed(t, w, "a")
		birth.Kind = certificate.Birth
		packaged := signed(t, w, "b")
		packaged.Kind, packaged.Standing = certificate.Packaged, certificate.Inactive
		for device, c := range map[registry.DeviceID]certificate.Certificate{"a": birth, "b": packaged} {
			if err := w.Store().Certificates().Register(t.Context(), device, c); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.packages.Put(t.Context(), "b", packaged.ID, []byte("zip")); err != nil {
			t.Fatal(err)
		}
		hold(t, w, "removed")
		if err := w.Store().Devices().Remove(t.Context(), "removed"); err != nil {
			t.Fatal(err)
		}
		must(w.RotateCA(t.Context()))
		hold(t, w, "c")
		uses, err := w.UsesCA(t.Context(), old)
		if want := (store.Uses{Certificates: 1, Birth: 1, Packages: 1}); err != nil || uses != want {
			t.Errorf("got %+v, %v", uses, err)
		}
		later, err := w.Store().Authorities().Uses(t.Context(), old, time.Now().Add(2*time.Hour))
		if err != nil || later.All() != 0 {
			t.Errorf("what has expired is in use: %+v, %v", later, err)
		}
	})
}

// A corporate root above the same key and name: what was issued before is
// verified by both, so that the old CA can go at once.
func TestSameKeyUnderAnotherRoot(t *testing.T) {
	corp := newCorporate(t)
	data := filepath.Join(t.TempDir(), "data")
	var before, after certificate.Certificate
	inWorld(t, data, func(w *World) {
		addDevices(t, w, "a")
		before = hold(t, w, "a")
		old := issuerID(w)
		chain := corp.sign(t, must(w.RequestCA(t.Context(), false)))
		made := must(w.ImportCA(t.Context(), chain))
		if again := must(w.ImportCA(t.Context(), chain)); again.ID != made.ID || made.Role != "issuing" {
			t.Errorf("imported %+v, then %+v", made, again)
		}
		after = hold(t, w, "a")
		roots, between := x509.NewCertPool(), x509.NewCertPool()
		roots.AddCert(corp.root)
		between.AddCert(parse(t, after.Chain[0]))
		for _, c := range []certificate.Certificate{before, after} {
			_, err := must(c.X509()).Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
			if err != nil {
				t.Errorf("the corporate root does not verify %.12s: %v", c.ID, err)
			}
		}
		if err := w.RetireCA(t.Context(), old, 0); err != nil {
			t.Error(err)
		}
	})
	inWorld(t, data, func(w *World) {
		for _, c := range []certificate.Certificate{before, after} {
			if !connectable(t, w, c) || standingOf(t, w, "a", c.ID) != certificate.Active {
				t.Errorf("certificate %.12s does not connect", c.ID)
			}
		}
	})
}

func TestImportRefuses(t *testing.T) {
	corp := newCorporate(t)
	past := func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().AddDate(-2, 0, 0), time.Now().AddDate(-1, 0, 0)
	}
	inWorld(t, filepath.Join(t.TempDir(), "data"), func(w *World) {
		request := must(w.RequestCA(t.Context(), false))
		good := corp.sign(t, request)
		block, root := pem.Decode(good)
		alone := pem.EncodeToMemory(block)
		fresh := must(w.RequestCA(t.Context(), true))
		_, other := madeCA(t, caConfig(newClock()))
		old := issuerID(w)
		for name, c := range map[string]struct {
			chain []byte
			want  string
		}{
			"nothing":             {nil, "no certificate in PEM"},
			"a key":               {[]byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"), "where a certificate should be"},
			"not our key":         {encodeCertificates([]*x509.Certificate{other.issuer, other.root}), "`certvendor ca csr"},
			"root alone":          {root, "`certvendor ca csr"},
			"without its root":    {alone, "which is no root"},
			"another root":        {append(append([]byte{}, alone...), encodeCertificates([]*x509.Certificate{newCorporate(t).root})...), "did not sign"},
			"no CA":               {corp.sign(t, request, func(c *x509.Certificate) { c.IsCA, c.MaxPathLenZero, c.KeyUsage = false, false, 0 }), "basicConstraints=CA:TRUE"},
			"may not sign":        {corp.sign(t, request, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCertSign }), "keyCertSign,cRLSign"},
			"expired":             {corp.sign(t, request, past), "has expired"},
			"not yet":             {corp.sign(t, request, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) }), "is not valid before"},
			"for servers":         {corp.sign(t, request, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }), "for clientAuth"},
			"root has expired":    {newCorporate(t, past).sign(t, request), "has expired"},
			"root allows no CA":   {newCorporate(t, func(c *x509.Certificate) { c.MaxPathLenZero = true }).sign(t, request), "pathlen:0 below a CA that allows one"},
			"a name that is used": {corp.sign(t, fresh, func(c *x509.Certificate) { c.RawSubject = w.CA().Issuer().RawSubject }), "with another key"},
			"without a name":      {corp.sign(t, fresh, func(c *x509.Certificate) { c.RawSubject = []byte{0x30, 0} }), "has no name"},
		} {
			t.Run(name, func(t *testing.T) {
				_, err := w.ImportCA(context.Background(), c.chain)
				if !errors.As(err, new(Refused)) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
					t.Errorf("got %v", err)
				}
				if issuerID(w) != old {
					t.Fatal("it took over")
				}
			})
		}
	})
}

// A root's key that is not there, or is another's, changes nothing.
func TestRotateWithoutTheRootsKey(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	inWorld(t, data, func(w *World) {
		old := issuerID(w)
		path := filepath.Join(data, caDir, rootKeyFile)
		if err := os.Rename(path, path+".away"); err != nil {
			t.Fatal(err)
		}
		if _, err := w.RotateCA(t.Context()); !errors.As(err, new(Refused)) || !strings.Contains(err.Error(), "`certvendor ca csr --new`") {
			t.Errorf("got %v", err)
		}
		if err := os.Link(filepath.Join(data, caDir, issuingKey), path); err != nil {
			t.Fatal(err)
		}
		if _, err := w.RotateCA(t.Context()); !errors.As(err, new(Refused)) || issuerID(w) != old {
			t.Errorf("got %v", err)
		}
	})
}

// The old CA's key may be put away when another one issues; its CRL needs it.
func TestFormerKeyPutAway(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	var old certificate.ID
	inWorld(t, data, func(w *World) {
		old = issuerID(w)
		must(w.RotateCA(t.Context()))
		crl := must(w.CRL(t.Context(), string(old[:12]), time.Hour))
		if err := must(x509.ParseRevocationList(crl.DER)).CheckSignatureFrom(w.CA().issuer); err != nil {
			t.Error(err)
		}
	})
	if err := os.Remove(filepath.Join(data, caDir, issuingKey)); err != nil {
		t.Fatal(err)
	}
	inWorld(t, data, func(w *World) {
		if _, err := w.CRL(t.Context(), string(old[:12]), time.Hour); !errors.As(err, new(Refused)) {
			t.Errorf("got %v", err)
		}
		must(w.CRL(t.Context(), "", time.Hour))
	})
	later, err := filepath.Glob(filepath.Join(data, caDir, "issuing-*.key"))
	if err != nil || len(later) != 1 {
		t.Fatal(later, err)
	}
	if err := os.Rename(later[0], later[0]+".away"); err != nil {
		t.Fatal(err)
	}
	if w, err := Open(t.Context(), restorable(data)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("opened without the key of the CA that issues: %v, %v", w, err)
	}
}

// TestRestoreAcrossChangeOfCA restores a backup from before a CA took over, and
// before the old one was retired.
func TestRestoreAcrossChangeOfCA(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	var file string
	var old, next certificate.ID
	var first, second certificate.Certificate
	inWorld(t, data, func(w *World) {
		addDevices(t, w, "a", "b")
		first, old = hold(t, w, "a"), issuerID(w)
		file = backedUp(t, w, true)
		must(w.RotateCA(t.Context()))
		second, next = hold(t, w, "b"), issuerID(w)
		if err := w.RetireCA(t.Context(), old, 1); err != nil {
			t.Fatal(err)
		}
	})
	// On another machine nobody has the key of the new one.
	elsewhere := restorable(filepath.Join(t.TempDir(), "other"))
	o := backup.Options{File: file, Audit: filepath.Join(data, auditDir)}
	if err := os.Mkdir(elsewhere.Data, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Restore(t.Context(), elsewhere, o); !errors.Is(err, backup.ErrRestore) || !strings.Contains(err.Error(), "the CA has changed since the backup was made") {
		t.Errorf("restored without the key: %v", err)
	}
	// Where it is lost, the one of the backup is the only one that is left.
	lost := backup.Options{File: file, Audit: t.TempDir(), Lossy: true, Replace: true}
	if _, err := Restore(t.Context(), elsewhere, lost); err != nil {
		t.Errorf("restored without the newer CA: %v", err)
	}
	inWorld(t, elsewhere.Data, func(w *World) {
		if issuerID(w) != old || !connectable(t, w, first) {
			t.Errorf("%.12s issues, and its certificate connects: %v", issuerID(w), connectable(t, w, first))
		}
	})
	o.Replace = true
	if _, err := Restore(t.Context(), restorable(data), o); err != nil {
		t.Fatal(err)
	}
	inWorld(t, data, func(w *World) {
		if issuerID(w) != next || connectable(t, w, first) || !connectable(t, w, second) {
			t.Errorf("%.12s issues; the old one's certificate connects: %v, the new one's: %v",
				issuerID(w), connectable(t, w, first), connectable(t, w, second))
		}
		if got := standingOf(t, w, "a", first.ID); got != certificate.Inactive {
			t.Errorf("the old one's certificate is %s", got)
		}
		if _, err := w.Store().Audit().Verify(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
