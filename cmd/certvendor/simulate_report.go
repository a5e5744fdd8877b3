package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/certvendor/certvendor/internal/fleet"
)

// simulated is what `simulate --json` prints.
type simulated struct {
	Devices            int           `json:"devices"`
	Rotated            int           `json:"rotated"`
	Failed             int           `json:"failed"`
	Violations         int           `json:"violations"`
	Seconds            float64       `json:"seconds"`
	RotationsPerSecond float64       `json:"rotationsPerSecond"`
	Connect            fleet.Latency `json:"connect"`
	Get                fleet.Latency `json:"get"`
	Ack                fleet.Latency `json:"ack"`
	Again              int           `json:"again,omitempty"` // rotations after a device's first, of those that stayed
}

// simulateResult is how it went, in numbers and for people.
type simulateResult struct {
	simulated
	seed      uint64
	jobsFirst bool // their jobs waited for the devices
}

// sum counts the verdicts. A device rotates or fails; a violation is a failure
// that must never be.
func sum(report fleet.Report, verdicts []fleet.Verdict) simulateResult {
	result := simulateResult{simulated: simulated{Devices: len(verdicts), Seconds: round(report.Took.Seconds())}}
	for _, v := range verdicts {
		switch {
		case v.Violation != nil:
			result.Violations++
		case v.Rotated:
			result.Rotated++
		}
	}
	result.Failed = result.Devices - result.Rotated
	for _, r := range report.Results {
		result.Again += r.Again
	}
	if report.Took > 0 {
		result.RotationsPerSecond = round(float64(result.Rotated) / report.Took.Seconds())
	}
	latency := func(part func(fleet.Timing) time.Duration) fleet.Latency {
		l := report.Latency(part)
		return fleet.Latency{P50: round(l.P50), P95: round(l.P95), P99: round(l.P99)}
	}
	result.Connect = latency(func(t fleet.Timing) time.Duration { return t.Connect })
	result.Get = latency(func(t fleet.Timing) time.Duration { return t.Get })
	result.Ack = latency(func(t fleet.Timing) time.Duration { return t.Ack })
	return result
}

// words shows how it went to people.
func (r simulateResult) words(w io.Writer) {
	millis := func(m float64) string { return strconv.FormatFloat(m, 'f', 0, 64) }
	parts := []struct {
		name string
		fleet.Latency
	}{{"connect", r.Connect}, {"get", r.Get}, {"ack", r.Ack}}
	table(w, "PART P50_MS P95_MS P99_MS", parts, func(p struct {
		name string
		fleet.Latency
	}) []string {
		return []string{p.name, millis(p.P50), millis(p.P95), millis(p.P99)}
	})
	if r.Again > 0 {
		fmt.Fprintf(w, "\n%s more while they stayed", counted(r.Again, "rotation", "rotations"))
	}
	fmt.Fprintf(w, "\n%d of %d devices rotated in %.1f s, %.1f a second; %s; seed %d",
		r.Rotated, r.Devices, r.Seconds, r.RotationsPerSecond, counted(r.Violations, "violation", "violations"), r.seed)
	if r.jobsFirst {
		fmt.Fprint(w, "; their jobs waited for them")
	}
	fmt.Fprintln(w)
}

// toldFailures is of how many devices that did not rotate the timeline is
// printed: what fails a thousand devices fails each in the same way.
const toldFailures = 10

// tellAll prints each violation, and each device that did not rotate.
func (s *simulation) tellAll(ctx context.Context, verdicts []fleet.Verdict) {
	failures := 0
	for _, v := range verdicts {
		switch {
		case v.Violation != nil:
			fmt.Fprintf(s.errs, "VIOLATION %s: %s\n", v.Device, oneLine(v.Violation))
			if v.Why != nil {
				fmt.Fprintf(s.errs, "  the device says: %s\n", oneLine(v.Why))
			}
		case v.Rotated:
			continue
		default:
			fmt.Fprintf(s.errs, "NOT ROTATED %s: %s\n", v.Device, oneLine(v.Why))
			if failures++; failures > toldFailures {
				continue
			}
		}
		s.tell(ctx, v.Device)
	}
}

// tell prints all that the daemon recorded of a device.
func (s *simulation) tell(ctx context.Context, device string) {
	detail, err := s.daemon.Device(ctx, device)
	if err != nil {
		fmt.Fprintf(s.errs, "  its timeline cannot be read: %s\n", oneLine(err))
		return
	}
	for _, held := range detail.Certificates {
		fmt.Fprintf(s.errs, "  certificate %s %s, last seen %s\n", short(held.ID), held.Standing, when(held.LastSeen))
	}
	for _, e := range detail.Timeline {
		fmt.Fprintf(s.errs, "  %s %s %s %s\n", e.At.UTC().Format(time.RFC3339Nano), e.Kind, short(e.Certificate), pairs(e.Detail))
	}
}
