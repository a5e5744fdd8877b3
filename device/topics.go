package device

import (
	"context"

	"github.com/certvendor/certvendor/protocol"
)

// topics returns those to go on with after n attempts in vain: first the ones
// that the rotation was begun with, which are the configured ones where it was
// begun without a job; then, in turn, those of the rotation job that is next
// by now and the configured ones. Whichever held a slip may have been put
// right.
func (a *Agent) topics(ctx context.Context, c *connection, begun candidate, n int) protocol.Topics {
	if n%2 == 1 {
		if document, ok := a.nextRotation(ctx, c); ok {
			return document.topics(a.cfg.Topics)
		}
	}
	if begun.Job.ID == "" || n > 0 && n%2 == 0 || begun.Topics.Validate() != nil {
		return a.cfg.Topics
	}
	return begun.Topics
}

// nextRotation returns the document of the next pending job, unstarted, if it
// asks for a rotation.
func (a *Agent) nextRotation(ctx context.Context, c *connection) (document jobDocument, ok bool) {
	next, _ := a.look(ctx, c)
	if next == nil || protocol.Decode(next.JobDocument, &document) != nil {
		return document, false
	}
	return document, document.rotates()
}
