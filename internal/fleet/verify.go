package fleet

import (
	"context"
	"crypto/tls"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
)

// checkSuffix ends the client id of a check, so that it takes no device's
// place.
const checkSuffix = "/check"

// CanConnect returns nil if the broker takes the device with this certificate,
// by really connecting. Where it does, it counts as the device having used the
// certificate.
func CanConnect(ctx context.Context, t Target, name string, certificate tls.Certificate) error {
	s, err := Options{Target: t}.connect(ctx, name+checkSuffix, certificate)
	if err != nil {
		return err
	}
	s.close()
	return nil
}

// Violation is something that must never be.
type Violation struct {
	Device string
	Err    error
}

// Verify looks at how the devices ended: each must have a certificate that the
// broker takes, and, with Options.RefusedWithin, one that acked must be refused
// with its old one. It returns what is not so, by device.
func Verify(ctx context.Context, o Options, report Report) []Violation {
	found := make([]error, len(report.Results))
	var group errgroup.Group
	if o.Concurrency > 0 {
		group.SetLimit(o.Concurrency)
	}
	for i, r := range report.Results {
		group.Go(func() error {
			found[i] = o.verify(ctx, r)
			return nil
		})
	}
	_ = group.Wait() // no check returns an error
	var violations []Violation
	for i, err := range found {
		if err != nil {
			violations = append(violations, Violation{Device: report.Results[i].Device, Err: err})
		}
	}
	return violations
}

func (o Options) verify(ctx context.Context, r Result) error {
	if len(r.current.Certificate) == 0 {
		return r.Err // it never had one that could be read
	}
	if err := CanConnect(ctx, o.Target, r.Device, r.current); err != nil {
		return fmt.Errorf("no working certificate: %w", err)
	}
	if o.RefusedWithin <= 0 || !r.Rotated || !r.Acked {
		return nil
	}
	limit := time.Now().Add(o.RefusedWithin)
	for CanConnect(ctx, o.Target, r.Device, r.old) == nil {
		if time.Now().After(limit) {
			return fmt.Errorf("the old certificate still connects after %s", o.RefusedWithin)
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// Latency is what part of the devices waited no longer than so many
// milliseconds.
type Latency struct {
	P50 float64 `json:"p50Millis"`
	P95 float64 `json:"p95Millis"`
	P99 float64 `json:"p99Millis"`
}

// Latency returns the percentiles of one part of the rotations, over the
// devices where it happened.
func (r Report) Latency(part func(Timing) time.Duration) Latency {
	var times []time.Duration
	for _, result := range r.Results {
		if d := part(result.Timing); d > 0 {
			times = append(times, d)
		}
	}
	slices.Sort(times)
	return Latency{P50: percentile(times, 50), P95: percentile(times, 95), P99: percentile(times, 99)}
}

// percentile returns, in milliseconds, the smallest time that p percent of the
// sorted times do not exceed.
func percentile(times []time.Duration, p int) float64 {
	if len(times) == 0 {
		return 0
	}
	rank := (len(times)*p + 99) / 100
	return float64(times[rank-1]) / float64(time.Millisecond)
}
