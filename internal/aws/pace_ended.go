package aws

import (
	"context"
	"fmt"

	"github.com/certvendor/certvendor/protocol"
)

const (
	// endedKept is how many hints may wait. More are let go: the next look at all
	// executions finds what they were about.
	endedKept = 1000
	// endedAtATime is how many are followed up before others may be added.
	endedAtATime = 20
)

// hear takes a hint that an execution has ended. It never blocks.
func (p *Pacer) hear(e Ended) {
	select {
	case p.ended <- e:
	default:
	}
}

// followUp asks AWS about the executions that hints were about, the first of
// them and some that wait behind it.
func (p *Pacer) followUp(ctx context.Context, first Ended) {
	waiting := map[Ended]bool{first: true}
	for range min(len(p.ended), endedAtATime-1) {
		waiting[<-p.ended] = true
	}
	for e := range waiting {
		if err := p.follow(ctx, e); err != nil && ctx.Err() == nil {
			p.log.Warn().Err(err).Msg("what has become of an execution is left for later")
		}
	}
}

// follow brings a device's execution to where AWS has it. The hint says nothing
// that could be believed: it may be of an earlier execution.
func (p *Pacer) follow(ctx context.Context, e Ended) error {
	newest, some, err := p.jobs.Newest(ctx, e.Device)
	if err != nil || !some || newest.Status.Terminal() {
		return err
	}
	remote, err := p.jobs.remoteFor(ctx, newest)
	if err != nil || remote != e.Job {
		return err
	}
	there, err := p.describe(ctx, e.Device, remote)
	if err != nil || there == nil {
		return err
	}
	if err := p.set(ctx, newest, protocol.JobStatus(there.Status), detailsOf(there)); err != nil {
		return fmt.Errorf("execution of job %s on thing %s: %w", remote, e.Device, err)
	}
	return nil
}
