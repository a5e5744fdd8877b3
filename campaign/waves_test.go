package campaign

import (
	"fmt"
	"testing"
	"time"
)

// TestShareOfNone: whoever writes that none may fail is not given a rule by which one of
// twenty may.
func TestShareOfNone(t *testing.T) {
	for _, text := range []string{"0", "0%", "-1", ""} {
		var s Spec
		if err := s.Abort.Failed.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is read, as %s", text, s.WithDefaults().Abort.Failed)
		}
	}
	first := Spec{Abort: Abort{Failed: Share{Count: 1}, AtLeast: 1}}.WithDefaults()
	if why := first.tooMany(outlook{tally: Tally{0: {Failed: 1, Passed: 99}}}); why == "" {
		t.Error("does not abort for the first of a hundred")
	}
}

// TestWavesOfNobody: a wave that a larger canary leaves empty is none. Nothing soaks in
// it, and nobody opens its gate.
func TestWavesOfNobody(t *testing.T) {
	var fleet []Candidate
	for i := range 40 {
		fleet = append(fleet, candidate(fmt.Sprintf("d-%02d", i), i))
	}
	s := Spec{
		Choose: Choice{All: true}, Canary: Canary{Size: Share{Count: 10}}, Waves: []Share{{Percent: 10}, {Percent: 20}, {Percent: 50}},
		Soak: 24 * time.Hour, PerMinute: 40,
	}
	p := planned(t, s, fleet...)
	if fmt.Sprint(p.Waves) != "[10 10 20]" || p.Members[39].Wave != 2 {
		t.Errorf("waves %v, the last of %d", p.Waves, p.Members[39].Wave)
	}
	if got := time.Duration(p.Seconds * float64(time.Second)).Round(time.Hour); got != 72*time.Hour {
		t.Errorf("takes %s, want three soaks", got)
	}
}
