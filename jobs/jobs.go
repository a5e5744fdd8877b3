// Package jobs is the continuous job that tells the members of the rotation
// group to rotate: its document, its name, and the states of its execution on
// a device. It does no I/O; a back end supplies a Continuous.
package jobs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
)

// State is the state of a job as a whole.
type State string

// The states of a continuous job. It never completes by itself.
const (
	InProgress State = "IN_PROGRESS"
	Canceled   State = "CANCELED"
)

// Job is the continuous job of a group.
type Job struct {
	ID       string
	Group    string
	Document []byte // JSON
	State    State
	Created  time.Time
}

// New returns the job for a group and the topics its devices shall use. Its
// id follows from both, so that the same configuration always means the same
// job, and other topics mean another one.
func New(group string, topics protocol.Topics) Job {
	document, err := json.Marshal(protocol.NewJobDocument(topics), json.Deterministic(true))
	if err != nil {
		panic("jobs: a document of strings: " + err.Error())
	}
	sum := sha256.Sum256(append([]byte(group+"\n"), document...))
	return Job{ID: "certvendor-" + hex.EncodeToString(sum[:8]), Group: group, Document: document, State: InProgress}
}

// Status is what the operator sees of a job.
type Status struct {
	Job        Job
	Executions map[protocol.JobStatus]int
	Waiting    int // members whose execution has not been made yet
}

// Continuous keeps the one continuous job of the rotation group.
type Continuous interface {
	// Ensure makes the job if it is not there, and cancels a job of the same
	// group with another document. Idempotent. It returns the job as it is.
	Ensure(context.Context, Job) (Job, error)
	// Status returns the job of the group with the counts of its executions.
	Status(context.Context) (Status, error)
	// Cancel ends a job: executions that have not begun are canceled, and
	// nobody gets another one, also after a restart, until Resume. Idempotent.
	Cancel(ctx context.Context, id string) error
	// Resume lets a canceled job go on: members whose newest execution has
	// ended wait for a new one. Idempotent.
	Resume(ctx context.Context, id string) error
	// Newest returns the newest execution of a device, of whatever job; false
	// if it never had one.
	Newest(context.Context, registry.DeviceID) (Execution, bool, error)
}
