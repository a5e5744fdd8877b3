package device

import (
	"archive/zip"
	"bytes"
	"crypto"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func chainOf(certificates ...*x509.Certificate) []*x509.Certificate { return certificates }

func zipped(t *testing.T, key crypto.Signer, certificate *x509.Certificate, filler int) []byte {
	t.Helper()
	text, err := encodeKey(key)
	if err != nil {
		t.Fatal(err)
	}
	var content bytes.Buffer
	archive := zip.NewWriter(&content)
	for name, text := range map[string][]byte{
		"../evil": []byte("ignored"), "public.key": nil,
		keyFile:         text,
		certificateFile: append(encodeChain(chainOf(certificate)), bytes.Repeat([]byte("\n"), filler)...),
	} {
		member, err := archive.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := member.Write(text); err != nil {
			t.Fatal(err)
		}
	}
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	return content.Bytes()
}

// servePackage serves a package over HTTPS; first, where set, answers instead
// as long as it returns true.
func (w *world) servePackage(t *testing.T, first func(n int64, rw http.ResponseWriter) bool) {
	t.Helper()
	key := newKey(t)
	certificate := w.leaf(deviceUnderTest, key.Public())
	content := zipped(t, key, certificate, 0)
	var served atomic.Int64
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.RawQuery != "signature=secret" {
			t.Errorf("asked for %s", r.URL)
		}
		if first == nil || !first(served.Add(1), rw) {
			_, _ = rw.Write(content)
		}
	}))
	server.TLS = w.server.Clone() // the broker's
	server.StartTLS()
	t.Cleanup(server.Close)
	w.script(func() {
		w.link, w.linked = server.URL+"/p.zip?signature=secret", idOf(pair{chain: chainOf(certificate)})
	})
}

func TestPackageIsUsed(t *testing.T) {
	w := newWorld(t)
	otherKey := newKey(t)
	mismatched := zipped(t, otherKey, w.leaf(deviceUnderTest, newKey(t).Public()), 0)
	bomb := zipped(t, otherKey, w.leaf(deviceUnderTest, otherKey.Public()), 10<<20)
	w.servePackage(t, func(n int64, rw http.ResponseWriter) bool {
		switch n {
		case 1:
			rw.WriteHeader(http.StatusForbidden)
		case 2:
			rw.Header().Set("Location", "https://127.0.0.1:1/")
			rw.WriteHeader(http.StatusFound)
		case 3:
			_, _ = rw.Write(mismatched)
		case 4:
			_, _ = rw.Write(bomb)
		case 5:
			_, _ = rw.Write(make([]byte, maxPackage+1))
		default:
			return false
		}
		return true
	})
	var seen diary
	cfg := w.provision()
	cfg.Flow, cfg.Event, cfg.Retry.Attempts = ByPackage, seen.note, 8
	if err := open(t, cfg).Rotate(deadline(t)); err != nil {
		t.Fatal(err)
	}
	checkRotated(t, w, cfg, 0)
	waits := seen.of(Waiting)
	for i, want := range []string{"answered 403", "answered 302", "not for the key", "more than 65536", "more than 1048576"} {
		if i >= len(waits) || !strings.Contains(waits[i].Err.Error(), want) {
			t.Errorf("attempt %d: want %q in %+v", i+1, want, waits)
		}
	}
}

func TestLinkNeverReachesAnError(t *testing.T) {
	w := newWorld(t)
	cfg := w.provision()
	cfg.Flow, cfg.PackageRoots = ByPackage, x509.NewCertPool() // so that the server is not trusted
	for _, link := range []string{"", "http://127.0.0.1:1/?secret", "https://127.0.0.1:1/?secret", "::secret"} {
		if link == "" {
			w.servePackage(t, nil)
		} else {
			w.script(func() { w.link = link })
		}
		err := open(t, cfg).Rotate(deadline(t))
		if err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: got %v", link, err)
		}
	}
}

// Where packages come from is verified as the broker is: by a clock that stays in
// 1970 its certificate may not have begun either.
func TestPackageReachesADeviceWhoseClockIsBehind(t *testing.T) {
	w := newWorld(t)
	w.from = -100 * time.Hour
	cfg := w.provision()
	w.script(func() { w.server = w.serverFor(-10*time.Hour, 300*24*time.Hour) })
	w.servePackage(t, nil)
	cfg.Flow, cfg.Now = ByPackage, func() time.Time { return time.Unix(0, 0) }
	if err := open(t, cfg).Rotate(deadline(t)); err != nil {
		t.Fatal(err)
	}
	checkRotated(t, w, cfg, 0)
}
