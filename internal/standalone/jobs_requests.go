package standalone

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/jobs"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
)

// list answers get.
func (j *Jobs) list(ctx context.Context, device registry.DeviceID, call jobCall) (any, error) {
	pending, err := j.config.Store.Pending(ctx, device)
	if err != nil {
		return nil, fmt.Errorf("list executions: %w", err)
	}
	reply := protocol.JobGetAccepted{
		InProgressJobs: []protocol.JobSummary{}, QueuedJobs: []protocol.JobSummary{},
		Timestamp: j.config.Now().Unix(), ClientToken: call.token,
	}
	for _, e := range pending {
		if e.Status == protocol.JobInProgress {
			reply.InProgressJobs = append(reply.InProgressJobs, e.Summary())
		} else {
			reply.QueuedJobs = append(reply.QueuedJobs, e.Summary())
		}
	}
	return reply, nil
}

// startNext answers start-next: the execution in progress as it is, or the
// oldest queued one, started.
func (j *Jobs) startNext(ctx context.Context, device registry.DeviceID, call jobCall) (any, error) {
	var body protocol.JobStartNext
	if err := decodeJob(call.payload, &body); err != nil {
		return nil, err
	}
	if err := checkStepTimeout(body.StepTimeoutInMinutes); err != nil {
		return nil, err
	}
	e, err := j.start(ctx, device, body.StatusDetails)
	if errors.Is(err, store.ErrNoExecution) {
		return j.execution(ctx, nil, call)
	}
	if err != nil {
		return nil, err
	}
	return j.execution(ctx, &e, call)
}

// start tries again where an execution ended while it was being started, and
// returns store.ErrNoExecution when none is left.
func (j *Jobs) start(ctx context.Context, device registry.DeviceID, details map[string]string) (jobs.Execution, error) {
	const tries = 5
	for range tries {
		next, err := j.next(ctx, device)
		if err != nil || next.Status == protocol.JobInProgress {
			return next, err
		}
		e, err := j.config.Store.Update(ctx, device, next.JobID, next.Number, func(e jobs.Execution) (jobs.Execution, error) {
			return e.Start(details, j.config.Now())
		})
		var refused jobs.Refusal
		if errors.Is(err, store.ErrNoExecution) || errors.As(err, &refused) && refused.Code == protocol.JobTerminalState {
			continue
		}
		if err != nil {
			return e, fmt.Errorf("start execution: %w", err)
		}
		return e, nil
	}
	return jobs.Execution{}, errors.New("start execution: it ended again and again")
}

// describe answers {jobId}/get.
func (j *Jobs) describe(ctx context.Context, device registry.DeviceID, call jobCall) (any, error) {
	var body protocol.JobDescribe
	if err := decodeJob(call.payload, &body); err != nil {
		return nil, err
	}
	e, err := j.find(ctx, device, call.jobID, body.ExecutionNumber)
	if call.jobID == nextJob && errors.Is(err, store.ErrNoExecution) {
		return j.execution(ctx, nil, call)
	}
	if err != nil {
		return nil, err
	}
	if body.IncludeJobDocument != nil && !*body.IncludeJobDocument {
		return protocol.JobExecutionReply{Execution: j.message(e, nil), Timestamp: j.config.Now().Unix(), ClientToken: call.token}, nil
	}
	return j.execution(ctx, &e, call)
}

// update answers {jobId}/update.
func (j *Jobs) update(ctx context.Context, device registry.DeviceID, call jobCall) (any, error) {
	var body protocol.JobUpdate
	if err := decodeJob(call.payload, &body); err != nil {
		return nil, err
	}
	if err := checkStepTimeout(body.StepTimeoutInMinutes); err != nil {
		return nil, err
	}
	before, err := j.config.Store.Pending(ctx, device)
	if err != nil {
		return nil, fmt.Errorf("list executions: %w", err)
	}
	id, number, err := named(call.jobID, body.ExecutionNumber, before)
	if err != nil {
		return nil, err
	}
	e, err := j.config.Store.Update(ctx, device, id, number, func(e jobs.Execution) (jobs.Execution, error) {
		updated, err := e.Update(body, j.config.Now())
		return updated, withState(err, e)
	})
	if err != nil {
		return nil, fmt.Errorf("update execution: %w", err)
	}
	j.updated(ctx, e, before)
	return j.updateAccepted(ctx, e, body)
}

// named returns what an update calls an execution, of which number 0 is the
// newest: $next is the first of those that are pending.
func named(id string, number int64, pending []jobs.Execution) (string, int64, error) {
	switch {
	case number < 0:
		return "", 0, errNegative
	case id != nextJob:
		return id, number, nil
	case len(pending) == 0:
		return "", 0, store.ErrNoExecution
	}
	return pending[0].JobID, pending[0].Number, nil
}

func (j *Jobs) updateAccepted(ctx context.Context, e jobs.Execution, body protocol.JobUpdate) (any, error) {
	reply := protocol.JobUpdateAccepted{Timestamp: j.config.Now().Unix(), ClientToken: body.ClientToken}
	if body.IncludeJobExecutionState {
		reply.ExecutionState = e.State()
	}
	if body.IncludeJobDocument {
		document, err := j.document(ctx, e.JobID)
		if err != nil {
			return nil, err
		}
		reply.JobDocument = document
	}
	return reply, nil
}

// withState adds where the execution stands to the two refusals that show it.
func withState(err error, e jobs.Execution) error {
	var refused jobs.Refusal
	if errors.As(err, &refused) && (refused.Code == protocol.JobVersionMismatch || refused.Code == protocol.JobInvalidStateTransition) {
		return refusedUpdate{refused, e.State()}
	}
	return err
}

var errNegative = invalidJob("executionNumber must not be negative")

// find returns the execution that a topic and a body name.
func (j *Jobs) find(ctx context.Context, device registry.DeviceID, id string, number int64) (jobs.Execution, error) {
	if number < 0 {
		return jobs.Execution{}, errNegative
	}
	if id == nextJob {
		return j.next(ctx, device)
	}
	e, err := j.config.Store.Execution(ctx, device, id, number)
	if err != nil {
		return e, fmt.Errorf("find execution: %w", err)
	}
	return e, nil
}

// next returns the first pending execution, or store.ErrNoExecution.
func (j *Jobs) next(ctx context.Context, device registry.DeviceID) (jobs.Execution, error) {
	pending, err := j.config.Store.Pending(ctx, device)
	switch {
	case err != nil:
		return jobs.Execution{}, fmt.Errorf("list executions: %w", err)
	case len(pending) == 0:
		return jobs.Execution{}, store.ErrNoExecution
	}
	return pending[0], nil
}

// execution returns the reply with an execution in full, or with none.
func (j *Jobs) execution(ctx context.Context, e *jobs.Execution, call jobCall) (any, error) {
	reply := protocol.JobExecutionReply{Timestamp: j.config.Now().Unix(), ClientToken: call.token}
	if e != nil {
		document, err := j.document(ctx, e.JobID)
		if err != nil {
			return nil, err
		}
		reply.Execution = j.message(*e, document)
	}
	return reply, nil
}

func (j *Jobs) message(e jobs.Execution, document []byte) *protocol.JobExecution {
	m := e.Message(document)
	if e.Status == protocol.JobInProgress && j.config.InProgressTimeout > 0 {
		left := e.StartedAt.Add(j.config.InProgressTimeout).Sub(j.config.Now())
		m.ApproximateSecondsBeforeTimeout = int64(max(left/time.Second, 1))
	}
	return m
}

// document returns a job's document, from memory after the first time.
func (j *Jobs) document(ctx context.Context, id string) ([]byte, error) {
	const atMost = 16 // a daemon sees a handful of jobs
	j.mu.Lock()
	document, ok := j.documents[id]
	j.mu.Unlock()
	if ok {
		return document, nil
	}
	document, err := j.config.Store.Document(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("read document of job %s: %w", id, err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.documents) >= atMost {
		clear(j.documents)
	}
	j.documents[id] = document
	return document, nil
}

// checkStepTimeout is the range of AWS: -1 discards a timer.
func checkStepTimeout(minutes int64) error {
	if minutes < -1 || minutes > 10080 {
		return invalidJob("stepTimeoutInMinutes must be -1 or from 1 to 10080")
	}
	return nil
}
