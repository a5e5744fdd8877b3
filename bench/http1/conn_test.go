package http1

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// echo answers with what it was asked, and notes the connections.
func echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil || r.Header.Get("Content-Type") != "application/json" {
		http.Error(w, "cannot be read", http.StatusBadRequest)
		return
	}
	switch r.URL.Path {
	case "/refused":
		http.Error(w, "no such thing", http.StatusForbidden)
	case "/parts":
		for _, part := range bytes.SplitAfter(body, []byte(" ")) {
			_, _ = w.Write(part)
			w.(http.Flusher).Flush()
		}
	default:
		fmt.Fprintf(w, "%s %s %s %s", r.RemoteAddr, r.Method, r.URL.Path, body)
	}
}

func TestAsksAgainOverTheSameConnection(t *testing.T) {
	plain := httptest.NewServer(http.HandlerFunc(echo))
	defer plain.Close()
	secure := httptest.NewTLSServer(http.HandlerFunc(echo))
	defer secure.Close()
	roots := x509.NewCertPool()
	roots.AddCert(secure.Certificate())
	for server, config := range map[*httptest.Server]*tls.Config{plain: nil, secure: {RootCAs: roots}} {
		c, err := Dial(t.Context(), server.Listener.Addr().String(), config)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		from := c.conn.LocalAddr().String()
		long := strings.Repeat("x", 100_000)
		for _, body := range []string{"", "one", long, "two"} {
			if got, err := c.Ask("POST", "/sign", []byte(body)); err != nil || string(got) != from+" POST /sign "+body {
				t.Errorf("%.20q was answered with %.80q, %v", body, got, err)
			}
		}
		if got, err := c.Ask("POST", "/parts", []byte("a b c")); err != nil || string(got) != "a b c" {
			t.Errorf("in parts: %q, %v", got, err)
		}
		if _, err := c.Ask("POST", "/refused", nil); err == nil || !strings.Contains(err.Error(), "403 Forbidden: no such thing") {
			t.Errorf("refused: %v", err)
		}
		if got, err := c.Ask("GET", "/health", nil); err != nil || string(got) != from+" GET /health " {
			t.Errorf("after a refusal: %q, %v", got, err)
		}
	}
}

func TestServerThatHangsUp(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(echo))
	c, err := Dial(t.Context(), server.Listener.Addr().String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	server.CloseClientConnections()
	server.Close()
	if got, err := c.Ask("POST", "/sign", nil); err == nil {
		t.Errorf("answered %q", got)
	}
	if _, err := Dial(t.Context(), server.Listener.Addr().String(), nil); err == nil {
		t.Error("connected to nobody")
	}
}
