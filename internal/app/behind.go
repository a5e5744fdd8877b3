package app

import (
	"context"
	"sync"
	"time"

	"github.com/certvendor/certvendor/rotation"
	"github.com/certvendor/certvendor/vending"
)

// behindLength is how many finished rotations may wait for their last steps
// before the sweep is left to find them.
const behindLength = 4096

// goBehind starts what goes on behind the requests: the last steps of finished
// rotations, and the sweep.
func (a *App) goBehind(ctx context.Context) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var working sync.WaitGroup
	working.Go(func() { a.sweepForever(ctx) })
	if !a.config.Observe {
		working.Go(func() { a.settle(ctx) })
		working.Go(func() { a.runCampaigns(ctx) })
	}
	if a.sender != nil {
		working.Go(func() { a.sender.Run(ctx) })
	}
	a.onStop("work behind the requests", func(context.Context) error {
		cancel()
		working.Wait()
		return nil
	})
}

// leave hands a rotation's last steps to settle. When too many wait, the sweep
// does them: the journal remembers.
func (a *App) leave(r rotation.Rotation) {
	select {
	case a.behind <- r:
	default:
	}
}

func (a *App) settle(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case r := <-a.behind:
			if err := a.closer.Settle(ctx, r); err != nil && ctx.Err() == nil {
				a.log.Warn().Err(err).Str("device", string(r.Device)).Msg("left to the sweep")
			}
			a.world.Poke() // a place among those in flight may be free
		}
	}
}

func (a *App) sweepForever(ctx context.Context) {
	tick := time.NewTicker(time.Duration(a.config.Rotation.SweepEvery))
	defer tick.Stop()
	for {
		a.warn()
		if !a.config.Observe {
			a.sweepOnce(ctx)
		}
		a.tellLooks(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// When the end of a certificate is near, in days, and how often that is said.
const (
	caSoon     = 180
	serverSoon = 7
	warnEvery  = 24 * time.Hour
)

// warn says, at the start and again every day, what an operator should look at
// before it stops anything.
func (a *App) warn() {
	now := a.now().Round(0) // a day of the wall clock, which ends certificates, wherever it is set to
	if now.Sub(a.warned).Abs() < warnEvery {
		return
	}
	a.warned = now
	if a.alone == nil {
		return
	}
	for _, warning := range a.alone.CA().Warnings() {
		a.log.Warn().Msg(warning)
	}
	ca, server := a.alone.CA().DaysLeft()
	switch {
	case ca <= 0:
		a.log.Error().Float64("days", ca).Msg("the issuing CA, or one above it, has expired: nothing is vended")
	case ca < caSoon:
		a.log.Warn().Float64("days", ca).Msg("the issuing CA, or one above it, ends soon: so does every certificate that is vended")
	}
	if server < serverSoon {
		a.log.Warn().Float64("days", server).Msg("the listeners' certificate ends soon: devices will not connect after that")
	}
}

func (a *App) sweepOnce(ctx context.Context) {
	swept, err := a.closer.Sweep(ctx)
	switch {
	case ctx.Err() != nil:
		return
	case err != nil:
		a.metrics.sweeps.WithLabelValues("failed").Inc()
		a.log.Error().Err(err).Msg("sweep")
	default:
		a.metrics.sweeps.WithLabelValues("ok").Inc()
	}
	if swept != (rotation.Swept{}) {
		a.log.Info().Int("proven", swept.Proven).Int("finished", swept.Finished).Int("stale", swept.Stale).
			Int("settled", swept.Settled).Int("retirements", swept.Retired).Int("pruned", swept.Pruned).Msg("swept")
	}
}

// sweep is the operator's; with trust, the clock is taken for right as it is.
func (a *App) sweep(ctx context.Context, trust bool) (rotation.Swept, error) {
	if trust {
		a.clock.Trust()
	}
	return a.closer.Sweep(ctx)
}

// served writes the one line of a request, and counts it.
func (a *App) served(o vending.Outcome) {
	if o.Observed {
		a.observed(o)
		return
	}
	a.metrics.served(o)
	a.tellCampaigns(o)
	line, verdict := a.log.Info(), "accepted"
	if !o.Accepted {
		line, verdict = a.log.Warn(), "rejected"
	}
	line.Str("device", string(o.Device)).Str("action", string(o.Action)).Str("verdict", verdict).
		Str("reason", string(o.Reason)).Str("certificate", string(o.Certificate)).
		Str("evidence", string(o.Evidence)).Dur("took", o.Took).Err(o.Err).Msg("request")
}

// observed writes the one line of a request that was not answered, and counts
// it.
func (a *App) observed(o vending.Outcome) {
	verdict := "accepted"
	if !o.Accepted {
		verdict = "rejected"
	}
	a.metrics.observed.WithLabelValues(string(o.Action), verdict, string(o.Reason)).Inc()
	a.log.Info().Str("device", string(o.Device)).Str("action", string(o.Action)).Str("verdict", verdict).
		Str("reason", string(o.Reason)).Str("certificate", string(o.Certificate)).
		Str("evidence", string(o.Evidence)).Strs("effects", o.Effects).Dur("took", o.Took).Err(o.Err).Msg("observed, not answered")
}
