package store

import (
	"context"
	"fmt"

	"github.com/certvendor/certvendor/jobs"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
)

// Jobs is the continuous job of the rotation group with its executions. The
// job that is kept is the newest that was made.
type Jobs struct{ s *Store }

var _ jobs.Continuous = Jobs{}

const jobColumns = `id, group_name, document, state, created`

func scanJob(row scanner) (jobs.Job, error) {
	var (
		j       jobs.Job
		created int64
	)
	err := row.Scan(&j.ID, &j.Group, &j.Document, &j.State, &created)
	j.Created = moment(created)
	return j, err
}

// Ensure implements jobs.Continuous. A new job is for every member anew. A job
// that was canceled stays so; Resume brings it back.
func (h Jobs) Ensure(ctx context.Context, job jobs.Job) (jobs.Job, error) {
	is, err := commitFor(ctx, h.s, func(t *tx) (jobs.Job, error) { return ensure(t, job) })
	if err != nil {
		return jobs.Job{}, fmt.Errorf("ensure job %s: %w", job.ID, err)
	}
	return is, nil
}

func ensure(t *tx, job jobs.Job) (jobs.Job, error) {
	there, known, err := single(t, scanJob, `SELECT `+jobColumns+` FROM jobs WHERE id = ?`, job.ID)
	if err != nil {
		return job, err
	}
	newest, some, err := newestJob(t)
	if err != nil || known && newest.ID == job.ID {
		return there, err
	}
	if some {
		if _, err := cancel(t, newest.ID); err != nil {
			return job, err
		}
	}
	if err := t.change(`UPDATE members SET waits = ? WHERE waits = 0`, nanos(t.now)); err != nil {
		return job, err
	}
	return enter(t, job, there, known)
}

// enter makes a job the newest: one that was there before another was made, and
// is wanted again, goes on where it was.
func enter(t *tx, job, there jobs.Job, known bool) (jobs.Job, error) {
	if known {
		there.State = jobs.InProgress
		return there, t.change(`UPDATE jobs SET state = ?, place = (SELECT max(place) + 1 FROM jobs) WHERE id = ?`,
			there.State, there.ID)
	}
	if job.State == "" {
		job.State = jobs.InProgress
	}
	if job.Created.IsZero() {
		job.Created = t.now
	}
	job.Created = moment(nanos(job.Created))
	return job, t.change(`INSERT INTO jobs VALUES (?, ?, ?, ?, ?, (SELECT coalesce(max(place), 0) + 1 FROM jobs))`,
		job.ID, job.Group, job.Document, job.State, nanos(job.Created))
}

func newestJob(q querier) (jobs.Job, bool, error) {
	return single(q, scanJob, `SELECT `+jobColumns+` FROM jobs ORDER BY place DESC LIMIT 1`)
}

// theJob returns the newest job, or ErrNoJob.
func theJob(q querier) (jobs.Job, error) {
	job, some, err := newestJob(q)
	if err == nil && !some {
		err = ErrNoJob
	}
	return job, err
}

// Canceled reports whether the newest job was canceled, without a look at those who
// wait for it. ErrNoJob before the first Ensure.
func (h Jobs) Canceled(ctx context.Context) (bool, error) {
	var job jobs.Job
	err := h.s.look(ctx, func(q querier) (err error) {
		job, err = theJob(q)
		return err
	})
	if err != nil {
		return false, fmt.Errorf("state of the job: %w", err)
	}
	return job.State == jobs.Canceled, nil
}

// Status implements jobs.Continuous. ErrNoJob before the first Ensure.
func (h Jobs) Status(ctx context.Context) (jobs.Status, error) {
	status := jobs.Status{Executions: map[protocol.JobStatus]int{}}
	err := h.s.view(ctx, func(q querier) error {
		job, err := theJob(q)
		if err != nil {
			return err
		}
		status.Job = job
		tallied, err := tallies(q, job.ID)
		if err != nil {
			return err
		}
		for state, n := range tallied {
			status.Executions[protocol.JobStatus(state)] = n
		}
		status.Waiting, err = value[int](q.row(`SELECT count(*) FROM members WHERE waits <> 0`))
		return err
	})
	if err != nil {
		return jobs.Status{}, fmt.Errorf("status of the job: %w", err)
	}
	return status, nil
}

// Cancel implements jobs.Continuous. ErrNoJob for one that never was. Members
// wait, but get no execution of a job that is canceled.
func (h Jobs) Cancel(ctx context.Context, id string) error {
	_, err := h.CancelFor(ctx, id)
	return err
}

// CancelFor is Cancel, and returns the devices that lost an execution by it.
func (h Jobs) CancelFor(ctx context.Context, id string) ([]registry.DeviceID, error) {
	lost, err := commitFor(ctx, h.s, func(t *tx) ([]registry.DeviceID, error) {
		job, known, err := single(t, scanJob, `SELECT `+jobColumns+` FROM jobs WHERE id = ?`, id)
		switch {
		case err != nil:
			return nil, err
		case !known:
			return nil, ErrNoJob
		case job.State == jobs.Canceled:
			return nil, nil
		}
		return cancel(t, id)
	})
	if err != nil {
		return nil, fmt.Errorf("cancel job %s: %w", id, err)
	}
	return lost, nil
}

func cancel(t *tx, id string) ([]registry.DeviceID, error) {
	queued, err := collect(t, scanExecution, `SELECT `+executionColumns+` FROM executions INDEXED BY executions_queued
		WHERE job = ? AND status = 'QUEUED'`, id)
	if err != nil {
		return nil, err
	}
	if err := endAll(t, queued, protocol.JobCanceled); err != nil {
		return nil, err
	}
	lost := devicesOf(queued, func(e jobs.Execution) registry.DeviceID { return e.Device })
	return lost, t.change(`UPDATE jobs SET state = ? WHERE id = ?`, jobs.Canceled, id)
}

// Resume implements jobs.Continuous. ErrNoJob for one that never was.
func (h Jobs) Resume(ctx context.Context, id string) error {
	err := h.s.commit(ctx, func(t *tx) error {
		job, known, err := single(t, scanJob, `SELECT `+jobColumns+` FROM jobs WHERE id = ?`, id)
		switch {
		case err != nil:
			return err
		case !known:
			return ErrNoJob
		case job.State == jobs.InProgress:
			return nil
		}
		if err := t.change(`UPDATE jobs SET state = ? WHERE id = ?`, jobs.InProgress, id); err != nil {
			return err
		}
		return t.change(`UPDATE members SET waits = ? WHERE waits = 0 AND NOT EXISTS (
			SELECT 1 FROM executions e WHERE e.device = members.device AND e.job = ?
			AND e.status IN ('QUEUED', 'IN_PROGRESS'))`, nanos(t.now), id)
	})
	if err != nil {
		return fmt.Errorf("resume job %s: %w", id, err)
	}
	return nil
}
