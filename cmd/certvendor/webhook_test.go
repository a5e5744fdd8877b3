package main

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/certvendor/certvendor/campaign"
	"github.com/certvendor/certvendor/internal/webhook"
)

const hookSecret = "0123456789abcdef of the receiver"

// hook is a receiver over HTTPS that fails as long as it shall.
type hook struct {
	*httptest.Server
	t        *testing.T
	mu       sync.Mutex
	fails    bool
	attempts int
	taken    []webhook.Event
}

func (h *hook) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	var event webhook.Event
	if err == nil {
		err = json.Unmarshal(body, &event)
	}
	if err == nil {
		err = webhook.Verify(hookSecret, r.Header.Get(webhook.SignatureHeader), body, time.Now(), 5*time.Minute)
	}
	if err != nil {
		h.t.Error(err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.attempts++
	if h.fails {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	h.taken = append(h.taken, event)
}

// await waits for what is taken, told as "event campaign", in any order.
func (h *hook) await(want ...string) {
	h.t.Helper()
	for limit := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		h.mu.Lock()
		found := map[string]bool{}
		for _, e := range h.taken {
			found[e.Event+" "+e.Detail["campaign"]] = true
		}
		h.mu.Unlock()
		missing := ""
		for _, one := range want {
			if !found[one] {
				missing = one
			}
		}
		if missing == "" {
			return
		}
		if time.Now().After(limit) {
			h.t.Fatalf("not told: %s; told: %v", missing, found)
		}
	}
}

// TestWebhookOverKills kills the daemon while nobody takes what it tells: it
// tells all of it afterwards, and each event by one id.
func TestWebhookOverKills(t *testing.T) {
	h := &hook{t: t, fails: true}
	h.Server = httptest.NewTLSServer(h)
	t.Cleanup(h.Close)
	d := newProcess(t)
	root := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: h.Certificate().Raw})
	for name, text := range map[string]string{"hook.crt": string(root), "hook.secret": hookSecret + "\n"} {
		if err := os.WriteFile(filepath.Join(d.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	file, err := os.OpenFile(filepath.Join(d.dir, "config.yaml"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(file, "webhook: {url: %q, secret: \"file:hook.secret\", ca: hook.crt}\n", h.URL+"/a-token")
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	d.start()
	d.ready()
	if out, err := d.certvendor("device", "add", "lamp", "--out", filepath.Join(d.dir, "keys")).CombinedOutput(); err != nil {
		t.Fatalf("%s, %v", out, err)
	}
	spec := campaign.Spec{Name: "spring", Choose: campaign.Choice{All: true}}
	if _, err := d.client.ApplyCampaign(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{"pause", "resume"} {
		if _, err := d.client.SteerCampaign(t.Context(), "spring", verb); err != nil {
			t.Fatal(err)
		}
	}
	d.kill()
	d.start()
	d.ready()
	h.mu.Lock()
	h.fails = false
	h.mu.Unlock()
	h.await("campaign.started spring", "campaign.paused spring", "campaign.resumed spring")
	if _, err := d.client.SteerCampaign(t.Context(), "spring", "cancel"); err != nil {
		t.Fatal(err)
	}
	h.await("campaign.canceled spring")
	d.terminate()
	ids := map[string]string{}
	for _, e := range h.taken {
		if other, known := ids[e.Event]; known && other != e.ID {
			t.Errorf("%s is told as two events", e.Event)
		}
		ids[e.Event] = e.ID
	}
	log, err := os.ReadFile(filepath.Join(d.dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(log), "a-token") || strings.Contains(string(log), hookSecret) {
		t.Errorf("the log:\n%s", log)
	}
	t.Logf("%d attempts, %d taken", h.attempts, len(h.taken))
}
