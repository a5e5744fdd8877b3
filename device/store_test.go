package device

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/certvendor/certvendor/protocol"
)

// vault is a Keys whose keys cannot be read.
type vault map[string]crypto.Signer

func (v vault) Create(name string) (crypto.Signer, error) {
	key, err := NewP256()
	v[name] = opaque{key}
	return v[name], err
}

func (v vault) Open(name string) (crypto.Signer, error) {
	if key, ok := v[name]; ok {
		return key, nil
	}
	return nil, errors.New("no such key")
}

func (v vault) Remove(name string) error {
	delete(v, name)
	return nil
}

type opaque struct{ crypto.Signer }

func TestKeysMayBeElsewhere(t *testing.T) {
	w := newWorld(t)
	cfg := w.provision()
	keys := vault{}
	cfg.Keys = keys
	for round := 1; round <= 2; round++ {
		if err := open(t, cfg).Rotate(deadline(t)); err != nil {
			t.Fatal(err)
		}
		checkRotated(t, w, cfg, round)
		if len(keys) != 1 {
			t.Errorf("%d keys in the vault", len(keys))
		}
	}
	err := filepath.WalkDir(cfg.Directory, func(path string, _ fs.DirEntry, err error) error {
		if filepath.Base(path) == keyFile {
			t.Errorf("a key on disk: %s", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestProvision(t *testing.T) {
	w := newWorld(t)
	cfg := w.provision()
	key := newKey(t)
	text, err := encodeKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certificate := encodeChain(chainOf(w.leaf("x", key.Public())))
	other := encodeChain(chainOf(w.leaf("x", newKey(t).Public())))
	if err := Provision(cfg.Directory, certificate, text); !errors.Is(err, ErrProvisioned) {
		t.Errorf("a second time: %v", err)
	}
	empty := t.TempDir()
	for name, err := range map[string]error{
		"another key's certificate": Provision(empty, other, text),
		"no certificate":            Provision(empty, text, text),
		"no key":                    Provision(empty, certificate, certificate),
	} {
		if err == nil || errors.Is(err, ErrProvisioned) {
			t.Errorf("%s: %v", name, err)
		}
	}
	cfg.Directory = empty
	if _, err := New(cfg); !errors.Is(err, ErrNotProvisioned) {
		t.Errorf("not provisioned: %v", err)
	}
}

func TestLeftoversAreRemovedAndADamagedPairIsNoticed(t *testing.T) {
	w := newWorld(t)
	cfg := w.provision()
	leftover := filepath.Join(cfg.Directory, pairsDirectory, "9")
	if err := os.MkdirAll(leftover, 0o700); err != nil {
		t.Fatal(err)
	}
	a := open(t, cfg)
	if _, err := os.Stat(leftover); !errors.Is(err, fs.ErrNotExist) {
		t.Error("the leftover is still there")
	}
	other := encodeChain(chainOf(w.leaf("x", newKey(t).Public())))
	if err := os.WriteFile(filepath.Join(a.store.pairPath(1), certificateFile), other, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), "not for the key") {
		t.Errorf("got %v", err)
	}
}

func TestConfigIsChecked(t *testing.T) {
	w := newWorld(t)
	for name, breakIt := range map[string]func(*Config){
		"slash in the name":   func(c *Config) { c.Device = "a/b" },
		"wildcard as a name":  func(c *Config) { c.Device = "+" },
		"no name":             func(c *Config) { c.Device = "" },
		"no roots":            func(c *Config) { c.Roots = nil },
		"no directory":        func(c *Config) { c.Directory = "" },
		"plain broker":        func(c *Config) { c.Broker = "tcp://localhost:1883" },
		"broker without port": func(c *Config) { c.Broker = "localhost" },
		"unknown flow":        func(c *Config) { c.Flow = "carrier pigeon" },
		"keep-alive too long": func(c *Config) { c.KeepAlive = time.Hour },
		"no attempts":         func(c *Config) { c.Retry.Attempts = -1 },
		"fixed key and keys":  func(c *Config) { c.FixedKey, c.Keys = newKey(t), vault{} },
		"fixed key, packages": func(c *Config) { c.FixedKey, c.Flow = newKey(t), ByPackage },
		"renewed at the end":  func(c *Config) { c.RenewAt = 1 },
		"renewed at no share": func(c *Config) { c.RenewAt = math.NaN() },
		"too much jitter":     func(c *Config) { c.RenewJitter = 0.5 },
		"a topic missing":     func(c *Config) { c.Topics = protocol.Topics{Get: "a/{thingName}"} },
	} {
		cfg := w.provision()
		breakIt(&cfg)
		if _, err := New(cfg); err == nil || cfg.Validate() == nil {
			t.Errorf("%s: taken", name)
		}
	}
	cfg := w.provision()
	cfg.Directory = "/nowhere"
	if err := cfg.Validate(); err != nil {
		t.Errorf("sound, but refused: %v", err)
	}
}

func TestPausesStayWithinTheirBounds(t *testing.T) {
	highest := pacer{retry: Retry{Base: time.Second, Max: 5 * time.Second, Jitter: func() float64 { return 0.999 }}}
	for i, ceiling := range []time.Duration{1, 2, 4, 5, 5} {
		if d := highest.next(); d > ceiling*time.Second || d < ceiling*time.Second*9/10 {
			t.Errorf("pause %d: %s", i, d)
		}
	}
	for range 100 {
		if d := highest.next(); d < 0 || d > 5*time.Second {
			t.Errorf("pause of %s", d)
		}
	}
	a := Agent{cfg: Config{Retry: highest.retry}}
	if d := a.after(1 << 40); d > maxRetryAfter+time.Second || d < maxRetryAfter {
		t.Errorf("unbelievable time taken as %s", d)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := sleep(ctx, time.Hour); !errors.Is(err, context.Canceled) {
		t.Errorf("sleep: %v", err)
	}
}

func TestKeysAreReadInEveryForm(t *testing.T) {
	ec, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	sec1, err := x509.MarshalECPrivateKey(ec)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := encodeKey(r)
	if err != nil {
		t.Fatal(err)
	}
	for want, text := range map[crypto.Signer][]byte{
		ec: pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: sec1}),
		r:  pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(r)}),
	} {
		if got, err := ParseKey(text); err != nil || !cmp.Equal(got.Public(), want.Public()) {
			t.Errorf("%T in its own form: %v", want, err)
		}
	}
	if got, err := ParseKey(append([]byte("text before\n"), pkcs8...)); err != nil || !cmp.Equal(got.Public(), r.Public()) {
		t.Errorf("PKCS #8: %v", err)
	}
	for _, text := range []string{"", "x", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"} {
		if _, err := ParseKey([]byte(text)); err == nil {
			t.Errorf("%q was taken for a key", text)
		}
	}
}

// A directory whose state.json leads nowhere, because a disk is not mounted, may
// hold a pair: it is not provisioned again.
func TestProvisionLeavesWhatItCannotLookAt(t *testing.T) {
	for name, target := range map[string]string{"nowhere": "away/state.json", "itself": stateFile} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			cfg := w.provision()
			path := filepath.Join(cfg.Directory, stateFile)
			if err := errors.Join(os.Rename(path, path+".away"), os.Symlink(target, path)); err != nil {
				t.Fatal(err)
			}
			key := newKey(t)
			text, err := encodeKey(key)
			if err != nil {
				t.Fatal(err)
			}
			if err := Provision(cfg.Directory, encodeChain(chainOf(w.leaf("x", key.Public()))), text); !errors.Is(err, ErrProvisioned) {
				t.Errorf("got %v", err)
			}
			if err := os.Rename(path+".away", path); err != nil {
				t.Fatal(err)
			}
			if !w.takes(open(t, cfg).store.current) {
				t.Error("the pair is another one")
			}
		})
	}
}
