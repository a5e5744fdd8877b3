package standalone

import (
	"context"
	"fmt"
	"time"

	"github.com/rs/zerolog"

	"github.com/certvendor/certvendor/registry"
)

// PaceStore is what a Pacer moves. Methods are safe for concurrent use.
type PaceStore interface {
	// Waits reports whether Release would give a member its execution, if the
	// job goes on.
	Waits(context.Context) (bool, error)
	// Release queues an execution for at most so many of the members that
	// wait for one, those that wait longest first, and returns their devices.
	Release(ctx context.Context, limit int) ([]registry.DeviceID, error)
	// InFlight returns how many executions are at work: what was queued a while
	// ago and not begun is a device's that sleeps.
	InFlight(context.Context) (int, error)
	// TimeOut ends executions that have been in progress since before that
	// time, and returns their devices: some at a time, in the end none.
	TimeOut(ctx context.Context, startedBefore time.Time) ([]registry.DeviceID, error)
}

// PacerConfig is what a Pacer needs.
type PacerConfig struct {
	Store             PaceStore
	Jobs              *Jobs         // tells the devices
	PerMinute         int           // how many members get their execution, 1 to 1,000,000
	MaxInFlight       int           // executions at work, see InFlight; at least 1
	InProgressTimeout time.Duration // zero: an execution may be in progress for ever
	Now               func() time.Time
	Log               zerolog.Logger
}

// maxPerMinute is the fastest pace that can be asked for.
const maxPerMinute = 1_000_000

// atATime is how many are released in one commit, on which others wait.
const atATime = 1000

// How long a Pacer rests: at least, so that it takes many at a time where the
// pace is fast; at most, where there is nothing to do; after an error.
const (
	shortestRest = 50 * time.Millisecond
	longestRest  = time.Minute
	errorRest    = 5 * time.Second
)

// Pacer gives the members of the rotation group their execution, evenly, and
// never more than may be in flight; it also ends those that take too long.
type Pacer struct {
	config PacerConfig
	poke   chan struct{}

	allowance float64 // how many members may be released now
	counted   time.Time
	looked    time.Time // for executions that took too long
}

// NewPacer returns a pacer, or says which part of the configuration cannot
// work.
func NewPacer(config PacerConfig) (*Pacer, error) {
	switch {
	case config.PerMinute < 1 || config.PerMinute > maxPerMinute:
		return nil, fmt.Errorf("rotation.per_minute: %d is not from 1 to %d", config.PerMinute, maxPerMinute)
	case config.MaxInFlight < 1:
		return nil, fmt.Errorf("rotation.max_in_flight: %d is less than 1", config.MaxInFlight)
	case config.InProgressTimeout < 0:
		return nil, fmt.Errorf("job.in_progress_timeout: %s is negative", config.InProgressTimeout)
	}
	return &Pacer{config: config, poke: make(chan struct{}, 1)}, nil
}

// Poke makes Run look at once: a member was added, or an execution ended. It
// never blocks. Safe for concurrent use.
func (p *Pacer) Poke() {
	select {
	case p.poke <- struct{}{}:
	default: // it will look anyway
	}
}

// Run works until ctx ends. It is called once. What fails is logged and tried
// again.
func (p *Pacer) Run(ctx context.Context) {
	p.counted = p.config.Now()
	p.allowance = p.burst()
	rest := time.NewTimer(0)
	defer rest.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.poke:
		case <-rest.C:
		}
		wait, err := p.round(ctx)
		if err != nil && ctx.Err() == nil {
			p.config.Log.Error().Err(err).Msg("pacing the rotation group")
			wait = errorRest
		}
		rest.Reset(wait)
	}
}

// round releases what may be released now, and returns how long to rest.
func (p *Pacer) round(ctx context.Context) (time.Duration, error) {
	if err := p.timeOut(ctx); err != nil {
		return 0, err
	}
	p.count()
	if p.allowance < 1 {
		return p.untilNext(), nil
	}
	waits, err := p.config.Store.Waits(ctx)
	if err != nil {
		return 0, fmt.Errorf("who waits for a job: %w", err)
	}
	if !waits { // who is added, and each job that ends, has it look
		return p.idle(), nil
	}
	inFlight, err := p.config.Store.InFlight(ctx)
	if err != nil {
		return 0, fmt.Errorf("count executions: %w", err)
	}
	n := min(int(p.allowance), p.config.MaxInFlight-inFlight, atATime)
	if n < 1 {
		return p.idle(), nil
	}
	devices, err := p.config.Store.Release(ctx, n)
	if err != nil {
		return 0, fmt.Errorf("release members: %w", err)
	}
	p.allowance -= float64(len(devices))
	p.tell(ctx, devices, p.config.Jobs.Added)
	if len(devices) < n {
		return p.idle(), nil
	}
	return p.untilNext(), nil
}

// timeOut looks for executions that take too long, now and then.
func (p *Pacer) timeOut(ctx context.Context) error {
	now := p.config.Now()
	if p.config.InProgressTimeout == 0 || now.Sub(p.looked).Abs() < p.idle() {
		return nil
	}
	p.looked = now
	for {
		devices, err := p.config.Store.TimeOut(ctx, now.Add(-p.config.InProgressTimeout))
		if err != nil {
			return fmt.Errorf("time executions out: %w", err)
		}
		if len(devices) == 0 {
			return nil
		}
		p.tell(ctx, devices, p.config.Jobs.Removed)
	}
}

// tell notifies the devices. One that could not be told asks by itself when it
// connects, so the first cause is all that is worth a line.
func (p *Pacer) tell(ctx context.Context, devices []registry.DeviceID, notify func(context.Context, registry.DeviceID) error) {
	var first error
	failed := 0
	for _, device := range devices {
		if err := notify(ctx, device); err != nil {
			failed++
			if first == nil {
				first = err
			}
		}
	}
	if first != nil && ctx.Err() == nil {
		p.config.Log.Warn().Int("devices", failed).Err(first).Msg("job notifications not sent")
	}
}

// count adds what the time since the last count allows. A clock that was set
// back adds nothing.
func (p *Pacer) count() {
	now := p.config.Now()
	p.allowance += max(now.Sub(p.counted).Minutes(), 0) * float64(p.config.PerMinute)
	p.allowance = min(p.allowance, p.burst())
	p.counted = now
}

// burst is how many may come at once after a pause: a second's worth.
func (p *Pacer) burst() float64 { return max(float64(p.config.PerMinute)/60, 1) }

func (p *Pacer) untilNext() time.Duration {
	missing := max(1-p.allowance, 0)
	return max(time.Duration(missing/float64(p.config.PerMinute)*float64(time.Minute)), shortestRest)
}

// idle is how long to rest when only a poke or a timeout can give work.
func (p *Pacer) idle() time.Duration {
	if p.config.InProgressTimeout == 0 {
		return longestRest
	}
	return min(longestRest, max(p.config.InProgressTimeout/4, shortestRest))
}
