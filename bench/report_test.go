package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/certvendor/certvendor/bench/load"
	"github.com/certvendor/certvendor/bench/machine"
)

// of makes a sample of so many requests a second.
func of(perSecond int) sample {
	latencies := make([]time.Duration, perSecond)
	for i := range latencies {
		latencies[i] = time.Duration(i+1) * time.Millisecond
	}
	return sample{load.Result{Took: time.Second, Latencies: latencies}, machine.Spent{Processes: time.Second}}
}

// A ratio is the median of the rounds' own: a round in which one side was
// dropped says nothing.
func TestRatioIsOfTheSameRound(t *testing.T) {
	us, them := kind{"certvendor", 64}, kind{"peer", 64}
	r := rounds{samples: []map[kind]sample{
		{us: of(400), them: of(100)}, {us: of(90), them: of(30)}, {us: of(900)}, {them: of(1)}, {us: of(50), them: of(10)},
	}}
	if ratio, in := r.ratio(us, them, rate); ratio != 4 || in != 3 {
		t.Errorf("%v in %d rounds", ratio, in)
	}
	if n := r.count(us); n != 4 {
		t.Errorf("measured in %d rounds", n)
	}
	if got := p99(of(100)); got != 100 {
		t.Errorf("p99 %v", got)
	}
}

func TestTargetIsMetOrNot(t *testing.T) {
	for want, target := range map[string]target{
		"**not met**":                 {measured: 3.9, meet: 4, goal: 5, rounds: 1},
		"met":                         {measured: 4, meet: 4, goal: 5, rounds: 1},
		"met, and the goal beyond it": {measured: 0.2, meet: 0.3, goal: 0.2, atMost: true, rounds: 1},
		"not measured":                {measured: 9, meet: 4, goal: 5},
	} {
		if got := target.met(); got != want {
			t.Errorf("%+v: %s instead of %s", target, got, want)
		}
	}
}

func TestOnlyWhatIsBetweenTheMarkersIsReplaced(t *testing.T) {
	file := filepath.Join(t.TempDir(), "doc.md")
	if err := os.WriteFile(file, []byte("before\n<!-- peers: begins -->\nold\n<!-- peers: ends -->\nafter\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time changes nothing
		if err := replace(file, "peers", "new\n"); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(file)
	if want := "before\n<!-- peers: begins -->\n\nnew\n\n<!-- peers: ends -->\nafter\n"; err != nil || string(text) != want {
		t.Errorf("%q, %v", text, err)
	}
	if err := replace(file, "others", "new"); err == nil || !strings.Contains(err.Error(), "others") {
		t.Errorf("got %v", err)
	}
}
