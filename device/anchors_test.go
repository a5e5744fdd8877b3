package device

import (
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"

	"github.com/certvendor/certvendor/protocol"
)

// A device that was told of another CA still verifies the broker by it when the
// broker has changed, and by the one it was made for.
func TestBrokerOfAnotherCA(t *testing.T) {
	w, next := newWorld(t), newWorld(t)
	cfg := w.provision()
	w.script(func() { w.anchors = string(encodeChain([]*x509.Certificate{w.ca, next.ca})) })
	if err := open(t, cfg).Rotate(deadline(t)); err != nil {
		t.Fatal(err)
	}
	if w.trusted != protocol.AnchorsSHA256(w.anchors) {
		t.Errorf("acked %q", w.trusted)
	}
	for name, server := range map[string]*world{"the new one": next, "the one it was made for": w} {
		own := w.server
		w.script(func() { w.server = server.serverTLS() })
		if err := open(t, cfg).Rotate(deadline(t)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		w.script(func() { w.server = own })
	}
	stranger := w.provision() // never told
	w.script(func() { w.server = next.serverTLS() })
	if err := open(t, stranger).Rotate(deadline(t)); err == nil {
		t.Error("a device that was not told verified the broker")
	}
}

// What is no set of CAs is neither taken nor acked, and stops no rotation.
func TestAnchorsThatAreNone(t *testing.T) {
	w := newWorld(t)
	leaf := w.leaf("x", newKey(t).Public())
	for name, text := range map[string]string{
		"no PEM":           "trust me",
		"a leaf":           string(encodeChain([]*x509.Certificate{w.ca, leaf})),
		"something behind": string(encodeChain([]*x509.Certificate{w.ca})) + "more",
		"too long":         string(make([]byte, maxAnchors+1)),
	} {
		t.Run(name, func(t *testing.T) {
			cfg, told := w.provision(), 0
			cfg.Event = func(e Event) {
				if e.Kind == DirectoryTrouble {
					told++
				}
			}
			w.script(func() { w.anchors, w.open, w.finished, w.trusted = text, "", "", "" })
			if err := open(t, cfg).Rotate(deadline(t)); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(filepath.Join(cfg.Directory, anchorsFile)); !os.IsNotExist(err) || w.trusted != "" || told == 0 {
				t.Errorf("taken: %v, acked %q, told of %d times", err, w.trusted, told)
			}
		})
	}
}

// A file of anchors that cannot be read keeps no device from those it was made
// for.
func TestDamagedAnchors(t *testing.T) {
	w := newWorld(t)
	cfg := w.provision()
	if err := os.WriteFile(filepath.Join(cfg.Directory, anchorsFile), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := open(t, cfg).Rotate(deadline(t)); err != nil {
		t.Fatal(err)
	}
	if w.trusted != "" {
		t.Errorf("acked %q", w.trusted)
	}
}

// What another agent took in the same directory meanwhile is used, as the pair is
// that it obtained.
func TestAnchorsThatAnotherAgentTook(t *testing.T) {
	w, next := newWorld(t), newWorld(t)
	cfg := w.provision()
	waits := open(t, cfg)
	w.script(func() { w.anchors = string(encodeChain(chainOf(w.ca, next.ca))) })
	if err := open(t, cfg).Rotate(deadline(t)); err != nil {
		t.Fatal(err)
	}
	w.script(func() { w.server = next.serverTLS() })
	if err := waits.Rotate(deadline(t)); err != nil {
		t.Error(err)
	}
}

// A set that was wrong cuts nobody off, also not one that verifies the broker by a
// set that came before.
func TestAnchorsThatWereWrong(t *testing.T) {
	w, next := newWorld(t), newWorld(t)
	cfg := w.provision()
	good, wrong := string(encodeChain(chainOf(w.ca, next.ca))), string(encodeChain(chainOf(newWorld(t).ca)))
	w.script(func() { w.anchors = good })
	if err := open(t, cfg).Rotate(deadline(t)); err != nil {
		t.Fatal(err)
	}
	w.script(func() { w.server = next.serverTLS() })
	for _, sent := range []string{wrong, string(encodeChain(chainOf(newWorld(t).ca))), good} {
		w.script(func() { w.anchors = sent })
		if err := open(t, cfg).Rotate(deadline(t)); err != nil {
			t.Fatal(err)
		}
		a := open(t, cfg)
		if a.anchors.text != sent || w.trusted != protocol.AnchorsSHA256(sent) {
			t.Errorf("took %q, acked %q", a.anchors.text, w.trusted)
		}
		if former := a.anchors.former != nil; former != (sent != good) {
			t.Errorf("keeps what it had before: %t", former)
		}
	}
	// By what was verified last nothing else is: a CA that was abandoned is nobody.
	w.script(func() { w.anchors = string(encodeChain(chainOf(next.ca))) })
	if err := open(t, cfg).Rotate(deadline(t)); err != nil {
		t.Fatal(err)
	}
	third := newWorld(t)
	w.script(func() { w.anchors, w.server = "", third.serverTLS() })
	if err := open(t, cfg).Rotate(deadline(t)); err == nil {
		t.Error("verified a broker by a CA that it was never told of")
	}
}
