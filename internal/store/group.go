package store

import (
	"context"
	"fmt"
	"time"

	"github.com/certvendor/certvendor/jobs"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

// Group is the rotation group. A member waits from the moment it is added until
// Jobs.Release gives it its execution of the job, once for its membership.
type Group struct{ s *Store }

var _ rotation.Group = Group{}

// Add implements rotation.Group. A device that is not in the registry may be
// added; it waits until it is.
func (h Group) Add(ctx context.Context, id registry.DeviceID) error {
	err := h.s.commit(ctx, func(t *tx) error {
		waits, there, err := single(t, value[int64], `SELECT waits FROM members WHERE device = ?`, id)
		switch {
		case err != nil:
			return err
		case there && waits != 0:
			return nil
		case there:
			return again(t, id)
		}
		return join(t, id)
	})
	if err != nil {
		return fmt.Errorf("add device %s to the rotation group: %w", id, err)
	}
	return nil
}

func join(t *tx, id registry.DeviceID) error {
	if err := t.change(`INSERT INTO members VALUES (?, ?, ?)`, id, nanos(t.now), nanos(t.now)); err != nil {
		return err
	}
	return t.audit(Event{Kind: GroupAdded, Device: id})
}

// asked is the condition that a member g waits for its execution, or has one that
// has not ended. Of any other nothing is to be expected until it is added again.
const asked = `(g.waits <> 0 OR coalesce((SELECT e.status IN ('QUEUED', 'IN_PROGRESS') FROM executions e
	WHERE e.device = g.device` + newestFirst + ` LIMIT 1), 0))`

// again lets a member wait for a new execution if it is not asked: it has not
// acked, or it would not be a member any more.
func again(t *tx, id registry.DeviceID) error {
	newest, some, err := newestOf(t, id)
	if err != nil || some && !newest.Status.Terminal() {
		return err
	}
	return t.change(`UPDATE members SET waits = ? WHERE device = ?`, nanos(t.now), id)
}

// Remove implements rotation.Group. Executions that are queued become REMOVED;
// one that is in progress is left.
func (h Group) Remove(ctx context.Context, id registry.DeviceID, since time.Time) error {
	err := h.s.commit(ctx, func(t *tx) error {
		from, there, err := single(t, value[int64], `SELECT since FROM members WHERE device = ?`, id)
		if err != nil || !there || !since.IsZero() && from >= nanos(since) && from <= nanos(t.now) {
			return err
		}
		return leave(t, id, since)
	})
	if err != nil {
		return fmt.Errorf("remove device %s from the rotation group: %w", id, err)
	}
	return nil
}

// leave takes a device out, see drop, and its job from it that it has not begun.
func leave(t *tx, id registry.DeviceID, since time.Time) error {
	left, err := drop(t, id, since)
	if err != nil || !left {
		return err
	}
	if err := wake(t, id); err != nil { // a campaign may have waited for it
		return err
	}
	queued, err := collect(t, scanExecution, `SELECT `+executionColumns+` FROM executions
		WHERE device = ? AND status = 'QUEUED'`, id)
	if err != nil {
		return err
	}
	return endAll(t, queued, protocol.JobRemoved)
}

// drop takes a device out that is a member since before a time, or since whenever
// for the zero time, and reports whether it was. Who became one at a time that has
// not come yet was added before, by a clock that ran ahead.
func drop(t *tx, id registry.DeviceID, since time.Time) (bool, error) {
	n, err := t.exec(`DELETE FROM members WHERE device = ?1 AND (?2 = 0 OR since < ?2 OR since > ?3)`, id, nanos(since), nanos(t.now))
	if err != nil || n == 0 {
		return false, err
	}
	return true, t.audit(Event{Kind: GroupRemoved, Device: id})
}

func endAll(t *tx, all []jobs.Execution, status protocol.JobStatus) error {
	for _, e := range all {
		if err := save(t, e.End(status, t.now)); err != nil {
			return err
		}
	}
	return nil
}

// Members implements rotation.Group.
func (h Group) Members(ctx context.Context, after registry.DeviceID, most int) ([]rotation.Member, error) {
	var page []rotation.Member
	err := h.s.view(ctx, func(q querier) (err error) {
		page, err = collect(q, func(row scanner) (m rotation.Member, err error) {
			var since int64
			err = row.Scan(&m.Device, &since, &m.Waiting)
			m.Since = moment(since)
			return m, err
		}, `SELECT device, since, waits <> 0 FROM members WHERE device > ? ORDER BY device`+atMost, after, limit(most))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("members of the rotation group: %w", err)
	}
	return page, nil
}
