package app_test

import (
	"archive/zip"
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/certvendor/certvendor/internal/config"
	"github.com/certvendor/certvendor/internal/control"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/rotation"
)

// foreignCA signs what our CA never would.
type foreignCA struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	file string // its certificate as PEM
}

func newForeignCA(t *testing.T) *foreignCA {
	t.Helper()
	ca := &foreignCA{key: newKey(t), file: filepath.Join(t.TempDir(), "foreign.pem")}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "foreign CA"},
		NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, ca.key.Public(), ca.key)
	if err != nil {
		t.Fatal(err)
	}
	if ca.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(ca.file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return ca
}

// sign makes a device's certificate that is valid until a time.
func (ca *foreignCA) sign(t *testing.T, name string, until time.Time) tls.Certificate {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-12 * time.Hour), NotAfter: until,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, key.Public(), ca.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// adopt enters a device with a certificate that was made elsewhere.
func (w *world) adopt(t *testing.T, name string, c tls.Certificate) {
	t.Helper()
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]})
	if _, err := w.client.AdoptDevice(t.Context(), control.AdoptRequest{Name: name, Certificate: string(text)}); err != nil {
		t.Fatal(err)
	}
}

// refusesTLS fails the test unless the broker refuses a certificate in the
// handshake already.
func (w *world) refusesTLS(t *testing.T, what string, c *tls.Certificate, clientID string) {
	t.Helper()
	if _, code, err := w.knock(t, c, clientID); err == nil || !strings.Contains(err.Error(), "tls: ") {
		t.Errorf("%s: wanted a refused handshake, got code %d, %v", what, code, err)
	}
}

// foreignCertificates tries what other CAs have signed. What the trusted one
// signed serves only the device that it was entered with, and only until it
// expires.
func (s *stage) foreignCertificates(t *testing.T) {
	tomorrow := time.Now().Add(20 * time.Hour)
	inItsName := s.foreign.sign(t, "victim", tomorrow)
	s.refusesConnect(t, inItsName, "victim/foreign")
	// Of the trusted one's name, but not its key.
	stranger := newForeignCA(t).sign(t, "victim", tomorrow)
	s.refusesTLS(t, "a CA that nobody trusts", &stranger, "victim/foreign")
	withoutKey := tls.Certificate{Certificate: s.victim.old.Certificate, PrivateKey: newKey(t)}
	s.refusesTLS(t, "a certificate without its key", &withoutKey, "victim/foreign")
	s.refusesTLS(t, "no certificate", &tls.Certificate{}, "victim/foreign")
}

// oldAck rotates a device, twice, and tries in between what was good before.
func (s *stage) oldAck(t *testing.T) {
	dora := s.actor(t, "dora")
	dora.get(t, s.open(t, "dora", "dora", dora.old))
	first := dora.old
	over := s.open(t, "dora", "dora", dora.next)
	ack := message(t, 1, 77, "cdf/certificates/dora/ack", []byte("{}"))
	replay := func(t *testing.T, over *peer, want bool) {
		t.Helper()
		if accepted, reply := over.in(t).replay(protocol.Ack, ack); accepted != want {
			t.Errorf("the old ack: %s", reply)
		}
	}
	replay(t, over, true) // this time it is new
	s.settle(t)
	s.inState(t, "dora", rotation.Finished)
	if err := s.client.Join(t.Context(), []string{"dora"}, func(control.Outcome) {}); err != nil {
		t.Fatal(err)
	}
	s.settle(t)
	s.unchanged(t, func(t *testing.T) {
		s.refusesConnect(t, first, "dora/retired")
		replay(t, over, true) // OK again, and nothing else: it stays in the group
	})
	dora.get(t, over)
	second := dora.next
	s.unchanged(t, func(t *testing.T) { replay(t, over, false) })
	s.inState(t, "dora", rotation.Vended)
	last := s.open(t, "dora", "dora/last", second)
	replay(t, last, true)
	s.settle(t)
	s.unchanged(t, func(t *testing.T) {
		replay(t, last, true)
		s.refusesConnect(t, first, "dora/retired")
		over.in(t).ended() // the connection that the old ack came over
		p := s.attacker(t)
		if err := p.write(ack); err != nil {
			t.Fatal(err)
		}
		p.ends()
	})
	if d := s.detail(t, "dora"); d.Member || len(d.Rotations) != 2 {
		t.Errorf("dora is a member: %t, with %d rotations", d.Member, len(d.Rotations))
	}
	late := s.foreign.sign(t, "late", time.Now().Add(-time.Hour))
	s.adopt(t, "late", late)
	guest := s.foreign.sign(t, "guest", time.Now().Add(20*time.Hour))
	s.adopt(t, "guest", guest)
	s.unchanged(t, func(t *testing.T) {
		s.open(t, "guest", "guest", guest).refusedAs(protocol.NoPackage, protocol.Get, "")
		s.refusesTLS(t, "an expired certificate", &late, "late")
		s.refusesConnect(t, guest, "late")
		s.refusesConnect(t, guest, "victim")
	})
}

// removedDevice has a certificate of our CA and is not in the registry any
// more.
func (s *stage) removedDevice(t *testing.T) {
	ghost := s.actor(t, "ghost")
	p := s.open(t, "ghost", "ghost", ghost.old)
	if _, err := s.client.RemoveDevice(t.Context(), "ghost"); err != nil {
		t.Fatal(err)
	}
	s.unchanged(t, func(t *testing.T) {
		s.refusesConnect(t, ghost.old, "ghost")
		s.refusesConnect(t, ghost.old, "ghost/again")
		s.refusesConnect(t, ghost.old, "victim")
		p.in(t).ended()
	})
}

// link has a device vended a package, and returns where it is.
func (w *world) link(t *testing.T, over *peer) string {
	t.Helper()
	accepted, reply := over.ask(protocol.Get, "{}")
	var vended protocol.GetAccepted
	if err := protocol.Decode(reply, &vended); err != nil || !accepted || vended.Location == "" {
		t.Fatalf("get a package: %s, %v", reply, err)
	}
	return vended.Location
}

// fetch follows a link.
func (w *world) fetch(t *testing.T, link string) (status int, content []byte) {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: w.target.Roots}, DisableKeepAlives: true}
	client := &http.Client{Transport: transport, Timeout: patience}
	response, err := client.Get(link)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if content, err = io.ReadAll(response.Body); err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, content
}

// forbidden is the one answer to every link that is not good.
const forbidden = "this link is not valid, or not any more\n"

func (w *world) forbids(t *testing.T, what, link string) {
	t.Helper()
	if status, content := w.fetch(t, link); status != http.StatusForbidden || string(content) != forbidden {
		t.Errorf("%s: %d %q", what, status, content)
	}
}

// flip changes the character behind a prefix of the link.
func flip(link, behind string) string {
	at := strings.Index(link, behind) + len(behind)
	other := "1"
	if link[at:at+1] == other {
		other = "2"
	}
	return link[:at] + other + link[at+1:]
}

func (s *stage) links(t *testing.T) {
	pat := s.actor(t, "pat")
	if _, err := s.client.CreatePackage(t.Context(), "pat"); err != nil {
		t.Fatal(err)
	}
	link := s.link(t, s.open(t, "pat", "pat", pat.old))
	status, content := s.fetch(t, link)
	if status != http.StatusOK {
		t.Fatalf("a good link: %d", status)
	}
	path, query, _ := strings.Cut(link, "?")
	s.unchanged(t, func(t *testing.T) {
		for what, altered := range map[string]string{
			"another package":     flip(link, "/packages/"),
			"another time":        flip(link, "expires="),
			"another signature":   flip(link, "signature="),
			"no query":            path,
			"half the query":      path + "?" + strings.Split(query, "&")[0],
			"more in the query":   link + "&expires=99999999999",
			"the query reordered": path + "?" + strings.Split(query, "&")[1] + "&" + strings.Split(query, "&")[0],
			"a path within":       path + "/../x?" + query,
			"the directory":       path[:strings.LastIndex(path, "/")+1],
			"a device's name":     path[:strings.LastIndex(path, "/")+1] + "pat?" + query,
		} {
			s.forbids(t, what, altered)
		}
		if status, again := s.fetch(t, link); status != http.StatusOK || !bytes.Equal(content, again) {
			t.Errorf("the good link, again: %d", status)
		}
	})
	if accepted, reply := s.open(t, "pat", "pat/new", unzip(t, content)).ask(protocol.Ack, "{}"); !accepted {
		t.Fatalf("ack: %s", reply)
	}
	s.settle(t)
	s.unchanged(t, func(t *testing.T) { s.forbids(t, "a spent link", link) })
}

// unzip reads the pair in a package.
func unzip(t *testing.T, content []byte) tls.Certificate {
	t.Helper()
	archive, err := zip.NewReader(bytes.NewReader(content), int64(len(content)))
	if err != nil {
		t.Fatal(err)
	}
	read := func(name string) []byte {
		file, err := archive.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		text, err := io.ReadAll(file)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	pair, err := tls.X509KeyPair(read("certificate.pem"), read("private.key"))
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

// expiredLink has a world of its own, whose links do not last.
func (s *stage) expiredLink(t *testing.T) {
	w := start(t, func(c *config.Config) { c.Vending.LinkTTL = time.Second })
	pat := w.actor(t, "pat")
	if _, err := w.client.CreatePackage(t.Context(), "pat"); err != nil {
		t.Fatal(err)
	}
	over := w.open(t, "pat", "pat", pat.old)
	link := w.link(t, over)
	eventually(t, "the link has expired", func() bool {
		status, _ := w.fetch(t, link)
		return status != http.StatusOK
	})
	w.unchanged(t, func(t *testing.T) {
		w.forbids(t, "an expired link", link)
		w.forbids(t, "an expired link that says otherwise", strings.Replace(link, "expires=", "expires=9", 1))
		// What a device does then: the same package has a new link.
		if again := w.link(t, over.in(t)); again == link {
			t.Error("asked again, the device was given the expired link")
		}
	})
}
