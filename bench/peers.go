package main

import (
	"context"
	"path/filepath"
	"time"

	"github.com/certvendor/certvendor/bench/machine"
	"github.com/certvendor/certvendor/bench/system"
)

// plan is how much is measured.
type plan struct {
	rounds, rsaRounds int
	levels            []int
	lasts             time.Duration
	peers             bool // built where they are missing
}

// most is the level that the targets are for.
const most = 64

// The two plans. The short one is for the gate.
var (
	wholePlan = plan{rounds: 5, rsaRounds: 3, levels: []int{1, 16, most}, lasts: 2 * time.Second, peers: true}
	shortPlan = plan{rounds: 1, levels: []int{1, most}, lasts: time.Second}
)

// fleet is one CA with every system that signs with it.
type fleet struct {
	certvendor *system.Certvendor
	systems    []system.System
}

// close ends every process.
func (f *fleet) close() {
	for _, s := range f.systems {
		_ = s.Close() // their directories are removed
	}
}

// startAll starts certvendor and what peers there are, with one CA.
func startAll(ctx context.Context, dir string, p programs, ca *system.CA) (*fleet, error) {
	f := &fleet{}
	var err error
	if f.certvendor, err = system.StartCertvendor(ctx, filepath.Join(dir, "certvendor"), p.certvendor, ca); err != nil {
		return f, err
	}
	f.systems = append(f.systems, f.certvendor)
	ceiling, err := system.NewCeiling(ca)
	if err != nil {
		return f, err
	}
	f.systems = append(f.systems, ceiling)
	if p.stepCA != "" {
		step, err := system.StartStepCA(filepath.Join(dir, "step-ca"), p.stepCA, ca)
		if err != nil {
			return f, err
		}
		f.systems = append(f.systems, step, system.StepRenew{StepCA: step})
	}
	if p.cfssl != "" {
		c, err := system.StartCFSSL(filepath.Join(dir, "cfssl"), p.cfssl, ca)
		if err != nil {
			return f, err
		}
		f.systems = append(f.systems, c)
	}
	if p.pem != "" {
		pem, err := system.StartPEM(filepath.Join(dir, "pem"), p.pem, ca)
		if err != nil {
			return f, err
		}
		f.systems = append(f.systems, pem)
	}
	return f, nil
}

// report is what a run has found.
type report struct {
	plan
	began     time.Time
	took      time.Duration
	load      string // before the run
	version   string // of certvendor's sources
	p256, rsa rounds
	peak      map[string]int // most resident memory of each system's processes
	survivors int            // certificates found after SIGKILL
}

// measureAll is a whole run.
func measureAll(ctx context.Context, here, work string, short bool) (*report, error) {
	r := &report{plan: wholePlan, began: time.Now(), load: machine.Load(), version: describe(ctx, here)}
	if short {
		r.plan = shortPlan
	}
	p, err := build(ctx, here, r.peers)
	if err != nil {
		return nil, err
	}
	if err := r.signing(ctx, filepath.Join(work, "p256"), p); err != nil {
		return nil, err
	}
	if r.rsaRounds > 0 {
		if err := r.signingRSA(ctx, filepath.Join(work, "rsa"), p); err != nil {
			return nil, err
		}
	}
	r.took = time.Since(r.began)
	return r, nil
}

// signing measures with a P-256 CA: rounds over every system and level, then
// the end by SIGKILL.
func (r *report) signing(ctx context.Context, dir string, p programs) error {
	ca, err := system.MakeCA(filepath.Join(dir, "ca"), system.P256)
	if err != nil {
		return err
	}
	f, err := startAll(ctx, dir, p, ca)
	defer f.close()
	if err != nil {
		return err
	}
	for range r.rounds {
		if err := r.p256.round(f.systems, r.levels, r.lasts); err != nil {
			return err
		}
	}
	if r.peak, err = peaks(f); err != nil {
		return err
	}
	r.survivors, err = f.certvendor.Survived(ctx)
	return err
}

// signingRSA measures with an RSA-2048 CA, at 64 at a time.
func (r *report) signingRSA(ctx context.Context, dir string, p programs) error {
	ca, err := system.MakeCA(filepath.Join(dir, "ca"), system.RSA2048)
	if err != nil {
		return err
	}
	p.pem = "" // what it takes does not depend on the key
	f, err := startAll(ctx, dir, p, ca)
	defer f.close()
	if err != nil {
		return err
	}
	for range r.rsaRounds {
		if err := r.rsa.round(f.systems, []int{most}, r.lasts); err != nil {
			return err
		}
	}
	n, err := f.certvendor.Survived(ctx)
	r.survivors += n
	return err
}

func peaks(f *fleet) (map[string]int, error) {
	peak := map[string]int{}
	for _, s := range f.systems {
		for _, pid := range s.PIDs() {
			n, err := machine.Peak(pid)
			if err != nil {
				return nil, err
			}
			peak[s.Name()] += n
		}
	}
	return peak, nil
}
