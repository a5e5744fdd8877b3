// Package load asks in a closed loop: so many at a time, each the next as soon
// as it has its answer.
package load

import (
	"errors"
	"slices"
	"sync"
	"time"
)

// ErrNoMore ends a loop early: what was prepared is used up.
var ErrNoMore = errors.New("no request is left")

// Result is what came of a loop.
type Result struct {
	Took      time.Duration
	Latencies []time.Duration // sorted
}

// Rate returns requests per second.
func (r Result) Rate() float64 { return float64(len(r.Latencies)) / r.Took.Seconds() }

// Percentile returns the latency that p of 100 requests stay within.
func (r Result) Percentile(p float64) time.Duration {
	if len(r.Latencies) == 0 {
		return 0
	}
	return r.Latencies[min(len(r.Latencies)-1, int(float64(len(r.Latencies))*p/100))]
}

// Loop calls ask from so many workers for so long, and waits for those at work.
// An error ends it, and is returned.
func Loop(workers int, lasts time.Duration, ask func(worker int) error) (Result, error) {
	took := make([][]time.Duration, workers)
	errs := make([]error, workers)
	start := time.Now()
	var working sync.WaitGroup
	for w := range workers {
		working.Go(func() {
			for began := time.Now(); began.Sub(start) < lasts; {
				if errs[w] = ask(w); errs[w] != nil {
					return
				}
				now := time.Now()
				took[w] = append(took[w], now.Sub(began))
				began = now
			}
		})
	}
	working.Wait()
	r := Result{Took: time.Since(start)}
	for w, err := range errs {
		if err != nil && !errors.Is(err, ErrNoMore) {
			return r, err
		}
		r.Latencies = append(r.Latencies, took[w]...)
	}
	slices.Sort(r.Latencies)
	return r, nil
}

// Median returns the middle of some numbers, 0 of none.
func Median(numbers []float64) float64 {
	if len(numbers) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(numbers))
	if n := len(sorted); n%2 == 0 {
		return (sorted[n/2-1] + sorted[n/2]) / 2
	}
	return sorted[len(sorted)/2]
}
