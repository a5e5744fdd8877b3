package device

import (
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"

	"github.com/certvendor/certvendor/protocol"
)

// provisionFixed gives the device one key that cannot be read, in the place of
// the one that provision wrote, and lets the vendor take it again.
func (w *world) provisionFixed(cfg *Config) {
	w.t.Helper()
	cfg.FixedKey = opaque{newKey(w.t)}
	cfg.Directory = filepath.Join(w.t.TempDir(), "fixed")
	first := w.leaf(deviceUnderTest, cfg.FixedKey.Public())
	if err := ProvisionFixed(cfg.Directory, encodeChain(chainOf(first)), cfg.FixedKey); err != nil {
		w.t.Fatal(err)
	}
	w.script(func() { w.accepted, w.reuse = map[string]bool{}, true })
	w.accept(first)
}

func noKeyOnDisk(t *testing.T, cfg Config) {
	t.Helper()
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

func TestFixedKeyIsUsedAgain(t *testing.T) {
	w := newWorld(t)
	cfg := w.provision()
	w.provisionFixed(&cfg)
	for round := 1; round <= 3; round++ {
		if err := open(t, cfg).Rotate(deadline(t)); err != nil {
			t.Fatal(err)
		}
		checkRotated(t, w, cfg, round)
	}
	if w.keys[0] == "" || w.keys[0] != w.keys[1] || w.keys[0] != w.keys[2] {
		t.Error("not one key")
	}
	noKeyOnDisk(t, cfg)
	if i, err := Inspect(cfg.Directory); err != nil || i.Key != "" || i.CertificateID != w.finished {
		t.Errorf("%+v, %v", i, err)
	}
	cfg.FixedKey = opaque{newKey(t)}
	if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), "not for the key") {
		t.Errorf("with another key: %v", err)
	}
}

func TestKeyInAFileIsLeftBehindForAFixedOne(t *testing.T) {
	w := newWorld(t)
	cfg := w.provision()
	cfg.FixedKey = opaque{newKey(t)}
	if err := open(t, cfg).Rotate(deadline(t)); err != nil {
		t.Fatal(err)
	}
	checkRotated(t, w, cfg, 1)
	noKeyOnDisk(t, cfg)
}

func TestFixedKeyThatTheVendorRefusesKeepsTheOldPair(t *testing.T) {
	w := newWorld(t)
	cfg := w.provision()
	w.provisionFixed(&cfg)
	w.script(func() {
		w.onGet = func(int) (any, bool) {
			return protocol.Rejected{Message: protocol.CSRRejected, Detail: "key in use already"}, false
		}
	})
	for range 2 {
		a := open(t, cfg)
		if err := a.Rotate(deadline(t)); !isReason(err, protocol.CSRRejected) {
			t.Fatalf("got %v", err)
		}
		if a.store.state.Candidate != nil || !w.takes(a.store.current) {
			t.Error("the old pair is not what is left")
		}
	}
}

// The ack was lost for good and the certificate is in use nevertheless: the
// vendor answers with it again until its rotation is ended.
func TestRotationLeftOpenIsEndedBeforeTheNext(t *testing.T) {
	w := newWorld(t)
	cfg := w.provision()
	w.provisionFixed(&cfg)
	w.script(func() {
		w.onAck = func(int) (any, bool) { return protocol.Rejected{Message: protocol.NoOpenRotation}, false }
	})
	if err := open(t, cfg).Rotate(deadline(t)); !isReason(err, protocol.NoOpenRotation) {
		t.Fatalf("got %v", err)
	}
	w.script(func() { w.onAck = nil })
	if err := open(t, cfg).Rotate(deadline(t)); err != nil {
		t.Fatal(err)
	}
	checkRotated(t, w, cfg, 2)
}

func TestLateAnswerWithTheCertificateInUseIsPassedOver(t *testing.T) {
	w := newWorld(t)
	cfg := w.provision()
	w.provisionFixed(&cfg)
	if err := open(t, cfg).Rotate(deadline(t)); err != nil {
		t.Fatal(err)
	}
	w.script(func() {
		w.onGet = func(n int) (any, bool) {
			if n == 2 { // the first of this rotation
				return protocol.GetAccepted{Certificate: string(encodeChain(chainOf(w.issued[0])))}, false
			}
			if w.acks != 1 {
				t.Errorf("%d acks", w.acks)
			}
			return nil, true
		}
	})
	if err := open(t, cfg).Rotate(deadline(t)); err != nil {
		t.Fatal(err)
	}
	checkRotated(t, w, cfg, 2)
}

func TestFixedKeyIsProvisionedOnlyWithItsCertificate(t *testing.T) {
	w := newWorld(t)
	directory := filepath.Join(t.TempDir(), "store")
	key := newKey(t)
	other := encodeChain(chainOf(w.leaf("x", newKey(t).Public())))
	if err := ProvisionFixed(directory, other, key); err == nil {
		t.Error("another key's certificate was taken")
	}
	own := encodeChain(chainOf(w.leaf("x", key.Public())))
	for _, want := range []error{nil, ErrProvisioned} {
		if err := ProvisionFixed(directory, own, key); !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
	}
}

// The device was to get a key in a file, and lost its power halfway: the fixed
// key is the one that counts, whoever wrote the directory.
func TestKeyOfAnotherAttemptIsLeftBehindForAFixedOne(t *testing.T) {
	for name, late := range map[string]bool{"before the fixed key is provisioned": false, "found by a start": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			cfg := w.provision()
			cfg.Directory, cfg.FixedKey = filepath.Join(t.TempDir(), "store"), newKey(t)
			first := w.leaf(deviceUnderTest, cfg.FixedKey.Public())
			w.accept(first)
			halfway := func() {
				if err := newStore(cfg).writePair(1, pair{key: newKey(t)}); err != nil {
					t.Fatal(err)
				}
			}
			if !late {
				halfway()
			}
			if err := ProvisionFixed(cfg.Directory, encodeChain(chainOf(first)), cfg.FixedKey); err != nil {
				t.Fatal(err)
			}
			if late {
				halfway()
			}
			if a := open(t, cfg); !w.takes(a.store.current) || inspected(t, cfg).Key != "" {
				t.Error("not on the fixed key")
			}
		})
	}
}
