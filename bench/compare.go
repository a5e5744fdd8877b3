package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/certvendor/certvendor/bench/load"
	"github.com/certvendor/certvendor/bench/machine"
	"github.com/certvendor/certvendor/bench/system"
)

// compare measures another certvendor beside this one, in turns in one run, and
// prints the CPU time of each for a certificate, and how long half of the answers
// took at most. The first is what a change costs or saves; the second says more of
// the machine, unless it is one request at a time and the machine is quiet.
func compare(ctx context.Context, here, work string, args []string) error {
	flags := flag.NewFlagSet("bench compare", flag.ContinueOnError)
	against := flags.String("against", "", "the other program")
	gogc := flags.String("gogc", "", "instead, this program again, with this GOGC")
	rounds := flags.Int("rounds", 4, "how many times each is asked")
	workers := flags.Int("workers", most, "how many requests at a time")
	lasts := flags.Duration("lasts", 2*time.Second, "how long each time")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if (*against == "") == (*gogc == "") {
		return errors.New("bench compare: give either --against or --gogc")
	}
	p, err := build(ctx, here, false)
	if err != nil {
		return err
	}
	ca, err := system.MakeCA(filepath.Join(work, "ca"), system.P256)
	if err != nil {
		return err
	}
	this, err := system.StartCertvendor(ctx, filepath.Join(work, "this"), p.certvendor, ca)
	if err != nil {
		return err
	}
	defer this.Close()
	program := p.certvendor
	if *against != "" {
		if program, err = filepath.Abs(*against); err != nil {
			return err
		}
	} else if err := os.Setenv("GOGC", *gogc); err != nil {
		return err
	}
	other, err := system.StartCertvendor(ctx, filepath.Join(work, "other"), program, ca)
	if err != nil {
		return err
	}
	defer other.Close()
	return inTurns([2]*system.Certvendor{this, other}, *rounds, *workers, *lasts)
}

// inTurns asks both so many times, each first as often as the other.
func inTurns(both [2]*system.Certvendor, rounds, workers int, lasts time.Duration) error {
	var spent, took ratios
	for round := range rounds {
		var now [2]sample
		for i := range both {
			of := (i + round) % 2
			var err error
			if now[of], err = measure(both[of], workers, lasts); err != nil {
				return err
			}
		}
		fmt.Printf("round %d: %4.0f µs a certificate, the other %4.0f µs: %.2f times; p50 %5.2f ms and %5.2f ms: %.2f times\n", round+1,
			cpu(now[0]), cpu(now[1]), spent.add(cpu(now[0]), cpu(now[1])), p50(now[0]), p50(now[1]), took.add(p50(now[0]), p50(now[1])))
	}
	fmt.Printf("median:  %4.0f µs a certificate, the other %4.0f µs: %.2f times; p50 %5.2f ms and %5.2f ms: %.2f times (load %s)\n",
		load.Median(spent.this), load.Median(spent.other), load.Median(spent.of),
		load.Median(took.this), load.Median(took.other), load.Median(took.of), machine.Load())
	for i, name := range []string{"this", "the other"} {
		peak, err := machine.Peak(both[i].PIDs()[0])
		if err != nil {
			return err
		}
		fmt.Printf("peak of %s: %d MiB\n", name, peak>>20)
	}
	return nil
}

// ratios are what was measured of both, round by round.
type ratios struct{ this, other, of []float64 }

func (r *ratios) add(this, other float64) (ratio float64) {
	r.this, r.other, r.of = append(r.this, this), append(r.other, other), append(r.of, this/other)
	return this / other
}
