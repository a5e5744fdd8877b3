package fleet

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// patience is how long a device with a plan may take from its job to the end,
// besides what it is told to wait: many times what all faults together take.
const patience = 2 * time.Minute

var errTooLong = fmt.Errorf("no end %s after its job", patience)

// live plays a device with a plan. What it ends with is the newest on its disk.
func (o Options) live(ctx context.Context, d Device, r *Result) (err error) {
	s, err := newScript(ctx, o.Broker, o.disk(d), *d.Plan)
	if err != nil {
		return err
	}
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	s.limit = func() *time.Timer {
		return time.AfterFunc(patience+d.InstallDelay+o.Stay+o.TTL, func() { giveUp(errTooLong) })
	}
	o.Broker, o.now = s.wire.address, s.now
	defer func() {
		err = errors.Join(err, s.close())
		r.Faults = s.happened
		if pairs, unread := o.pairsOnDisk(d); unread == nil {
			r.current = pairs[0]
		}
	}()
	if !d.Joined {
		if err := o.Operator.Join(ctx, d.Name); err != nil {
			return err
		}
	}
	if d.Plan.Garbage != 0 && s.once(Garbage) {
		o.garbage(ctx, d.Name, r.old, d.Plan.Garbage)
	}
	if d.Firmware == CDF {
		err = o.liveCDF(ctx, d, r, s)
	} else {
		err = o.liveAgent(ctx, d, r, s)
	}
	if _, again := s.lives(); err != nil || !again || o.Stay == 0 {
		return err
	}
	return o.stay(ctx, d, r)
}
