package fleet

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/rotation"
)

// Operator is what a fleet needs of those who run the vendor. Methods are safe
// for concurrent use.
type Operator interface {
	// Join puts a device into the rotation group; one whose job has ended
	// without a rotation gets another. Idempotent.
	Join(ctx context.Context, device string) error
	// Account returns what the vendor knows of a device.
	Account(ctx context.Context, device string) (Account, error)
	// Sweep has the vendor do now what is due.
	Sweep(ctx context.Context) error
}

// rejoin is what an operator does about a device whose job has failed.
func (o Options) rejoin(ctx context.Context, name string) error {
	if err := pause(ctx, o.pauseBetween()); err != nil || o.Operator == nil {
		return err
	}
	return o.Operator.Join(ctx, name)
}

// waitsBeforeSwitch reports whether a device does anything between the vend
// and the switch.
func (o Options) waitsBeforeSwitch(d Device) bool {
	return d.InstallDelay > 0 || d.Plan.AckOnOld || d.Plan.AckAfterTTL
}

// beforeSwitch is what a device does that has its new certificate and does not
// use it yet. It returns an error only if ctx has ended.
func (o Options) beforeSwitch(ctx context.Context, d Device, r *Result) error {
	if d.Plan.AckOnOld && !d.AckEarly {
		if err := o.ackOnOld(ctx, d.Name, r); err != nil {
			return err
		}
	}
	if err := o.stayOn(ctx, d.Name, r.old, d.InstallDelay); err != nil {
		return err
	}
	if d.Plan.AckAfterTTL {
		return o.untilStale(ctx, d.Name)
	}
	return ctx.Err()
}

// tries is how often a device tries to connect for something on the side.
const tries = 5

// ackOnOld acks over the old connection, as firmware does that acks too early.
func (o Options) ackOnOld(ctx context.Context, name string, r *Result) error {
	for range tries {
		reason, err := o.ackOver(ctx, name, r.old)
		if err == nil {
			r.Notes = append(r.Notes, "ack over the old certificate: "+reason)
			return nil
		}
		if err := pause(ctx, o.pauseBetween()); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// ackOver acks over a connection with a certificate, and returns the answer in
// a word.
func (o Options) ackOver(ctx context.Context, name string, with tls.Certificate) (string, error) {
	s, err := o.connect(ctx, name, with)
	if err != nil {
		return "", err
	}
	defer s.close()
	if err := s.subscribe(ctx, o.repliesTo(name, protocol.Ack)); err != nil {
		return "", err
	}
	_, err = o.say(ctx, s, demand{device: name, action: protocol.Ack, body: []byte("{}")})
	var refused refusedReason
	if errors.As(err, &refused) {
		return string(refused.Reason), nil
	}
	return "OK", err
}

// stayOn stays connected with a certificate for a while, as a device does that
// installs at night. Whatever happens to the connection, it comes back.
func (o Options) stayOn(ctx context.Context, name string, with tls.Certificate, d time.Duration) error {
	for until := time.Now().Add(d); time.Now().Before(until) && ctx.Err() == nil; {
		s, err := o.connect(ctx, name, with)
		if err != nil {
			_ = pause(ctx, o.pauseBetween()) // the loop looks
			continue
		}
		timer := time.NewTimer(time.Until(until))
		select {
		case <-timer.C:
		case <-s.lost:
		case <-ctx.Done():
		}
		timer.Stop()
		s.close()
	}
	return ctx.Err()
}

// staleWithin is how long after the vendor may call a rotation stale a device
// waits until it does.
const staleWithin = 5 * time.Second

// untilStale gives no sign of life until the vendor calls the rotation stale,
// or for a second where that would take too long.
func (o Options) untilStale(ctx context.Context, name string) error {
	if o.Operator == nil || o.TTL == 0 {
		return pause(ctx, time.Second)
	}
	if err := pause(ctx, o.TTL); err != nil {
		return err
	}
	for until := time.Now().Add(staleWithin); time.Now().Before(until); {
		if err := o.Operator.Sweep(ctx); err != nil {
			return fmt.Errorf("have the vendor sweep: %w", err)
		}
		account, err := o.Operator.Account(ctx, name)
		if err != nil {
			return err
		}
		if len(account.Vends) > 0 && account.Vends[0].State == rotation.Stale {
			return nil
		}
		if err := pause(ctx, 500*time.Millisecond); err != nil {
			return err
		}
	}
	return ctx.Err()
}
