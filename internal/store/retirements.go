package store

import (
	"context"
	"fmt"
	"maps"
	"strconv"
	"time"

	"github.com/certvendor/certvendor/rotation"
)

const retirementColumns = `device, certificate, rotation, mode, evidence, proven_at, due, reverted, deactivated, done, why`

func scanRetirement(row scanner) (rotation.Retirement, error) {
	var (
		r                              rotation.Retirement
		proven, due, deactivated, done int64
	)
	err := row.Scan(&r.Device, &r.Certificate, &r.Rotation, &r.Mode, &r.Evidence, &proven, &due, &r.Reverted,
		&deactivated, &done, &r.Why)
	r.ProvenAt, r.Due, r.Deactivated, r.Done = moment(proven), moment(due), moment(deactivated), moment(done)
	return r, err
}

// owe enters a retirement, unless it is there.
func owe(t *tx, r rotation.Retirement) error {
	n, err := t.exec(`INSERT INTO retirements (`+retirementColumns+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (device, certificate, rotation) DO NOTHING`,
		r.Device, r.Certificate, r.Rotation, r.Mode, r.Evidence, nanos(r.ProvenAt), nanos(r.Due), r.Reverted,
		nanos(r.Deactivated), nanos(r.Done), r.Why)
	if err != nil || n == 0 {
		return err
	}
	e := owed(RetirementWritten, r)
	e.Detail["evidence"], e.Detail["proven"] = string(r.Evidence), stamp(r.ProvenAt)
	maps.DeleteFunc(e.Detail, func(_, text string) bool { return text == "" })
	return t.audit(e)
}

func owed(kind string, r rotation.Retirement) Event {
	return Event{Kind: kind, Device: r.Device, Certificate: r.Certificate, Detail: map[string]string{
		"rotation": strconv.FormatInt(r.Rotation, 10), "mode": string(r.Mode), "due": stamp(r.Due),
	}}
}

// Note implements rotation.Journal. What is done stays done. ErrChanged for a
// retirement that was never written.
func (h Journal) Note(ctx context.Context, r rotation.Retirement) error {
	err := h.s.commit(ctx, func(t *tx) error { return note(t, r) })
	if err != nil {
		return fmt.Errorf("note retirement of certificate %s of device %s: %w", r.Certificate, r.Device, err)
	}
	return nil
}

func note(t *tx, r rotation.Retirement) error {
	was, known, err := single(t, scanRetirement, `SELECT `+retirementColumns+` FROM retirements
		WHERE device = ? AND certificate = ? AND rotation = ?`, r.Device, r.Certificate, r.Rotation)
	switch {
	case err != nil:
		return err
	case !known:
		return rotation.ErrChanged
	case !was.Done.IsZero():
		return nil
	}
	if !was.Deactivated.IsZero() {
		r.Deactivated = was.Deactivated
	}
	if same(was, r) {
		return nil
	}
	err = t.change(`UPDATE retirements SET due = ?, reverted = ?, deactivated = ?, done = ?, why = ?
		WHERE device = ? AND certificate = ? AND rotation = ?`, nanos(r.Due), r.Reverted, nanos(r.Deactivated),
		nanos(r.Done), r.Why, r.Device, r.Certificate, r.Rotation)
	if err != nil {
		return err
	}
	for _, e := range noted(was, r) {
		if err := t.audit(e); err != nil {
			return err
		}
	}
	return nil
}

func same(was, is rotation.Retirement) bool {
	return was.Due.Equal(is.Due) && was.Reverted == is.Reverted && was.Deactivated.Equal(is.Deactivated) &&
		was.Done.Equal(is.Done) && was.Why == is.Why
}

// noted returns the events of what has changed. A new reason alone is none.
func noted(was, is rotation.Retirement) []Event {
	var events []Event
	for _, change := range []struct {
		kind string
		made bool
	}{
		{RetirementDue, !was.Due.Equal(is.Due)},
		{RetirementRevert, is.Reverted && !was.Reverted},
		{RetirementReturn, was.Reverted && !is.Reverted},
		{RetirementHalf, was.Deactivated.IsZero() && !is.Deactivated.IsZero()},
		{RetirementDone, !is.Done.IsZero()},
	} {
		if change.made {
			events = append(events, owed(change.kind, is))
		}
	}
	return events
}

// RemovedSince returns when each retirement was carried out, or the first half of
// one that deletes, of those since a time. What was removed at a time that has not
// come yet was so before, by a clock that ran ahead.
func (h Journal) RemovedSince(ctx context.Context, since time.Time) (removals []time.Time, err error) {
	err = h.s.view(ctx, func(q querier) (err error) {
		removals, err = collect(q, func(row scanner) (time.Time, error) {
			at, err := value[int64](row)
			return moment(at), err
		}, `SELECT deactivated FROM retirements WHERE deactivated <> 0 AND deactivated BETWEEN ? AND ? ORDER BY deactivated`,
			nanos(since), nanos(h.s.now()))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("what was removed since %s: %w", since.UTC().Format(time.RFC3339), err)
	}
	return removals, nil
}
