package device

import (
	"strings"
	"testing"
	"time"
)

// A broker may close the connection upon a request that its policy does not allow,
// as AWS IoT does: where that is the jobs', the device renews still.
func TestRenewalNeedsNoRightToAskForJobs(t *testing.T) {
	w, cfg, seen := aging(t, 70*time.Hour)
	for _, end := range []string{"/jobs/start-next", "/jobs/$next/get"} {
		if err := w.broker.AddHook(&cutAt{end: end, w: w, on: true}, nil); err != nil {
			t.Fatal(err)
		}
	}
	stop := running(t, cfg)
	eventually(t, func() bool { return seen.count(Promoted) == 1 || seen.count(Disconnected) == 20 })
	stop()
	if seen.count(Promoted) == 0 {
		t.Fatalf("not renewed over %d connections", seen.count(Connected))
	}
	checkRotated(t, w, cfg, 1)
}

// Nor does it keep to a certificate that does not connect.
func TestCandidateIsGivenUpWithoutTheRightToJobs(t *testing.T) {
	w, cfg, seen := aging(t, 70*time.Hour)
	if err := w.broker.AddHook(&cutAt{end: "/jobs/notify-next", w: w, on: true}, nil); err != nil {
		t.Fatal(err)
	}
	w.script(func() { w.refuse = func(_, id string) bool { return strings.HasSuffix(id, candidateSuffix) } })
	stop := running(t, cfg)
	eventually(t, func() bool { return seen.count(GivenUp) == 1 || seen.count(Disconnected) == 20 })
	stop()
	if seen.count(GivenUp) == 0 {
		t.Fatalf("not given up over %d connections", seen.count(Connected))
	}
	if again := open(t, cfg); again.store.state.Candidate != nil || !w.takes(again.store.current) {
		t.Error("the old pair is not what is left")
	}
}
