package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/certvendor/certvendor/jobs"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
)

const executionColumns = `device, job, number, status, details, version, queued, started, updated`

func scanExecution(row scanner) (jobs.Execution, error) {
	var (
		e                        jobs.Execution
		details                  string
		queued, started, updated int64
	)
	err := row.Scan(&e.Device, &e.JobID, &e.Number, &e.Status, &details, &e.Version, &queued, &started, &updated)
	if err != nil {
		return e, err
	}
	e.QueuedAt, e.StartedAt, e.UpdatedAt = moment(queued), moment(started), moment(updated)
	e.Details, err = fields(details)
	return e, err
}

func save(t *tx, e jobs.Execution) error {
	return t.change(`INSERT INTO executions (`+executionColumns+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (device, job, number) DO UPDATE SET status = excluded.status, details = excluded.details,
		version = excluded.version, started = excluded.started, updated = excluded.updated`,
		e.Device, e.JobID, e.Number, e.Status, object(e.Details), e.Version,
		nanos(e.QueuedAt), nanos(e.StartedAt), nanos(e.UpdatedAt))
}

// Pending returns a device's executions that have not ended: those in progress
// first, then those queued, the oldest first in each.
func (h Jobs) Pending(ctx context.Context, device registry.DeviceID) ([]jobs.Execution, error) {
	var pending []jobs.Execution
	err := h.s.look(ctx, func(q querier) (err error) {
		pending, err = collect(q, scanExecution, `SELECT `+executionColumns+` FROM executions
			WHERE device = ? AND status IN ('IN_PROGRESS', 'QUEUED')
			ORDER BY status = 'QUEUED', queued, job, number`, device)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("pending jobs of device %s: %w", device, err)
	}
	return pending, nil
}

// Execution returns one execution; number 0 is the newest of that job on that
// device. ErrNoExecution if there is none.
func (h Jobs) Execution(ctx context.Context, device registry.DeviceID, jobID string, number int64) (jobs.Execution, error) {
	var e jobs.Execution
	err := h.s.look(ctx, func(q querier) (err error) {
		e, err = execution(q, device, jobID, number)
		return err
	})
	if err != nil {
		return jobs.Execution{}, fmt.Errorf("job %.64q of device %s: %w", jobID, device, err)
	}
	return e, nil
}

// Newest implements jobs.Continuous.
func (h Jobs) Newest(ctx context.Context, device registry.DeviceID) (jobs.Execution, bool, error) {
	var (
		e    jobs.Execution
		some bool
	)
	err := h.s.look(ctx, func(q querier) (err error) {
		e, some, err = newestOf(q, device)
		return err
	})
	if err != nil {
		return jobs.Execution{}, false, fmt.Errorf("newest job of device %s: %w", device, err)
	}
	return e, some, nil
}

// newestFirst is the order of a device's executions whatever the clock did: by their
// jobs, of which the newest counts, and of one job by their numbers.
const newestFirst = ` ORDER BY (SELECT place FROM jobs WHERE id = job) DESC, number DESC`

func newestOf(q querier, device registry.DeviceID) (jobs.Execution, bool, error) {
	return single(q, scanExecution, `SELECT `+executionColumns+` FROM executions
		WHERE device = ?`+newestFirst+` LIMIT 1`, device)
}

func execution(q querier, device registry.DeviceID, jobID string, number int64) (jobs.Execution, error) {
	e, there, err := single(q, scanExecution, `SELECT `+executionColumns+` FROM executions
		WHERE device = ? AND job = ? AND (? = 0 OR number = ?) ORDER BY number DESC LIMIT 1`,
		device, jobID, number, number)
	if err == nil && !there {
		err = ErrNoExecution
	}
	return e, err
}

// Document returns the document of a job. ErrNoJob if there is none of the id.
func (h Jobs) Document(ctx context.Context, jobID string) ([]byte, error) {
	var document []byte
	err := h.s.look(ctx, func(q querier) error {
		var known bool
		var err error
		document, known, err = single(q, value[[]byte], `SELECT document FROM jobs WHERE id = ?`, jobID)
		if err == nil && !known {
			err = ErrNoJob
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("document of job %.64q: %w", jobID, err)
	}
	return document, nil
}

// Update changes one execution (number 0: the newest) by change, with nothing
// in between, and returns it as it is then. An error of change is returned
// as it is, and nothing is written. change must depend on nothing but its
// argument: it may be called again if the transaction is repeated.
func (h Jobs) Update(
	ctx context.Context, device registry.DeviceID, jobID string, number int64,
	change func(jobs.Execution) (jobs.Execution, error),
) (jobs.Execution, error) {
	updated, err := commitFor(ctx, h.s, func(t *tx) (jobs.Execution, error) {
		e, err := execution(t, device, jobID, number)
		if err != nil {
			return e, err
		}
		changed, err := change(e)
		if err != nil {
			return e, refusal{err}
		}
		// What names an execution does not change.
		changed.Device, changed.JobID, changed.Number, changed.QueuedAt = e.Device, e.JobID, e.Number, e.QueuedAt
		return changed, save(t, changed)
	})
	if refused := (refusal{}); errors.As(err, &refused) {
		return jobs.Execution{}, refused.why
	}
	if err != nil {
		return jobs.Execution{}, fmt.Errorf("update job %.64q of device %s: %w", jobID, device, err)
	}
	return updated, nil
}

// waitingMembers are the members that wait for an execution and may be given one.
const waitingMembers = `FROM members m INDEXED BY members_waiting CROSS JOIN devices d
	WHERE m.waits <> 0 AND d.id = m.device AND d.blocked = 0`

// Release gives up to most waiting members, those that wait longest first,
// their execution of the job, and returns them. Members that are blocked or not
// in the registry go on waiting. Nobody gets one of a canceled job.
func (h Jobs) Release(ctx context.Context, most int) ([]registry.DeviceID, error) {
	released, err := commitFor(ctx, h.s, func(t *tx) ([]registry.DeviceID, error) {
		job, some, err := newestJob(t)
		if err != nil || !some || job.State != jobs.InProgress || most <= 0 {
			return nil, err
		}
		waiting, err := collect(t, value[registry.DeviceID], `SELECT m.device `+waitingMembers+` ORDER BY m.waits, m.device`+atMost, most)
		if err != nil {
			return nil, err
		}
		above, err := givenBefore(t)
		if err != nil {
			return nil, err
		}
		for _, device := range waiting {
			if err := release(t, job.ID, device, above); err != nil {
				return nil, err
			}
		}
		return waiting, nil
	})
	if err != nil {
		return nil, fmt.Errorf("release members: %w", err)
	}
	return released, nil
}

// Waits reports whether Release would give a member its execution, were the job
// not canceled.
func (h Jobs) Waits(ctx context.Context) (bool, error) {
	var waits bool
	err := h.s.look(ctx, func(q querier) (err error) {
		waits, err = value[bool](q.row(`SELECT EXISTS (SELECT 1 ` + waitingMembers + `)`))
		return err
	})
	if err != nil {
		return false, fmt.Errorf("does a member wait: %w", err)
	}
	return waits, nil
}

// givenBefore returns a number that is above those of executions which a
// restore has lost: a device takes a number that it knows for a job that it has
// done.
func givenBefore(q querier) (int64, error) {
	r, err := restoration(q)
	if err != nil || r.At.IsZero() {
		return 0, err
	}
	return r.At.Unix(), nil
}

func release(t *tx, job string, device registry.DeviceID, above int64) error {
	last, err := value[int64](t.row(`SELECT coalesce(max(number), 0) FROM executions WHERE device = ? AND job = ?`, device, job))
	if err != nil {
		return err
	}
	if err := t.change(`UPDATE members SET waits = 0 WHERE device = ?`, device); err != nil {
		return err
	}
	return save(t, jobs.Execution{
		JobID: job, Device: device, Number: max(last, above) + 1, Status: protocol.JobQueued, Version: 1,
		QueuedAt: t.now, UpdatedAt: t.now,
	})
}

// asleepAfter is for how long a queued execution counts as in flight. A device
// that is connected takes it within seconds; one that is not may be away for
// weeks, and its job waits for it without holding up the others. Nor does one do
// so that was queued by a clock that ran ahead, until it is as late as that.
const asleepAfter = 10 * time.Minute

// InFlight returns how many executions, of whatever job, are in progress or
// were queued within the last ten minutes.
func (h Jobs) InFlight(ctx context.Context) (int, error) {
	var n int
	now := h.s.now()
	err := h.s.look(ctx, func(q querier) error {
		return q.row(`SELECT (SELECT coalesce(sum(n), 0) FROM tallies WHERE what IN (SELECT id FROM jobs) AND state = 'IN_PROGRESS')
			+ (SELECT count(*) FROM executions INDEXED BY executions_fresh WHERE status = 'QUEUED' AND queued BETWEEN ? AND ?)`,
			nanos(now.Add(-asleepAfter))+1, nanos(now.Add(asleepAfter))).Scan(&n)
	})
	if err != nil {
		return 0, fmt.Errorf("count executions in flight: %w", err)
	}
	return n, nil
}

// timeOutMost bounds how many executions one commit times out.
const timeOutMost = 1000

// TimeOut ends executions that are in progress since before a time as
// TIMED_OUT and returns their devices, at most 1,000: ask again until it
// returns none. One that began as far ahead of now as that time lies behind was
// begun by a clock that ran ahead, and would take a place in flight until then.
func (h Jobs) TimeOut(ctx context.Context, startedBefore time.Time) ([]registry.DeviceID, error) {
	ended, err := commitFor(ctx, h.s, func(t *tx) ([]registry.DeviceID, error) {
		late, err := collect(t, scanExecution, `SELECT `+executionColumns+` FROM executions INDEXED BY executions_started
			WHERE status = 'IN_PROGRESS' AND (started < ? OR started > ?) ORDER BY started`+atMost,
			nanos(startedBefore), nanos(t.now.Add(t.now.Sub(startedBefore))), timeOutMost)
		if err != nil {
			return nil, err
		}
		return devicesOf(late, func(e jobs.Execution) registry.DeviceID { return e.Device }),
			endAll(t, late, protocol.JobTimedOut)
	})
	if err != nil {
		return nil, fmt.Errorf("time out executions: %w", err)
	}
	return ended, nil
}
