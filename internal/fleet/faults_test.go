package fleet

import (
	"math"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseFaults(t *testing.T) {
	for text, want := range map[string]Faults{
		"":                                  {},
		"power-cut=0.2, dark=1":             {PowerCut: 0.2, Dark: 1},
		"lost-ack=0,clock-skew=0.5":         {LostAck: 0, ClockSkew: 0.5},
		"all=0.25,dark=0,slow-reader=0.125": every(Faults{Dark: 0, SlowReader: 0.125}, 0.25),
	} {
		got, err := ParseFaults(text)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%q: %v %s", text, err, diff)
		}
	}
	for _, text := range []string{"rain=0.5", "dark", "dark=", "dark=2", "dark=-0.1", "dark=NaN", "dark=1,dark=1", ",", "all=x", "all=0,all=1"} {
		if got, err := ParseFaults(text); err == nil {
			t.Errorf("%q was read as %v", text, got)
		}
	}
}

func every(faults Faults, p float64) Faults {
	for _, fault := range AllFaults() {
		if _, named := faults[fault]; !named {
			faults[fault] = p
		}
	}
	return faults
}

func TestTheSameSeedDrawsTheSamePlan(t *testing.T) {
	faults := every(Faults{}, 0.4)
	plans := Plans(7, 500, faults)
	if diff := cmp.Diff(plans, Plans(7, 500, faults)); diff != "" {
		t.Errorf("drawn again: %s", diff)
	}
	if cmp.Equal(plans, Plans(8, 500, faults)) {
		t.Error("another seed drew the same")
	}
	if diff := cmp.Diff(plans[:20], Plans(7, 20, faults)); diff != "" {
		t.Errorf("of a smaller fleet: %s", diff)
	}
	certain := every(Faults{}, 1)
	certain[PowerCut], certain[Disconnect] = 0.4, 0.4
	for i, p := range Plans(7, 500, certain) {
		if !cmp.Equal(p.PowerCut, plans[i].PowerCut) || !cmp.Equal(p.Disconnects, plans[i].Disconnects) {
			t.Fatalf("device %d: what else may happen changed the plan of its power", i)
		}
	}
}

// what lists the faults of a plan.
func (p Plan) what() []Fault {
	var all []Fault
	for fault, is := range map[Fault]bool{
		PowerCut: p.PowerCut != nil, Disconnect: len(p.Disconnects) > 0, LostReply: p.LostReply, LostAck: p.LostAck,
		LateAck: p.LateAck > 0, AckAfterTTL: p.AckAfterTTL, AckOnOld: p.AckOnOld, DuplicateRequest: p.Duplicate > 0,
		Dark: p.Dark, SlowReader: p.SlowReader > 0, Garbage: p.Garbage > 0, ClockSkew: p.ClockSkew != 0,
	} {
		if is {
			all = append(all, fault)
		}
	}
	return all
}

func TestFaultsAreAsLikelyAsTheyAreSaidToBe(t *testing.T) {
	const n = 4000
	count := func(p float64) map[Fault]int {
		found := map[Fault]int{}
		for _, plan := range Plans(1, n, every(Faults{}, p)) {
			for _, fault := range plan.what() {
				found[fault]++
			}
		}
		return found
	}
	for _, p := range []float64{0, 0.2, 1} {
		found := count(p)
		for _, fault := range AllFaults() {
			// Five standard deviations, of numbers that are the same each time.
			if got := float64(found[fault]); math.Abs(got-n*p) > 5*math.Sqrt(n*p*(1-p)) {
				t.Errorf("%s with %g: %g of %d", fault, p, got, n)
			}
		}
	}
}

// What happens to the network needs one in between; what does not leaves the
// device its own way to the broker.
func TestWhatHappensToTheNetworkIsOnTheWire(t *testing.T) {
	if (Plan{}).onTheWire() {
		t.Error("nothing happens, on the wire")
	}
	beside := []Fault{AckAfterTTL, AckOnOld, DuplicateRequest, Garbage, ClockSkew, JobFailed}
	for _, fault := range drawn() {
		if got, want := Plans(1, 1, Faults{fault: 1})[0].onTheWire(), !slices.Contains(beside, fault); got != want {
			t.Errorf("%s on the wire: %t", fault, got)
		}
	}
}

func TestPowerIsCutAtEveryStep(t *testing.T) {
	at, late := map[Step]int{}, 0
	for _, p := range Plans(3, 500, Faults{PowerCut: 1}) {
		at[p.PowerCut.Step]++
		if p.PowerCut.After > 0 {
			late++
		}
		if p.PowerCut.After > time.Second || p.PowerAway > time.Second {
			t.Errorf("%+v away for %s", p.PowerCut, p.PowerAway)
		}
	}
	for _, step := range steps() {
		if at[step] < 20 {
			t.Errorf("%s: %d of 500", step, at[step])
		}
	}
	if late < 150 || late > 350 {
		t.Errorf("%d of 500 some time after the step", late)
	}
	if len(at) != len(steps()) {
		t.Errorf("cut at %v", at)
	}
}
