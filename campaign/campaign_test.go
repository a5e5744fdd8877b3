package campaign

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func TestJudge(t *testing.T) {
	s := Spec{Canary: Canary{Size: Share{Count: 1}}, Soak: time.Hour, VerifyWithin: 10 * time.Minute}
	ago := func(d time.Duration) time.Time { return noon.Add(-d) }
	vended := func(d time.Duration) rotation.Rotation {
		return rotation.Rotation{Number: 1, State: rotation.Vended, Certificate: "new", VendedAt: ago(d)}
	}
	proven := func(d time.Duration) rotation.Rotation {
		return rotation.Rotation{Number: 1, State: rotation.Finished, Certificate: "new", ProvenAt: ago(d)}
	}
	canary, later := Member{Wave: 0}, Member{Wave: 1}
	for name, c := range map[string]struct {
		seen Sight
		want Standing
		why  string
	}{
		"not heard of":                           {Sight{}, Added, ""},
		"its job is in progress":                 {Sight{Job: protocol.JobInProgress}, Added, ""},
		"its job failed":                         {Sight{Job: protocol.JobFailed}, Failed, "its job ended FAILED"},
		"its job timed out after the vend":       {Sight{Job: protocol.JobTimedOut, Rotation: vended(time.Minute)}, Failed, "TIMED_OUT"},
		"its job timed out while we were away":   {Sight{Job: protocol.JobTimedOut, Listens: ago(time.Minute)}, Added, ""},
		"and so it did after the vend":           {Sight{Job: protocol.JobTimedOut, Rotation: vended(time.Hour), Listens: ago(time.Minute)}, Vended, ""},
		"timed out, and we listened for long":    {Sight{Job: protocol.JobTimedOut, Listens: ago(11 * time.Minute)}, Failed, "TIMED_OUT"},
		"its job failed after the proof":         {Sight{Member: later, Job: protocol.JobFailed, Rotation: proven(2 * time.Hour)}, Passed, ""},
		"vended":                                 {Sight{Rotation: vended(10 * time.Minute)}, Vended, ""},
		"vended and silent":                      {Sight{Rotation: vended(11 * time.Minute)}, Failed, "vended 11m0s ago and not proven"},
		"vended before we listened":              {Sight{Rotation: vended(time.Hour), Listens: ago(10 * time.Minute)}, Vended, ""},
		"silent while we listened":               {Sight{Rotation: vended(time.Hour), Listens: ago(11 * time.Minute)}, Failed, "vended 1h0m0s ago and not proven"},
		"canary, dark before we listened":        {Sight{Member: canary, Rotation: proven(3 * time.Hour), LastSeen: "new", SeenAt: ago(3 * time.Hour), Listens: ago(time.Minute)}, Proven, ""},
		"its job ended, and it has not rotated":  {Sight{Job: protocol.JobSucceeded, JobAt: ago(11 * time.Minute), Grouped: true}, Failed, "SUCCEEDED"},
		"its job ended, and it may still ask":    {Sight{Job: protocol.JobSucceeded, JobAt: ago(9 * time.Minute), Grouped: true}, Added, ""},
		"its job ended before we listened":       {Sight{Job: protocol.JobSucceeded, JobAt: ago(time.Hour), Listens: ago(time.Minute), Grouped: true}, Added, ""},
		"its job ended with an older rotation":   {Sight{Job: protocol.JobSucceeded, Rotated: true}, Skipped, "open before"},
		"its job ended SUCCEEDED after the vend": {Sight{Job: protocol.JobSucceeded, Rotation: vended(time.Minute)}, Vended, ""},
		"taken out of the group by a person":     {Sight{Job: protocol.JobRemoved}, Added, ""},
		"it left with an older rotation":         {Sight{Job: protocol.JobRemoved, Rotated: true}, Skipped, "open before"},
		"taken out and put in again":             {Sight{Job: protocol.JobRemoved, Grouped: true, Asked: true, Rotated: true}, Added, ""},
		"taken out at work":                      {Sight{Job: protocol.JobRemoved, Rotation: rotation.Rotation{Number: 1, State: rotation.Issued}}, Added, ""},
		"its rotation was abandoned":             {Sight{Job: protocol.JobInProgress, Rotation: rotation.Rotation{Number: 1, State: rotation.Abandoned}}, Skipped, "abandoned"},
		"abandoned, and it is to try again":      {Sight{Job: protocol.JobRemoved, Grouped: true, Asked: true, Rotation: rotation.Rotation{Number: 1, State: rotation.Abandoned}}, Added, ""},
		"blocked":                                {Sight{Blocked: true}, Skipped, "blocked"},
		"removed":                                {Sight{Removed: true, Rotation: proven(2 * time.Hour)}, Skipped, "registry"},
		"proven, and soaks":                      {Sight{Member: later, Rotation: proven(time.Minute)}, Proven, ""},
		"proven, and the soak is over":           {Sight{Member: later, Rotation: proven(time.Hour)}, Passed, ""},
		"went back":                              {Sight{Member: later, Rotation: proven(time.Hour), LastSeen: "old", SeenAt: ago(time.Minute)}, Failed, "went back to certificate old"},
		"was on the old one before the proof":    {Sight{Member: later, Rotation: proven(time.Hour), LastSeen: "old", SeenAt: ago(2 * time.Hour)}, Passed, ""},
		"canary, not seen after the soak yet":    {Sight{Member: canary, Rotation: proven(65 * time.Minute), LastSeen: "new", SeenAt: ago(65 * time.Minute)}, Proven, ""},
		"canary, seen after the soak":            {Sight{Member: canary, Rotation: proven(65 * time.Minute), LastSeen: "new", SeenAt: ago(time.Minute)}, Passed, ""},
		"canary, dark after the switch":          {Sight{Member: canary, Rotation: proven(71 * time.Minute), LastSeen: "new", SeenAt: ago(71 * time.Minute)}, Failed, "not seen any more since"},
		"its first rotation gave way to another": {Sight{Rotation: rotation.Rotation{Number: 2, State: rotation.Intended}}, Added, ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, why := s.Judge(c.seen, noon)
			if got != c.want || !strings.Contains(why, c.why) || (why == "") != (c.why == "") {
				t.Errorf("%s, %q; want %s, %q", got, why, c.want, c.why)
			}
		})
	}
}

func TestGates(t *testing.T) {
	s := Spec{Canary: Canary{Size: Share{Count: 10}}}.WithDefaults()
	late := map[int]int{}
	for name, c := range map[string]struct {
		wave          int
		tally         Tally
		overdue       map[int]int
		passed, abort bool
	}{
		"the canary has passed":              {0, Tally{0: {Passed: 10}, 1: {Pending: 90}}, late, true, false},
		"nine of ten are enough":             {0, Tally{0: {Passed: 9, Added: 1}, 1: {Pending: 90}}, late, true, false},
		"eight are not":                      {0, Tally{0: {Passed: 8, Proven: 2}, 1: {Pending: 90}}, late, false, false},
		"one failed, nine may still pass":    {0, Tally{0: {Passed: 3, Failed: 1, Proven: 6}, 1: {Pending: 90}}, late, false, false},
		"two failed, nine cannot pass":       {0, Tally{0: {Passed: 8, Failed: 2}, 1: {Pending: 90}}, late, false, true},
		"an offline canary holds the gate":   {0, Tally{0: {Passed: 8, Added: 2}, 1: {Pending: 90}}, map[int]int{0: 2}, false, false},
		"who is skipped does not pass":       {0, Tally{0: {Passed: 8, Skipped: 1, Late: 1}, 1: {Pending: 90}}, late, false, true},
		"one is skipped, nine may still":     {0, Tally{0: {Passed: 8, Skipped: 1, Proven: 1}, 1: {Pending: 90}}, late, false, false},
		"a wave at work":                     {1, Tally{0: {Passed: 10}, 1: {Passed: 80, Vended: 10}}, late, false, false},
		"a wave with none but offline ones":  {1, Tally{0: {Passed: 10}, 1: {Passed: 80, Added: 10}}, map[int]int{1: 10}, true, false},
		"a few failures among many":          {1, Tally{0: {Passed: 10}, 1: {Passed: 88, Failed: 2}}, late, true, false},
		"too many failures in a later wave":  {1, Tally{0: {Passed: 10}, 1: {Passed: 40, Failed: 3}}, late, true, true},
		"many failures, but a smaller share": {1, Tally{0: {Passed: 10}, 1: {Passed: 80, Failed: 4}}, late, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			o := outlook{c.tally, c.overdue}
			if got := s.hasPassed(c.wave, o); got != c.passed {
				t.Errorf("passed %t, want %t", got, c.passed)
			}
			if why := s.tooMany(o); (why != "") != c.abort {
				t.Errorf("aborts for %q, want %t", why, c.abort)
			}
		})
	}
}

// TestNoCanary: where there is none, nothing is asked of one.
func TestNoCanary(t *testing.T) {
	s := Spec{}.WithDefaults()
	if why := s.tooMany(outlook{tally: Tally{0: {Failed: 1, Passed: 40, Added: 59}}}); why != "" {
		t.Errorf("aborts for %q", why)
	}
	if why := s.tooMany(outlook{tally: Tally{0: {Skipped: 3, Passed: 40}}}); why != "" {
		t.Errorf("aborts for %q", why)
	}
	if why := s.tooMany(outlook{tally: Tally{0: {Failed: 3, Passed: 40}}}); why == "" {
		t.Error("does not abort")
	}
}

func candidate(name string, days int, change ...func(*Candidate)) Candidate {
	c := Candidate{Device: registry.DeviceID(name), Attributes: map[string]string{}, Active: []Active{{
		ID: certificate.ID(name), Issuer: "CN=issuing,O=x", KeyType: "p256", NotAfter: noon.Add(time.Duration(days) * 24 * time.Hour), Seen: noon,
	}}}
	for _, f := range change {
		f(&c)
	}
	return c
}

func planned(t *testing.T, s Spec, all ...Candidate) Plan {
	t.Helper()
	s.Name = "c"
	p, err := NewPlanner(s.WithDefaults(), noon)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range all {
		p.Look(c)
	}
	return p.Plan(Pace{PerMinute: 1000, MaxInFlight: 500, Typical: time.Second})
}

func namesOf(p Plan) string {
	var names []string
	for _, m := range p.Members {
		names = append(names, string(m.Device))
	}
	return strings.Join(names, " ")
}

func TestChoosing(t *testing.T) {
	fleet := []Candidate{
		candidate("soon", 5), candidate("late", 400), candidate("berlin", 50, func(c *Candidate) { c.Attributes["site"] = "berlin" }),
		candidate("rsa", 60, func(c *Candidate) { c.Active[0].KeyType = "rsa2048" }),
		candidate("other", 70, func(c *Candidate) { c.Active[0].Issuer, c.Active[0].CA = "CN=foreign", "feed0123456789" }),
		candidate("blocked", 1, func(c *Candidate) { c.Blocked = true }),
		candidate("none", 1, func(c *Candidate) { c.Active = nil }),
		candidate("open", 1, func(c *Candidate) { c.Open = rotation.Vended }),
		candidate("taken", 1, func(c *Candidate) { c.Campaign = "x" }),
		candidate("grouped", 1, func(c *Candidate) { c.Grouped, c.Asked = true, true }),
	}
	for name, c := range map[string]struct {
		choose Choice
		want   string
	}{
		"all, by expiry":         {Choice{All: true}, "soon berlin rsa other late"},
		"expiring":               {Choice{ExpiringWithin: 55 * 24 * time.Hour}, "soon berlin"},
		"issued by":              {Choice{IssuedBy: "foreign"}, "other"},
		"issued by a CA's id":    {Choice{IssuedBy: "feed01234567"}, "other"},
		"issued by too little":   {Choice{IssuedBy: "feed0123456"}, ""},
		"issued by a whole name": {Choice{IssuedBy: "CN=issuing,O=x", ExpiringWithin: 10 * 24 * time.Hour}, "soon"},
		"by key":                 {Choice{Key: "RSA2048"}, "rsa"},
		"by attribute":           {Choice{Attributes: []string{"site=berlin"}}, "berlin"},
		"by name":                {Choice{Names: []string{"late", "rsa", "nobody"}}, "rsa late"},
		"but not":                {Choice{All: true, Except: []string{"soon", "rsa"}}, "berlin other late"},
		"a number of them":       {Choice{All: true, Sample: Share{Count: 2}}, "soon berlin"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := namesOf(planned(t, Spec{Choose: c.choose}, fleet...)); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
	skipped := planned(t, Spec{Choose: Choice{All: true}}, fleet...).Skipped
	for _, why := range []string{"blocked", "has no active certificate", "has a rotation that is vended", "is in campaign x", "is in the rotation group already"} {
		if skipped[why] != 1 {
			t.Errorf("%q: %v", why, skipped)
		}
	}
}

// A sample and a random order are drawn once for a campaign's name, and a
// sample is about as large as it says.
func TestSamplesAreDrawnOnce(t *testing.T) {
	var fleet []Candidate
	for i := range 10_000 {
		fleet = append(fleet, candidate(fmt.Sprintf("device-%05d", i), 10))
	}
	s := Spec{Choose: Choice{All: true, Sample: Share{Percent: 2}, Order: Randomly}}
	one, two := planned(t, s, fleet...), planned(t, s, fleet...)
	if namesOf(one) != namesOf(two) {
		t.Error("another sample for the same name")
	}
	if one.Devices < 140 || one.Devices > 260 {
		t.Errorf("2%% of 10,000 are %d", one.Devices)
	}
	names := strings.Fields(namesOf(one))
	if slices.IsSorted(names) {
		t.Error("the order is not random")
	}
}

func TestWavesAndStrata(t *testing.T) {
	var fleet []Candidate
	for i := range 100 {
		model := map[bool]string{true: "a", false: "b"}[i < 90]
		fleet = append(fleet, candidate(fmt.Sprintf("d-%02d", i), i, func(c *Candidate) {
			c.Attributes["model"] = model
			c.Active[0].Seen = noon.Add(-time.Duration(100-i) * time.Minute)
		}))
	}
	p := planned(t, Spec{
		Choose: Choice{All: true}, Canary: Canary{Size: Share{Count: 4}, Strata: "model"}, Waves: []Share{{Percent: 10}, {Count: 50}},
	}, fleet...)
	if fmt.Sprint(p.Waves) != "[4 6 40 50]" {
		t.Errorf("waves %v", p.Waves)
	}
	if got := strings.Join(strings.Fields(namesOf(p))[:5], " "); got != "d-89 d-99 d-88 d-98 d-00" {
		t.Errorf("the canary, and the first behind it: %s", got)
	}
	for i, m := range p.Members {
		if m.Place != i || m.Standing != Pending || i > 0 && m.Wave < p.Members[i-1].Wave {
			t.Errorf("place %d: %+v", i, m)
		}
	}
}

func TestForecastAndRisks(t *testing.T) {
	fleet := []Candidate{
		candidate("expired", -1), candidate("name-"+strings.Repeat("x", 60), 300),
		candidate("unseen", 300, func(c *Candidate) { c.Active[0].Seen = noon.Add(-40 * 24 * time.Hour) }),
		candidate("never", 300, func(c *Candidate) { c.Active[0].Seen = time.Time{} }),
		candidate("several", 300, func(c *Candidate) { c.Active = append(c.Active, Active{NotAfter: noon}) }),
		candidate("shared", 300, func(c *Candidate) { c.Active[0].Shared = true }),
		candidate("weak", 300, func(c *Candidate) { c.Active[0].KeyType = "rsa1024" }),
	}
	for i := range 993 {
		fleet = append(fleet, candidate(fmt.Sprintf("device-%03d", i), 2))
	}
	s := Spec{Choose: Choice{All: true, Order: Randomly}, Canary: Canary{Size: Share{Count: 10}}, PerMinute: 100, Soak: 48 * time.Hour}
	p := planned(t, s, fleet...)
	if want := 10*time.Minute + 2*time.Second + 96*time.Hour; time.Duration(p.Seconds*float64(time.Second)).Round(time.Second) != want {
		t.Errorf("takes %.0f s, want %s", p.Seconds, want)
	}
	if p.Limit != "per_minute of the campaign" || p.Pace != 100 || !p.Forecast.Equal(noon.Add(time.Duration(p.Seconds*float64(time.Second)))) {
		t.Errorf("%+v", p.Limit)
	}
	for _, r := range p.Risks {
		want := 1
		if r.What == riskSoon { // all but the canary, and those that last
			want = 980
		}
		if r.What == riskSoon && (r.Devices < want || len(r.Such) != suchMost) || r.What != riskSoon && r.Devices != want {
			t.Errorf("%s: %d, %v", r.What, r.Devices, r.Such)
		}
	}
	if len(p.Risks) != 8 {
		t.Errorf("%d risks: %v", len(p.Risks), p.Risks)
	}
	s.MaxInFlight, s.PerMinute = 1, 1_000_000
	if p := planned(t, s, fleet...); p.Pace != 60 || p.Limit != "max_in_flight of the campaign" {
		t.Errorf("%f by %s", p.Pace, p.Limit)
	}
	s.Window, s.MaxInFlight, s.PerMinute = Window{From: "22:00", To: "04:00"}, 500, 100
	if p := planned(t, s, fleet...); p.Pace != 25 || !strings.Contains(p.Limit, "within 22:00 to 04:00") {
		t.Errorf("%f by %s", p.Pace, p.Limit)
	}
}

func TestWindows(t *testing.T) {
	for name, c := range map[string]struct {
		window Window
		zone   string
		want   bool
	}{
		"always":                      {Window{}, "", true},
		"at noon":                     {Window{From: "11:59", To: "12:01"}, "", true},
		"it ends at noon":             {Window{From: "11:00", To: "12:00"}, "", false},
		"past midnight":               {Window{From: "23:00", To: "12:30"}, "", true},
		"past midnight, and not yet":  {Window{From: "23:00", To: "11:00"}, "", false},
		"in Berlin it is 13:00":       {Window{From: "12:30", To: "13:30"}, "Europe/Berlin", true},
		"in Berlin it is not noon":    {Window{From: "11:59", To: "12:01"}, "Europe/Berlin", false},
		"a zone that nobody knows of": {Window{From: "11:59", To: "12:01"}, "Moon/Base", true},
	} {
		t.Run(name, func(t *testing.T) {
			h, err := c.window.parse()
			if err != nil || h.isOpen(c.zone, noon) != c.want {
				t.Errorf("open %t, %v", h.isOpen(c.zone, noon), err)
			}
		})
	}
}

func TestSpecsThatMakeNoSense(t *testing.T) {
	good := Spec{Name: "spring", Choose: Choice{All: true}}
	if err := good.WithDefaults().Validate(); err != nil {
		t.Error(err)
	}
	for want, change := range map[string]func(*Spec){
		"name":                 func(s *Spec) { s.Name = "Spring!" },
		"nothing is chosen":    func(s *Spec) { s.Choose.All = false },
		"per_minute":           func(s *Spec) { s.PerMinute = -1 },
		"max_in_flight":        func(s *Spec) { s.MaxInFlight = -1 },
		"gates":                func(s *Spec) { s.Gates = "open" },
		"soak":                 func(s *Spec) { s.Soak = -1 },
		"at_least":             func(s *Spec) { s.Abort.AtLeast = -1 },
		"order":                func(s *Spec) { s.Choose.Order = "name" },
		"name=value":           func(s *Spec) { s.Choose.Attributes = []string{"site"} },
		"device name":          func(s *Spec) { s.Choose.Names = []string{"a b"} },
		"waves":                func(s *Spec) { s.Waves = []Share{{Percent: 50}, {Percent: 20}} },
		"window.from":          func(s *Spec) { s.Window.From = "1 o'clock" },
		"ends when it begins":  func(s *Spec) { s.Window = Window{From: "01:00", To: "01:00"} },
		"expiring_within must": func(s *Spec) { s.Choose.ExpiringWithin = -1 },
	} {
		s := good
		change(&s)
		if err := s.WithDefaults().Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

// A world that is called for each device is bounded by what that allows, and the
// plan says how often it will be.
func TestPlanOfAWorldThatIsCalled(t *testing.T) {
	s := Spec{Name: "c", Choose: Choice{All: true}, PerMinute: 1000}.WithDefaults()
	p, err := NewPlanner(s, noon)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 40 {
		p.Look(Candidate{Device: registry.DeviceID(fmt.Sprint("d", i)), Active: []Active{{ID: "a", NotAfter: noon.Add(time.Hour), Seen: noon}}})
	}
	plan := p.Plan(Pace{PerMinute: 1000, MaxInFlight: 1 << 20, Typical: time.Second, Steps: []Step{
		{What: "Register", Calls: 1, PerMinute: 300}, {What: "Describe", Calls: 2, PerMinute: 80, Price: Price{{Each: 0.5, UpTo: 60}, {Each: 0.25}}},
	}})
	if plan.Pace != 80 || plan.Limit != "the quota of Describe" {
		t.Errorf("%g a minute, by %s", plan.Pace, plan.Limit)
	}
	if plan.Calls["Register"] != 40 || plan.Calls["Describe"] != 80 {
		t.Errorf("calls %v", plan.Calls)
	}
	if len(plan.Costs) != 1 || plan.Costs["Describe"] != 35 {
		t.Errorf("costs %v", plan.Costs)
	}
}

// TestObstacles: what a world says of a device is a risk of those that take
// part, and what it says of all is one of each.
func TestObstacles(t *testing.T) {
	s := Spec{Name: "c", Choose: Choice{All: true}}.WithDefaults()
	p, err := NewPlanner(s, noon)
	if err != nil {
		t.Fatal(err)
	}
	p.Obstacles = func(c Candidate) []string {
		if c.Groups > 0 {
			return []string{"it has no room"}
		}
		return nil
	}
	full := func(c *Candidate) { c.Groups = 10 }
	for _, c := range []Candidate{candidate("a", 5), candidate("b", 5, full), candidate("c", 5, full, func(c *Candidate) { c.Blocked = true })} {
		p.Look(c)
	}
	plan := p.Plan(Pace{PerMinute: 1000, MaxInFlight: 500, Typical: time.Second})
	plan.Threaten("the CA is off")
	want := []Risk{
		{What: "it has no room", Devices: 1, Such: []registry.DeviceID{"b"}},
		{What: "the CA is off", Devices: 2, Such: []registry.DeviceID{"a", "b"}},
	}
	if fmt.Sprint(plan.Risks) != fmt.Sprint(want) {
		t.Errorf("got %+v", plan.Risks)
	}
}
