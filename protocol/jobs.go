package protocol

import (
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// The messages of the AWS IoT Jobs MQTT API, as devices see it
// (docs.aws.amazon.com/iot/latest/developerguide/jobs-mqtt-api.html). Times
// are seconds since 1970.

// JobStatus is the status of one execution of a job on one device.
type JobStatus string

// The statuses of an execution. The last five are terminal.
const (
	JobQueued     JobStatus = "QUEUED"
	JobInProgress JobStatus = "IN_PROGRESS"
	JobSucceeded  JobStatus = "SUCCEEDED"
	JobFailed     JobStatus = "FAILED"
	JobTimedOut   JobStatus = "TIMED_OUT"
	JobRejected   JobStatus = "REJECTED"
	JobRemoved    JobStatus = "REMOVED"
	JobCanceled   JobStatus = "CANCELED"
)

// Terminal reports whether an execution in this status can never change again.
func (s JobStatus) Terminal() bool {
	return s != JobQueued && s != JobInProgress
}

// JobCode is the member code of a refused job request.
type JobCode string

// The codes of a refused job request.
const (
	JobInvalidTopic           JobCode = "InvalidTopic"
	JobInvalidJSON            JobCode = "InvalidJson"
	JobInvalidRequest         JobCode = "InvalidRequest"
	JobInvalidStateTransition JobCode = "InvalidStateTransition"
	JobNotFound               JobCode = "ResourceNotFound"
	JobVersionMismatch        JobCode = "VersionMismatch"
	JobInternalError          JobCode = "InternalError"
	JobThrottled              JobCode = "RequestThrottled"
	JobTerminalState          JobCode = "TerminalStateReached"
)

// JobSummary is an execution in a list.
type JobSummary struct {
	JobID           string `json:"jobId"`
	QueuedAt        int64  `json:"queuedAt"`
	StartedAt       int64  `json:"startedAt,omitzero"`
	LastUpdatedAt   int64  `json:"lastUpdatedAt"`
	VersionNumber   int64  `json:"versionNumber"`
	ExecutionNumber int64  `json:"executionNumber"`
}

// JobExecution is an execution in full.
type JobExecution struct {
	JobID                           string            `json:"jobId"`
	ThingName                       string            `json:"thingName"`
	Status                          JobStatus         `json:"status"`
	StatusDetails                   map[string]string `json:"statusDetails,omitempty"`
	QueuedAt                        int64             `json:"queuedAt"`
	StartedAt                       int64             `json:"startedAt,omitzero"`
	LastUpdatedAt                   int64             `json:"lastUpdatedAt"`
	VersionNumber                   int64             `json:"versionNumber"`
	ExecutionNumber                 int64             `json:"executionNumber"`
	ApproximateSecondsBeforeTimeout int64             `json:"approximateSecondsBeforeTimedOut,omitzero"`
	JobDocument                     jsontext.Value    `json:"jobDocument,omitempty"`
}

// JobDocument is the document of the rotation job. Its topics hold ThingName,
// which the device replaces by its own name.
type JobDocument struct {
	Operation string    `json:"operation"`
	Get       JobTopics `json:"get"`
	Ack       JobTopics `json:"ack"`
}

// JobTopics are where a device asks and where it hears the answer.
type JobTopics struct {
	Subscribe string `json:"subscribe"`
	Publish   string `json:"publish"`
}

// RotateCertificates is the operation that the rotation job asks for.
const RotateCertificates = "RotateCertificates"

// NewJobDocument returns the document for these topics. A device subscribes
// to everything below its request topic, as with the original, so both
// replies of an action must stand one level below its request topic.
func NewJobDocument(t Topics) JobDocument {
	return JobDocument{
		Operation: RotateCertificates,
		Get:       JobTopics{Subscribe: replyFilter(t.GetAccepted), Publish: t.Get},
		Ack:       JobTopics{Subscribe: replyFilter(t.AckAccepted), Publish: t.Ack},
	}
}

func replyFilter(accepted string) string {
	return accepted[:strings.LastIndex(accepted, "/")+1] + "+"
}

// JobGetAccepted answers a request for the list of pending executions.
type JobGetAccepted struct {
	InProgressJobs []JobSummary `json:"inProgressJobs"`
	QueuedJobs     []JobSummary `json:"queuedJobs"`
	Timestamp      int64        `json:"timestamp"`
	ClientToken    string       `json:"clientToken,omitempty"`
}

// JobExecutionReply answers start-next and {jobId}/get, and is the payload of
// notify-next. Execution is nil when nothing is pending.
type JobExecutionReply struct {
	Execution   *JobExecution `json:"execution,omitempty"`
	Timestamp   int64         `json:"timestamp"`
	ClientToken string        `json:"clientToken,omitempty"`
}

// JobNotify is the payload of notify: the pending executions, by status.
type JobNotify struct {
	Timestamp int64                      `json:"timestamp"`
	Jobs      map[JobStatus][]JobSummary `json:"jobs"`
}

// JobStartNext is the body of start-next.
type JobStartNext struct {
	StatusDetails        map[string]string `json:"statusDetails,omitempty"`
	StepTimeoutInMinutes int64             `json:"stepTimeoutInMinutes,omitzero"`
	ClientToken          string            `json:"clientToken,omitempty"`
}

// JobDescribe is the body of {jobId}/get. The document is included unless
// IncludeJobDocument is false.
type JobDescribe struct {
	ExecutionNumber    int64  `json:"executionNumber,omitzero"`
	IncludeJobDocument *bool  `json:"includeJobDocument,omitzero"`
	ClientToken        string `json:"clientToken,omitempty"`
}

// JobUpdate is the body of {jobId}/update. ExpectedVersion may be a number or
// a string: AWS's own examples show both.
type JobUpdate struct {
	Status                   JobStatus         `json:"status"`
	StatusDetails            map[string]string `json:"statusDetails,omitempty"`
	ExpectedVersion          jsontext.Value    `json:"expectedVersion,omitempty"`
	ExecutionNumber          int64             `json:"executionNumber,omitzero"`
	IncludeJobExecutionState bool              `json:"includeJobExecutionState,omitzero"`
	IncludeJobDocument       bool              `json:"includeJobDocument,omitzero"`
	StepTimeoutInMinutes     int64             `json:"stepTimeoutInMinutes,omitzero"`
	ClientToken              string            `json:"clientToken,omitempty"`
}

// JobUpdateAccepted answers {jobId}/update.
type JobUpdateAccepted struct {
	ExecutionState *JobExecutionState `json:"executionState,omitempty"`
	JobDocument    jsontext.Value     `json:"jobDocument,omitempty"`
	Timestamp      int64              `json:"timestamp"`
	ClientToken    string             `json:"clientToken,omitempty"`
}

// JobExecutionState is where an execution stands.
type JobExecutionState struct {
	Status        JobStatus         `json:"status"`
	StatusDetails map[string]string `json:"statusDetails,omitempty"`
	VersionNumber int64             `json:"versionNumber"`
}

// JobRefusal refuses a job request.
type JobRefusal struct {
	Code           JobCode            `json:"code"`
	Message        string             `json:"message"`
	ClientToken    string             `json:"clientToken,omitempty"`
	Timestamp      int64              `json:"timestamp"`
	ExecutionState *JobExecutionState `json:"executionState,omitempty"`
}
