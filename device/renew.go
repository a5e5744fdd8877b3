package device

import (
	"context"
	"encoding/hex"
	"errors"
	"time"
)

// How often Run sees whether a renewal is due.
const renewalGlance = time.Minute

// The bounds of the pause between renewals, whatever the certificate's
// lifetime and the device's clock say.
const (
	longestRenewalPause  = 24 * time.Hour
	shortestRenewalPause = time.Hour
)

// maxLost is how many renewals in a row may end with their connection until
// they count as tried: a bad network may be over in a minute, a broker that
// closes the connection upon the request may not.
const maxLost = 3

// RenewalTime returns when Run renews a certificate without a job: RenewAt of
// its lifetime after its start, and a part of RenewJitter that follows from its
// ID, so that a fleet does not come at once and a restart changes nothing. It
// reports false where RenewAt is negative: never.
//
// A certificate that was due already on the day it came into use was judged by
// a clock that is ahead; as long as that clock goes on, age counts from there.
//
// A clock that lies before the certificate's beginning, by more than a tenth of
// its lifetime, is behind. Run then renews after the same share of the lifetime
// has passed since the certificate came into use, or since New where no clock
// that can be compared says when that was. It cannot know for how long the
// device was off while its clock stood still or began anew, nor how old the
// first certificate was on the day of New: a device that is started anew more
// often than that, with a clock that always begins in 1970, renews upon a job
// only.
func (c Config) RenewalTime(i Inspection) (time.Time, bool) {
	c.setRenewalDefaults()
	if c.RenewAt < 0 {
		return time.Time{}, false
	}
	age := c.renewalAge(i)
	due, obtained := i.NotBefore.Add(age), i.Obtained
	if !obtained.IsZero() && !obtained.Before(due) && !c.now().Before(obtained) {
		due = obtained.Add(age)
	}
	return due, true
}

// renewalAge is the age at which a certificate is renewed.
func (c Config) renewalAge(i Inspection) time.Duration {
	share := c.RenewAt + max(c.RenewJitter, 0)*phase(i.CertificateID)
	return time.Duration(share * float64(i.NotAfter.Sub(i.NotBefore)))
}

// now is the wall clock alone: without the reading that Go keeps beside it,
// which stands still while the device sleeps.
func (c Config) now() time.Time {
	if c.Now == nil {
		return time.Now().Round(0)
	}
	return c.Now().Round(0)
}

// phase returns a number from [0,1) that is always the same for one
// certificate, and evenly spread over many.
func phase(certificateID string) float64 {
	octets, err := hex.DecodeString(certificateID[:min(4, len(certificateID))])
	if err != nil || len(octets) < 2 {
		return 0
	}
	return float64(int(octets[0])<<8|int(octets[1])) / (1 << 16)
}

// renewalDue reports whether it is time to renew the certificate in use. It
// never is sooner after the last success or failure than the pauses below,
// however the clock jumps.
func (a *Agent) renewalDue() bool {
	leaf, state := a.store.current.chain[0], a.store.state
	i := Inspection{CertificateID: idOf(a.store.current), NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter, Obtained: state.Obtained}
	due, ever := a.cfg.RenewalTime(i)
	used, waited, now := a.since(&a.obtained, state.Obtained), a.since(&a.tried, state.Tried), a.cfg.now()
	lifetime, left, aged := leaf.NotAfter.Sub(leaf.NotBefore), leaf.NotAfter.Sub(now), !now.Before(due)
	if leaf.NotBefore.Sub(now) > lifetime/10 { // the clock is behind, by more than a renewal may be late
		if state.Obtained.After(now) { // told by another clock
			used = a.passed.sum
		}
		left, aged = lifetime-used, used >= a.cfg.renewalAge(i)
	}
	return ever && aged &&
		(state.Obtained.IsZero() || used >= min(longestRenewalPause, lifetime/10)) &&
		(state.Tried.IsZero() || waited >= retryPause(left, lifetime, phase(i.CertificateID)))
}

// retryPause returns how long to wait after a renewal in vain: an eighth of
// what is left of the certificate, and so ever less. phase spreads it.
func retryPause(left, lifetime time.Duration, phase float64) time.Duration {
	shortest := min(shortestRenewalPause, lifetime/50)
	pause := min(max(left/8, shortest), longestRenewalPause)
	return pause - time.Duration(phase*float64(pause)/4)
}

// renewal is work that the certificate's age asks for.
func (a *Agent) renewal(ctx context.Context, c *connection) work {
	a.tell(Event{Kind: RenewalDue, CertificateID: idOf(a.store.current)})
	if w, ok := a.unfinished(ctx, c); ok {
		return w
	}
	return work{topics: a.cfg.Topics, renewal: true}
}

// renewed takes the outcome of a renewal's work. One that came to nothing is
// not tried again before the pause, which is kept over a restart.
func (a *Agent) renewed(ctx context.Context, err error) error {
	if err == nil || ctx.Err() != nil {
		a.lost = 0
		return nil
	}
	if errors.Is(err, ErrConnectionLost) {
		if a.lost++; a.lost < maxLost {
			return nil
		}
	}
	a.lost, a.tried = 0, a.moment()
	return a.store.tried(a.tried.told)
}

// join makes a job that came during a renewal the renewal's own, so that it is
// reported and not carried out once more.
func (a *Agent) join(ctx context.Context, c *connection) error {
	candidate := *a.store.state.Candidate
	if !candidate.Renewal || candidate.Job.ID != "" {
		return nil
	}
	if _, ok := a.nextRotation(ctx, c); !ok {
		return nil
	}
	w, found, err := a.pendingJob(ctx, c)
	if err != nil || !found {
		return nil // the job stays where it is, and the certificate is renewed
	}
	candidate.Job = w.job
	return a.store.attach(candidate)
}
