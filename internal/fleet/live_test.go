package fleet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/device"
	"github.com/certvendor/certvendor/rotation"
)

// lives plays a device of each firmware for every plan, and wants all of them
// rotated in the end and nothing violated.
func (w *world) lives(t *testing.T, plans ...Plan) (Options, Report) {
	t.Helper()
	o := w.options()
	o.Operator, o.RefusedWithin = w, 0
	o.Retry = device.Retry{Base: 5 * time.Millisecond, Max: 100 * time.Millisecond, Reply: 10 * time.Second}
	for i := range plans {
		for _, firmware := range []Firmware{Agent, CDF} {
			d := w.device(fmt.Sprintf("%s-%d", firmware, i), firmware)
			d.Plan = &plans[i]
			o.Devices = append(o.Devices, d)
		}
	}
	report := play(t, o)
	w.wantRotated(t, o, report)
	return o, report
}

func (w *world) wantRotated(t *testing.T, o Options, report Report) {
	t.Helper()
	verdicts, err := Judge(deadline(t), o, report)
	if err != nil {
		t.Fatal(err)
	}
	for i, v := range verdicts {
		if v.Violation != nil || !v.Rotated || v.Why != nil {
			t.Errorf("%s: rotated %t, violation %v, why %v", v.Device, v.Rotated, v.Violation, v.Why)
		}
		if r := report.Results[i]; !r.Rotated || r.Device != v.Device || w.joined[v.Device] == 0 {
			t.Errorf("%s: ended with another verdict than it has: %v", v.Device, r.Err)
		}
	}
}

// wantFault wants a fault to have come true on every device.
func wantFault(t *testing.T, report Report, fault Fault) {
	t.Helper()
	for _, r := range report.Results {
		if !slices.Contains(r.Faults, fault) {
			t.Errorf("%s: %s did not happen, but %v", r.Device, fault, r.Faults)
		}
	}
}

func TestAPlanOfNothing(t *testing.T) {
	w := newWorld(t)
	_, report := w.lives(t, Plan{})
	for _, r := range report.Results {
		if !r.Acked || len(r.Faults) > 0 || r.Get <= 0 || r.Connect <= 0 || r.Ack <= 0 || w.issued[r.Device] != 1 || w.acks[r.Device] != 1 {
			t.Errorf("%s: %d gets, %d acks, %v, %+v", r.Device, w.issued[r.Device], w.acks[r.Device], r.Faults, r.Timing)
		}
	}
}

// The power is cut at every step, at once and a little later: the device
// starts again with the disk as it was.
func TestPowerCuts(t *testing.T) {
	for _, late := range []time.Duration{0, 3 * time.Millisecond} {
		var plans []Plan
		for _, step := range steps() {
			plans = append(plans, Plan{PowerCut: &Moment{Step: step, After: late}, PowerAway: 5 * time.Millisecond})
		}
		w := newWorld(t)
		o, report := w.lives(t, plans...)
		wantFault(t, report, PowerCut)
		for i, r := range report.Results {
			step := o.Devices[i].Plan.PowerCut.Step
			if r.Firmware == CDF && (step == StepAckAnswered || late == 0 && step == StepAck) && r.Acked {
				t.Errorf("%s cut at %q: it acked again", r.Device, step)
			}
			if r.Firmware == Agent && w.acks[r.Device] == 0 {
				t.Errorf("%s cut at %q: it never acked", r.Device, step)
			}
		}
	}
}

func TestAPowerCutLeavesNoTrace(t *testing.T) {
	w := newWorld(t)
	o, _ := w.lives(t, Plan{PowerCut: &Moment{Step: StepStored}})
	entries, err := os.ReadDir(o.Directory)
	if err != nil || len(entries) != len(o.Devices) {
		t.Errorf("%d disks of %d devices: %v", len(entries), len(o.Devices), err)
	}
}

func TestDisconnects(t *testing.T) {
	var plans []Plan
	for _, step := range []Step{StepConnected, StepGet, StepStored, StepSwitched, StepAck} {
		plans = append(plans, Plan{Disconnects: []Moment{{Step: step}, {StepSwitched, time.Millisecond}}})
	}
	w := newWorld(t)
	_, report := w.lives(t, plans...)
	wantFault(t, report, Disconnect)
}

func TestLostReplies(t *testing.T) {
	w := newWorld(t)
	_, report := w.lives(t, Plan{LostReply: true}, Plan{LostReply: true, PowerCut: &Moment{Step: StepGetAnswered}})
	wantFault(t, report, LostReply)
	for _, r := range report.Results {
		want := 2
		if slices.Contains(r.Faults, PowerCut) {
			want = 3
		}
		if w.issued[r.Device] != want {
			t.Errorf("%s asked %d times", r.Device, w.issued[r.Device])
		}
		// An agent keeps its key, and gets the same certificate again.
		if vended := len(w.held[r.Device]) - 1; r.Firmware == Agent && vended != 1 || r.Firmware == CDF && vended != want {
			t.Errorf("%s was vended %d certificates", r.Device, vended)
		}
	}
}

func TestLostAcks(t *testing.T) {
	w := newWorld(t)
	_, report := w.lives(t, Plan{LostAck: true}, Plan{LostAck: true, AckLost: true})
	wantFault(t, report, LostAck)
	for i, want := range []int{2, 1, 1, 0} { // an agent repeats it, CDF firmware never
		if r := report.Results[i]; w.acks[r.Device] != want || r.Acked != (r.Firmware == Agent) {
			t.Errorf("%s: the vendor had %d acks, acked %t", r.Device, w.acks[r.Device], r.Acked)
		}
	}
}

func TestLateAcks(t *testing.T) {
	w := newWorld(t)
	_, report := w.lives(t, Plan{LateAck: 300 * time.Millisecond})
	wantFault(t, report, LateAck)
	for _, r := range report.Results {
		if w.late[r.Device] < 300*time.Millisecond || !r.Acked {
			t.Errorf("%s acked after %s", r.Device, w.late[r.Device])
		}
	}
}

func TestAckAfterTTL(t *testing.T) {
	w := newWorld(t)
	o := w.options()
	o.Operator, o.TTL = w, 50*time.Millisecond
	plan := Plan{AckAfterTTL: true}
	for _, firmware := range []Firmware{Agent, CDF} {
		d := w.device(string(firmware), firmware)
		d.Plan = &plan
		o.Devices = append(o.Devices, d)
	}
	report := play(t, o)
	for _, d := range o.Devices {
		if !w.stale[w.open[d.Name]] || w.acks[d.Name] != 1 {
			t.Errorf("%s acked before its rotation was stale", d.Name)
		}
	}
	w.wantRotated(t, o, report)
}

func TestAcksOverTheOldConnection(t *testing.T) {
	w := newWorld(t)
	_, report := w.lives(t, Plan{AckOnOld: true})
	agent, cdf := report.Results[0], report.Results[1]
	if w.acks[agent.Device] != 2 || !agent.Acked || len(agent.Notes) != 1 || !strings.HasSuffix(agent.Notes[0], "ACK_NOT_PROVEN") {
		t.Errorf("%d acks, %v", w.acks[agent.Device], agent.Notes)
	}
	if w.acks[cdf.Device] != 1 || cdf.Acked {
		t.Errorf("%d acks, acked %t", w.acks[cdf.Device], cdf.Acked)
	}
}

func TestDuplicateRequests(t *testing.T) {
	w := newWorld(t)
	w.keepOld = true // or the late ones may find their certificate gone
	_, report := w.lives(t, Plan{Duplicate: 50 * time.Millisecond})
	wantFault(t, report, DuplicateRequest)
	for i, want := range []int{1 + 2 + 1, 2 + 2 + 1} { // CDF firmware repeats it itself, too
		r := report.Results[i]
		if n := w.issued[r.Device]; n != want || len(w.held[r.Device]) != 2 {
			t.Errorf("%s: %d gets, %d certificates", r.Device, n, len(w.held[r.Device])-1)
		}
	}
}

func TestDarkDevices(t *testing.T) {
	w := newWorld(t)
	_, report := w.lives(t, Plan{Dark: true})
	wantFault(t, report, Dark)
	for _, r := range report.Results {
		if w.acks[r.Device] != 0 || w.succeeded[r.Device] != 0 || r.Acked {
			t.Errorf("%s was seen after the switch: %d acks, %d reports", r.Device, w.acks[r.Device], w.succeeded[r.Device])
		}
	}
}

func TestSlowReaders(t *testing.T) {
	w := newWorld(t)
	_, report := w.lives(t, Plan{SlowReader: 4 << 10})
	for _, r := range report.Results {
		if r.Connect < 100*time.Millisecond { // a handshake is about a kilobyte
			t.Errorf("%s connected within %s", r.Device, r.Connect)
		}
	}
}

func TestGarbage(t *testing.T) {
	w := newWorld(t)
	_, report := w.lives(t, Plan{Garbage: 17})
	wantFault(t, report, Garbage)
	for _, r := range report.Results {
		if w.malformed[r.Device] < 4 || w.trespass[r.Device] < 3 || w.issued[r.Device] != 1 {
			t.Errorf("%s: %d malformed, %d trespasses, %d gets", r.Device, w.malformed[r.Device], w.trespass[r.Device], w.issued[r.Device])
		}
	}
}

// A device with a clock that is wrong by years sees no valid broker, and gets
// over it once the clock is set.
func TestWrongClocks(t *testing.T) {
	w := newWorld(t)
	started := time.Now()
	const set = 500 * time.Millisecond
	w.lives(t,
		Plan{ClockSkew: -10 * 365 * 24 * time.Hour, ClockSet: set},
		Plan{ClockSkew: 10 * 365 * 24 * time.Hour, ClockSet: set},
		Plan{ClockSkew: 10 * time.Minute},
	)
	if took := time.Since(started); took < set {
		t.Errorf("all were connected after %s", took)
	}
	// An agent whose clock is behind knows better by its own certificate.
	o := w.options(w.device("unset", Agent))
	o.Operator, o.Devices[0].Plan = w, &Plan{ClockSkew: -10 * 365 * 24 * time.Hour}
	w.wantRotated(t, o, play(t, o))
}

func TestInstallDelay(t *testing.T) {
	w := newWorld(t)
	o := w.options()
	o.Operator = w
	for _, firmware := range []Firmware{Agent, CDF} {
		d := w.device(string(firmware), firmware)
		d.Plan, d.InstallDelay = &Plan{Disconnects: []Moment{{StepStored, 20 * time.Millisecond}}}, 200*time.Millisecond
		o.Devices = append(o.Devices, d)
	}
	started := time.Now()
	report := play(t, o)
	if took := time.Since(started); took < 200*time.Millisecond {
		t.Errorf("all over after %s", took)
	}
	for _, r := range report.Results {
		if w.connects[r.Device] < 3 { // old, old again, new
			t.Errorf("%s connected %d times", r.Device, w.connects[r.Device])
		}
		if r.Connect >= 200*time.Millisecond {
			t.Errorf("%s: the delay was taken for a slow connection, %s", r.Device, r.Connect)
		}
	}
	w.wantRotated(t, o, report)
	// A device whose folder is there goes on from it.
	for _, r := range play(t, o).Results {
		if r.NewID != report.Results[0].NewID && r.NewID != report.Results[1].NewID || len(r.Received) > 0 {
			t.Errorf("%s, played again: on %s, received %v", r.Device, r.NewID, r.Received)
		}
	}
}

// Whatever is drawn, every device ends well.
func TestEverythingAtOnce(t *testing.T) {
	w := newWorld(t)
	o := w.options()
	o.Operator, o.Concurrency = w, 16
	o.Retry.Reply = 10 * time.Second
	plans := Plans(11, 40, every(Faults{}, 0.5))
	for i := range plans {
		d := w.device(fmt.Sprintf("device-%d", i), []Firmware{Agent, CDF}[i%2])
		d.Plan = &plans[i]
		o.Devices = append(o.Devices, d)
	}
	w.wantRotated(t, o, play(t, o))
}

func TestJudgeFindsViolations(t *testing.T) {
	w := newWorld(t)
	o, report := w.lives(t, Plan{}, Plan{}, Plan{})
	verdicts := func() []Verdict {
		t.Helper()
		all, err := Judge(deadline(t), o, report)
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	w.mu.Lock()
	for _, id := range w.held["agent-0"] {
		w.accepted[id] = false
	}
	w.held["cdf-1"] = w.held["cdf-1"][:1] // the inventory lost what it was vended
	w.mu.Unlock()
	report.Results[2].Received = append(report.Results[2].Received, "lost")
	if err := os.WriteFile(filepath.Join(o.Directory, "cdf-2", slotName), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	found := verdicts()
	for i, want := range map[int]string{
		0: "no certificate on its disk works", 2: "certificate lost was vended, and is not in the inventory", 3: "on its disk, and not in the inventory", 5: "read the disk",
	} {
		v := found[i]
		if v.Violation == nil || !strings.Contains(v.Violation.Error(), want) || v.Rotated {
			t.Errorf("%s: %v, rotated %t; want %q", v.Device, v.Violation, v.Rotated, want)
		}
	}
	for _, i := range []int{1, 4} {
		if v := found[i]; v.Violation != nil || !v.Rotated {
			t.Errorf("%s: %v", v.Device, v.Violation)
		}
	}
	// What was thrown away before any vend is the firmware's own affair.
	w.mu.Lock()
	w.held["cdf-2"] = w.held["cdf-2"][:1]
	w.mu.Unlock()
	if v := verdicts()[5]; v.Violation != nil || v.Rotated || v.Why == nil {
		t.Errorf("%s: violation %v, why %v", v.Device, v.Violation, v.Why)
	}
}

func TestInventoryAgainstDisk(t *testing.T) {
	w := newWorld(t)
	o, _ := w.lives(t, Plan{Dark: true})
	pairs, err := o.pairsOnDisk(o.Devices[0])
	if err != nil || len(pairs) != 2 {
		t.Fatalf("%d pairs, %v", len(pairs), err)
	}
	next, old := idOf(pairs[0]), idOf(pairs[1])
	holds := func(next1, old1 certificate.Standing) map[certificate.ID]certificate.Standing {
		return map[certificate.ID]certificate.Standing{next: next1, old: old1}
	}
	for name, c := range map[string]struct {
		holds map[certificate.ID]certificate.Standing
		works certificate.ID
		bad   bool
	}{
		"the new one works":              {holds(certificate.Active, certificate.Inactive), next, false},
		"both stand, the old was spared": {holds(certificate.Active, certificate.Active), next, false},
		"only the old one is left":       {holds(certificate.Inactive, certificate.Active), old, false},
		"what works was taken away":      {holds(certificate.Inactive, certificate.Active), next, true},
		"what stands does not work":      {holds(certificate.Active, certificate.Active), old, true},
		"one that nobody knows is there": {map[certificate.ID]certificate.Standing{next: certificate.Active}, next, true},
	} {
		if err := (Account{Holds: c.holds}).hold(pairs, c.works); (err != nil) != c.bad {
			t.Errorf("%s: %v", name, err)
		}
	}
	if state := (Account{Vends: []Vend{{next, rotation.Proven}}}).stateOf(old); state != "" {
		t.Errorf("the first certificate was vended: %s", state)
	}
}

// A device that does not rotate has failed; nothing is violated by that.
func TestADeviceThatNeverGetsACertificate(t *testing.T) {
	w := newWorld(t)
	w.refuseGets = 1000
	o := w.options()
	o.Operator, o.Retry.Max, o.Retry.Attempts = w, 2*time.Millisecond, 1
	d := w.device("cdf", CDF)
	d.Plan = &Plan{}
	o.Devices = []Device{d}
	report := play(t, o)
	verdicts, err := Judge(deadline(t), o, report)
	if err != nil {
		t.Fatal(err)
	}
	if v := verdicts[0]; v.Violation != nil || v.Rotated || v.Why == nil || w.issued["cdf"] != maxBoots*cdfAttempts {
		t.Errorf("%+v after %d gets", v, w.issued["cdf"])
	}
}

func TestLivesEndWithTheirContext(t *testing.T) {
	w := newWorld(t)
	o := w.options()
	o.Operator, o.TTL = w, time.Hour
	for i, plan := range []Plan{{AckAfterTTL: true}, {PowerCut: &Moment{Step: StepJob}, PowerAway: time.Hour}, {Duplicate: time.Hour}} {
		for _, firmware := range []Firmware{Agent, CDF} {
			d := w.device(fmt.Sprintf("%s-%d", firmware, i), firmware)
			d.Plan = &plan
			o.Devices = append(o.Devices, d)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	report, err := Run(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range report.Results[:4] {
		if !errors.Is(r.Err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", r.Device, r.Err)
		}
	}
	ctx, cancel = context.WithCancel(t.Context())
	cancel()
	if _, err := Judge(ctx, o, report); !errors.Is(err, context.Canceled) {
		t.Errorf("judged: %v", err)
	}
}

func TestPlansAreChecked(t *testing.T) {
	w := newWorld(t)
	for name, breakIt := range map[string]func(*Options){
		"no operator":  func(o *Options) { o.Operator = nil },
		"no directory": func(o *Options) { o.Directory = "" },
		"an actor":     func(o *Options) { o.Devices[0].Firmware = EarlyAcker },
	} {
		o := w.options(w.device("x", CDF))
		o.Operator, o.Devices[0].Plan = w, &Plan{}
		breakIt(&o)
		if _, err := Run(deadline(t), o); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if _, err := Judge(deadline(t), w.options(), Report{}); err == nil {
		t.Error("judged without anybody to ask")
	}
}
