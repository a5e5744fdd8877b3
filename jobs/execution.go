package jobs

import (
	"bytes"
	"fmt"
	"maps"
	"regexp"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
)

// Execution is one run of a job on one device.
type Execution struct {
	JobID     string
	Device    registry.DeviceID
	Number    int64 // 1, 2, ... of this job on this device
	Status    protocol.JobStatus
	Details   map[string]string
	Version   int64 // 1 when queued, one more at every update
	QueuedAt  time.Time
	StartedAt time.Time
	UpdatedAt time.Time
}

// Refusal is why an update of an execution was not made.
type Refusal struct {
	Code    protocol.JobCode
	Message string
}

func (r Refusal) Error() string { return string(r.Code) + ": " + r.Message }

// Limits of status details (AWS IoT API reference, UpdateJobExecution).
var (
	detailKey   = regexp.MustCompile(`^[a-zA-Z0-9:_-]{1,128}$`)
	detailValue = regexp.MustCompile(`^[^\p{C}]+$`)
)

const (
	maxDetails     = 10
	maxDetailValue = 1024 // characters
)

// Start returns the execution as start-next leaves it: a queued one becomes
// IN_PROGRESS, one that is in progress already stays as it is.
func (e Execution) Start(details map[string]string, now time.Time) (Execution, error) {
	if e.Status == protocol.JobInProgress {
		return e, nil
	}
	return e.Update(protocol.JobUpdate{Status: protocol.JobInProgress, StatusDetails: details}, now)
}

// Update returns the execution after a device's update, or a Refusal, by the
// rules of the AWS IoT Jobs lifecycle
// (docs.aws.amazon.com/iot/latest/developerguide/iot-jobs-lifecycle.html).
func (e Execution) Update(u protocol.JobUpdate, now time.Time) (Execution, error) {
	if e.Status.Terminal() {
		return e, Refusal{protocol.JobTerminalState, "the execution is " + string(e.Status)}
	}
	if err := e.checkVersion(u.ExpectedVersion); err != nil {
		return e, err
	}
	if err := checkDetails(u.StatusDetails); err != nil {
		return e, err
	}
	switch u.Status {
	case protocol.JobInProgress, protocol.JobSucceeded, protocol.JobFailed, protocol.JobRejected:
	case protocol.JobQueued, protocol.JobTimedOut, protocol.JobRemoved, protocol.JobCanceled:
		return e, Refusal{protocol.JobInvalidStateTransition, "a device cannot set " + string(u.Status)}
	default:
		return e, Refusal{protocol.JobInvalidRequest, "status must be IN_PROGRESS, SUCCEEDED, FAILED or REJECTED"}
	}
	if e.StartedAt.IsZero() {
		e.StartedAt = now
	}
	if u.StatusDetails != nil {
		e.Details = maps.Clone(u.StatusDetails)
	}
	return e.set(u.Status, now), nil
}

// End returns the execution with a status that only the service sets: REMOVED
// when its device leaves the group, CANCELED with its job, TIMED_OUT.
func (e Execution) End(status protocol.JobStatus, now time.Time) Execution {
	return e.set(status, now)
}

// Summary returns the execution as it stands in a list.
func (e Execution) Summary() protocol.JobSummary {
	return protocol.JobSummary{
		JobID: e.JobID, QueuedAt: e.QueuedAt.Unix(), StartedAt: unix(e.StartedAt),
		LastUpdatedAt: e.UpdatedAt.Unix(), VersionNumber: e.Version, ExecutionNumber: e.Number,
	}
}

// Message returns the execution in full; a nil document leaves it out.
func (e Execution) Message(document []byte) *protocol.JobExecution {
	return &protocol.JobExecution{
		JobID: e.JobID, ThingName: string(e.Device), Status: e.Status, StatusDetails: e.Details,
		QueuedAt: e.QueuedAt.Unix(), StartedAt: unix(e.StartedAt), LastUpdatedAt: e.UpdatedAt.Unix(),
		VersionNumber: e.Version, ExecutionNumber: e.Number, JobDocument: document,
	}
}

// State returns where the execution stands.
func (e Execution) State() *protocol.JobExecutionState {
	return &protocol.JobExecutionState{Status: e.Status, StatusDetails: e.Details, VersionNumber: e.Version}
}

func (e Execution) set(status protocol.JobStatus, now time.Time) Execution {
	e.Status, e.UpdatedAt = status, now
	e.Version++
	return e
}

// checkVersion takes a number or a string: AWS's own examples show both.
func (e Execution) checkVersion(expected []byte) error {
	text := string(bytes.Trim(bytes.TrimSpace(expected), `"`))
	if text == "" || text == "null" {
		return nil
	}
	version, err := strconv.ParseInt(text, 10, 64)
	switch {
	case err != nil:
		return Refusal{protocol.JobInvalidRequest, "expectedVersion is not a number"}
	case version != e.Version:
		return Refusal{protocol.JobVersionMismatch, fmt.Sprintf("the execution is at version %d", e.Version)}
	}
	return nil
}

func checkDetails(details map[string]string) error {
	if len(details) > maxDetails {
		return Refusal{protocol.JobInvalidRequest, fmt.Sprintf("more than %d status details", maxDetails)}
	}
	for key, value := range details {
		if !detailKey.MatchString(key) || !detailValue.MatchString(value) || utf8.RuneCountInString(value) > maxDetailValue {
			return Refusal{protocol.JobInvalidRequest, "a status detail has a name or a value that is not allowed"}
		}
	}
	return nil
}

func unix(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}
