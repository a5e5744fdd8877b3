package store

import (
	"context"
	"fmt"
	"strings"

	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

// filter gathers the conditions of a query and their arguments.
type filter struct {
	where []string
	args  []any
}

func (f *filter) add(asked bool, condition string, args ...any) {
	if asked {
		f.where = append(f.where, condition)
		f.args = append(f.args, args...)
	}
}

func (f *filter) String() string { return ` WHERE ` + strings.Join(f.where, " AND ") }

// Rotations implements rotation.Catalogue. It lists what is written.
func (h Journal) Rotations(ctx context.Context, query rotation.Query) ([]rotation.Rotation, error) {
	from := `SELECT ` + rotationColumns + ` FROM ` + rotationsOf(query)
	where := func(device string, of registry.DeviceID) *filter {
		f := &filter{}
		f.add(true, device, of)
		f.add(query.Device != "", `device = ?`, query.Device)
		f.add(query.State != "", `state = ?`, query.State)
		f.add(query.Open, `state IN ('intended', 'issued', 'vended', 'acknowledged', 'proven', 'stale')`)
		return f
	}
	var page []rotation.Rotation
	err := h.s.view(ctx, func(q querier) (err error) {
		page, err = byDevice(q, scanRotation, paged{from, `number DESC`, query.After, limit(query.Limit)}, where,
			func(r rotation.Rotation) registry.DeviceID { return r.Device })
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list rotations: %w", err)
	}
	return page, nil
}

// rotationsOf returns what a listing reads: of a state that few are in, those
// that an index has. Of the others a page is soon full.
func rotationsOf(query rotation.Query) string {
	const (
		open  = `SELECT * FROM rotations INDEXED BY rotations_open WHERE ` + openStates
		left  = `SELECT * FROM rotations INDEXED BY rotations_left WHERE state = `
		stale = left + `'stale'`
	)
	switch {
	case query.Device != "":
	case query.State == rotation.Stale:
		return `(` + stale + `)`
	case query.State == rotation.Abandoned:
		return `(` + left + `'abandoned')`
	case query.State.Open():
		return `(` + open + `)`
	case query.State == "" && query.Open:
		return `(` + open + ` UNION ALL ` + stale + `)`
	}
	return `rotations`
}

// Retirements implements rotation.Catalogue.
func (h Journal) Retirements(ctx context.Context, query rotation.Query) ([]rotation.Retirement, error) {
	from := `SELECT ` + retirementColumns + ` FROM retirements`
	where := func(device string, of registry.DeviceID) *filter {
		f := &filter{}
		f.add(true, device, of)
		f.add(query.Device != "", `device = ?`, query.Device)
		f.add(query.Open, `done = 0`)
		return f
	}
	var page []rotation.Retirement
	err := h.s.view(ctx, func(q querier) (err error) {
		page, err = byDevice(q, scanRetirement, paged{from, `rotation DESC, certificate`, query.After, limit(query.Limit)}, where,
			func(r rotation.Retirement) registry.DeviceID { return r.Device })
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list retirements: %w", err)
	}
	return page, nil
}

// paged is a listing by device.
type paged struct {
	from, order string
	after       registry.DeviceID
	most        int
}

// byDevice reads a page that ends with all rows of a device: the last device
// of a page that is full is read once more, whole.
func byDevice[T any](
	q querier, scan func(scanner) (T, error), p paged,
	where func(device string, of registry.DeviceID) *filter, device func(T) registry.DeviceID,
) ([]T, error) {
	f := where(`device > ?`, p.after)
	page, err := collect(q, scan, p.from+f.String()+` ORDER BY device, `+p.order+atMost, append(f.args, p.most)...)
	if err != nil || len(page) < p.most {
		return page, err
	}
	last := device(page[len(page)-1])
	for len(page) > 0 && device(page[len(page)-1]) == last {
		page = page[:len(page)-1]
	}
	f = where(`device = ?`, last)
	rest, err := collect(q, scan, p.from+f.String()+` ORDER BY `+p.order, f.args...)
	return append(page, rest...), err
}

// Counts implements rotation.Catalogue. Its cost does not grow with what is
// finished.
func (h Journal) Counts(ctx context.Context) (rotation.Counts, error) {
	counts := rotation.Counts{States: map[rotation.State]int{}}
	err := h.s.view(ctx, func(q querier) error {
		tallied, err := tallies(q, `rotation`)
		if err != nil {
			return err
		}
		for state, n := range tallied {
			counts.States[rotation.State(state)] = n
		}
		return q.row(`SELECT
			(SELECT count(*) FROM retirements WHERE done = 0),
			(SELECT count(*) FROM retirements WHERE done = 0 AND due <= ?) +
				(SELECT count(*) FROM retirements WHERE done = 0 AND reverted = 1 AND due > ?),
			(SELECT count(*) FROM certificates WHERE standing = 'ACTIVE' AND holders = 0)`,
			nanos(h.s.now()), nanos(h.s.now())).Scan(&counts.Retirements, &counts.Stuck, &counts.Orphans)
	})
	if err != nil {
		return rotation.Counts{}, fmt.Errorf("count rotations: %w", err)
	}
	return counts, nil
}

// tallies returns the totals kept of one kind of thing, without those of zero.
func tallies(q querier, what string) (map[string]int, error) {
	type tally struct {
		state string
		n     int
	}
	all, err := collect(q, func(row scanner) (t tally, err error) {
		err = row.Scan(&t.state, &t.n)
		return t, err
	}, `SELECT state, n FROM tallies WHERE what = ? AND n <> 0`, what)
	counts := map[string]int{}
	for _, t := range all {
		counts[t.state] = t.n
	}
	return counts, err
}
