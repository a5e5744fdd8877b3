package aws

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/lambda"

	"github.com/certvendor/certvendor/registry"
)

// assetServer is an Asset Library that knows thing-1, behind its API and behind
// a function. It notes what was written.
func assetServer(t *testing.T) (url string, written *string) {
	t.Helper()
	written = new(string)
	serve := func(method, path, body string) (int, string) {
		switch {
		case strings.HasSuffix(path, "/broken"):
			return 503, "later"
		case !strings.HasSuffix(path, "/devices/thing-1"):
			return 404, ""
		case method == http.MethodPatch:
			*written = body
			return 204, ""
		}
		return 200, `{"deviceId":"thing-1","attributes":{"status":"active","weight":12}}`
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /2015-03-31/functions/{name}/invocations", func(w http.ResponseWriter, r *http.Request) {
		var event struct {
			HTTPMethod, Path, Body string
			Headers                map[string]string
		}
		if err := json.NewDecoder(r.Body).Decode(&event); err != nil || event.Headers["Accept"] != assetMedia {
			t.Errorf("event %+v, %v", event, err)
		}
		status, body := serve(event.HTTPMethod, event.Path, event.Body)
		_ = json.NewEncoder(w).Encode(map[string]any{"statusCode": status, "body": body})
	})
	mux.HandleFunc("/devices/", func(w http.ResponseWriter, r *http.Request) {
		signed := r.Header.Get("Authorization")
		if !strings.Contains(signed, "/cn-north-1/execute-api/aws4_request") || r.Header.Get("X-Team") != "a team" ||
			r.Header.Get("Accept") != assetMedia || r.Header.Get("Content-Type") != assetMedia {
			t.Errorf("request with %v", r.Header)
		}
		body, _ := io.ReadAll(r.Body)
		status, text := serve(r.Method, r.URL.Path, string(body))
		w.WriteHeader(status)
		fmt.Fprint(w, text)
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server.URL, written
}

// TestCases60And61And62And63AssetLibrary: cases 60 to 63, over both ways.
func TestCases60And61And62And63AssetLibrary(t *testing.T) {
	for _, way := range []string{"url", "function"} {
		t.Run(way, func(t *testing.T) {
			url, written := assetServer(t)
			w := newFake().open(t, noon(), func(c *Config) {
				c.Registry, c.Assets = AssetsSource, AssetLibrary{
					URL: url, Headers: map[string]string{"X-Team": "a team"}, Attribute: "status",
				}
				if way == "function" {
					c.Assets.URL, c.Assets.Function = "", "assets"
					c.Clients.Lambda = lambda.NewFromConfig(c.Clients.Config, func(o *lambda.Options) { o.BaseEndpoint = &url })
				}
			})
			device, err := w.registry.Device(t.Context(), "thing-1")
			if err != nil || device.Attributes["status"] != "active" {
				t.Errorf("got %+v, %v", device, err)
			}
			if _, err := w.registry.Device(t.Context(), "thing-2"); !errors.Is(err, registry.ErrUnknown) {
				t.Errorf("of an unknown device: %v", err)
			}
			if _, err := w.registry.Device(t.Context(), "broken"); err == nil || errors.Is(err, registry.ErrUnknown) {
				t.Errorf("of a library that does not answer: %v", err)
			}
			err = w.registry.SetAttributes(t.Context(), "thing-1", map[string]string{"status": "active", "certificateId": "x"})
			if err != nil || *written != `{"attributes":{"status":"active"}}` {
				t.Errorf("written %s, %v", *written, err)
			}
			if err := w.registry.Add(t.Context(), "thing-2", nil); !errors.Is(err, registry.ErrUnknown) {
				t.Errorf("a device that the library does not know was added: %v", err)
			}
		})
	}
}

// TestCase65NoRegistry: case 65.
func TestCase65NoRegistry(t *testing.T) {
	fake := newFake()
	w := fake.open(t, noon(), func(c *Config) { c.Registry = NoSource })
	for range 2 {
		if _, err := w.registry.Device(t.Context(), "whoever"); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.registry.SetAttributes(t.Context(), "whoever", map[string]string{"status": "active"}); err != nil {
		t.Error(err)
	}
	device, err := w.registry.Device(t.Context(), "whoever")
	if err != nil || device.Attributes["status"] != "active" {
		t.Errorf("got %+v, %v", device, err)
	}
	if calls := fake.called(); len(calls) > 0 {
		t.Errorf("AWS was asked: %v", calls)
	}
}
