package standalone

import (
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/backup"
	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/internal/store/storetest"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
)

// verified reports whether somebody who trusts these roots takes the server.
func verified(t *testing.T, w *World, roots string) bool {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(roots))
	_, err := serverLeaf(t, w.CA()).Verify(x509.VerifyOptions{Roots: pool, DNSName: "localhost"})
	return err == nil
}

func TestChangeOfServerCA(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	var before, both string
	inWorld(t, data, func(w *World) {
		addDevices(t, w, "a", "b")
		before = string(w.CA().ServerRoots())
		told := anchors{w}
		if told.Offer(t.Context(), "a") != "" || must(w.CountMissing(t.Context())) != 0 {
			t.Error("something is offered, and nothing is prepared")
		}
		if _, err := w.UseServerCA(t.Context(), 9); !errors.As(err, new(Refused)) {
			t.Errorf("used nothing: %v", err)
		}
		must(w.PrepareServerCA(t.Context()))
		if _, err := w.PrepareServerCA(t.Context()); !errors.As(err, new(Refused)) {
			t.Errorf("prepared twice: %v", err)
		}
		both = told.Offer(t.Context(), "a")
		if both != string(w.CA().ServerRoots()) || !strings.HasPrefix(both, before) || len(both) <= len(before) || !verified(t, w, before) {
			t.Errorf("offered %q", both)
		}
		for _, sha := range []string{protocol.AnchorsSHA256(before), protocol.AnchorsSHA256(both)} {
			if err := told.Took(t.Context(), "a", sha); err != nil {
				t.Fatal(err)
			}
		}
		if told.Offer(t.Context(), "a") != "" || told.Offer(t.Context(), "b") != both {
			t.Error("offered to who has it, or not to who has not")
		}
		if err := told.Took(t.Context(), "nobody", protocol.AnchorsSHA256(both)); !errors.Is(err, registry.ErrUnknown) {
			t.Errorf("nobody took it: %v", err)
		}
		var missing store.Missing
		if _, err := w.UseServerCA(t.Context(), 0); !errors.As(err, &missing) || missing.Devices != 1 || !verified(t, w, before) {
			t.Errorf("used it while b is missing: %v", err)
		}
		if page := must(w.Missing(t.Context(), "", 0)); len(page) != 1 || page[0] != "b" {
			t.Errorf("missing: %v", page)
		}
	})
	inWorld(t, data, func(w *World) {
		if err := (anchors{w}).Took(t.Context(), "b", protocol.AnchorsSHA256(both)); err != nil {
			t.Fatal(err)
		}
		must(w.UseServerCA(t.Context(), 0))
		if verified(t, w, before) || !verified(t, w, both) || string(w.CA().ServerRoots()) == both {
			t.Error("the servers do not show what they should")
		}
	})
	inWorld(t, data, func(w *World) {
		if verified(t, w, before) || !verified(t, w, both) {
			t.Error("a start has forgotten it")
		}
		must(w.PrepareServerCA(t.Context()))
		if n := must(w.CountMissing(t.Context())); n != 2 {
			t.Errorf("%d are missing of the next one", n)
		}
	})
}

func TestChangeOfServerCAKilledAtEachStep(t *testing.T) {
	for name, use := range map[string]bool{"prepare": false, "use": true} {
		t.Run(name, func(t *testing.T) {
			data := filepath.Join(t.TempDir(), "data")
			left := map[string]string{}
			var before string
			inWorld(t, data, func(w *World) {
				before = string(w.CA().ServerRoots())
				if use {
					must(w.PrepareServerCA(t.Context()))
				}
				w.step = func(what string) { left[what] = storetest.Killed(t, data, storeFile) }
				if use {
					must(w.UseServerCA(t.Context(), 0))
				} else {
					must(w.PrepareServerCA(t.Context()))
				}
				left["end"] = storetest.Killed(t, data, storeFile)
			})
			for what, data := range left {
				inWorld(t, data, func(w *World) {
					done := what == "committed" || what == "end"
					if waits := w.CA().served.Load().waits; waits != (use != done) {
						t.Errorf("killed before %q: prepared: %v", what, waits)
					}
					if verified(t, w, before) != !(use && done) || !verified(t, w, string(w.CA().ServerRoots())) {
						t.Errorf("killed before %q: the servers do not show what they should", what)
					}
				})
			}
		})
	}
}

// A backup from before the change, and the key that it lacks.
func TestRestoreAcrossChangeOfServerCA(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	var file, roots string
	inWorld(t, data, func(w *World) {
		addDevices(t, w, "a")
		file = backedUp(t, w, true)
		must(w.PrepareServerCA(t.Context()))
		both := (anchors{w}).Offer(t.Context(), "a")
		if err := (anchors{w}).Took(t.Context(), "a", protocol.AnchorsSHA256(both)); err != nil {
			t.Fatal(err)
		}
		must(w.UseServerCA(t.Context(), 0))
		roots = string(w.CA().ServerRoots())
	})
	if _, err := Restore(t.Context(), restorable(data), backup.Options{File: file, Replace: true}); err != nil {
		t.Fatal(err)
	}
	inWorld(t, data, func(w *World) {
		if string(w.CA().ServerRoots()) != roots || !verified(t, w, roots) {
			t.Error("the servers show another CA")
		}
		if sha := must(w.Store().Anchors().Of(t.Context(), "a")); sha == "" {
			t.Error("what the device trusts is forgotten")
		}
	})
}

// A CA that was prepared is given up: who was told of it is told anew, over
// restarts and a restore.
func TestAbandonedServerCA(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	var file, before string
	left := map[string]string{}
	inWorld(t, data, func(w *World) {
		addDevices(t, w, "a")
		before = string(w.CA().ServerRoots())
		if _, err := w.AbandonServerCA(t.Context()); !errors.As(err, new(Refused)) {
			t.Errorf("abandoned nothing: %v", err)
		}
		made := must(w.PrepareServerCA(t.Context()))
		file = backedUp(t, w, true)
		if err := (anchors{w}).Took(t.Context(), "a", protocol.AnchorsSHA256((anchors{w}).Offer(t.Context(), "a"))); err != nil {
			t.Fatal(err)
		}
		w.step = func(what string) { left[what] = storetest.Killed(t, data, storeFile) }
		if abandoned := must(w.AbandonServerCA(t.Context())); abandoned.ID != made.ID || abandoned.Key == "" {
			t.Errorf("abandoned %+v", abandoned)
		}
	})
	check := func(w *World) {
		t.Helper()
		if roots := string(w.CA().ServerRoots()); roots != before || !verified(t, w, before) || (anchors{w}).Offer(t.Context(), "a") != before {
			t.Errorf("it is trusted still: %q", roots)
		}
		if _, err := w.UseServerCA(t.Context(), 9); !errors.As(err, new(Refused)) {
			t.Errorf("used what was abandoned: %v", err)
		}
	}
	inWorld(t, data, check)
	inWorld(t, left["committed"], check)
	inWorld(t, left["commit"], func(w *World) {
		if !w.CA().served.Load().waits {
			t.Error("killed before the commit, it is not prepared any more")
		}
	})
	if _, err := Restore(t.Context(), restorable(data), backup.Options{File: file, Replace: true}); err != nil {
		t.Fatal(err)
	}
	inWorld(t, data, func(w *World) {
		check(w)
		if err := (anchors{w}).Took(t.Context(), "a", protocol.AnchorsSHA256(before)); err != nil {
			t.Fatal(err)
		}
		if (anchors{w}).Offer(t.Context(), "a") != "" {
			t.Error("told again")
		}
		must(w.PrepareServerCA(t.Context()))
		if n := must(w.CountMissing(t.Context())); n != 1 {
			t.Errorf("%d are missing of the next one", n)
		}
	})
}

// The key of a CA that is only prepared may be missing: it cannot be used then,
// and all else goes on.
func TestPreparedKeyPutAway(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	var id certificate.ID
	inWorld(t, data, func(w *World) { id = must(w.PrepareServerCA(t.Context())).ID })
	keys, err := filepath.Glob(filepath.Join(data, caDir, "server-ca-*.key"))
	if err != nil || len(keys) != 1 || id == "" {
		t.Fatal(keys, err)
	}
	if err := os.Remove(keys[0]); err != nil {
		t.Fatal(err)
	}
	inWorld(t, data, func(w *World) {
		if _, err := w.UseServerCA(t.Context(), 9); !errors.As(err, new(Refused)) {
			t.Errorf("used without its key: %v", err)
		}
	})
}
