package fleet

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/certvendor/certvendor/device"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func (w *world) options(devices ...Device) Options {
	return Options{
		Target:  Target{Broker: w.addr, Roots: w.roots},
		Devices: devices, Directory: w.t.TempDir(), RefusedWithin: 20 * time.Second,
		Retry: device.Retry{Base: time.Millisecond, Max: 50 * time.Millisecond, Reply: 2 * time.Second},
	}
}

func deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func play(t *testing.T, o Options) Report {
	t.Helper()
	report, err := Run(deadline(t), o)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func TestEveryKindOfFirmwareRotates(t *testing.T) {
	w := newWorld(t)
	kinds := []Firmware{Agent, CDF, EarlyAcker, Impersonator, Agent, CDF}
	var devices []Device
	for i, kind := range kinds {
		devices = append(devices, w.device(fmt.Sprintf("device-%d", i), kind))
		devices[i].Victim = "device-0"
	}
	devices[0].Victim = ""
	o := w.options(devices...)
	o.Concurrency = 3
	told := make(chan Result, len(kinds))
	o.Done = func(r Result) { told <- r }
	report := play(t, o)
	for i, r := range report.Results {
		if r.Err != nil || !r.Rotated || !r.Acked || r.Device != devices[i].Name || r.OldID == r.NewID {
			t.Errorf("%s (%s): %+v", r.Device, r.Firmware, r)
		}
		if r.NewID != w.open[r.Device] {
			t.Errorf("%s ended on another certificate than it was given", r.Device)
		}
		if r.Get <= 0 || r.Ack <= 0 || r.Connect <= 0 || r.Total < r.Get {
			t.Errorf("%s: %+v", r.Device, r.Timing)
		}
		if w.succeeded[r.Device] != 1 {
			t.Errorf("%s reported its job %d times", r.Device, w.succeeded[r.Device])
		}
	}
	if report.Rotated != len(kinds) || report.Failed != 0 || len(told) != len(kinds) {
		t.Errorf("%d rotated, %d failed, %d told", report.Rotated, report.Failed, len(told))
	}
	if diff := cmp.Diff([]string{"ack over the old certificate: ACK_NOT_PROVEN"}, report.Results[2].Notes); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{
		"subscribe to the replies of device-0: refused", "publish a get of device-0: refused", "connect as device-0: refused",
	}, report.Results[3].Notes); diff != "" {
		t.Error(diff)
	}
	if v := Verify(deadline(t), o, report); len(v) != 0 {
		t.Errorf("violations: %v", v)
	}
}

func TestActorsFailWhereTheyAreNotRefused(t *testing.T) {
	w := newWorld(t)
	w.lax, w.trusting = true, true
	impersonator := w.device("impersonator", Impersonator)
	impersonator.Victim = "victim"
	report := play(t, w.options(w.device("early", EarlyAcker), impersonator))
	for _, r := range report.Results {
		if !errors.Is(r.Err, errGranted) {
			t.Errorf("%s: %v", r.Device, r.Err)
		}
	}
	if report.Failed != 2 {
		t.Errorf("%d failed", report.Failed)
	}
}

func TestVerifyFindsWhatMustNotBe(t *testing.T) {
	w := newWorld(t)
	w.keepOld = true
	o := w.options(w.device("kept", Agent), w.device("bricked", CDF))
	o.RefusedWithin = time.Millisecond
	report := play(t, o)
	w.mu.Lock()
	for _, id := range w.held["bricked"] {
		w.accepted[id] = false
	}
	w.mu.Unlock()
	found := Verify(deadline(t), o, report)
	if len(found) != 2 || !strings.Contains(found[0].Err.Error(), "old certificate still connects") ||
		!strings.Contains(found[1].Err.Error(), "no working certificate") {
		t.Errorf("violations: %v", found)
	}
}

func TestCDFFirmwareHasOneSlotAndAcksOnce(t *testing.T) {
	w := newWorld(t)
	w.refuseGets = 2
	early := w.device("early", CDF)
	early.AckEarly = true
	report := play(t, w.options(early, w.device("plain", CDF)))
	for i, acked := range []bool{false, true} {
		r := report.Results[i]
		if r.Err != nil || !r.Rotated || r.Acked != acked || w.acks[r.Device] != 1 || w.issued[r.Device] != 3 {
			t.Errorf("%s: %d acks, %d gets, %+v", r.Device, w.acks[r.Device], w.issued[r.Device], r)
		}
	}
}

func TestCDFFirmwareGivesUpWithItsOldCertificate(t *testing.T) {
	w := newWorld(t)
	w.refuseGets = 100
	o := w.options(w.device("plain", CDF))
	report := play(t, o)
	if r := report.Results[0]; r.Err == nil || r.Rotated || report.Failed != 1 {
		t.Errorf("%+v", r)
	}
	if v := Verify(deadline(t), o, report); len(v) != 0 {
		t.Errorf("violations: %v", v)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	w := newWorld(t)
	for name, breakIt := range map[string]func(*Options){
		"no broker":             func(o *Options) { o.Broker = "" },
		"no roots":              func(o *Options) { o.Roots = nil },
		"no directory":          func(o *Options) { o.Directory = "" },
		"unknown firmware":      func(o *Options) { o.Devices[0].Firmware = "toaster" },
		"no victim":             func(o *Options) { o.Devices[0].Firmware = Impersonator },
		"packages of old times": func(o *Options) { o.Devices[0].Firmware, o.Devices[0].Flow = CDF, device.ByPackage },
	} {
		o := w.options(w.device("x", Agent))
		breakIt(&o)
		if _, err := Run(deadline(t), o); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func TestFleetEndsWithItsContext(t *testing.T) {
	w := newWorld(t)
	w.succeeded["agent"], w.succeeded["cdf"] = 1, 1 // so that there is no job to wait for
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	report, err := Run(ctx, w.options(w.device("agent", Agent), w.device("cdf", CDF)))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range report.Results {
		if !errors.Is(r.Err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", r.Device, r.Err)
		}
	}
}

func TestPercentiles(t *testing.T) {
	var report Report
	for i := range 200 {
		report.Results = append(report.Results, Result{Timing: Timing{Get: time.Duration(200-i) * time.Millisecond}})
	}
	report.Results = append(report.Results, Result{}) // a device that never got that far
	got := report.Latency(func(t Timing) time.Duration { return t.Get })
	if want := (Latency{P50: 100, P95: 190, P99: 198}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := (Report{}).Latency(func(t Timing) time.Duration { return t.Get }); got != (Latency{}) {
		t.Errorf("of nothing: %+v", got)
	}
}
