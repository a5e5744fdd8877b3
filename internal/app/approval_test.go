package app_test

import (
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/certvendor/certvendor/internal/config"
	"github.com/certvendor/certvendor/protocol"
)

// TestApproval: a device over MQTT, and an approver over TLS, which is away,
// denies, and then allows.
func TestApproval(t *testing.T) {
	var status, denies atomic.Int32
	var asked atomic.Int64
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var question struct{ DeviceID, Action, CertificateID string }
		if err := json.NewDecoder(r.Body).Decode(&question); err != nil || question.DeviceID != "lamp" || len(question.CertificateID) != 64 {
			t.Errorf("asked %+v, %v", question, err)
		}
		asked.Add(1)
		if code := int(status.Load()); code != 0 {
			w.WriteHeader(code)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"allow": denies.Load() == 0, "reason": "reported stolen"})
	}))
	t.Cleanup(server.Close)
	dir := t.TempDir()
	write := func(name string, text []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	w := start(t, func(c *config.Config) {
		token, err := config.NewSecret("file:" + write("token", []byte("hush-hush-hush")))
		if err != nil {
			t.Fatal(err)
		}
		c.Approval.URL, c.Approval.Token = server.URL+"/?key=hush", token
		c.Approval.CA = write("ca", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	})
	lamp := w.actor(t, "lamp")
	over := w.open(t, "lamp", "lamp", lamp.old)
	csr := body(t, "csr", newCSR(t, newKey(t), "lamp"))
	status.Store(http.StatusBadGateway)
	over.refusedAs(protocol.TryAgainLater, protocol.Get, csr)
	status.Store(0)
	denies.Store(1)
	over.refusedAs(protocol.NotAllowed, protocol.Get, csr)
	if d := w.detail(t, "lamp"); len(d.Rotations) > 0 || len(d.Certificates) != 1 {
		t.Errorf("%d rotations and %d certificates of what was denied", len(d.Rotations), len(d.Certificates))
	}
	denies.Store(0)
	lamp.get(t, over)
	if asked.Load() < 3 {
		t.Errorf("asked %d times", asked.Load())
	}
	// A survey looks at everybody, and asks nobody about anybody.
	before := asked.Load()
	if s, err := w.client.Survey(t.Context(), func(int) {}); err != nil || s.Devices == 0 || asked.Load() != before {
		t.Errorf("surveyed %d devices, asked %d times more, %v", s.Devices, asked.Load()-before, err)
	}
	if log := w.log.String(); strings.Contains(log, "hush") || !strings.Contains(log, "reported stolen") {
		t.Errorf("the log, with a secret or without the reason: %s", log)
	}
}
