package approval

import (
	"crypto/x509"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/certvendor/certvendor/vending"
)

var question = vending.ApprovalQuestion{DeviceID: "pump-7", Action: "get", CertificateID: "feed"}

// serving answers over TLS as a test says.
func serving(t *testing.T, answer http.HandlerFunc) (*httptest.Server, Config) {
	t.Helper()
	s := httptest.NewTLSServer(answer)
	t.Cleanup(s.Close)
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	return s, Config{URL: s.URL + "/approve?key=hush", Token: "secret-token", Roots: roots, Timeout: 10 * time.Second}
}

func asking(t *testing.T, c Config) (vending.Approval, error) {
	t.Helper()
	h, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.client.CloseIdleConnections)
	got, err := h.Approve(t.Context(), question)
	if err != nil && (strings.Contains(err.Error(), "hush") || strings.Contains(err.Error(), "secret-token")) {
		t.Errorf("a secret is in the error: %v", err)
	}
	return got, err
}

func TestHTTPS(t *testing.T) {
	_, c := serving(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var asked map[string]string
		if err != nil || json.Unmarshal(body, &asked) != nil {
			t.Errorf("asked %q, %v", body, err)
		}
		if r.Method != http.MethodPost || r.URL.Path != "/approve" || r.Header.Get("Authorization") != "Bearer secret-token" ||
			len(asked) != 3 || asked["deviceId"] != "pump-7" || asked["action"] != "get" || asked["certificateId"] != "feed" {
			t.Errorf("%s %s %v: %s", r.Method, r.URL, r.Header, body)
		}
		_, _ = io.WriteString(w, `{"allow": false, "reason": "stolen", "profile": "gold"}`)
	})
	got, err := asking(t, c)
	if err != nil || got != (vending.Approval{Reason: "stolen", Profile: "gold"}) {
		t.Errorf("got %+v, %v", got, err)
	}
}

// TestNobodyDecides: whatever is not a plain answer is an error, and no denial.
func TestNobodyDecides(t *testing.T) {
	asked := 0
	for name, answer := range map[string]http.HandlerFunc{
		"a failure": func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, `{"allow":true}`, http.StatusInternalServerError)
		},
		"a refusal":  func(w http.ResponseWriter, _ *http.Request) { http.Error(w, `{"allow":true}`, http.StatusForbidden) },
		"no content": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) },
		"not JSON":   func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") },
		"too much":   func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, vending.MostApproval+1)) },
		"sent elsewhere": func(w http.ResponseWriter, r *http.Request) {
			asked++
			http.Redirect(w, r, "/other", http.StatusTemporaryRedirect)
		},
		"hung up": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		t.Run(name, func(t *testing.T) {
			_, c := serving(t, answer)
			if got, err := asking(t, c); err == nil || got.Allow {
				t.Errorf("got %+v", got)
			}
		})
	}
	if asked != 1 {
		t.Errorf("it went where it was sent: asked %d times", asked)
	}
	t.Run("silent", func(t *testing.T) {
		end := make(chan struct{})
		_, c := serving(t, func(http.ResponseWriter, *http.Request) { <-end })
		defer close(end)
		c.Timeout = 50 * time.Millisecond
		if got, err := asking(t, c); err == nil || got.Allow {
			t.Errorf("got %+v", got)
		}
	})
	t.Run("another server", func(t *testing.T) {
		_, c := serving(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"allow":true}`) })
		c.Roots = x509.NewCertPool()
		if got, err := asking(t, c); err == nil || got.Allow || !strings.Contains(err.Error(), "certificate") {
			t.Errorf("got %+v, %v", got, err)
		}
	})
	t.Run("nobody there", func(t *testing.T) {
		s, c := serving(t, func(http.ResponseWriter, *http.Request) {})
		s.Close()
		if got, err := asking(t, c); err == nil || got.Allow {
			t.Errorf("got %+v", got)
		}
	})
}

func TestConfigurationsThatCannotWork(t *testing.T) {
	for _, c := range []Config{{URL: "http://plain.example", Timeout: time.Second}, {URL: "https://", Timeout: time.Second}, {URL: "https://a.example"}} {
		if _, err := New(c); err == nil {
			t.Errorf("%+v works", c)
		}
	}
}
