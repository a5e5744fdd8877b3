package app_test

import (
	"crypto/x509"
	"encoding/pem"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/certvendor/certvendor/internal/app"
	"github.com/certvendor/certvendor/internal/config"
	"github.com/certvendor/certvendor/internal/control"
	"github.com/certvendor/certvendor/protocol"
)

// caEnd returns when the issuing CA of a world's data directory ends.
func (w *world) caEnd(t *testing.T) time.Time {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(w.config.Standalone.Data, "ca", "issuing.crt"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	ca, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return ca.NotAfter
}

// metric returns the value of a metric without labels.
func (w *world) metric(t *testing.T, name string) float64 {
	t.Helper()
	answer, err := http.Get("http://" + w.app.MetricsAddr() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(text), "\n"+name+" ")
	value, _, _ := strings.Cut(rest, "\n")
	v, err := strconv.ParseFloat(value, 64)
	if !ok || err != nil {
		t.Fatalf("no metric %s", name)
	}
	return v
}

func (w *world) logs(t *testing.T, text string, times int) {
	t.Helper()
	eventually(t, "the log has "+text, func() bool { return strings.Count(w.log.String(), text) >= times })
}

// TestCAEnds takes a daemon through the last hour of its issuing CA and beyond.
func TestCAEnds(t *testing.T) {
	var clock wall
	w := startOn(t, &clock, 0, func(c *config.Config) {
		c.Standalone.Broker.Expired = 30 * day
		c.Rotation.SweepEvery = 20 * time.Millisecond
	})
	end := w.caEnd(t)
	const soon, expired = "ends soon: so does every certificate", "has expired: nothing is vended"
	if said := w.log.String(); strings.Contains(said, soon) || strings.Contains(said, expired) {
		t.Errorf("ten years before its end: %s", said)
	}
	clock.set(time.Until(end) - time.Hour)
	w.logs(t, soon, 1) // by itself: the daemon was not started anew
	if days := w.metric(t, "certvendor_ca_days_left"); days <= 0 || days > 1./20 {
		t.Errorf("%f days left, not an hour", days)
	}
	early, late := w.actor(t, "early"), w.actor(t, "late")
	over := w.open(t, "early", "early", early.old)
	overLate := w.open(t, "late", "late", late.old)
	early.get(t, over)
	vended, err := x509.ParseCertificate(early.next.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	if !vended.NotAfter.Equal(end) {
		t.Errorf("the certificate ends at %s, the CA at %s", vended.NotAfter, end)
	}
	if status, text := w.readyz(); status != http.StatusOK {
		t.Errorf("an hour before the end: %d %s", status, text)
	}

	clock.set(time.Until(end) + time.Hour)
	if why := w.becomes(http.StatusServiceUnavailable); !strings.Contains(why, "the issuing CA has expired") {
		t.Errorf("/readyz says %q", why)
	}
	if days := w.metric(t, "certvendor_ca_days_left"); days >= 0 {
		t.Errorf("%f days left, an hour after the end", days)
	}
	w.unchanged(t, func(t *testing.T) {
		p := overLate.in(t)
		p.refusedAs(protocol.NoCA, protocol.Get, body(t, "csr", newCSR(t, newKey(t), "late")))
	})
	if _, err := w.client.AddDevice(t.Context(), control.AddRequest{Name: "new", CSR: newCSR(t, newKey(t), "new")}); err == nil {
		t.Error("an expired CA has issued a device's first certificate")
	}
	w.open(t, "late", "late/again", late.old) // within broker.expired
	// What was vended before is still acked.
	if accepted, reply := w.open(t, "early", "early/candidate", early.next).ask(protocol.Ack, "{}"); !accepted {
		t.Errorf("ack: %s", reply)
	}
	// And it is said again, day by day.
	clock.set(time.Until(end) + 25*time.Hour)
	w.logs(t, expired, 1)
	clock.set(time.Until(end) + 50*time.Hour)
	w.logs(t, expired, 2)
}

// TestStartWithExpiredCA shows that a daemon whose CA has expired starts, for
// everything else it does.
func TestStartWithExpiredCA(t *testing.T) {
	var clock wall
	w := startOn(t, &clock, 0, func(*config.Config) {})
	clock.set(time.Until(w.caEnd(t)) + day)
	w.stop()
	again := &lines{}
	var err error
	if w.app, err = app.NewAt(t.Context(), w.config, zerolog.New(again), clock.now); err != nil {
		t.Fatal(err)
	}
	if err := w.app.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if status, text := w.readyz(); status != http.StatusServiceUnavailable || !strings.Contains(text, "expired") {
		t.Errorf("/readyz says %d %q", status, text)
	}
	if w.metric(t, "certvendor_ready") != 0 {
		t.Error("the metrics call it ready")
	}
	eventually(t, "it is said at the start", func() bool {
		return strings.Contains(again.String(), "has expired: nothing is vended")
	})
}
