package store

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

// pruneBunch is how many rotations one commit takes out.
const pruneBunch = 100

// place in the order of finished rotations.
type finishedAt struct {
	closed int64
	device registry.DeviceID
	number int64
}

// pruned is how far the looks at finished rotations have come. Where it is lost
// they begin anew.
type pruned struct {
	mu   sync.Mutex
	last finishedAt
}

var _ rotation.Pruner = Journal{}

// prunable are the rotations that nothing will ask for again: a newer one of the
// device is finished, nothing is left to do behind it, no retirement of the
// device is open, and no older one was proven, so that the one rule still
// knows which certificates came after which.
const prunable = ` behind = ''
	AND EXISTS (SELECT 1 FROM rotations n WHERE n.device = rotations.device AND n.number > rotations.number AND n.state = 'finished')
	AND NOT EXISTS (SELECT 1 FROM retirements d WHERE d.device = rotations.device AND d.done = 0)
	AND NOT EXISTS (SELECT 1 FROM rotations o WHERE o.device = rotations.device AND o.number < rotations.number AND o.proven_at <> 0)`

// Prune implements rotation.Pruner. The rotations of a device go oldest first,
// with the retirements that they brought. Behind the last one go the jobs that
// campaigns had for themselves and that ended as long ago.
func (h Journal) Prune(ctx context.Context, before time.Time, most int) (int, error) {
	h.s.pruned.mu.Lock()
	defer h.s.pruned.mu.Unlock()
	gone := 0
	for looked := 0; looked < most; {
		some, err := h.finished(ctx, before, min(pruneBunch, most-looked))
		if err != nil {
			return gone, fmt.Errorf("prune rotations: %w", err)
		}
		if len(some) == 0 {
			h.s.pruned.last = finishedAt{} // the end: begin anew next time
			return gone, h.s.OwnJobs().prune(ctx, before)
		}
		n, err := commitFor(ctx, h.s, func(t *tx) (int, error) { return prune(t, some) })
		if err != nil {
			return gone, fmt.Errorf("prune rotations: %w", err)
		}
		gone, looked = gone+n, looked+len(some)
		h.s.pruned.last = some[len(some)-1]
	}
	return gone, nil
}

// finished returns the next rotations that were finished before a time.
func (h Journal) finished(ctx context.Context, before time.Time, most int) (some []finishedAt, err error) {
	last := h.s.pruned.last
	err = h.s.view(ctx, func(q querier) (err error) {
		some, err = collect(q, func(row scanner) (f finishedAt, err error) {
			err = row.Scan(&f.closed, &f.device, &f.number)
			return f, err
		}, `SELECT closed_at, device, number FROM rotations INDEXED BY rotations_finished
			WHERE state = 'finished' AND closed_at < ? AND (closed_at, device, number) > (?, ?, ?)
			ORDER BY closed_at, device, number`+atMost, nanos(before), last.closed, last.device, last.number, most)
		return err
	})
	return some, err
}

func prune(t *tx, some []finishedAt) (gone int, err error) {
	for _, f := range some {
		out, err := value[bool](t.row(`SELECT count(*) FROM rotations WHERE device = ? AND number = ? AND state = 'finished' AND`+prunable,
			f.device, f.number))
		if err != nil {
			return gone, err
		}
		if !out {
			continue
		}
		for _, text := range [...]string{
			`DELETE FROM retirements WHERE device = ? AND rotation = ?`,
			`DELETE FROM rotations WHERE device = ? AND number = ?`,
		} {
			if err := t.changeOf(f.device, text, f.device, f.number); err != nil {
				return gone, err
			}
		}
		t.count(rotation.Finished, "")
		gone++
	}
	return gone, nil
}
