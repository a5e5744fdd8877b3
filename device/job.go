package device

import (
	"context"
	"fmt"
	"strings"

	"github.com/certvendor/certvendor/protocol"
)

// jobReference names one execution of a job. The zero value is no job.
type jobReference struct {
	ID        string `json:"id,omitempty"`
	Execution int64  `json:"execution,omitempty"`
	// QueuedAt tells it from one of the same name at a job service that began
	// to count anew; 0 where nobody said.
	QueuedAt int64 `json:"queuedAt,omitempty"`
}

// is reports whether both are the same execution, as far as is known.
func (j jobReference) is(other jobReference) bool {
	if j.QueuedAt == 0 || other.QueuedAt == 0 {
		j.QueuedAt, other.QueuedAt = 0, 0
	}
	return j == other
}

// jobDocument reads the rotation job's document, and that of the original's
// later versions, which says name for operation.
type jobDocument struct {
	Operation string             `json:"operation"`
	Name      string             `json:"name"`
	Get       protocol.JobTopics `json:"get"`
	Ack       protocol.JobTopics `json:"ack"`
}

func (d jobDocument) rotates() bool {
	return d.Operation == protocol.RotateCertificates || d.Name == protocol.RotateCertificates
}

// topics returns the document's topics, or the configured ones where the
// document's are missing or unusable, as those of some original deployments.
func (d jobDocument) topics(configured protocol.Topics) protocol.Topics {
	t := protocol.Topics{Get: d.Get.Publish, Ack: d.Ack.Publish}
	t.GetAccepted, t.GetRejected = replies(d.Get.Subscribe, configured.GetAccepted, configured.GetRejected)
	t.AckAccepted, t.AckRejected = replies(d.Ack.Subscribe, configured.AckAccepted, configured.AckRejected)
	if t.Validate() != nil {
		return configured
	}
	return t
}

// replies puts the last levels of the configured replies in the place of the
// filter's wildcard.
func replies(filter, accepted, rejected string) (string, string) {
	parent, ok := strings.CutSuffix(filter, "+")
	if !ok {
		return "", ""
	}
	return parent + accepted[strings.LastIndex(accepted, "/")+1:],
		parent + rejected[strings.LastIndex(rejected, "/")+1:]
}

// jobTopic returns a topic of the AWS IoT Jobs API
// (docs.aws.amazon.com/iot/latest/developerguide/jobs-mqtt-api.html).
func (a *Agent) jobTopic(suffix string) string {
	return "$aws/things/" + a.cfg.Device + "/jobs/" + suffix
}

func (a *Agent) followJobs(ctx context.Context, c *connection) error {
	return c.subscribe(ctx, a.cfg.Retry.Reply,
		a.jobTopic("notify-next"), a.jobTopic("start-next/+"))
}

// startNext starts the next pending job, or returns nil if there is none. A job
// that is already in progress is returned again.
func (a *Agent) startNext(ctx context.Context, c *connection) (*protocol.JobExecution, error) {
	var reply protocol.JobExecutionReply
	token := a.token()
	q := a.jobQuestion("start-next", token, protocol.JobStartNext{ClientToken: token}, &reply)
	if err := a.askForJob(ctx, c, q); err != nil {
		return nil, fmt.Errorf("start the next job: %w", err)
	}
	return present(reply.Execution), nil
}

func (a *Agent) jobQuestion(suffix, token string, body any, reply *protocol.JobExecutionReply) question {
	topic := a.jobTopic(suffix)
	return question{
		message:  message{topic: topic, payload: protocol.Encode(body)},
		accepted: topic + "/accepted", rejected: topic + "/rejected",
		token: token,
		take: func(payload []byte) error {
			*reply = protocol.JobExecutionReply{}
			return protocol.Decode(payload, reply)
		},
	}
}

// present returns nil for an execution that says nothing: the answer where
// nothing is pending has no execution, or an empty one.
func present(execution *protocol.JobExecution) *protocol.JobExecution {
	if execution == nil || execution.JobID == "" {
		return nil
	}
	return execution
}

// report ends the job. A job that has ended or gone meanwhile is no error.
func (a *Agent) report(ctx context.Context, c *connection, job jobReference, update protocol.JobUpdate) error {
	if job.ID == "" {
		return nil
	}
	update.ExecutionNumber, update.ClientToken = job.Execution, a.token()
	topic := a.jobTopic(job.ID + "/update")
	err := c.subscribe(ctx, a.cfg.Retry.Reply, topic+"/+")
	if err == nil {
		err = a.askForJob(ctx, c, question{
			message:  message{topic: topic, payload: protocol.Encode(update)},
			accepted: topic + "/accepted", rejected: topic + "/rejected",
			token: update.ClientToken,
		})
	}
	a.tell(Event{Kind: JobReported, Job: job.ID, Err: err})
	return err
}

// askForJob asks until there is an answer. A refusal that asking again cannot
// change is an error, unless it says that the job has ended or gone.
func (a *Agent) askForJob(ctx context.Context, c *connection, q question) error {
	return a.persist(ctx, func() (retryAfter int, err error) {
		payload, accepted, err := c.ask(ctx, a.cfg.Retry.Reply, q)
		if err != nil || accepted {
			return 0, err
		}
		var refusal protocol.JobRefusal
		if err := protocol.Decode(payload, &refusal); err != nil {
			return 0, fmt.Errorf("%w: %w", ErrNoAnswer, err)
		}
		switch refusal.Code {
		case protocol.JobTerminalState, protocol.JobNotFound, protocol.JobInvalidStateTransition:
			return 0, nil
		case protocol.JobThrottled, protocol.JobInternalError:
			return 0, fmt.Errorf("%w but %s", ErrNoAnswer, refusal.Code)
		}
		return 0, fmt.Errorf("job request refused: %s", refusal.Code)
	})
}
