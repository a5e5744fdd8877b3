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
	figures := []*figure{
		{name: "µs of CPU a certificate", of: cpu},
		{name: "certificates/s", of: rate},
		{name: "p50 ms", of: p50},
		{name: "p99 ms", of: p99},
	}
	for round := range rounds {
		var now [2]sample
		for i := range both {
			of := (i + round) % 2
			var err error
			if now[of], err = measure(both[of], workers, lasts); err != nil {
				return err
			}
		}
		fmt.Printf("round %d:", round+1)
		for _, f := range figures {
			f.add(now)
			fmt.Print(" ", f.line(func(all []float64) float64 { return all[len(all)-1] }))
		}
		fmt.Println()
	}
	fmt.Print("median:")
	for _, f := range figures {
		fmt.Print(" ", f.line(load.Median))
	}
	fmt.Printf(" (load %s)\n", machine.Load())
	for i, name := range []string{"this", "the other"} {
		peak, err := machine.Peak(both[i].PIDs()[0])
		if err != nil {
			return err
		}
		fmt.Printf("peak of %s: %d MiB\n", name, peak>>20)
	}
	return nil
}

// figure is one thing that is measured of both, round by round.
type figure struct {
	name string
	of   func(sample) float64

	this, other, ratio []float64
}

func (f *figure) add(both [2]sample) {
	this, other := f.of(both[0]), f.of(both[1])
	f.this, f.other, f.ratio = append(f.this, this), append(f.other, other), append(f.ratio, this/other)
}

// line returns this, the other and their ratio, by which of the rounds, or what of
// all of them.
func (f *figure) line(by func([]float64) float64) string {
	return fmt.Sprintf("%s %.1f and %.1f: %.2f;", f.name, by(f.this), by(f.other), by(f.ratio))
}
