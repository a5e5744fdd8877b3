package main

import (
	"fmt"
	"os"
	"time"

	"github.com/certvendor/certvendor/bench/load"
	"github.com/certvendor/certvendor/bench/machine"
	"github.com/certvendor/certvendor/bench/system"
)

// sample is one system, asked in one way, in one round.
type sample struct {
	load.Result
	machine.Spent
}

// perCertificate returns the CPU time of the system's own processes.
func (s sample) perCertificate() time.Duration {
	return s.Processes / time.Duration(max(1, len(s.Latencies)))
}

// loadPerCertificate returns the CPU time of this process, which asks.
func (s sample) loadPerCertificate() time.Duration {
	return s.Self / time.Duration(max(1, len(s.Latencies)))
}

// kind is what is comparable from round to round.
type kind struct {
	system  string
	workers int
}

// rounds are all that was measured, one map for each round.
type rounds struct {
	samples   []map[kind]sample
	disturbed int // measurements that were dropped
}

// quiet is how long is waited for a quiet machine before each measurement.
const quiet = 3 * time.Second

// measure has a system asked once, and verifies every answer.
func measure(s system.System, workers int, lasts time.Duration) (sample, error) {
	run, check, err := s.Prepare(workers, lasts)
	if err != nil {
		return sample{}, fmt.Errorf("%s: %w", s.Name(), err)
	}
	if err := machine.AwaitQuiet(quiet); err != nil {
		return sample{}, err
	}
	before, err := machine.Read(s.PIDs())
	if err != nil {
		return sample{}, err
	}
	result, err := run()
	if err != nil {
		return sample{}, fmt.Errorf("%s: %w", s.Name(), err)
	}
	after, err := machine.Read(s.PIDs())
	if err != nil {
		return sample{}, err
	}
	if err := check(); err != nil {
		return sample{}, fmt.Errorf("%s: an answer that is not right: %w", s.Name(), err)
	}
	return sample{result, after.Since(before)}, nil
}

// round has every system asked once at each level, beginning with another one
// each time. What was disturbed is measured once more, and dropped if it is
// disturbed again.
func (r *rounds) round(systems []system.System, levels []int, lasts time.Duration) error {
	got := map[kind]sample{}
	n := len(r.samples)
	for _, workers := range levels {
		for i := range systems {
			s := systems[(i+n)%len(systems)]
			made, err := r.undisturbed(s, workers, lasts)
			if err != nil {
				return err
			}
			if made != nil {
				got[kind{s.Name(), workers}] = *made
			}
		}
	}
	r.samples = append(r.samples, got)
	return nil
}

func (r *rounds) undisturbed(s system.System, workers int, lasts time.Duration) (*sample, error) {
	for range 2 {
		made, err := measure(s, workers, lasts)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(os.Stderr, "bench: %-14s %2d at a time: %6.0f/s, p50 %s, p99 %s, %s a certificate, the load %s, other %.0f %%, steal %.0f %%\n",
			s.Name(), workers, made.Rate(), made.Percentile(50).Round(10*time.Microsecond), made.Percentile(99).Round(10*time.Microsecond),
			made.perCertificate().Round(time.Microsecond), made.loadPerCertificate().Round(time.Microsecond), 100*made.Other, 100*made.StealRate)
		if !made.Disturbed() {
			return &made, nil
		}
		r.disturbed++
	}
	return nil, nil
}

// count returns in how many rounds something was measured undisturbed.
func (r *rounds) count(of kind) int {
	n := 0
	for _, round := range r.samples {
		if _, ok := round[of]; ok {
			n++
		}
	}
	return n
}

// median returns the median over the rounds of what is read from a sample; 0
// where there is none.
func (r *rounds) median(of kind, read func(sample) float64) float64 {
	var all []float64
	for _, round := range r.samples {
		if s, ok := round[of]; ok {
			all = append(all, read(s))
		}
	}
	return load.Median(all)
}

// ratio returns the median over the rounds of one sample's number over the
// other's in the same round, and in how many rounds there were both.
func (r *rounds) ratio(of, to kind, read func(sample) float64) (median float64, in int) {
	var all []float64
	for _, round := range r.samples {
		a, ok := round[of]
		b, also := round[to]
		if ok && also && read(b) > 0 {
			all = append(all, read(a)/read(b))
		}
	}
	return load.Median(all), len(all)
}

// What is read from a sample.
func rate(s sample) float64 { return s.Rate() }
func p50(s sample) float64  { return s.Percentile(50).Seconds() * 1000 }
func p95(s sample) float64  { return s.Percentile(95).Seconds() * 1000 }
func p99(s sample) float64  { return s.Percentile(99).Seconds() * 1000 }
func cpu(s sample) float64  { return float64(s.perCertificate().Microseconds()) }
func self(s sample) float64 { return float64(s.loadPerCertificate().Microseconds()) }
