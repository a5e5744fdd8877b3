package fleet

import (
	"context"
	"errors"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/device"
)

// stay has a device that has rotated stay connected, and carry out whatever job
// it is given, until Options.Stay or ctx is over. What was begun by then comes
// to its end.
func (o Options) stay(ctx context.Context, d Device, r *Result) error {
	staying, over := context.WithTimeout(ctx, o.Stay)
	defer over()
	ending, giveUp := context.WithTimeoutCause(context.WithoutCancel(ctx), o.Stay+patience, errTooLong)
	defer giveUp()
	var err error
	if d.Firmware == CDF {
		err = o.stayCDF(staying, ending, d, r)
	} else {
		err = o.stayAgent(staying, ending, d, r)
	}
	if ending.Err() != nil {
		return errors.Join(context.Cause(ending), err)
	}
	return err
}

func (o Options) stayAgent(staying, ending context.Context, d Device, r *Result) error {
	cfg := o.agentConfig(d, func(e device.Event) {
		switch e.Kind {
		case device.CertificateStored:
			r.Received = append(r.Received, certificate.ID(e.CertificateID))
		case device.Promoted:
			r.Again++
		}
	})
	cfg.KeepAlive, cfg.RenewAt = o.keepAlive(), -1
	a, err := device.New(cfg)
	if err != nil {
		return err
	}
	if err := a.Run(staying); staying.Err() == nil {
		return err
	}
	state, err := readAgent(o.disk(d))
	if err != nil || state.Candidate == nil {
		return err
	}
	return a.RunOnce(ending)
}

// stayCDF has no state of its own: what the slot holds says what is to be done.
func (o Options) stayCDF(staying, ending context.Context, d Device, r *Result) error {
	for {
		was, err := readSlot(o.disk(d))
		if err != nil {
			return err
		}
		begun := was.job != "" && !was.acked
		if !begun {
			was.job, was.reported, was.acked = "", false, false
			if err := was.write(); err != nil {
				return err
			}
		}
		ctx := staying
		if begun {
			ctx = ending
		}
		if ctx.Err() != nil {
			return nil
		}
		next := Result{old: was.pair}
		f := &original{o: o, d: d, r: &next, slot: was, parent: ctx}
		if err := f.boot(ctx); err == nil {
			r.Again++
		} else {
			_ = pause(ctx, o.pauseBetween()) // the slot says what is left to do
		}
		r.Received = append(r.Received, next.Received...)
	}
}
