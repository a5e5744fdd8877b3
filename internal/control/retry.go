package control

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/certvendor/certvendor/jobs"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

// retry gives devices that did not get through their rotation a job again.
func (s *Server) retry(r *http.Request) (any, error) {
	canceled, err := s.jobCanceled(r.Context())
	if err != nil {
		return nil, err
	}
	outcomes, err := s.forEach(r, "rotation_retry", func(ctx context.Context, d registry.Device) (Outcome, error) {
		t, err := s.tried(ctx, d.ID)
		if err != nil {
			return Outcome{}, err
		}
		why, unchanged, err := t.again()
		if err != nil || unchanged != "" {
			return Outcome{Unchanged: unchanged}, err
		}
		return Outcome{Done: "gets a job again: " + why, Warning: noJobYet(d, canceled)}, s.Group.Add(ctx, d.ID)
	})
	if err == nil {
		s.AddedMember()
	}
	return outcomes, err
}

// tried is how far a device has come with its rotation.
type tried struct {
	device registry.DeviceID
	member rotation.Member // zero: it is none
	newest *rotation.Rotation
	job    jobs.Execution // its newest; zero: it never had one
}

func (s *Server) tried(ctx context.Context, id registry.DeviceID) (t tried, err error) {
	t.device = id
	if t.member, err = s.member(ctx, id); err != nil {
		return t, fmt.Errorf("device %s: is it in the rotation group: %w", id, err)
	}
	if t.job, _, err = s.Jobs.Newest(ctx, id); err != nil {
		return t, err
	}
	h, err := s.Journal.Find(ctx, id)
	if len(h.Rotations) > 0 {
		t.newest = &h.Rotations[0]
	}
	return t, err
}

// again says why the device shall have a job again, or why it has no need of
// one now, or refuses where there is nothing to try again.
func (t tried) again() (why, unchanged string, err error) {
	pending := t.job.Status == protocol.JobQueued || t.job.Status == protocol.JobInProgress
	switch {
	case t.member.Waiting:
		return "", "it waits for its job already", nil
	case !t.member.Since.IsZero() && pending:
		return "", fmt.Sprintf("its job is %s since %s", t.job.Status, stamp(t.job.UpdatedAt)), nil
	case !t.member.Since.IsZero() && t.job.Status != "":
		return fmt.Sprintf("its job ended %s, without an ack", t.job.Status), "", nil
	case t.newest == nil && !t.jobFailed():
		return "", "", t.refuse("it has not rotated yet")
	case t.newest != nil && (t.newest.State == rotation.Stale || t.newest.State == rotation.Abandoned):
		return fmt.Sprintf("rotation %d is %s", t.newest.Number, t.newest.State), "", nil
	case t.newest != nil && t.newest.State == rotation.Finished && !t.newest.ClosedAt.Before(t.job.UpdatedAt):
		return "", "", t.refuse("rotation %d is finished", t.newest.Number)
	case t.jobFailed():
		return fmt.Sprintf("its job ended %s", t.job.Status), "", nil
	}
	return "", "", t.refuse("rotation %d is %s", t.newest.Number, t.newest.State)
}

// jobFailed reports whether the device, or the time, has ended its newest job
// without success.
func (t tried) jobFailed() bool {
	switch t.job.Status {
	case protocol.JobFailed, protocol.JobRejected, protocol.JobTimedOut:
		return true
	}
	return false
}

func (t tried) refuse(format string, args ...any) error {
	return refuse(http.StatusConflict, "device %s: %s, so there is nothing to try again: "+
		"`certvendor rotation add %s` has it rotate", t.device, fmt.Sprintf(format, args...), t.device)
}

// jobCanceled reports whether the job is canceled, so that nobody gets it.
func (s *Server) jobCanceled(ctx context.Context) (bool, error) {
	status, err := s.Jobs.Status(ctx)
	if err != nil {
		return false, err
	}
	return status.Job.State == jobs.Canceled, nil
}

// noJobYet says why a member gets no job now, or nothing.
func noJobYet(d registry.Device, canceled bool) string {
	switch {
	case d.Blocked:
		return fmt.Sprintf("device %s is blocked, and gets no job before `certvendor device unblock %s`", d.ID, d.ID)
	case canceled:
		return fmt.Sprintf("device %s gets no job, because the job is canceled: `certvendor job ensure` brings it back", d.ID)
	}
	return ""
}

// stamp writes a time for people.
func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
