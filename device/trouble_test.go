package device

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// jam keeps state.json from being written, as a full disk or one that went
// read-only does, until the function it returns is called.
func jam(t *testing.T, cfg Config) (mend func()) {
	t.Helper()
	inTheWay := filepath.Join(cfg.Directory, stateFile+".new")
	if err := os.MkdirAll(filepath.Join(inTheWay, "x"), 0o700); err != nil {
		t.Error(err)
	}
	return func() {
		if err := os.RemoveAll(inTheWay); err != nil {
			t.Error(err)
		}
	}
}

// stuckVault does not remove keys, for the time being.
type stuckVault struct{ vault }

func (stuckVault) Remove(string) error { return errors.New("the secure element is busy") }

// A leftover that cannot be removed is no reason to stay away, nor to keep the
// new certificate from the application.
func TestLeftoverThatCannotBeRemoved(t *testing.T) {
	w := newWorld(t)
	seen := new(diary)
	cfg := w.provision()
	cfg.Event, cfg.Keys = seen.note, stuckVault{vault{}}
	a := open(t, cfg)
	if err := a.Rotate(deadline(t)); err != nil {
		t.Log("Rotate:", err)
	}
	if now := a.Current(); !w.takes(pair{chain: chainOf(now.Leaf)}) || seen.count(Promoted) != 1 {
		t.Errorf("Current is taken by the broker: %t; told of the promotion %d times", w.takes(pair{chain: chainOf(now.Leaf)}), seen.count(Promoted))
	}
	if again, err := New(cfg); err != nil {
		t.Error("the next start:", err)
	} else if !w.takes(again.store.current) {
		t.Error("the next start is not on the new pair")
	}
}

// The pair in use is whole: whatever is wrong with a candidate, the device
// must connect with it.
func TestCandidateThatCannotBeReadDoesNotKeepTheDeviceAway(t *testing.T) {
	for name, spoil := range map[string]func(*testing.T, *Config){
		"its key is damaged": func(t *testing.T, cfg *Config) {
			cfg.FixedKey = nil
			if err := os.WriteFile(filepath.Join(pairPath(cfg.Directory, 2), keyFile), make([]byte, 241), 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"the fixed key is configured no more": func(_ *testing.T, cfg *Config) { cfg.FixedKey = nil },
		"its certificate was issued, and the key is gone": func(t *testing.T, cfg *Config) {
			cfg.FixedKey = nil
			setIssued(t, *cfg)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			cfg := w.provision()
			cfg.Retry.Attempts = 1
			if name == "the fixed key is configured no more" {
				cfg.FixedKey = newKey(t)
			}
			w.script(func() { w.onGet = func(int) (any, bool) { return nil, false } })
			if err := open(t, cfg).Rotate(deadline(t)); !errors.Is(err, ErrNoAnswer) {
				t.Fatal(err)
			}
			spoil(t, &cfg)
			w.script(func() { w.onGet = nil })
			seen := new(diary)
			cfg.Event = seen.note
			a, err := New(cfg)
			if err != nil {
				t.Fatal("the pair in use is whole, and:", err)
			}
			if seen.count(DirectoryTrouble) != 1 || a.store.state.Candidate != nil {
				t.Errorf("told %+v, candidate %+v", seen.events, a.store.state.Candidate)
			}
			if err := a.Rotate(deadline(t)); err != nil {
				t.Fatal(err)
			}
			checkRotated(t, w, cfg, 1)
		})
	}
}

// A directory that cannot be looked into is an error, not an endless search.
func TestNumberOfThePairIsNotSoughtForEver(t *testing.T) {
	w := newWorld(t)
	cfg := w.provision()
	a := open(t, cfg)
	pairs := filepath.Join(cfg.Directory, pairsDirectory)
	if err := os.Rename(pairs, pairs+".away"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(pairsDirectory, pairs); err != nil { // ELOOP, as EIO or EACCES
		t.Fatal(err)
	}
	if n, err := a.store.freePair(); err == nil {
		t.Errorf("found %d", n)
	}
}

// What is left of attempts that failed is removed before the next one, or a
// disk, or a secure element with a few slots, fills up with it.
func TestFailedAttemptsLeaveNothingToPileUp(t *testing.T) {
	w := newWorld(t)
	cfg := w.provision()
	keys := vault{}
	cfg.Keys, cfg.Retry.Attempts = keys, 6
	a := open(t, cfg)
	mend := jam(t, cfg)
	if err := a.Rotate(deadline(t)); err == nil {
		t.Fatal("rotated on a disk that takes nothing")
	}
	mend()
	entries, err := os.ReadDir(filepath.Join(cfg.Directory, pairsDirectory))
	if err != nil || len(entries) > 2 || len(keys) > 1 {
		t.Errorf("after %d attempts: %d pairs, %d keys in the vault, %v", cfg.Retry.Attempts, len(entries), len(keys), err)
	}
}

// setIssued makes the candidate one that has its certificate, and no key.
func setIssued(t *testing.T, cfg Config) {
	t.Helper()
	s := newStore(cfg)
	var err error
	if s.state, err = readState(cfg.Directory); err != nil {
		t.Fatal(err)
	}
	s.state.Candidate.Issued = true
	if err := errors.Join(s.save(s.state), os.Remove(filepath.Join(s.pairPath(2), keyFile))); err != nil {
		t.Fatal(err)
	}
}

// Earlier versions could begin a rotation that nobody had asked for, with no
// topics to go on with.
func TestCandidateThatNobodyAskedForIsDropped(t *testing.T) {
	w := newWorld(t)
	cfg := w.provision()
	s := open(t, cfg).store
	if err := s.create(candidate{}); err != nil {
		t.Fatal(err)
	}
	a := open(t, cfg)
	if a.store.state.Candidate != nil {
		t.Errorf("%+v", *a.store.state.Candidate)
	}
	if _, err := a.carryOut(t.Context(), nil, work{}); !errors.Is(err, errNoTopics) {
		t.Errorf("work without topics: %v", err)
	}
	if err := a.Rotate(deadline(t)); err != nil {
		t.Fatal(err)
	}
	checkRotated(t, w, cfg, 1)
}
