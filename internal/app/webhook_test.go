package app_test

import (
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/certvendor/certvendor/internal/config"
	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/internal/webhook"
)

// hooked has a world tell what happens, and returns what was told about an
// event.
func hooked(t *testing.T, c *config.Config) (told func(event string) []map[string]string) {
	t.Helper()
	var mu sync.Mutex
	var all []webhook.Event
	server := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var e webhook.Event
		if err := json.NewDecoder(r.Body).Decode(&e); err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		all = append(all, e)
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
	secret, err := config.NewSecret("file:" + write("secret", []byte("0123456789abcdef")))
	if err != nil {
		t.Fatal(err)
	}
	c.Webhook.URL, c.Webhook.Secret = server.URL, secret
	c.Webhook.CA = write("ca", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	return func(event string) (details []map[string]string) {
		mu.Lock()
		defer mu.Unlock()
		for _, e := range all {
			if e.Event == event {
				details = append(details, e.Detail)
			}
		}
		return details
	}
}

// TestWhatIsTold has a rotation become stale and the CA come near its end.
func TestWhatIsTold(t *testing.T) {
	var clock wall
	var told func(string) []map[string]string
	w := startOn(t, &clock, 0, func(c *config.Config) {
		told = hooked(t, c)
		c.Rotation.TTL, c.Rotation.Settle, c.Rotation.SweepEvery = time.Millisecond, 0, 20*time.Millisecond
	})
	lamp := w.actor(t, "lamp")
	lamp.get(t, w.open(t, "lamp", "lamp", lamp.old))
	eventually(t, "the stale rotation is told", func() bool { return len(told("rotations.stale")) == 1 })
	if got := told("rotations.stale")[0]; got["stale"] != "1" || got["more"] != "1" {
		t.Errorf("%v", got)
	}
	if got := told("ca.days_left"); len(got) != 0 {
		t.Errorf("ten years before: %v", got)
	}
	end := w.caEnd(t)
	clock.set(time.Until(end) - 100*day)
	eventually(t, "180 days are told", func() bool { return len(told("ca.days_left")) == 1 })
	clock.set(time.Until(end) - 10*day)
	eventually(t, "14 days are told", func() bool { return len(told("ca.days_left")) == 2 })
	if got := told("ca.days_left"); got[0]["at"] != "180" || got[1]["at"] != "14" || got[1]["days"] != "10.0" {
		t.Errorf("%v", got)
	}
	if got := told("rotations.stale"); len(got) != 1 {
		t.Errorf("it is told again: %v", got)
	}
	eventually(t, "all of it was delivered", func() bool {
		return w.metric(t, `certvendor_webhook_deliveries_total{outcome="delivered"}`) == 3 && w.metric(t, "certvendor_webhook_waiting") == 0
	})
}

// Every notice of the store can be configured.
func TestNoticesAreEvents(t *testing.T) {
	for _, kind := range []string{
		store.CampaignStarted, store.CampaignResumed, store.CampaignGate, store.CampaignPaused, store.CampaignStopped,
		store.CampaignAborted, store.CampaignCanceled, store.CampaignFinished,
	} {
		if !slices.Contains(config.WebhookEvents, kind) {
			t.Errorf("webhook.events does not know %s", kind)
		}
	}
}
