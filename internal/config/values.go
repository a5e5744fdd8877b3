package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/certvendor/certvendor/campaign"
)

// Rate is so many things in so much time, written "10/s", "120/m" or "6/24h".
type Rate struct {
	Count int
	Per   time.Duration
}

var errRate = errors.New(`must be a number, a slash and a time, such as 10/s or 6/24h`)

// UnmarshalText reads a rate.
func (r *Rate) UnmarshalText(text []byte) error {
	count, per, ok := strings.Cut(string(text), "/")
	if !ok {
		return errRate
	}
	n, err := strconv.Atoi(count)
	if err != nil || n < 0 {
		return errRate
	}
	if per == "s" || per == "m" || per == "h" {
		per = "1" + per
	}
	d, err := time.ParseDuration(per)
	if err != nil || d <= 0 {
		return errRate
	}
	*r = Rate{Count: n, Per: d}
	return nil
}

// MarshalText writes a rate as UnmarshalText reads it.
func (r Rate) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// String writes a rate as UnmarshalText reads it.
func (r Rate) String() string {
	switch r.Per {
	case time.Second:
		return fmt.Sprintf("%d/s", r.Count)
	case time.Minute:
		return fmt.Sprintf("%d/m", r.Count)
	}
	return fmt.Sprintf("%d/%s", r.Count, trimZero(r.Per))
}

// PerSecond returns how many there may be within a second, on average.
func (r Rate) PerSecond() float64 { return float64(r.Count) / r.Per.Seconds() }

// Before is how long before its end a certificate comes due, written as a
// duration, "30d", or as a part of the lifetime, "25%"; empty: the default.
type Before struct{ campaign.Before }

var errBefore = errors.New("must be a duration such as 30d or 8h, a part of the lifetime from 1% to 50%, or empty")

// UnmarshalText reads it.
func (b *Before) UnmarshalText(text []byte) error {
	*b = Before{}
	if len(text) == 0 {
		return nil
	}
	if part, ok := strings.CutSuffix(string(text), "%"); ok {
		percent, err := strconv.ParseFloat(part, 64)
		if err != nil || !(percent >= 1 && percent <= 50) {
			return errBefore
		}
		b.Percent = percent
		return nil
	}
	d, err := ParseDuration(string(text))
	if err != nil || d <= 0 {
		return errBefore
	}
	b.Time = d
	return nil
}

// MarshalText writes it as UnmarshalText reads it.
func (b Before) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// String writes it as UnmarshalText reads it.
func (b Before) String() string {
	switch {
	case b.Percent > 0:
		return strconv.FormatFloat(b.Percent, 'f', -1, 64) + "%"
	case b.Time > 0:
		return trimZero(b.Time)
	}
	return ""
}

// trimZero writes a duration without the zero minutes and seconds that Go
// adds: 24h, not 24h0m0s.
func trimZero(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

// Secret refers to a secret that is kept elsewhere: "file:PATH", "env:NAME",
// or "credential:NAME" for a file in $CREDENTIALS_DIRECTORY, as systemd's
// LoadCredential makes it. It shows itself as <secret>, however it is printed,
// logged or encoded. The zero Secret refers to nothing.
type Secret struct{ ref, value string }

const shown = "<secret>"

// ErrNoCredentials is what Value returns for a credential outside of systemd.
var ErrNoCredentials = errors.New("$CREDENTIALS_DIRECTORY is not set; is this run by systemd with LoadCredential?")

var errSecret = errors.New("must be a reference: file:PATH, env:NAME or credential:NAME; a secret itself does not belong in a configuration")

// NewSecret returns a reference, or an error that does not repeat the text.
func NewSecret(ref string) (Secret, error) {
	var s Secret
	return s, s.UnmarshalText([]byte(ref))
}

// UnmarshalText reads a reference; an empty text refers to nothing.
func (s *Secret) UnmarshalText(text []byte) error {
	kind, name, ok := strings.Cut(string(text), ":")
	switch {
	case len(text) == 0:
	case !ok || name == "", kind != "file" && kind != "env" && kind != "credential":
		return errSecret
	case kind == "credential" && filepath.Base(name) != name:
		return errors.New("credential: takes the name of a file, not a path")
	}
	*s = Secret{ref: string(text)}
	return nil
}

// File returns the file that it refers to, or "" for any other reference.
func (s Secret) File() string {
	if kind, name, _ := strings.Cut(s.ref, ":"); kind == "file" {
		return name
	}
	return ""
}

// IsSet reports whether it refers to anything.
func (s Secret) IsSet() bool { return s.ref != "" }

// Value returns the secret, without the newline that ends a file; "" for the
// zero Secret. The error names the reference, never the secret.
func (s Secret) Value() (string, error) {
	kind, name, _ := strings.Cut(s.ref, ":")
	switch kind {
	case "":
		return "", nil
	case "env":
		if s.value == "" {
			return "", fmt.Errorf("secret env:%s: the variable is not set", name)
		}
		return s.value, nil
	case "credential":
		if s.value == "" {
			return "", fmt.Errorf("secret credential:%s: %w", name, ErrNoCredentials)
		}
		name = filepath.Join(s.value, name)
	}
	return readSecret(name)
}

const maxSecret = 64 << 10

func readSecret(name string) (string, error) {
	info, err := os.Stat(name)
	if err != nil {
		return "", fmt.Errorf("read secret: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxSecret {
		return "", fmt.Errorf("read secret %s: must be a file of at most %d octets", name, maxSecret)
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return "", fmt.Errorf("read secret: %w", err)
	}
	secret := strings.TrimRight(string(text), "\r\n")
	if secret == "" {
		return "", fmt.Errorf("read secret %s: the file is empty", name)
	}
	return secret, nil
}

// bind fixes what a reference depends on: the directory of the file it stands
// in and the environment.
func (s *Secret) bind(base string, env map[string]string) {
	kind, name, _ := strings.Cut(s.ref, ":")
	switch kind {
	case "file":
		s.ref = "file:" + absolute(base, name)
	case "env":
		s.value = env[name]
	case "credential":
		s.value = env["CREDENTIALS_DIRECTORY"]
	}
}

// String hides the secret.
func (s Secret) String() string {
	if !s.IsSet() {
		return ""
	}
	return shown
}

// GoString hides the secret from %#v.
func (s Secret) GoString() string { return strconv.Quote(s.String()) }

// Format hides the secret from every verb of package fmt.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(s.String())) }

// MarshalText hides the secret from JSON, YAML and logs.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
