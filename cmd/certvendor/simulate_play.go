package main

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"math"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/device"
	"github.com/certvendor/certvendor/internal/control"
	"github.com/certvendor/certvendor/internal/fleet"
)

// simulation plays a fleet against a daemon that runs. What it shares with the
// demo is how devices are made.
type simulation struct {
	demo
	flags   simulateFlags
	plans   []fleet.Plan
	options fleet.Options
}

// The simulated firmware's pace: scaled, so that what takes a real device
// minutes takes it a second.
var simulatedRetry = device.Retry{Base: 50 * time.Millisecond, Max: time.Second, Reply: 15 * time.Second}

// run makes the devices, lets them rotate, judges how they ended and removes
// them.
func (s *simulation) run(ctx context.Context) (result simulateResult, err error) {
	dir, err := s.makeDisks()
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, s.leave(dir)) }()
	if err := s.prepare(ctx, dir); err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, s.remove(ctx)) }()
	if err := s.enter(ctx); err != nil {
		return result, err
	}
	if s.flags.jobsFirst {
		if err := s.assign(ctx, assignPatience); err != nil {
			return result, err
		}
	}
	report, err := s.play(ctx)
	if err != nil {
		return result, err
	}
	if s.flags.stay > 0 { // an interrupt is how those who watch end it
		ctx = context.WithoutCancel(ctx)
	}
	verdicts, err := s.judge(ctx, report)
	if err != nil {
		return result, err
	}
	result = sum(report, verdicts)
	result.seed, result.jobsFirst = s.flags.seed, s.flags.jobsFirst
	s.tellAll(ctx, verdicts)
	return result, nil
}

// leave removes the devices' disks, unless somebody wants them.
func (s *simulation) leave(dir string) error {
	if s.flags.keep {
		fmt.Fprintln(s.errs, "certvendor: the devices' disks are kept in "+dir)
		return nil
	}
	return os.RemoveAll(dir)
}

// prepare asks the daemon what a fleet has to know, and names the devices.
func (s *simulation) prepare(ctx context.Context, dir string) error {
	pem, err := s.daemon.Roots(ctx)
	if err != nil {
		return err
	}
	if pem == "" {
		return errors.New("the daemon has no broker of its own: simulated devices connect to that of backend standalone only")
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(pem)) {
		return errors.New("the daemon's roots are not readable")
	}
	s.options.Roots, s.options.Directory, s.options.Retry = roots, dir, simulatedRetry
	s.options.Concurrency, s.options.Operator = s.flags.concurrency, operator{s.daemon}
	s.options.Stay = s.flags.stay
	if s.flags.await {
		s.options.Operator = awaiting{operator{s.daemon}}
	}
	run := strings.ToLower(rand.Text()[:6])
	for i := range s.flags.devices {
		s.options.Devices = append(s.options.Devices, fleet.Device{
			Name: fmt.Sprintf("sim-%s-%05d", run, i+1), Firmware: fleet.Firmware(s.flags.firmware), Flow: device.ByCSR,
			Plan: &s.plans[i], InstallDelay: s.flags.installDelay,
		})
	}
	return nil
}

// enter gives every device its first certificate, and its disk.
func (s *simulation) enter(ctx context.Context) error {
	return s.forEach(ctx, "add", func(ctx context.Context, i int) (err error) {
		if s.options.Devices[i], err = s.make(ctx, s.options.Devices[i]); err != nil {
			return err
		}
		return s.options.Provision(s.options.Devices[i])
	})
}

// How often assign looks, and after how long without one more job it gives up.
const (
	assignLook     = 100 * time.Millisecond
	assignPatience = 10 * time.Second
)

// assign puts all devices into the rotation group, and returns when no more wait
// for a job than did before, or an error if none is given one for so long.
func (s *simulation) assign(ctx context.Context, patience time.Duration) error {
	before, err := s.daemon.Status(ctx)
	if err != nil {
		return err
	}
	if err := s.join(ctx, s.options.Devices); err != nil {
		return err
	}
	for i := range s.options.Devices {
		s.options.Devices[i].Joined = true
	}
	least, moved := math.MaxInt, time.Now()
	for {
		status, err := s.daemon.Status(ctx)
		switch {
		case err != nil:
			return err
		case status.Waiting <= before.Waiting:
			return nil
		case status.Waiting < least:
			least, moved = status.Waiting, time.Now()
		case time.Since(moved) > patience:
			return fmt.Errorf("--jobs-first: %d devices wait for their job, and none was given one for %s: raise rotation.max_in_flight and rotation.per_minute, or leave it out",
				least, patience)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(assignLook):
		}
	}
}

// forEach does something to every device at the control socket, some at a
// time, until one fails.
func (s *simulation) forEach(ctx context.Context, what string, do func(ctx context.Context, i int) error) error {
	bar := s.counter(what)
	defer bar.clear()
	working, ctx := errgroup.WithContext(ctx)
	working.SetLimit(addedAtOnce)
	for i := range s.options.Devices {
		working.Go(func() error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			defer bar.step()
			return do(ctx, i)
		})
	}
	return working.Wait()
}

// play lets the devices rotate, no longer than the daemon's pace needs.
func (s *simulation) play(ctx context.Context) (fleet.Report, error) {
	limit := s.flags.timeout
	if limit == 0 {
		status, err := s.daemon.Status(ctx)
		if err != nil {
			return fleet.Report{}, err
		}
		waiting := status.Waiting + s.flags.devices
		rounds := (s.flags.devices + s.flags.concurrency - 1) / s.flags.concurrency
		limit = 10*time.Minute + 2*time.Minute*time.Duration(waiting/max(status.PerMinute, 1)) +
			time.Duration(s.flags.devices)*time.Second/4 + time.Duration(rounds)*(s.flags.installDelay+10*time.Second)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	bar := s.counter("rotate")
	defer bar.clear()
	s.options.Done = func(fleet.Result) { bar.step() }
	return fleet.Run(ctx, s.options)
}

func (s *simulation) judge(ctx context.Context, report fleet.Report) ([]fleet.Verdict, error) {
	bar := s.counter("check")
	defer bar.clear()
	s.options.Done = func(fleet.Result) { bar.step() }
	return fleet.Judge(ctx, s.options, report)
}

// removeWithin bounds the removal of the devices, also of a simulation that was
// stopped.
const removeWithin = 5 * time.Minute

// remove takes the devices out of the registry again, as many as were entered.
func (s *simulation) remove(ctx context.Context) error {
	if s.flags.keep {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeWithin)
	defer cancel()
	return s.forEach(ctx, "remove", func(ctx context.Context, i int) error {
		d := s.options.Devices[i]
		if len(d.Certificate) == 0 {
			return nil
		}
		_, err := s.daemon.RemoveDevice(ctx, d.Name)
		return err
	})
}

// counter is a progress bar that many may move.
type counter struct {
	mu  sync.Mutex
	bar *progress
}

func (s *simulation) counter(what string) *counter {
	return &counter{bar: newProgress(s.errs, what, len(s.options.Devices))}
}

func (c *counter) step() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bar.step()
}

func (c *counter) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bar.clear()
}

// operator is a fleet.Operator.
type operator struct{ daemon *control.Client }

func (o operator) Join(ctx context.Context, device string) error {
	var refused error
	err := o.daemon.Join(ctx, []string{device}, func(outcome control.Outcome) {
		if outcome.Error != "" {
			refused = errors.New(outcome.Error)
		}
	})
	return errors.Join(err, refused)
}

func (o operator) Account(ctx context.Context, device string) (fleet.Account, error) {
	account := fleet.Account{Holds: map[certificate.ID]certificate.Standing{}}
	detail, err := o.daemon.Device(ctx, device)
	if err != nil {
		return account, err
	}
	for _, held := range detail.Certificates {
		account.Holds[held.ID] = held.Standing
	}
	for _, r := range detail.Rotations {
		if r.Certificate != "" {
			account.Vends = append(account.Vends, fleet.Vend{Certificate: r.Certificate, State: r.State})
		}
	}
	return account, nil
}

func (o operator) Sweep(ctx context.Context) error {
	_, err := o.daemon.Sweep(ctx, false)
	return err
}

// awaiting is the operator of devices that are given their job by somebody
// else.
type awaiting struct{ operator }

func (awaiting) Join(context.Context, string) error { return nil }
