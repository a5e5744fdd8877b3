package campaign

import (
	"fmt"
	"time"

	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/rotation"
)

// Judge returns where a member that has been let in stands now, by what can be
// seen of it, and why it failed. A device fails if it went back to an older
// certificate, if its job ended without a rotation, or if it was vended a
// certificate and is silent: it was online then. While we did not listen nobody
// was silent.
func (s Spec) Judge(seen Sight, now time.Time) (Standing, string) {
	r := seen.Rotation
	switch {
	case seen.Removed:
		return Skipped, "it was taken out of the registry"
	case r.IsProven():
		return s.judgeProven(seen, now)
	case seen.Job == protocol.JobFailed || seen.Job == protocol.JobRejected || seen.Job == protocol.JobTimedOut && s.hadTime(seen, now):
		return Failed, "its job ended " + string(seen.Job)
	case seen.Blocked:
		return Skipped, "it was blocked"
	case r.State == rotation.Vended || r.State == rotation.Acknowledged || r.State == rotation.Stale:
		if now.After(s.silentFrom(seen)) {
			return Failed, fmt.Sprintf("vended %s ago and not proven", now.Sub(r.VendedAt).Round(time.Second))
		}
		return Vended, ""
	}
	return Added, ""
}

func (s Spec) judgeProven(seen Sight, now time.Time) (Standing, string) {
	r := seen.Rotation
	switch {
	case seen.LastSeen != "" && seen.LastSeen != r.Certificate && seen.SeenAt.After(r.ProvenAt):
		return Failed, fmt.Sprintf("it went back to certificate %.12s", seen.LastSeen)
	case now.Sub(r.ProvenAt) < s.Soak:
		return Proven, ""
	case seen.Wave > 0 || !s.hasCanary() || s.Soak == 0 || !seen.SeenAt.Before(r.ProvenAt.Add(s.Soak)):
		return Passed, ""
	case now.After(later(r.ProvenAt.Add(s.Soak), seen.Listens).Add(s.VerifyWithin)):
		return Failed, fmt.Sprintf("proven, and not seen any more since %s", seen.SeenAt.UTC().Format(time.RFC3339))
	}
	return Proven, "" // a canary passes when it is still seen after the soak
}

func (s Spec) hasCanary() bool { return s.Canary.Size != (Share{}) }

// next returns when a member that was looked at may stand otherwise although
// nothing becomes of it; zero: at any time.
func (s Spec) next(seen Sight, standing Standing, now time.Time) time.Time {
	var at time.Time
	switch standing {
	case Added: // it only becomes overdue, which is counted
		if seen.Job != protocol.JobTimedOut {
			return now.Add(farOff)
		}
		at = seen.Listens.Add(s.VerifyWithin).Add(1)
	case Vended:
		at = s.silentFrom(seen).Add(1)
	case Proven:
		at = seen.Rotation.ProvenAt.Add(s.Soak)
	}
	if !at.After(now) { // a canary that may be seen any moment
		return time.Time{}
	}
	return at
}

// hadTime reports whether a device whose job has timed out could be heard for so
// long that it is its own fault.
func (s Spec) hadTime(seen Sight, now time.Time) bool {
	return now.After(seen.Listens.Add(s.VerifyWithin))
}

// silentFrom returns after when a device that was vended a certificate, and has
// not proven it, has been silent.
func (s Spec) silentFrom(seen Sight) time.Time {
	return later(seen.Rotation.VendedAt, seen.Listens).Add(s.VerifyWithin)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// farOff is later than anything that is waited for.
const farOff = 24 * time.Hour
