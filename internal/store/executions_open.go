package store

import (
	"context"
	"fmt"

	"github.com/certvendor/certvendor/jobs"
	"github.com/certvendor/certvendor/registry"
)

// Running lists the executions of a job that have not ended, by device, a page
// of at most so many devices after one.
func (h Jobs) Running(ctx context.Context, jobID string, after registry.DeviceID, most int) ([]jobs.Execution, error) {
	var page []jobs.Execution
	err := h.s.view(ctx, func(q querier) (err error) {
		page, err = collect(q, scanExecution, `SELECT `+executionColumns+` FROM executions
			WHERE job = ? AND device > ? AND status IN ('QUEUED', 'IN_PROGRESS') ORDER BY device`+atMost,
			jobID, after, limit(most))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("executions of job %s: %w", jobID, err)
	}
	return page, nil
}
