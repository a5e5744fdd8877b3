package app_test

import (
	"bufio"
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/certvendor/certvendor/device"
	"github.com/certvendor/certvendor/internal/config"
	"github.com/certvendor/certvendor/internal/control"
	"github.com/certvendor/certvendor/internal/fleet"
)

// What no log line may hold: PEM or its Base64, a link or a part of one, and
// anything else that is long and random, such as a nonce. Certificate ids are
// neither secret nor anything but hex.
var (
	secrets = regexp.MustCompile(`-----BEGIN|MI[A-Z][A-Za-z0-9+/]{40}|https?://|signature=`)
	long    = regexp.MustCompile(`[A-Za-z0-9_-]{43,}`)
	hexOnly = regexp.MustCompile(`^[0-9a-f]+$`)
)

func findSecret(line string) string {
	if found := secrets.FindString(line); found != "" {
		return found
	}
	for _, word := range long.FindAllString(line, -1) {
		if !hexOnly.MatchString(word) {
			return word
		}
	}
	return ""
}

// TestCase96LogHoldsNoSecret plays whole rotations of both kinds, and refused ones,
// at the most talkative level.
func TestCase96LogHoldsNoSecret(t *testing.T) {
	w := start(t, func(c *config.Config) { c.Log.Level = "debug" })
	byPackage := w.add("by-package", fleet.Agent)
	byPackage.Flow = device.ByPackage
	if _, err := w.client.CreatePackage(t.Context(), "by-package"); err != nil {
		t.Fatal(err)
	}
	devices := []fleet.Device{byPackage, w.add("by-csr", fleet.Agent), w.add("too-early", fleet.EarlyAcker), w.add("original", fleet.CDF)}
	names := []string{"by-package", "by-csr", "too-early", "original"}
	if err := w.client.Join(t.Context(), names, func(control.Outcome) {}); err != nil {
		t.Fatal(err)
	}
	report, err := fleet.Run(t.Context(), fleet.Options{Target: w.target, Devices: devices, Directory: t.TempDir()})
	if err != nil || report.Rotated != len(devices) {
		t.Fatalf("%+v, %v", report, err)
	}
	w.stop()
	requests := 0
	lines := bufio.NewScanner(strings.NewReader(w.log.String()))
	for lines.Scan() {
		if found := findSecret(lines.Text()); found != "" {
			t.Errorf("%q in the log line %s", found, lines.Text())
		}
		var line map[string]any
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			t.Fatalf("not JSON: %s", lines.Text())
		}
		if line["message"] != "request" {
			continue
		}
		requests++
		for _, field := range []string{"device", "action", "verdict", "reason", "certificate", "evidence", "took"} {
			if _, ok := line[field]; !ok {
				t.Errorf("no %s in %s", field, lines.Text())
			}
		}
		if device, _ := line["device"].(string); !slices.Contains(names, device) {
			t.Errorf("device %q in %s", device, lines.Text())
		}
	}
	// A get and an ack each, and one ack too many.
	if want := 2*len(devices) + 1; requests != want {
		t.Errorf("%d lines of requests, want %d:\n%s", requests, want, w.log)
	}
}

// TestSecretsAreFound shows that the pattern would find what it looks for.
func TestSecretsAreFound(t *testing.T) {
	for _, secret := range []string{
		`{"csr":"-----BEGIN CERTIFICATE REQUEST-----"}`,
		`MIIBBzCBrQIBADAAMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE5cc`,
		`https://localhost:8443/packages/1?expires=1`,
		`nonce 7fXk2hQ9v0Jx8rT5wZ1yB3nM6pL4sD_gHcVaEqUiOoK`,
	} {
		if findSecret(secret) == "" {
			t.Errorf("%s would not be found", secret)
		}
	}
	certificateID := strings.Repeat("0a", 32)
	if found := findSecret(certificateID + " " + time.Now().Format(time.RFC3339Nano)); found != "" {
		t.Error("a certificate id, or a time, is taken for a secret")
	}
}
