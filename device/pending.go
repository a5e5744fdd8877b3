package device

import (
	"context"

	"github.com/certvendor/certvendor/protocol"
)

// lookNext is the request that shows the next pending job and leaves it as it
// is (DescribeJobExecution of the AWS IoT Jobs API).
const lookNext = "$next/get"

// maxUnseen is how many looks in a row may go unanswered, by a broker that
// refuses the topic or a job service that does not know it, until the device
// starts jobs unseen: it must not ask, or be disconnected, for ever.
const maxUnseen = 3

// pendingJob starts the next job if it asks for a rotation. A job of somebody
// else is left as it is, where it can be seen without being started.
func (a *Agent) pendingJob(ctx context.Context, c *connection) (work, bool, error) {
	if err := a.followJobs(ctx, c); err != nil {
		return work{}, false, err
	}
	if execution, seen := a.look(ctx, c); seen {
		if execution == nil {
			return work{}, false, nil
		}
		if _, ok := a.rotationOf(execution); !ok {
			return work{}, false, nil
		}
	}
	execution, err := a.startNext(ctx, c)
	if err != nil || execution == nil {
		return work{}, false, err
	}
	document, ok := a.rotationOf(execution)
	if !ok {
		return work{}, false, nil
	}
	job := jobReference{ID: execution.JobID, Execution: execution.ExecutionNumber, QueuedAt: execution.QueuedAt}
	if job.is(a.store.state.Finished) {
		// Done already; only the report was lost. Its error is told.
		_ = a.report(ctx, c, job, protocol.JobUpdate{Status: protocol.JobSucceeded})
		return work{}, false, nil
	}
	a.tell(Event{Kind: JobReceived, Job: job.ID})
	begun := candidate{Job: job, Topics: document.topics(a.cfg.Topics)}
	return work{job: job, topics: a.topics(ctx, c, begun, a.begins(job))}, true, nil
}

// begins returns how often in a row the job was begun before: one that has left
// no candidate, as where packages are downloaded, is begun anew each time.
func (a *Agent) begins(job jobReference) (before int) {
	if !job.is(a.begun.job) {
		a.begun = attempts{job: job}
	}
	a.begun.n++
	return a.begun.n - 1
}

// attempts is how often in a row a job was begun.
type attempts struct {
	job jobReference
	n   int
}

// look returns the next pending job without starting it, nil if there is none,
// and whether anybody answered.
func (a *Agent) look(ctx context.Context, c *connection) (next *protocol.JobExecution, seen bool) {
	if a.unseen >= maxUnseen {
		return nil, false
	}
	a.unseen++
	if c.subscribe(ctx, a.cfg.Retry.Reply, a.jobTopic(lookNext+"/+")) != nil {
		return nil, false
	}
	var reply protocol.JobExecutionReply
	token := a.token()
	q := a.jobQuestion(lookNext, token, protocol.JobDescribe{ClientToken: token}, &reply)
	_, accepted, err := c.ask(ctx, a.cfg.Retry.Reply, q)
	if err != nil || !accepted {
		return nil, false
	}
	a.unseen = 0
	return present(reply.Execution), true
}

// rotationOf reads the job's document. It tells of a job that asks for
// something else.
func (a *Agent) rotationOf(execution *protocol.JobExecution) (jobDocument, bool) {
	var document jobDocument
	err := protocol.Decode(execution.JobDocument, &document)
	if err != nil || !document.rotates() {
		a.tell(Event{Kind: JobIgnored, Job: execution.JobID, Err: err})
		return document, false
	}
	return document, true
}
