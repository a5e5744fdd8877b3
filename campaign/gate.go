package campaign

import (
	"fmt"
	"strings"
)

// outlook is all that a gate looks at.
type outlook struct {
	tally   Tally
	overdue map[int]int // by wave: let in, and not heard of
}

func (o outlook) count(wave int, standings ...Standing) int {
	n := 0
	for _, s := range standings {
		n += o.tally[wave][s]
	}
	return n
}

func (o outlook) total(standing Standing) int {
	n := 0
	for _, wave := range o.tally {
		n += wave[standing]
	}
	return n
}

// tooMany says why a campaign must stop, or returns nothing.
func (s Spec) tooMany(o outlook) string {
	counts := map[Standing]int{Failed: o.total(Failed), Passed: o.total(Passed), Proven: o.total(Proven)}
	if why := s.failing(counts); why != "" {
		return why
	}
	if !s.hasCanary() {
		return ""
	}
	need, size := s.canaryNeeds(o)
	if lost := o.count(0, Failed, Skipped, Late); lost > 0 && size-lost < need {
		away := ""
		if n := o.count(0, Skipped, Late); n > 0 {
			away = fmt.Sprintf(", %d skipped or late", n)
		}
		return fmt.Sprintf("%d of the canary's %d devices failed%s, and %d must pass", o.count(0, Failed), size, away, need)
	}
	return ""
}

// canaryNeeds returns how many of the canary must pass, and how many it has, where
// there is one.
func (s Spec) canaryNeeds(o outlook) (need, size int) {
	for _, n := range o.tally[0] {
		size += n
	}
	return s.Canary.Pass.Of(size), size
}

// hasPassed reports whether the next wave may begin behind this one: nobody of
// it is at work, and of a canary as many have passed as must. Devices that are
// offline hold up no wave but the canary.
func (s Spec) hasPassed(wave int, o outlook) bool {
	atWork := o.count(wave, Pending, Added, Vended, Proven) - o.overdue[wave]
	if wave == 0 && s.hasCanary() {
		need, _ := s.canaryNeeds(o)
		return o.count(0, Passed) >= need && o.count(0, Pending) == 0
	}
	return atWork <= 0
}

// WaitsFor says, for people, what has to happen before the canary has passed. It is
// empty for a campaign that does not run, or is past its canary: there the standings
// say it.
func (c Campaign) WaitsFor(tally Tally) string {
	if c.State != Running || c.Wave > 0 || c.IsAuto() || !c.hasCanary() {
		return ""
	}
	need, size := c.canaryNeeds(outlook{tally: tally})
	var b strings.Builder
	fmt.Fprintf(&b, "%d of the canary's %d to pass: %d have", need, size, tally[0][Passed])
	for _, left := range []struct {
		standing Standing
		what     string
	}{
		{Pending, "to be let in"},
		{Added, "to ask for a certificate"},
		{Vended, "to use the new certificate"},
		{Proven, fmt.Sprintf("to be seen again after a soak of %s", c.Soak)},
	} {
		if n := tally[0][left.standing]; n > 0 {
			fmt.Fprintf(&b, "; %s: %d", left.what, n)
		}
	}
	return b.String()
}
