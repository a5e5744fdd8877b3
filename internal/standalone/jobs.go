package standalone

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/rs/zerolog"

	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/jobs"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
)

// JobStore keeps the executions of jobs. Methods are safe for concurrent use.
type JobStore interface {
	// Pending returns the executions of the device that are not terminal:
	// those in progress first, then the queued ones, oldest first.
	Pending(context.Context, registry.DeviceID) ([]jobs.Execution, error)
	// Execution returns one execution, the newest for number 0.
	// store.ErrNoExecution if it is not there.
	Execution(ctx context.Context, device registry.DeviceID, jobID string, number int64) (jobs.Execution, error)
	// Document returns the document of a job, which never changes.
	Document(ctx context.Context, jobID string) ([]byte, error)
	// Update replaces an execution by what change makes of it, in one
	// transaction, and returns it. An error of change is returned as it is
	// and changes nothing. store.ErrNoExecution if it is not there.
	Update(ctx context.Context, device registry.DeviceID, jobID string, number int64,
		change func(jobs.Execution) (jobs.Execution, error)) (jobs.Execution, error)
}

// JobsConfig is what Jobs need.
type JobsConfig struct {
	Store             JobStore
	Publish           func(ctx context.Context, topic string, payload []byte) error // for notify and notify-next
	Ended             func()                                                        // is called when an execution came to its end
	InProgressTimeout time.Duration                                                 // shown to devices; zero is none
	Now               func() time.Time
	Log               zerolog.Logger
}

// Jobs answers the AWS IoT Jobs MQTT API
// (docs.aws.amazon.com/iot/latest/developerguide/jobs-mqtt-api.html) and
// notifies devices. Step timers are not kept: stepTimeoutInMinutes is checked
// and has no effect, only job.in_progress_timeout ends an execution. Safe for
// concurrent use.
type Jobs struct {
	config JobsConfig

	mu        sync.Mutex
	documents map[string][]byte
}

var _ JobAPI = (*Jobs)(nil)

// NewJobs returns the API on a store.
func NewJobs(config JobsConfig) *Jobs {
	return &Jobs{config: config, documents: map[string][]byte{}}
}

// jobID is what AWS allows for the id of a job (API reference, CreateJob).
var jobID = regexp.MustCompile(`^[a-zA-Z0-9_-]{1,64}$`)

// Answer answers one request; see JobAPI. Whatever is wrong with a request,
// the answer says so.
func (j *Jobs) Answer(ctx context.Context, device registry.DeviceID, topic string, payload []byte) (replyTopic string, reply []byte) {
	request, ok := parseJobTopic(topic)
	token, err := jobToken(payload)
	var accepted any
	switch {
	case err != nil:
	case !ok, request.device != string(device), request.jobID != "" && request.jobID != nextJob && !jobID.MatchString(request.jobID):
		err = jobs.Refusal{Code: protocol.JobInvalidTopic, Message: "no job request has this topic"}
	default:
		accepted, err = j.answer(ctx, device, jobCall{request, payload, token})
	}
	if err != nil {
		refusal := j.refusal(err, token)
		j.config.Log.Info().Str("device", string(device)).Str("action", "jobs/"+string(request.verb)).Str("verdict", "rejected").
			Str("code", string(refusal.Code)).Err(err).Msg("job request")
		return request.refuse(refusal)
	}
	j.config.Log.Debug().Str("device", string(device)).Str("action", "jobs/"+string(request.verb)).Str("verdict", "accepted").Msg("job request")
	return request.accept(accepted)
}

// jobCall is a request with what has been read of it so far.
type jobCall struct {
	jobRequest
	payload []byte
	token   string
}

func (j *Jobs) answer(ctx context.Context, device registry.DeviceID, call jobCall) (any, error) {
	switch {
	case call.verb == jobStartNext:
		return j.startNext(ctx, device, call)
	case call.verb == jobUpdate:
		return j.update(ctx, device, call)
	case call.jobID == "":
		return j.list(ctx, device, call)
	}
	return j.describe(ctx, device, call)
}

// jobToken checks that the payload is one JSON object, or empty, and returns
// its clientToken, which even a refusal echoes.
func jobToken(payload []byte) (token string, err error) {
	switch value := jsontext.Value(payload); {
	case len(payload) == 0:
		return "", nil
	case len(payload) > protocol.MaxPayload:
		return "", invalidJob(fmt.Sprintf("payload of more than %d octets", protocol.MaxPayload))
	case !value.IsValid() || value.Kind() != '{':
		return "", jobs.Refusal{Code: protocol.JobInvalidJSON, Message: "the payload is not one JSON object"}
	}
	var body struct {
		ClientToken string `json:"clientToken"`
	}
	if protocol.Decode(payload, &body) != nil || utf8.RuneCountInString(body.ClientToken) > protocol.MaxClientToken {
		return "", invalidJob(fmt.Sprintf("clientToken is not a string of at most %d characters", protocol.MaxClientToken))
	}
	return body.ClientToken, nil
}

// decodeJob reads the body of a request that jobToken has accepted.
func decodeJob(payload []byte, into any) error {
	if len(payload) == 0 {
		return nil
	}
	if err := protocol.Decode(payload, into); err != nil {
		return invalidJob("a member has the wrong type")
	}
	return nil
}

func invalidJob(message string) error {
	return jobs.Refusal{Code: protocol.JobInvalidRequest, Message: message}
}

// refusedUpdate is a refusal that shows where the execution stands.
type refusedUpdate struct {
	jobs.Refusal
	state *protocol.JobExecutionState
}

func (r refusedUpdate) Unwrap() error { return r.Refusal }

// refusal is the answer for an error. A cause that is not the device's stays
// in the log.
func (j *Jobs) refusal(err error, token string) protocol.JobRefusal {
	refusal := protocol.JobRefusal{
		Code: protocol.JobInternalError, Message: "the request could not be carried out, try again later",
		ClientToken: token, Timestamp: j.config.Now().Unix(),
	}
	var refused jobs.Refusal
	var withState refusedUpdate
	switch {
	case errors.As(err, &refused):
		refusal.Code, refusal.Message = refused.Code, refused.Message
	case errors.Is(err, store.ErrNoExecution):
		refusal.Code, refusal.Message = protocol.JobNotFound, "there is no such execution"
	}
	if errors.As(err, &withState) {
		refusal.ExecutionState = withState.state
	}
	return refusal
}
