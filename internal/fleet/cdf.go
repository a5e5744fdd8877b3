package fleet

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"github.com/certvendor/certvendor/protocol"
)

// What CDF firmware does about a get that was refused or not answered: it asks
// again, this often, after this long, whatever the refusal says.
const (
	cdfAttempts = 4
	cdfPause    = time.Second
)

func (o Options) pauseBetween() time.Duration {
	if o.Retry.Max > 0 {
		return min(o.Retry.Max, cdfPause)
	}
	return cdfPause
}

// original is one device with CDF firmware.
type original struct {
	o       Options
	d       Device
	r       *Result
	s       *script // nil: nothing goes wrong
	slot    slot
	started time.Time
	parent  context.Context // the life's; what goes on behind ends with it
}

// playCDF lets CDF firmware carry out one job.
func (o Options) playCDF(ctx context.Context, d Device, r *Result) error {
	f := &original{o: o, d: d, r: r, slot: slot{pair: r.current}, parent: ctx}
	err := f.boot(ctx)
	r.current = f.slot.pair
	return err
}

// liveCDF lets CDF firmware carry out one job, through all of its plan.
func (o Options) liveCDF(ctx context.Context, d Device, r *Result, s *script) error {
	d.AckEarly = d.AckEarly || d.Plan.AckOnOld
	if err := o.provisionSlot(d, r.old); err != nil {
		return err
	}
	if d.Plan.JobFailed {
		return o.failJob(ctx, d, r)
	}
	f := &original{o: o, d: d, r: r, s: s, parent: ctx}
	var wrong error
	for range maxBoots {
		err := f.live(ctx)
		on, again := s.lives()
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case !again:
			return nil // dark
		case on && err == nil:
			return nil
		case on:
			wrong = err
			if err := pause(ctx, o.pauseBetween()); err != nil {
				return err
			}
		}
	}
	return wrong
}

// live is the device's life from power on to the end of its rotation, or of
// its power: it knows what its disk holds.
func (f *original) live(parent context.Context) error {
	ctx, stop, err := f.s.boot(parent)
	if err != nil {
		return err
	}
	defer stop()
	if f.slot, err = readSlot(f.o.disk(f.d)); err != nil {
		return err
	}
	return f.boot(ctx)
}

// boot goes on from what the slot holds: with a new pair there is a job to
// end, else one to wait for.
func (f *original) boot(ctx context.Context) error {
	s, err := f.persist(ctx)
	if err != nil {
		return err
	}
	defer func() { s.close() }() // whichever connection is the last
	if f.slot.job == "" {
		f.at(StepConnected)
		jobID, err := f.awaitJob(ctx, s)
		if err != nil {
			return fmt.Errorf("wait for a job: %w", err)
		}
		next, err := f.renew(ctx, s)
		if err != nil {
			return err
		}
		s.close()
		if err := f.install(ctx, next, jobID); err != nil {
			return err
		}
		connecting := time.Now()
		if s, err = f.reconnect(ctx, s); err != nil {
			return err
		}
		f.r.Connect = time.Since(connecting)
	}
	f.at(StepSwitched)
	return f.finish(ctx, s)
}

// persist connects. A device with a plan tries for as long as it lives.
func (f *original) persist(ctx context.Context) (*session, error) {
	for {
		s, err := f.o.connect(ctx, f.d.Name, f.slot.pair)
		if err == nil || f.s == nil {
			return s, err
		}
		if pause(ctx, f.o.pauseBetween()) != nil {
			return nil, err
		}
	}
}

// reconnect connects with what the slot holds now; it returns a session in any
// case.
func (f *original) reconnect(ctx context.Context, old *session) (*session, error) {
	s, err := f.o.connect(ctx, f.d.Name, f.slot.pair)
	if err != nil {
		return old, err
	}
	return s, nil
}

// renew gets a new pair, and acks at once where the firmware does so.
func (f *original) renew(ctx context.Context, s *session) (tls.Certificate, error) {
	f.at(StepJob)
	next, err := f.get(ctx, s)
	if err != nil {
		return next, fmt.Errorf("get: %w", err)
	}
	if err := f.ackEarly(ctx, s); err != nil {
		return next, fmt.Errorf("early ack: %w", err)
	}
	return next, nil
}

// install overwrites the slot: the old pair is gone then.
func (f *original) install(ctx context.Context, next tls.Certificate, jobID string) error {
	if f.s != nil {
		if err := f.o.beforeSwitch(ctx, f.d, f.r); err != nil {
			return err
		}
	}
	f.slot.pair, f.slot.job = next, jobID
	if err := f.slot.write(); err != nil {
		return err
	}
	f.at(StepStored)
	return ctx.Err()
}

// at tells the script at which step the device is.
func (f *original) at(step Step) {
	if f.s != nil {
		f.s.at(f.parent, step)
	}
}

// get asks for a certificate, with a new key each time.
func (f *original) get(ctx context.Context, s *session) (next tls.Certificate, err error) {
	if err := s.subscribe(ctx, f.o.repliesTo(f.d.Name, protocol.Get)); err != nil {
		return next, err
	}
	asked := time.Now()
	for attempt := range cdfAttempts {
		if attempt > 0 {
			if err := pause(ctx, f.o.pauseBetween()); err != nil {
				return next, err
			}
		}
		if next, err = f.getOnce(ctx, s); err == nil {
			f.r.Get, f.r.Received = time.Since(asked), append(f.r.Received, idOf(next))
			return next, nil
		}
		if errors.Is(err, errLost) || ctx.Err() != nil {
			return next, err
		}
	}
	return next, err
}

func (f *original) getOnce(ctx context.Context, s *session) (next tls.Certificate, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return next, err
	}
	f.at(StepKey)
	body, err := requestFor(f.d.Name, key)
	if err != nil {
		return next, err
	}
	d := demand{device: f.d.Name, action: protocol.Get, body: body, fits: func(payload []byte) error {
		next, err = pairOf(payload, key)
		return err
	}}
	if f.s != nil && f.s.plan.Duplicate > 0 && f.s.once(DuplicateRequest) {
		d.twice = true
		over := f.slot.pair
		f.s.behind.Go(func() { f.o.beside(f.s).repeat(f.parent, f.d.Name, over, duplicate{body, f.s.plan.Duplicate}) })
	}
	f.at(StepGet)
	_, err = f.o.say(ctx, s, d)
	return next, err
}

// pairOf takes the certificate out of an answer, if it is for the key: an
// answer to an earlier get may still be under way.
func pairOf(payload []byte, key *ecdsa.PrivateKey) (tls.Certificate, error) {
	pair := tls.Certificate{PrivateKey: key}
	var reply protocol.GetAccepted
	if err := protocol.Decode(payload, &reply); err != nil {
		return pair, err
	}
	for block, rest := pem.Decode([]byte(reply.Certificate + "\n" + reply.Chain)); block != nil; block, rest = pem.Decode(rest) {
		pair.Certificate = append(pair.Certificate, block.Bytes)
	}
	if len(pair.Certificate) == 0 {
		return pair, errors.New("the answer holds no certificate")
	}
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return pair, err
	}
	if !key.PublicKey.Equal(leaf.PublicKey) {
		return pair, errors.New("the certificate is for another key")
	}
	return pair, nil
}

// ackEarly acks over the old connection, where the firmware does so.
func (f *original) ackEarly(ctx context.Context, s *session) error {
	if f.d.Firmware != EarlyAcker && !f.d.AckEarly {
		return nil
	}
	if err := s.subscribe(ctx, f.o.repliesTo(f.d.Name, protocol.Ack)); err != nil {
		return err
	}
	_, err := f.o.say(ctx, s, demand{device: f.d.Name, action: protocol.Ack, body: []byte("{}")})
	if f.d.Firmware != EarlyAcker {
		f.r.Acked = err == nil
		return nil // this firmware does not look at the answer
	}
	var refused refusedReason
	if !errors.As(err, &refused) || refused.Reason != protocol.NotProven {
		return fmt.Errorf("wanted %s, got %w", protocol.NotProven, orGranted(err))
	}
	f.r.Notes = append(f.r.Notes, "ack over the old certificate: "+string(refused.Reason))
	return nil
}

// orGranted makes an error of having been granted what must be refused.
func orGranted(err error) error {
	if err == nil {
		return errGranted
	}
	return err
}

var errGranted = errors.New("was granted")

// finish reports the job over the new connection and acks, once.
func (f *original) finish(ctx context.Context, s *session) error {
	if !f.slot.reported {
		if err := f.report(ctx, s); err != nil {
			return fmt.Errorf("report the job: %w", err)
		}
	}
	f.at(StepReported)
	f.r.Total = time.Since(f.started)
	if f.d.AckEarly || f.slot.acked {
		return nil // it has acked, and this firmware acks once
	}
	if err := s.subscribe(ctx, f.o.repliesTo(f.d.Name, protocol.Ack)); err != nil {
		return err
	}
	f.slot.acked = true
	if err := f.slot.write(); err != nil {
		return err
	}
	f.at(StepAck)
	asked := time.Now()
	if _, err := f.o.say(ctx, s, demand{device: f.d.Name, action: protocol.Ack, body: []byte("{}")}); err != nil {
		if f.s != nil {
			return nil // it does not look at the answer
		}
		return fmt.Errorf("ack: %w", err)
	}
	f.r.Acked, f.r.Ack, f.r.Total = true, time.Since(asked), time.Since(f.started)
	f.at(StepAcked)
	return nil
}
