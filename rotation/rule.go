package rotation

import (
	"fmt"
	"time"

	"github.com/certvendor/certvendor/certificate"
)

// Kept is why a certificate may not be taken away now.
type Kept struct {
	Why      string
	Reverted bool // the device has gone back to it
	Void     bool // this retirement is never carried out; another takes its place
}

func (k Kept) Error() string { return k.Why }

// MinProofGrace is how long what a mere proof replaces is kept at least: a
// proof shows that a device has a key, not that its certificate works.
const MinProofGrace = 24 * time.Hour

// Facts are all that the one rule looks at.
type Facts struct {
	Retirement Retirement
	Held       []certificate.Holding // all the device holds, at this moment
	History    History
	Now        time.Time
	Recent     time.Duration // how fresh the sighting on the successor must be
	Grace      time.Duration
	Window     time.Duration // how long after its expiry the broker still takes a certificate
	SeenSince  time.Time     // what was seen before it proves nothing, see Terms
}

// Allowed is the one rule: a certificate is taken away only when a successor
// of it is proven and the device's latest sighting is on that successor or a
// later one, ACTIVE, unexpired and recent; or when it has expired for good and
// the device was not last seen on it. It returns nil if the retirement may be carried out now, and a Kept otherwise.
//
// Neither time nor a request removes anything by itself: that no ack came does
// not mean that a certificate is not in use.
func (f Facts) Allowed() error {
	target, held := certificate.Find(f.Held, f.Retirement.Certificate)
	switch {
	case !held, target.Standing == certificate.Revoked:
		return nil // taken from the device already
	case target.Kind == certificate.Birth:
		return Kept{Why: "birth certificates are never retired"}
	case target.Kind == certificate.Packaged && target.Standing == certificate.Inactive && f.Retirement.Deactivated.IsZero():
		return Kept{Why: "belongs to a package that waits for its device"}
	}
	if n := f.vendedAgain(); n > 0 {
		return Kept{Why: fmt.Sprintf("rotation %d has vended it again since", n), Void: true}
	}
	latest, seen := certificate.Latest(f.Held)
	switch {
	case seen && latest.ID == target.ID:
		// Also when it has expired: an open connection outlives it and may
		// still rotate, and a clock that runs ahead calls everything expired.
		return Kept{Why: "the device was last seen on this certificate", Reverted: true}
	case f.expired(target):
		return nil
	case seen && f.soonWithout(latest, target):
		return Kept{Why: fmt.Sprintf("its successor %s expires first, and soon: at %s",
			latest.ID[:12], latest.NotAfter.UTC().Format(time.RFC3339))}
	case seen && !latest.LastSeen.After(f.SeenSince):
		return Kept{Why: fmt.Sprintf("the store was restored at %s, and the device was not seen since",
			f.SeenSince.UTC().Format(time.RFC3339)), Reverted: f.Retirement.Reverted}
	case seen && latest.Evidence != certificate.Proof && f.proves(latest, target):
		return nil
	case f.Retirement.Evidence == certificate.Proof:
		return f.allowedByProof(target)
	case !seen:
		return Kept{Why: "the device was never seen on a successor"}
	}
	return f.whyNot(latest)
}

// vendedAgain returns the rotation that has vended the certificate after the
// one that replaced it, as a package may be that was put again; 0 if none has.
// It is in the device's hands then, and what replaces that rotation says what
// becomes of it.
func (f Facts) vendedAgain() int64 {
	if n := f.number(f.Retirement.Certificate); n > f.Retirement.Rotation {
		return n
	}
	return 0
}

// expired says that nobody can connect with a certificate, or is connected
// still.
func (f Facts) expired(h certificate.Holding) bool {
	return !f.Now.Before(h.NotAfter.Add(f.Window)) && !h.Connected
}

// soonWithout says that taking target away would leave the device with a
// successor that ends before the device can be expected to rotate again, and
// before target does: so it is with a CA that is about to expire.
func (f Facts) soonWithout(latest, target certificate.Holding) bool {
	return latest.NotAfter.Before(target.NotAfter) && latest.NotAfter.Sub(f.Now) < f.Recent
}

// proves reports whether the holding a device was last seen on justifies to
// take target away.
func (f Facts) proves(latest, target certificate.Holding) bool {
	return f.proven(latest.ID, target.ID) && f.usable(latest) && f.fresh(latest)
}

// proven reports whether a rotation after target's, and not after latest's,
// is proven.
func (f Facts) proven(latest, target certificate.ID) bool {
	last, first := f.number(latest), f.number(target)
	for _, r := range f.History.Rotations {
		if r.IsProven() && r.Number > first && r.Number <= last {
			return true
		}
	}
	return false
}

// number returns which rotation vended a certificate; what came some other
// way is older than every rotation.
func (f Facts) number(id certificate.ID) int64 {
	if r := f.History.Of(id); r != nil {
		return r.Number
	}
	return 0
}

func (f Facts) usable(h certificate.Holding) bool {
	return h.Standing == certificate.Active && f.Now.Before(h.NotAfter)
}

// fresh says that an open connection keeps its sighting from growing old. A
// sighting at a time that has not come yet was made by a clock that was wrong:
// nobody knows how old it is.
func (f Facts) fresh(h certificate.Holding) bool {
	age := f.Now.Sub(h.LastSeen)
	return h.Connected || age <= f.Recent && age >= -maxDrift
}

// allowedByProof is the one exception, for worlds that cannot see which
// certificate speaks: the proof may deactivate what it replaces, never delete
// it, when a day has gone by and nothing was seen on it since.
func (f Facts) allowedByProof(target certificate.Holding) error {
	grace := max(f.Grace, MinProofGrace)
	successor := f.successor()
	switch {
	case f.Retirement.Mode != certificate.Deactivate:
		return Kept{Why: "a proof never deletes what it replaces"}
	case successor == nil:
		return Kept{Why: "the certificate that was proven is not usable any more"}
	case f.Now.Sub(f.Retirement.ProvenAt) < grace, f.Now.Sub(f.SeenSince) < grace:
		return Kept{Why: fmt.Sprintf("proven by signature only: kept for %s", grace)}
	case target.LastSeen.After(f.Retirement.ProvenAt):
		return Kept{Why: "the device was seen on it after the proof", Reverted: true}
	}
	return nil
}

func (f Facts) successor() *certificate.Holding {
	for _, r := range f.History.Rotations {
		if r.Number != f.Retirement.Rotation {
			continue
		}
		if h, ok := certificate.Find(f.Held, r.Certificate); ok && f.usable(h) {
			return &h
		}
	}
	return nil
}

// whyNot says which part of the rule the latest sighting does not fulfil.
func (f Facts) whyNot(latest certificate.Holding) error {
	short := latest.ID[:12]
	switch {
	case !f.proven(latest.ID, f.Retirement.Certificate):
		return Kept{Why: fmt.Sprintf("the device was last seen on %s, which is not a proven successor", short)}
	case latest.Evidence == certificate.Proof:
		return Kept{Why: fmt.Sprintf("its successor %s was shown by signature only, not seen in use", short)}
	case latest.Standing != certificate.Active:
		return Kept{Why: fmt.Sprintf("its successor %s is %s", short, latest.Standing)}
	case !f.usable(latest):
		return Kept{Why: fmt.Sprintf("its successor %s has expired", short)}
	}
	at := latest.LastSeen.UTC().Format(time.RFC3339)
	if latest.LastSeen.After(f.Now) {
		return Kept{Why: fmt.Sprintf("its successor %s was last seen at %s, by a clock that was wrong", short, at)}
	}
	return Kept{Why: fmt.Sprintf("its successor %s was last seen at %s, longer ago than rotation.recent", short, at)}
}
