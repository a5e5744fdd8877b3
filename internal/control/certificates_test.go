package control

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/certvendor/certvendor/certificate"
)

func (w *world) certificates(q CertificateQuery) []HeldCertificate {
	w.t.Helper()
	all := []HeldCertificate{}
	for h, err := range w.Certificates(w.ctx, q).All() {
		w.must(err)
		all = append(all, h)
	}
	return all
}

// TestCertificateByItsFirstDigits: a prefix must be of one certificate only.
func TestCertificateByItsFirstDigits(t *testing.T) {
	w := open(t)
	w.add("lamp-1")
	for _, id := range []string{"aaaa1", "aaaa2", "bbbb"} {
		c := w.leaf("x")
		c.ID = certificate.ID(id + strings.Repeat("0", 64-len(id)))
		w.must(w.store.Certificates().Register(w.ctx, "lamp-1", c))
	}
	for text, status := range map[string]int{
		"aaaa1": 0, "bbbb": 0, "aaaa1" + strings.Repeat("0", 59): 0,
		"aaaa": http.StatusConflict, "aaaa3": http.StatusNotFound, "ffff": http.StatusNotFound,
		"bbb": http.StatusBadRequest, "BBBB": http.StatusBadRequest,
	} {
		d, err := w.Certificate(w.ctx, text)
		if status != 0 {
			refused(t, err, status, text)
		} else if err != nil || !strings.HasPrefix(string(d.ID), text) {
			t.Errorf("%s found %s, %v", text, d.ID, err)
		}
	}
}

// TestCertificatesPastAPageOfOthers: what is asked for may begin after more
// than a page of what is not.
func TestCertificatesPastAPageOfOthers(t *testing.T) {
	w := open(t)
	added := w.add("lamp-1")
	c := w.leaf("x")
	for i := range batch + 10 {
		c.ID, c.Issuer = certificate.ID(fmt.Sprintf("0%063x", i)), "CN=somebody else"
		w.must(w.store.Certificates().Register(w.ctx, "lamp-2", c))
	}
	got := w.certificates(CertificateQuery{Issuer: "CN=Test CA"})
	if len(got) != 1 || got[0].ID != added.CertificateID || got[0].Device != "lamp-1" {
		t.Errorf("%d found, want the one of lamp-1: %+v", len(got), got)
	}
	if n := len(w.certificates(CertificateQuery{})); n != batch+11 {
		t.Errorf("%d in all", n)
	}
}

// TestListBrokenOff: a list that is broken off says so, and one that is left
// leaves nothing running.
func TestListBrokenOff(t *testing.T) {
	w := open(t)
	c := w.leaf("x")
	for i := range 3 * batch {
		c.ID = certificate.ID(fmt.Sprintf("0%063x", i))
		w.must(w.store.Certificates().Register(w.ctx, "lamp", c))
	}
	for range w.Certificates(w.ctx, CertificateQuery{}).All() {
		break
	}
	ctx, cancel := context.WithCancel(w.ctx)
	defer cancel()
	n, last := 0, error(nil)
	for _, last = range w.Certificates(ctx, CertificateQuery{}).All() {
		if n++; n == 10 {
			cancel()
		}
	}
	if !errors.Is(last, context.Canceled) || n > 3*batch {
		t.Errorf("%d entries, and then %v", n, last)
	}
}
