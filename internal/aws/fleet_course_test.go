package aws

import (
	"fmt"
	"math"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/protocol"
)

func fleetSize(most int) int {
	if os.Getenv("LONG_TESTS") != "" {
		return most
	}
	return most / 10
}

// Cases 88, 91 and 92: a thousand devices at the default pace, each API at the rate
// that AWS documents. Nobody is refused, and CA and key are fetched a few times.
func TestCases88And91And92AThousandDevices(t *testing.T) {
	for _, mode := range []certificate.Mode{certificate.Keep, certificate.Deactivate, certificate.Delete} {
		t.Run(string(mode), func(t *testing.T) {
			devices := 1000
			if mode != certificate.Deactivate { // which is the default
				devices = fleetSize(devices)
			}
			synctest.Test(t, func(t *testing.T) {
				result := fleetRun{
					devices: devices, mode: mode, share: 0.5, latency: 50 * time.Millisecond, pace: Pace{PerMinute: 120, MaxInFlight: 500},
				}.run(t)
				t.Logf("%d devices in %s of AWS's time", devices, result.took.Round(time.Second))
				if len(result.refused) > 0 {
					t.Errorf("refused: %v", result.refused)
				}
				if n := result.calls["DescribeCACertificate"] + result.calls["GetParameter"]; n < 2 || n >= 10 {
					t.Errorf("CA certificate and key were fetched %d times", n)
				}
				// Each look at the executions lists them twice.
				looks := result.calls["ListJobExecutionsForJob"] / 2
				if group, job := result.calls["DescribeThingGroup"], result.calls["DescribeJob"]; group > looks || job > looks {
					t.Errorf("group and job were looked at %d and %d times, in %d looks at the executions", group, job, looks)
				}
				sum := result.perRotation(t, devices)
				if mode == certificate.Deactivate && sum > callsAllowed+0.01 {
					t.Errorf("%g calls a rotation, more than %d", sum, callsAllowed)
				}
			})
		})
	}
}

// A fleet that asks all at once, as after an outage, is served at the quotas'
// pace: who must wait is told so, and nothing is refused for another reason.
func TestAFleetAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		devices := max(fleetSize(1000), 200)
		result := fleetRun{
			devices: devices, mode: certificate.Deactivate, share: 0.5, latency: 50 * time.Millisecond, atOnce: true,
			pace: Pace{PerMinute: 120, MaxInFlight: 500},
		}.run(t)
		t.Logf("%d devices in %s of AWS's time; refused: %v", devices, result.took.Round(time.Second), result.refused)
		later := result.refused[protocol.TryAgainLater]
		delete(result.refused, protocol.TryAgainLater)
		if later == 0 || len(result.refused) > 0 {
			t.Errorf("%d were told to come later, and these refused: %v", later, result.refused)
		}
	})
}

// depthOf returns how many calls to AWS follow one another from a get to its
// answer, from an ack to its answer, and behind that: those that overlap count
// once. Each call takes one unit of simulated time, and nothing else does.
func depthOf(t *testing.T, mode certificate.Mode) (get, ack, behind int) {
	const unit = 10 * time.Millisecond
	run := fleetRun{
		devices: 1, mode: mode, share: 1, latency: unit, rates: everything(1e6), atOnce: true, pace: Pace{PerMinute: 1, MaxInFlight: 1},
	}
	f := run.prepare(t)
	d := f.fit("thing-0001")
	if _, err := f.world.issuer.(*KeyIssuer).Signs(t.Context()); err != nil { // so that the CA is in the cache
		t.Fatal(err)
	}
	calls := func(do func()) int {
		began := time.Now()
		do()
		return int(time.Since(began) / unit)
	}
	var got fleetReply
	get = calls(func() { got = f.ask(d, d.old, protocol.Get, map[string]string{"csr": d.csr}) })
	ack = calls(func() { f.ask(d, got.CertificateID, protocol.Ack, map[string]string{}) })
	close(f.behind)
	behind = calls(f.settle)
	if len(f.refused) > 0 {
		t.Errorf("refused: %v", f.refused)
	}
	return get, ack, behind
}

// The calls that a device waits for, one after the other, of a thing that was
// never seen before; the CA's two are in the cache.
func TestDepthOfARotation(t *testing.T) {
	for _, mode := range []certificate.Mode{certificate.Keep, certificate.Deactivate, certificate.Delete} {
		t.Run(string(mode), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				get, ack, behind := depthOf(t, mode)
				t.Logf("get %d, ack %d, behind the answer %d", get, ack, behind)
				if get+ack > callsAllowed {
					t.Errorf("%d calls follow one another", get+ack)
				}
			})
		})
	}
}

// BenchmarkRotationsAtAWS prints what one rotation calls, how many of its calls
// follow one another, and how many rotations a second an account with AWS's
// documented quotas lets through, all in simulated time. The original makes 18
// to 20 calls, all one after the other.
func BenchmarkRotationsAtAWS(b *testing.B) {
	for _, share := range []float64{0.5, 1} {
		for _, mode := range []certificate.Mode{certificate.Keep, certificate.Deactivate} {
			b.Run(fmt.Sprintf("%s/share=%g", mode, share), func(b *testing.B) { benchmarkRotations(b, mode, share) })
		}
	}
}

func benchmarkRotations(b *testing.B, mode certificate.Mode, share float64) {
	var get, ack int
	var result fleetResult
	const devices = 300
	simulated(b, func(t *testing.T) { get, ack, _ = depthOf(t, mode) })
	b.ResetTimer()
	for b.Loop() {
		simulated(b, func(t *testing.T) {
			pace := Pace{PerMinute: int(share * slowest(mode) * 60), MaxInFlight: 500}
			result = fleetRun{devices: devices, mode: mode, share: share, latency: 50 * time.Millisecond, pace: pace}.run(t)
			if len(result.refused) > 0 {
				t.Errorf("refused: %v", result.refused)
			}
		})
	}
	var calls int64
	for api, n := range result.calls {
		if !ofTheJob[api] && !ofTheCA[api] {
			calls += n
		}
	}
	b.ReportMetric(float64(calls)/devices, "calls/rotation")
	b.ReportMetric(float64(get+ack), "depth")
	b.ReportMetric(devices/result.took.Seconds(), "rotations/s")
}

// slowest returns how many rotations a second AWS's defaults allow.
func slowest(mode certificate.Mode) float64 {
	least := math.Inf(1)
	for api, n := range callsOfRotation(WithCA, mode) {
		least = min(least, documented(api)/float64(n))
	}
	return least
}

// simulated runs do in simulated time, which is for tests alone.
func simulated(b *testing.B, do func(*testing.T)) {
	b.Helper()
	everyTest := func(string, string) (bool, error) { return true, nil }
	if !testing.RunTests(everyTest, []testing.InternalTest{{Name: b.Name(), F: func(t *testing.T) { synctest.Test(t, do) }}}) {
		b.Fatal("it has failed in simulated time")
	}
}
