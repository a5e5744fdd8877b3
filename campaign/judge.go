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
		if now.After(s.silentFrom(seen, now)) {
			return Failed, fmt.Sprintf("vended %s ago and not proven", now.Sub(seen.since(r.VendedAt, now)).Round(time.Second))
		}
		return Vended, ""
	}
	return s.stillAdded(seen, now)
}

// stillAdded is the judgement on a member that was vended nothing, or nothing that
// holds. Where no job is left that could bring it on it has come to its end, but for
// one that was taken out of the group: see Runner.addAgain. Who says that he is done
// may ask a little later.
func (s Spec) stillAdded(seen Sight, now time.Time) (Standing, string) {
	switch {
	case seen.Rotation.State == rotation.Abandoned && !seen.Asked:
		return Skipped, "its rotation was abandoned"
	case seen.Rotation.Number != 0:
		return Added, ""
	case seen.Rotated && (seen.Job == protocol.JobSucceeded || seen.takenOut()):
		return Skipped, "it went on with a rotation that was open before"
	case seen.Job == protocol.JobSucceeded && now.After(s.mayStillAsk(seen, now)):
		return Failed, "its job ended SUCCEEDED, and it has not rotated"
	}
	return Added, ""
}

// takenOut reports whether somebody has taken the device out of the group, here or
// where it has its job, or canceled the job and taken it out then.
func (seen Sight) takenOut() bool {
	return seen.Job == protocol.JobRemoved && !seen.Asked || seen.Job == protocol.JobCanceled && !seen.Grouped
}

func (s Spec) judgeProven(seen Sight, now time.Time) (Standing, string) {
	r := seen.Rotation
	soaked := seen.since(r.ProvenAt, now).Add(s.Soak)
	switch {
	case seen.LastSeen != "" && seen.LastSeen != r.Certificate && seen.SeenAt.After(r.ProvenAt):
		return Failed, fmt.Sprintf("it went back to certificate %.12s", seen.LastSeen)
	case now.Before(soaked):
		return Proven, ""
	case seen.Wave > 0 || !s.hasCanary() || s.Soak == 0 || !seen.SeenAt.Before(soaked):
		return Passed, ""
	case now.After(later(soaked, seen.Listens).Add(s.VerifyWithin)):
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
		switch seen.Job {
		case protocol.JobTimedOut:
			at = seen.Listens.Add(s.VerifyWithin).Add(1)
		case protocol.JobSucceeded:
			at = s.mayStillAsk(seen, now).Add(1)
		default:
			return now.Add(farOff)
		}
	case Vended:
		at = s.silentFrom(seen, now).Add(1)
	case Proven:
		at = seen.since(seen.Rotation.ProvenAt, now).Add(s.Soak)
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
func (s Spec) silentFrom(seen Sight, now time.Time) time.Time {
	return later(seen.since(seen.Rotation.VendedAt, now), seen.Listens).Add(s.VerifyWithin)
}

// since returns when something was written of a member. What bears a time that is
// yet to come was written by a clock that ran ahead, and counts from when we began to
// listen after it was put right.
func (s Sight) since(written, now time.Time) time.Time {
	if written.After(now.Add(gapMost)) {
		return s.Listens
	}
	return written
}

// mayStillAsk returns until when a device may ask for a certificate that has said
// that its job is done.
func (s Spec) mayStillAsk(seen Sight, now time.Time) time.Time {
	return later(seen.since(seen.JobAt, now), seen.Listens).Add(s.VerifyWithin)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// farOff is later than anything that is waited for.
const farOff = 24 * time.Hour
