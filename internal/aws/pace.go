package aws

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/rs/zerolog"

	"github.com/certvendor/certvendor/jobs"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

// Pace says how fast the group's members get their job. The rollout rate of a
// job of AWS IoT does not: it holds for the things that are in the group when
// the job is made, and these come later.
type Pace struct {
	PerMinute   int // 1 to 1,000,000
	MaxInFlight int // executions at work, see store.Jobs.InFlight; at least 1
}

// Rerun says how a thing gets the job again that it had before. AWS documents
// nowhere whether being added to the group again is enough after SUCCEEDED.
type Rerun string

// The reruns.
const (
	Readd           Rerun = "readd"            // out of the group and in again
	DeleteExecution Rerun = "delete-execution" // and what it had of the job is deleted in between
	JobPerCampaign  Rerun = "job-per-campaign" // it is given another job, see ownJobs
)

func (p Pace) validate(rerun Rerun) error {
	switch {
	case p.PerMinute < 1 || p.PerMinute > 1_000_000:
		return fmt.Errorf("rotation.per_minute: %d is not from 1 to 1000000", p.PerMinute)
	case p.MaxInFlight < 1:
		return fmt.Errorf("rotation.max_in_flight: %d is less than 1", p.MaxInFlight)
	case rerun != Readd && rerun != DeleteExecution && rerun != JobPerCampaign:
		return fmt.Errorf("aws.rerun: %q is none of %s, %s, %s", rerun, Readd, DeleteExecution, JobPerCampaign)
	}
	return nil
}

// Pacer adds the members of the rotation group to the thing group, evenly and
// never more than may be in flight, and asks AWS what has become of their jobs.
type Pacer struct {
	pace  Pace
	rerun Rerun
	jobs  *Jobs
	group *Group
	iot   *iot.Client
	// registry knows the things that others have added.
	registry *Registry
	now      func() time.Time
	log      zerolog.Logger
	poked    chan struct{}
	ended    chan Ended

	allowance float64 // how many may be added now
	counted   time.Time
	owed      map[registry.DeviceID]time.Time // those whose adding has failed, and when it is tried again
	looked    time.Time                       // at the executions
	gone      error                           // what was taken away at AWS, and was told; see jobs_gone.go
	restored  time.Time                       // when the store was, or the zero time
	listed    time.Time                       // the thing group
}

const (
	// lookEvery is how often AWS is asked what has become of the executions.
	lookEvery = time.Minute
	// listEvery is how often the thing group is read, for things that others
	// have added.
	listEvery = 10 * time.Minute
	// restMost and restLeast bound the pause between two rounds.
	restMost  = time.Minute
	restLeast = 100 * time.Millisecond
	errorRest = 5 * time.Second
	// atATime is how many are added in one round.
	atATime = 100
	// crowdedRest is how long nothing is tried for a thing that can join no
	// group.
	crowdedRest = 10 * time.Minute
	// doneLately is how long after its rotation a thing that is found in the
	// group is taken for one that is about to leave it.
	doneLately = time.Hour
)

func newPacer(w *World, c Config) *Pacer {
	return &Pacer{
		pace: c.Pace, rerun: c.Rerun, jobs: w.jobs, group: w.group, iot: c.Clients.IoT, registry: w.registry, now: c.Now, log: c.Log,
		poked: make(chan struct{}, 1), ended: make(chan Ended, endedKept), owed: map[registry.DeviceID]time.Time{},
		restored: w.restored.At,
	}
}

// rotatedSince reports whether a device has acked, or finished a rotation, since
// a time. What bears a time that is yet to come was before, by a clock that ran ahead.
func (w *World) rotatedSince(ctx context.Context, id registry.DeviceID, since time.Time) (bool, error) {
	history, err := w.store.Journal().Find(ctx, id)
	now := w.config.Now()
	is := func(at time.Time) bool { return at.After(since) && !at.After(now) }
	return slices.ContainsFunc(history.Rotations, func(r rotation.Rotation) bool {
		return is(r.AckedAt) || r.State == rotation.Finished && is(r.ClosedAt)
	}), err
}

// poke makes Run look at once. It never blocks.
func (p *Pacer) poke() {
	select {
	case p.poked <- struct{}{}:
	default: // it will look anyway
	}
}

// Run works until ctx ends. It is called once. What fails is logged and tried
// again.
func (p *Pacer) Run(ctx context.Context) {
	p.counted, p.allowance = p.now(), p.burst()
	rest := time.NewTimer(0)
	defer rest.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.poked:
		case e := <-p.ended:
			p.followUp(ctx, e)
		case <-rest.C:
		}
		wait, err := p.round(ctx)
		if err != nil && ctx.Err() == nil {
			p.log.Warn().Err(err).Msg("the rotation group is left for later")
			wait = errorRest
		}
		rest.Reset(wait)
	}
}

// round does what is due, and returns how long to rest.
func (p *Pacer) round(ctx context.Context) (time.Duration, error) {
	if p.gone != nil {
		if back, err := p.isBack(ctx); err != nil || !back {
			return restMost, err
		}
	}
	wait, err := p.work(ctx)
	if errors.Is(err, errGone) {
		p.tell(err)
		return restMost, nil
	}
	return wait, err
}

// work is a round while all is there.
func (p *Pacer) work(ctx context.Context) (time.Duration, error) {
	now := p.now()
	var errs []error
	if now.Sub(p.looked).Abs() >= lookEvery {
		p.looked = now
		if err := p.reconcile(ctx); errors.Is(err, errGone) {
			return 0, err
		} else if err != nil {
			errs = append(errs, err)
		}
	}
	if now.Sub(p.listed).Abs() >= listEvery {
		p.listed = now
		errs = append(errs, p.notice(ctx))
	}
	full, err := p.admit(ctx)
	if err := errors.Join(append(errs, err)...); err != nil {
		return 0, err
	}
	if !full {
		return restMost, nil
	}
	missing := max(1-p.allowance, 0)
	return max(time.Duration(missing/float64(p.pace.PerMinute)*float64(time.Minute)), restLeast), nil
}

// burst is how many may come at once after a pause: a second's worth.
func (p *Pacer) burst() float64 { return max(float64(p.pace.PerMinute)/60, 1) }

// admit adds members whose turn it is, and reports whether more may wait.
func (p *Pacer) admit(ctx context.Context) (more bool, err error) {
	now := p.now()
	p.allowance = min(p.allowance+max(now.Sub(p.counted).Minutes(), 0)*float64(p.pace.PerMinute), p.burst())
	p.counted = now
	var errs []error
	for device, at := range p.owed {
		if !now.Before(at) {
			errs = append(errs, p.give(ctx, device))
		}
	}
	inFlight, err := p.jobs.InFlight(ctx)
	if err != nil {
		return false, err
	}
	n := min(int(p.allowance), p.pace.MaxInFlight-inFlight, atATime)
	if n < 1 {
		return p.allowance < 1, errors.Join(errs...)
	}
	devices, err := p.jobs.Release(ctx, n)
	if err != nil {
		return false, err
	}
	p.allowance -= float64(len(devices))
	for _, device := range devices {
		errs = append(errs, p.give(ctx, device))
	}
	return len(devices) == n, errors.Join(errs...)
}

// give adds a thing to the thing group, and has one that had the job before get
// it again. What fails is owed.
func (p *Pacer) give(ctx context.Context, device registry.DeviceID) error {
	p.owed[device] = p.now()
	member, err := p.group.Has(ctx, device)
	if err != nil {
		return err
	}
	if member { // it may have left meanwhile
		group, err := p.again(ctx, device)
		if err != nil {
			return err
		}
		switch err := p.group.joinTo(ctx, device, group); {
		case errors.Is(err, errCrowded): // a person has to do something
			p.owed[device] = p.now().Add(crowdedRest)
			p.log.Warn().Str("device", string(device)).Err(err).Msg("it gets no job")
			return nil
		case err != nil && !isNotFound(err):
			return err
		}
	}
	delete(p.owed, device)
	return nil
}

// again prepares a thing that had the job before, and returns the thing group
// that it is to join.
func (p *Pacer) again(ctx context.Context, device registry.DeviceID) (group string, err error) {
	newest, some, err := p.jobs.Newest(ctx, device)
	switch {
	case err == nil && some && p.rerun == JobPerCampaign:
		return p.jobs.own.prepare(ctx, newest)
	case err != nil || !some || newest.Number <= 1:
		return p.group.name, err
	}
	if err := p.group.take(ctx, device); err != nil || p.rerun != DeleteExecution {
		return p.group.name, err
	}
	return p.group.name, p.forget(ctx, device, newest)
}

// forget deletes what AWS has of the job on a thing.
func (p *Pacer) forget(ctx context.Context, device registry.DeviceID, newest jobs.Execution) error {
	remote, err := p.jobs.remoteID(ctx, newest.JobID)
	if err != nil {
		return err
	}
	there, err := p.describe(ctx, device, remote)
	if err != nil || there == nil || there.ExecutionNumber == nil {
		return err
	}
	_, err = p.iot.DeleteJobExecution(ctx, &iot.DeleteJobExecutionInput{
		JobId: &remote, ThingName: new(string(device)), ExecutionNumber: there.ExecutionNumber, Force: true,
	})
	if err = unlessGone(err); err != nil {
		return fmt.Errorf("delete execution %d of job %s on thing %s: %w", *there.ExecutionNumber, remote, device, err)
	}
	return nil
}

// notice looks for things that others have added to the thing group: they are
// members like any other. Those that have just rotated are on their way out.
func (p *Pacer) notice(ctx context.Context) error {
	return p.group.things(ctx, func(things []string) error {
		var errs []error
		for _, thing := range things {
			if device, err := registry.ParseDeviceID(thing); err == nil {
				errs = append(errs, p.meet(ctx, device))
			}
		}
		return errors.Join(errs...)
	})
}

func (p *Pacer) meet(ctx context.Context, device registry.DeviceID) error {
	known, err := p.group.Has(ctx, device)
	if err != nil || known {
		return err
	}
	done, err := p.group.rotated(ctx, device, p.now().Add(-doneLately))
	switch {
	case err != nil:
		return err
	case done:
		return p.group.takeFrom(ctx, device, p.group.name)
	}
	// Its row in the store is what lets it have its turn.
	switch _, err := p.registry.Device(ctx, device); {
	case errors.Is(err, registry.ErrUnknown):
		return nil // it would be refused whatever it asks
	case err != nil:
		return err
	}
	return p.group.Group.Add(ctx, device)
}
