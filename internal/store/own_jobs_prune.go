package store

import (
	"context"
	"fmt"
	"time"
)

// ownThingsBunch is how many rows of things with one job a commit takes out.
const ownThingsBunch = 1000

// endedOwnJob is a campaign's job that nobody will ask for again: it ended
// before a moment, and it is of a campaign that has ended, or no thing had it
// last. What things had by hand stays: it says how often they had the job.
const endedOwnJob = ` o.ended <> 0 AND o.ended < ?1 AND o.id <> o.job
	AND (NOT EXISTS (SELECT 1 FROM own_job_things t WHERE t.own = o.id)
		OR o.campaign <> '' AND NOT EXISTS (SELECT 1 FROM campaigns c WHERE c.name = o.campaign AND (c.ended = 0 OR c.ended >= ?1)))
	AND NOT EXISTS (SELECT 1 FROM own_job_things t JOIN executions e ON e.device = t.device AND e.job = t.job AND e.number = t.number
		WHERE t.own = o.id AND e.status IN ('QUEUED', 'IN_PROGRESS'))`

// prune takes out jobs of campaigns that ended before a time, with who had them
// and what they are called in the other place; of one job at most so many rows
// at a time.
func (h OwnJobs) prune(ctx context.Context, before time.Time) error {
	var ids []string
	err := h.s.view(ctx, func(q querier) (err error) {
		ids, err = collect(q, value[string], `SELECT o.id FROM own_jobs o WHERE`+endedOwnJob+` ORDER BY o.id LIMIT ?2`, nanos(before), pruneBunch)
		return err
	})
	for _, id := range ids {
		if err == nil {
			err = h.s.commit(ctx, func(t *tx) error { return pruneOwnJob(t, id, before) })
		}
	}
	if err != nil {
		return fmt.Errorf("prune jobs of campaigns: %w", err)
	}
	return nil
}

func pruneOwnJob(t *tx, id string, before time.Time) error {
	still, err := value[bool](t.row(`SELECT count(*) FROM own_jobs o WHERE o.id = ?2 AND`+endedOwnJob, nanos(before), id))
	if err != nil || !still {
		return err
	}
	err = t.change(`DELETE FROM own_job_things WHERE own = ?1 AND device IN (
		SELECT device FROM own_job_things WHERE own = ?1 ORDER BY device LIMIT ?2)`, id, ownThingsBunch)
	if err != nil {
		return err
	}
	more, err := value[bool](t.row(`SELECT EXISTS (SELECT 1 FROM own_job_things WHERE own = ?)`, id))
	if err != nil || more {
		return err
	}
	if err := t.change(`DELETE FROM own_jobs WHERE id = ?`, id); err != nil {
		return err
	}
	return setMeta(t, RemoteJobKey(id), "")
}
