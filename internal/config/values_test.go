package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/rs/zerolog"
)

func TestSecretShowsItselfNowhere(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hush.txt")
	if err := os.WriteFile(path, []byte("correct horse\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	secret, err := NewSecret("env:HUSH")
	if err != nil {
		t.Fatal(err)
	}
	secret.bind("", map[string]string{"HUSH": "correct horse"})
	holder := struct{ Passphrase Secret }{secret}
	var out bytes.Buffer
	fmt.Fprintf(&out, "%v %+v %#v %s %q %x %d\n", holder, holder, holder, secret, secret, secret, secret)
	encoded, _ := json.Marshal(holder)
	out.Write(encoded)
	encoded, _ = yaml.Marshal(holder)
	out.Write(encoded)
	log := zerolog.New(&out)
	log.Info().Interface("config", holder).Stringer("s", secret).Any("any", secret).Msg("")
	if n := strings.Count(out.String(), shown); n < 11 { // encoding/json escapes its angle brackets
		t.Errorf("%s printed %d times only:\n%s", shown, n, out.String())
	}
	for _, leak := range []string{"horse", "HUSH", fmt.Sprintf("%x", "correct")} {
		if strings.Contains(out.String(), leak) {
			t.Errorf("printed %q:\n%s", leak, out.String())
		}
	}
}

func TestSecretValue(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "ca"), []byte("from a file\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "empty"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{"PASS": "from the environment", "CREDENTIALS_DIRECTORY": dir}
	for ref, want := range map[string]string{
		"": "", "file:ca": "from a file", "env:PASS": "from the environment", "credential:ca": "from a file",
	} {
		secret, err := NewSecret(ref)
		if err != nil {
			t.Fatal(err)
		}
		secret.bind(dir, env)
		if got, err := secret.Value(); err != nil || got != want {
			t.Errorf("%s: got %q, %v; want %q", ref, got, err, want)
		}
	}
	for _, ref := range []string{"file:none", "file:empty", "file:.", "env:NONE", "credential:none"} {
		secret, err := NewSecret(ref)
		if err != nil {
			t.Fatal(err)
		}
		secret.bind(dir, env)
		if got, err := secret.Value(); err == nil {
			t.Errorf("%s: got %q without an error", ref, got)
		}
	}
	for _, ref := range []string{"x", "file:", "vault:x", "credential:../x", "credential:a/b"} {
		if _, err := NewSecret(ref); err == nil {
			t.Errorf("%s: was taken", ref)
		}
	}
}

func TestRate(t *testing.T) {
	for text, want := range map[string]Rate{
		"10/s": {10, time.Second}, "6/24h": {6, 24 * time.Hour}, "1/m": {1, time.Minute}, "7/1h30m": {7, 90 * time.Minute},
	} {
		var got Rate
		if err := got.UnmarshalText([]byte(text)); err != nil || got != want {
			t.Errorf("%s: got %v, %v", text, got, err)
		}
		if got.String() != text {
			t.Errorf("%s is written %s", text, got)
		}
	}
	for _, text := range []string{"", "10", "10/", "/s", "-1/s", "1/0s", "1/-1s", "a/s", "1/s/s", "1.5/s"} {
		var got Rate
		if err := got.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%s: was taken as %v", text, got)
		}
	}
	if got := (Rate{6, 24 * time.Hour}).PerSecond(); got < 6.9e-5 || got > 7e-5 {
		t.Errorf("6/24h is %g a second", got)
	}
}
