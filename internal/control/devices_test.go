package control

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

// refused checks that a request was refused, how, and with which words.
func refused(t *testing.T, err error, status int, words string) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("got %v, want a refusal", err)
	}
	if e.Status != status || !strings.Contains(e.Text, words) {
		t.Errorf("refused with %d %q, want %d and %q", e.Status, e.Text, status, words)
	}
	if strings.Contains(e.Text, "-----BEGIN") || strings.Contains(e.Text, "\n") {
		t.Errorf("the refusal is not one fit line: %q", e.Text)
	}
}

func TestAddDevice(t *testing.T) {
	w := open(t)
	key := newKey(t)
	added, err := w.AddDevice(w.ctx, AddRequest{Name: "lamp", CSR: newCSR(t, key), Attributes: map[string]string{"site": "north"}})
	w.must(err)
	c, err := readPEM(added.Certificate)
	w.must(err)
	if parsed := mustX509(c); parsed.Subject.CommonName != "lamp" || !key.PublicKey.Equal(parsed.PublicKey) {
		t.Errorf("issued for %q and another key", parsed.Subject.CommonName)
	}
	if added.Roots != "roots" || added.CertificateID != c.ID {
		t.Errorf("answered %+v", added)
	}
	d, err := w.Device(w.ctx, "lamp")
	w.must(err)
	if len(d.Certificates) != 1 || d.Certificates[0].Standing != certificate.Active || d.Certificates[0].Kind != certificate.First ||
		d.Certificates[0].Policies[0] != "a-policy" || d.Attributes["site"] != "north" || d.Member {
		t.Errorf("registered as %+v", d)
	}
	if len(w.notes) != 1 || w.notes[0].Kind != "operator.device_add" || !strings.HasPrefix(w.notes[0].Detail["who"], "uid ") {
		t.Errorf("noted %+v", w.notes)
	}
}

func TestAddDeviceRefuses(t *testing.T) {
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	used := newKey(t)
	for name, tc := range map[string]struct {
		request AddRequest
		before  func(*world)
		status  int
		words   string
	}{
		"a name with a slash":    {AddRequest{Name: "a/b", CSR: newCSR(t, newKey(t))}, nil, http.StatusBadRequest, "device name"},
		"no CSR":                 {AddRequest{Name: "a"}, nil, http.StatusBadRequest, "PEM"},
		"a weak key":             {AddRequest{Name: "a", CSR: newCSR(t, small)}, nil, http.StatusBadRequest, "1024 bits"},
		"a device that has one":  {AddRequest{Name: "lamp", CSR: newCSR(t, newKey(t))}, nil, http.StatusConflict, "--another"},
		"a key that has one":     {AddRequest{Name: "a", CSR: newCSR(t, used)}, nil, http.StatusConflict, "make a new key"},
		"a blocked device":       {AddRequest{Name: "lamp", CSR: newCSR(t, newKey(t)), Another: true}, (*world).block, http.StatusConflict, "unblock lamp"},
		"while vending is still": {AddRequest{Name: "a", CSR: newCSR(t, newKey(t))}, (*world).still, http.StatusConflict, "certvendor thaw"},
	} {
		t.Run(name, func(t *testing.T) {
			w := open(t)
			_, err := w.AddDevice(w.ctx, AddRequest{Name: "lamp", CSR: newCSR(t, used)})
			w.must(err)
			if tc.before != nil {
				tc.before(w)
			}
			_, err = w.AddDevice(w.ctx, tc.request)
			refused(t, err, tc.status, tc.words)
			if n := w.count(); n != 1 {
				t.Errorf("there are %d certificates, want 1", n)
			}
		})
	}
}

func (w *world) block() {
	_, err := w.BlockDevice(w.ctx, "lamp")
	w.must(err)
}

func (w *world) still() {
	_, err := w.Freeze(w.ctx, What{Vending: true}, "a test")
	w.must(err)
}

func TestAddDeviceAnother(t *testing.T) {
	w := open(t)
	w.add("lamp")
	_, err := w.AddDevice(w.ctx, AddRequest{Name: "lamp", CSR: newCSR(t, newKey(t)), Another: true, Birth: true})
	w.must(err)
	d, err := w.Device(w.ctx, "lamp")
	w.must(err)
	if len(d.Certificates) != 2 || d.Certificates[1].Kind != certificate.Birth {
		t.Errorf("holds %+v", d.Certificates)
	}
}

// A certificate that is known already, as on AWS every one is that stands with its
// thing, becomes a birth certificate when a person says so, and nothing else.
func TestAdoptAsBirth(t *testing.T) {
	w := open(t)
	c := w.leaf("made elsewhere")
	for i, birth := range []bool{false, true, true, false} {
		adopted, err := w.AdoptDevice(w.ctx, AdoptRequest{Name: "old", Certificate: c.PEM(), Birth: birth})
		w.must(err)
		d, err := w.Device(w.ctx, "old")
		w.must(err)
		if is := d.Certificates[0].Kind == certificate.Birth; is != (i > 0) || adopted.Unchanged != (i > 1) {
			t.Errorf("%d: adopted %+v, and it is %s", i, adopted, d.Certificates[0].Kind)
		}
	}
	vended := w.leaf("vended")
	vended.Standing, vended.Kind = certificate.Active, certificate.Rotated
	w.must(w.store.Certificates().Register(w.ctx, "old", vended))
	_, err := w.AdoptDevice(w.ctx, AdoptRequest{Name: "old", Certificate: vended.PEM(), Birth: true})
	refused(t, err, http.StatusConflict, "was vended to it")
}

func TestAdopt(t *testing.T) {
	w := open(t)
	c := w.leaf("made elsewhere")
	for i, attributes := range []map[string]string{nil, nil, {"site": "north"}, {"site": "north"}} { // it can be repeated
		adopted, err := w.AdoptDevice(w.ctx, AdoptRequest{Name: "old", Certificate: c.PEM(), Attributes: attributes})
		w.must(err)
		if adopted.CertificateID != c.ID || adopted.Warning != "" || adopted.Unchanged != (i%2 == 1) {
			t.Errorf("%d: adopted %+v", i, adopted)
		}
	}
	// Fifty devices may share one certificate.
	twin, err := w.AdoptDevice(w.ctx, AdoptRequest{Name: "twin", Certificate: c.PEM()})
	w.must(err)
	if !strings.Contains(twin.Warning, "another device holds this certificate too") {
		t.Errorf("warned %q", twin.Warning)
	}
	d, err := w.Device(w.ctx, "twin")
	w.must(err)
	if len(d.Certificates) != 1 || !d.Certificates[0].Shared || d.Certificates[0].Kind != certificate.Adopted {
		t.Errorf("holds %+v", d.Certificates)
	}
	_, err = w.AdoptDevice(w.ctx, AdoptRequest{Name: "ca", Certificate: encodeDER(w.ca.Raw)})
	refused(t, err, http.StatusBadRequest, "a CA certificate")
	_, err = w.AdoptDevice(w.ctx, AdoptRequest{Name: "noise", Certificate: c.PEM() + "noise"})
	refused(t, err, http.StatusBadRequest, "not a certificate in PEM")
	bare, err := w.AdoptDevice(w.ctx, AdoptRequest{Name: "bare"})
	w.must(err)
	if bare.CertificateID != "" {
		t.Errorf("a device without a certificate got %+v", bare)
	}
}

func encodeDER(der []byte) string { return certificate.Certificate{DER: der}.PEM() }

func TestAdoptDoesNotBringBack(t *testing.T) {
	w := open(t)
	c := w.leaf("made elsewhere")
	_, err := w.AdoptDevice(w.ctx, AdoptRequest{Name: "old", Certificate: c.PEM()})
	w.must(err)
	w.must(w.store.Certificates().Retire(w.ctx, certificate.Removal{
		Device: "old", Certificate: c.ID, Mode: certificate.Deactivate, Allowed: func([]certificate.Holding) error { return nil },
	}))
	_, err = w.AdoptDevice(w.ctx, AdoptRequest{Name: "old", Certificate: c.PEM()})
	refused(t, err, http.StatusConflict, "INACTIVE")
}

// A fleet's list is imported again: what was deleted, or only detached because
// another device holds it too, stays away from the device it was taken from.
func TestAdoptDoesNotUndoARemoval(t *testing.T) {
	var w *world
	w = open(t, func(p *Ports) {
		p.Timeline = func(ctx context.Context, id registry.DeviceID) (events []Event, err error) {
			rows, err := w.store.Audit().Timeline(ctx, id)
			for _, row := range rows {
				events = append(events, Event{At: row.At, Kind: row.Kind, Device: row.Device, Certificate: row.Certificate})
			}
			return events, err
		}
	})
	for _, mode := range []certificate.Mode{certificate.Delete, certificate.Deactivate} {
		name := "old-" + string(mode)
		c := w.leaf(name)
		_, err := w.AdoptDevice(w.ctx, AdoptRequest{Name: name, Certificate: c.PEM()})
		w.must(err)
		if mode == certificate.Deactivate {
			_, err = w.AdoptDevice(w.ctx, AdoptRequest{Name: "shares-it", Certificate: c.PEM()})
			w.must(err)
		}
		w.must(w.store.Certificates().Retire(w.ctx, certificate.Removal{
			Device: registry.DeviceID(name), Certificate: c.ID, Mode: mode, Allowed: func([]certificate.Holding) error { return nil },
		}))
		_, err = w.AdoptDevice(w.ctx, AdoptRequest{Name: name, Certificate: c.PEM()})
		refused(t, err, http.StatusConflict, "was taken away from it")
	}
}

// A fleet that shares a certificate is imported device by device, and the first
// has rotated before the second is there: the second's only certificate works.
func TestAdoptOfWhatAnotherHasGivenUp(t *testing.T) {
	w := open(t)
	shared := w.leaf("claim")
	_, err := w.AdoptDevice(w.ctx, AdoptRequest{Name: "first", Certificate: shared.PEM()})
	w.must(err)
	w.must(w.store.Certificates().Retire(w.ctx, certificate.Removal{
		Device: "first", Certificate: shared.ID, Mode: certificate.Deactivate, Allowed: func([]certificate.Holding) error { return nil },
	}))
	_, err = w.AdoptDevice(w.ctx, AdoptRequest{Name: "second", Certificate: shared.PEM()})
	w.must(err)
	held, err := w.store.Certificates().Held(w.ctx, "second")
	w.must(err)
	if len(held) != 1 || held[0].Standing != certificate.Active {
		t.Errorf("the second holds %+v", held)
	}
}

func TestAdoptWarnsOfAStranger(t *testing.T) {
	w := open(t, func(p *Ports) { p.CAs = func() []CA { return []CA{{Role: "server-ca", Subject: "CN=Test CA"}} } })
	adopted, err := w.AdoptDevice(w.ctx, AdoptRequest{Name: "old", Certificate: w.leaf("x").PEM()})
	w.must(err)
	if !strings.Contains(adopted.Warning, "standalone.client_ca") {
		t.Errorf("warned %q", adopted.Warning)
	}
}

func TestAdoptWarnsOfAWeakKey(t *testing.T) {
	w := open(t)
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	w.must(err)
	adopted, err := w.AdoptDevice(w.ctx, AdoptRequest{Name: "old", Certificate: w.leafFor("x", small.Public()).PEM()})
	w.must(err)
	if !strings.Contains(adopted.Warning, "its key is weak (rsa1024)") {
		t.Errorf("warned %q", adopted.Warning)
	}
}

// What a removed device was stays on record, and it can be entered again.
func TestRemovedDevice(t *testing.T) {
	w := open(t)
	w.add("lamp")
	_, err := w.RemoveDevice(w.ctx, "lamp")
	w.must(err)
	d, err := w.Device(w.ctx, "lamp")
	w.must(err)
	if !d.Removed || len(d.Certificates) != 1 || len(d.Timeline) != 2 {
		t.Errorf("what is left is %+v", d)
	}
	_, err = w.BlockDevice(w.ctx, "lamp")
	refused(t, err, http.StatusNotFound, "`certvendor device add lamp --out DIR --another`")
	again := AddRequest{Name: "lamp", CSR: newCSR(t, newKey(t))}
	_, err = w.AddDevice(w.ctx, again)
	refused(t, err, http.StatusConflict, "--another enters it with one more")
	again.Another = true
	_, err = w.AddDevice(w.ctx, again)
	w.must(err)
	d, err = w.Device(w.ctx, "lamp")
	w.must(err)
	if d.Removed || len(d.Certificates) != 2 {
		t.Errorf("entered again as %+v", d)
	}
}

func TestJoinSaysWhoIsBlocked(t *testing.T) {
	w := open(t)
	w.add("lamp")
	w.block()
	var outcomes []Outcome
	w.must(w.Join(w.ctx, []string{"lamp"}, func(o Outcome) { outcomes = append(outcomes, o) }))
	if len(outcomes) != 1 || outcomes[0].Error != "" || !strings.Contains(outcomes[0].Warning, "`certvendor device unblock lamp`") {
		t.Errorf("joined as %+v", outcomes)
	}
	if d, err := w.Device(w.ctx, "lamp"); err != nil || !d.Member {
		t.Errorf("the blocked device is %+v: %v", d, err)
	}
}

func TestUnknownDevice(t *testing.T) {
	w := open(t)
	_, err := w.Device(w.ctx, "nobody")
	refused(t, err, http.StatusNotFound, "`certvendor device add nobody --out DIR`")
	_, err = w.BlockDevice(w.ctx, "nobody")
	refused(t, err, http.StatusNotFound, "nobody")
	_, err = w.RemoveDevice(w.ctx, "no/body")
	refused(t, err, http.StatusBadRequest, "device name")
}

// Lists are longer than a page, and joins longer than a batch.
func TestLongLists(t *testing.T) {
	w := open(t)
	const n = 2*batch + 5
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("d-%05d", i)
		w.must(w.store.Devices().Add(w.ctx, deviceID(names[i]), nil))
	}
	i := 0
	for d, err := range w.Devices(w.ctx, nil) {
		w.must(err)
		if d.Name != names[i] {
			t.Fatalf("device %d is %s, want %s", i, d.Name, names[i])
		}
		i++
	}
	if i != n {
		t.Errorf("listed %d devices, want %d", i, n)
	}
	joined := 0
	w.must(w.Join(w.ctx, append(names, "nobody"), func(o Outcome) {
		if o.Error == "" {
			joined++
		} else if o.Device != "nobody" {
			t.Error(o.Error)
		}
	}))
	_, err := w.EnsureJob(w.ctx)
	w.must(err)
	status, err := w.Status(w.ctx)
	w.must(err)
	if joined != n || status.Members != n || w.poked == 0 {
		t.Errorf("%d joined, %d members, poked %d times; want %d", joined, status.Members, w.poked, n)
	}
	left := 0
	w.must(w.Leave(w.ctx, names[:3], func(Outcome) { left++ }))
	members := 0
	for _, err := range w.Members(w.ctx) {
		w.must(err)
		members++
	}
	if left != 3 || members != n-3 {
		t.Errorf("%d left, %d members remain", left, members)
	}
}

type deviceID = registry.DeviceID

// Membership is found although the group can only be listed after a name.
func TestMember(t *testing.T) {
	w := open(t)
	all := []deviceID{"-", "a", "a-", "a-1", "a1", "aa", "b", "z", "z:"}
	for _, id := range all {
		w.must(w.store.Devices().Add(w.ctx, id, nil))
	}
	for _, member := range all {
		w.must(w.store.Group().Add(w.ctx, member))
		for _, asked := range all {
			m, err := w.server.member(w.ctx, asked)
			w.must(err)
			if (m.Device == asked) != (asked == member) {
				t.Errorf("%s is the only member, and %s is found as %+v", member, asked, m)
			}
		}
		w.must(w.store.Group().Remove(w.ctx, member, rotation.Member{}.Since))
	}
}

func TestCreatePackage(t *testing.T) {
	w := open(t)
	w.add("lamp")
	p, err := w.CreatePackage(w.ctx, "lamp")
	w.must(err)
	held, err := w.store.Certificates().Held(w.ctx, "lamp")
	w.must(err)
	h, ok := certificate.Find(held, p.Certificate)
	if !ok || h.Standing != certificate.Inactive || h.Kind != certificate.Packaged {
		t.Errorf("the package's certificate is %+v", h)
	}
	if string(w.files.kept["lamp"]) != "zip" {
		t.Error("no package was stored")
	}
	_, err = w.CreatePackage(w.ctx, "nobody")
	refused(t, err, http.StatusNotFound, "nobody")
}

func TestPutPackage(t *testing.T) {
	w := open(t)
	w.add("lamp")
	c := w.leaf("lamp")
	with, without := zipOf(t, "certificate.pem", c.PEM()), zipOf(t, "readme", "x")
	_, err := w.PutPackage(w.ctx, "lamp", string(c.ID), without)
	refused(t, err, http.StatusConflict, "does not hold")
	_, err = w.PutPackage(w.ctx, "lamp", strings.Repeat("a", 64), with)
	refused(t, err, http.StatusBadRequest, "the package's certificate is")
	_, err = w.PutPackage(w.ctx, "lamp", "A", with)
	refused(t, err, http.StatusBadRequest, "64 lower-case hex digits")
	_, err = w.PutPackage(w.ctx, "lamp", string(c.ID), make([]byte, maxPackage+1))
	refused(t, err, http.StatusRequestEntityTooLarge, "too large")
	if len(w.files.kept) > 0 {
		t.Error("a refused package was stored")
	}
	if last := w.notes[len(w.notes)-1]; last.Kind == "operator.package_put" {
		t.Errorf("a refused package was noted: %+v", last)
	}
	_, err = w.PutPackage(w.ctx, "lamp", string(c.ID), with)
	w.must(err)
	held, err := w.store.Certificates().Held(context.Background(), "lamp")
	w.must(err)
	if h, _ := certificate.Find(held, c.ID); h.Standing != certificate.Inactive || !bytes.Equal(w.files.kept["lamp"], with) {
		t.Errorf("stored %d octets, with certificate %+v", len(w.files.kept["lamp"]), h)
	}
	// Now that it is held, it need not be in the zip.
	_, err = w.PutPackage(w.ctx, "lamp", string(c.ID), without)
	w.must(err)
}

func zipOf(t *testing.T, name, content string) []byte {
	t.Helper()
	var buffer bytes.Buffer
	archive := zip.NewWriter(&buffer)
	entry, err := archive.Create(name)
	if err == nil {
		_, err = entry.Write([]byte(content))
	}
	if err = errors.Join(err, archive.Close()); err != nil {
		t.Fatal(err)
	}
	return buffer.Bytes()
}
