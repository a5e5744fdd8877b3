package device

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/certvendor/certvendor/protocol"
)

func inspected(t *testing.T, cfg Config) Inspection {
	t.Helper()
	i, err := Inspect(cfg.Directory)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func TestInspectTellsHowFarARotationIs(t *testing.T) {
	w := newWorld(t)
	cfg := w.provision()
	first := inspected(t, cfg)
	a := open(t, cfg)
	leaf := a.Current().Leaf
	want := Inspection{
		CertificateID: idOf(a.store.current), Subject: "CN=" + deviceUnderTest, NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter,
		Certificate: filepath.Join(cfg.Directory, "pairs/1", certificateFile), Key: filepath.Join(cfg.Directory, "pairs/1", keyFile),
	}
	if diff := cmp.Diff(want, first); diff != "" {
		t.Error(diff)
	}
	stages := map[EventKind]string{Connected: "", KeyMade: StageKey, CertificateStored: StageCertificate, Promoted: ""}
	reached := 0
	a.cfg.Event = func(e Event) {
		want, ok := stages[e.Kind]
		if !ok {
			return
		}
		reached++
		now := inspected(t, cfg)
		switch got := now.Unfinished; {
		case want == "" && got != nil, want != "" && (got == nil || got.Stage != want || got.Job != "rotate-1"):
			t.Errorf("%s: unfinished %+v", e.Kind, got)
		case (now.CertificateID == first.CertificateID) == (e.Kind == Promoted):
			t.Errorf("%s: in use %s", e.Kind, now.CertificateID)
		case e.Kind == CertificateStored && now.Unfinished.CertificateID != e.CertificateID:
			t.Errorf("unfinished %+v, event %+v", now.Unfinished, e)
		}
	}
	w.queueJob("rotate-1", protocol.NewJobDocument(protocol.DefaultTopics()))
	if err := a.RunOnce(deadline(t)); err != nil {
		t.Fatal(err)
	}
	if reached != len(stages) {
		t.Errorf("looked %d times", reached)
	}
}

func TestInspectIsRightBesideAnAgentAtWork(t *testing.T) {
	w := newWorld(t)
	cfg := w.provision()
	a := open(t, cfg)
	ctx, cancel := context.WithCancel(t.Context())
	looked, gone := 0, make(chan struct{})
	go func() {
		defer close(gone)
		for ; ctx.Err() == nil; looked++ {
			if i, err := Inspect(cfg.Directory); err != nil || len(i.CertificateID) != 64 || i.Key == "" {
				t.Errorf("%+v, %v", i, err)
			}
		}
	}()
	for range 5 {
		if err := a.Rotate(deadline(t)); err != nil {
			t.Error(err)
		}
	}
	cancel()
	<-gone
	if looked < 5 {
		t.Errorf("looked %d times", looked)
	}
}

func TestInspectChangesNothingAndSaysWhatIsWrong(t *testing.T) {
	w := newWorld(t)
	cfg := w.provision()
	leftover := filepath.Join(cfg.Directory, pairsDirectory, "9")
	if err := os.Mkdir(leftover, 0o700); err != nil {
		t.Fatal(err)
	}
	inspected(t, cfg)
	if _, err := os.Stat(leftover); err != nil {
		t.Error(err)
	}
	for _, empty := range []string{t.TempDir(), filepath.Join(t.TempDir(), "none")} {
		if _, err := Inspect(empty); !errors.Is(err, ErrNotProvisioned) {
			t.Errorf("got %v", err)
		}
		if entries, _ := os.ReadDir(empty); len(entries) != 0 {
			t.Errorf("left behind: %v", entries)
		}
	}
	for _, damage := range []string{stateFile, "pairs/1/" + certificateFile} {
		cfg := w.provision()
		if err := os.WriteFile(filepath.Join(cfg.Directory, damage), []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Inspect(cfg.Directory); err == nil || errors.Is(err, ErrNotProvisioned) {
			t.Errorf("%s damaged: %v", damage, err)
		}
	}
}

func TestOneAgentIsAtWorkAndTheNextReadsAnew(t *testing.T) {
	w := newWorld(t)
	cfg := w.provision()
	var seen diary
	second := open(t, cfg) // before the first is at work
	cfg.Event = seen.note
	first := open(t, cfg)
	ctx, cancel := context.WithCancel(deadline(t))
	done := make(chan error)
	go func() { done <- first.Run(ctx) }()
	eventually(t, func() bool { return len(seen.of(Connected)) == 1 })
	if _, err := New(cfg); !errors.Is(err, ErrInUse) {
		t.Errorf("New beside Run: %v", err)
	}
	if err := second.Rotate(ctx); !errors.Is(err, ErrInUse) {
		t.Errorf("Rotate beside Run: %v", err)
	}
	w.queueJob("rotate-1", protocol.NewJobDocument(protocol.DefaultTopics()))
	eventually(t, func() bool { return len(seen.of(Promoted)) == 1 })
	cancel()
	<-done
	if err := second.Rotate(deadline(t)); err != nil {
		t.Fatal(err)
	}
	checkRotated(t, w, cfg, 2)
	if idOf(second.store.current) != w.finished || idOf(pair{chain: chainOf(second.Current().Leaf)}) != w.finished {
		t.Error("Current is not the certificate in use")
	}
}
