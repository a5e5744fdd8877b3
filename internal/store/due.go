package store

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

// manyDue is from how many pages on the due rows are read in the order of
// devices, past those that are not due yet, instead of being sorted for every
// page.
const manyDue = 5

// Due implements rotation.Journal. Its cost goes by what is due.
func (h Journal) Due(ctx context.Context, horizon rotation.Horizon) (rotation.Work, error) {
	horizon.Limit = limit(horizon.Limit)
	drafts := h.s.drafts.waiting(horizon)
	for {
		var page duePage
		err := h.s.view(ctx, func(q querier) (err error) {
			page, err = h.readDue(q, horizon, drafts)
			return err
		})
		if err != nil {
			return rotation.Work{}, fmt.Errorf("due work: %w", err)
		}
		if len(page.Rotations)+len(page.Retirements) > 0 || page.last == "" {
			return page.Work, nil
		}
		// All that was read gives way to drafts: it is not the end yet.
		horizon.After = page.last
	}
}

// duePage is a page, and the last device that was read for it if more follow.
type duePage struct {
	rotation.Work
	last registry.DeviceID
}

func (h Journal) readDue(q querier, horizon rotation.Horizon, drafts []draft) (duePage, error) {
	rotations, err := dueRotations(q, horizon)
	if err != nil {
		return duePage{}, err
	}
	retirements, err := dueRetirements(q, horizon)
	if err != nil {
		return duePage{}, err
	}
	for _, d := range drafts {
		_, written, err := numbered(q, d.rotation.Device, d.rotation.Number)
		if err != nil {
			return duePage{}, err
		}
		if !written {
			rotations = append(rotations, cloned(d.rotation))
		}
	}
	slices.SortStableFunc(rotations, func(a, b rotation.Rotation) int { return cmp.Compare(a.Device, b.Device) })
	page := cut(rotations, retirements, horizon.Limit)
	page.Rotations = slices.DeleteFunc(page.Rotations, h.gaveWayInMemory)
	return page, nil
}

// gaveWayInMemory reports whether a rotation gives way to a draft, so that
// nothing of it is due but the steps behind it.
func (h Journal) gaveWayInMemory(r rotation.Rotation) bool {
	d := h.s.drafts.find(r.Device)
	return d != nil && d.givesWay != nil && d.givesWay.Number == r.Number &&
		d.givesWay.Version == r.Version && len(r.Behind) == 0
}

// cut ends a page before the first device that is not whole on it. A single
// device with more than the limit has a page for itself; what is over is left
// to the next sweep.
func cut(rotations []rotation.Rotation, retirements []rotation.Retirement, most int) duePage {
	var end registry.DeviceID
	for _, over := range [][]registry.DeviceID{
		devicesOf(rotations, func(r rotation.Rotation) registry.DeviceID { return r.Device }),
		devicesOf(retirements, func(r rotation.Retirement) registry.DeviceID { return r.Device }),
	} {
		if len(over) > most && (end == "" || over[most] < end) {
			end = over[most]
		}
	}
	if end == "" {
		return duePage{Work: rotation.Work{Rotations: rotations, Retirements: retirements}}
	}
	page := duePage{Work: until(rotations, retirements, func(d registry.DeviceID) bool { return d < end })}
	if len(page.Rotations)+len(page.Retirements) == 0 {
		page.Work = until(rotations, retirements, func(d registry.DeviceID) bool { return d == end })
		page.Rotations = page.Rotations[:min(most, len(page.Rotations))]
		page.Retirements = page.Retirements[:min(most, len(page.Retirements))]
	}
	page.last = lastOf(page.Work)
	return page
}

func until(rotations []rotation.Rotation, retirements []rotation.Retirement, in func(registry.DeviceID) bool) rotation.Work {
	return rotation.Work{
		Rotations:   slices.DeleteFunc(slices.Clone(rotations), func(r rotation.Rotation) bool { return !in(r.Device) }),
		Retirements: slices.DeleteFunc(slices.Clone(retirements), func(r rotation.Retirement) bool { return !in(r.Device) }),
	}
}

func lastOf(w rotation.Work) registry.DeviceID {
	var last registry.DeviceID
	if n := len(w.Rotations); n > 0 {
		last = w.Rotations[n-1].Device
	}
	if n := len(w.Retirements); n > 0 {
		last = max(last, w.Retirements[n-1].Device)
	}
	return last
}

func devicesOf[T any](rows []T, device func(T) registry.DeviceID) []registry.DeviceID {
	all := make([]registry.DeviceID, len(rows))
	for i, row := range rows {
		all[i] = device(row)
	}
	return all
}

// The parts of what is due. Each reads one more than a page, by device. The
// states are written as in the conditions of the indexes.
const (
	waitingStates = `(state = 'intended' OR state = 'issued' OR state = 'vended')`
	openStates    = `(state = 'intended' OR state = 'issued' OR state = 'vended' OR state = 'acknowledged' OR state = 'proven')`
	unleased      = `(lease_instance = '' OR lease_until <= ?)`
	duePart       = ` AND device > ? AND ` + unleased + ` ORDER BY device` + atMost
)

func dueRotations(q querier, horizon rotation.Horizon) ([]rotation.Rotation, error) {
	var all []rotation.Rotation
	for _, part := range []struct {
		index, byDevice, where string
		args                   []any
	}{
		{"rotations_since", "rotations_open", waitingStates + ` AND since < ?`, []any{nanos(horizon.Vended)}},
		{"rotations_proven", "rotations_open", `state = 'proven' AND since < ?`, []any{nanos(horizon.Proven)}},
		{"rotations_woken", "", `woken = 1`, nil},
		{"rotations_behind", "", `behind <> ''`, nil},
	} {
		index, where := part.index, part.where
		if part.byDevice != "" {
			many, err := manyOf(q, horizon.Limit, `rotations INDEXED BY `+index+` WHERE `+where, part.args)
			if err != nil {
				return nil, err
			}
			if many {
				index, where = part.byDevice, openStates+` AND `+where
			}
		}
		args := append(part.args, horizon.After, nanos(horizon.Now), horizon.Limit+1)
		rows, err := collect(q, scanRotation, `SELECT `+rotationColumns+` FROM rotations INDEXED BY `+index+
			` WHERE `+where+duePart, args...)
		if err != nil {
			return nil, err
		}
		all = append(all, rows...)
	}
	return once(all), nil
}

// manyOf reports whether more rows are due than are worth sorting for a page.
func manyOf(q querier, page int, from string, args []any) (bool, error) {
	most := manyDue * page
	n, err := value[int](q.row(`SELECT count(*) FROM (SELECT 1 FROM `+from+atMost+`)`, append(slices.Clone(args), most+1)...))
	return n > most, err
}

// once sorts rotations by device and drops those that are due for two reasons.
func once(all []rotation.Rotation) []rotation.Rotation {
	slices.SortFunc(all, func(a, b rotation.Rotation) int {
		return cmp.Or(cmp.Compare(a.Device, b.Device), cmp.Compare(a.Number, b.Number))
	})
	return slices.CompactFunc(all, func(a, b rotation.Rotation) bool {
		return a.Device == b.Device && a.Number == b.Number
	})
}

func dueRetirements(q querier, horizon rotation.Horizon) ([]rotation.Retirement, error) {
	index, where := `retirements_due`, `done = 0 AND due <= ?`
	many, err := manyOf(q, horizon.Limit, `retirements INDEXED BY `+index+` WHERE `+where, []any{nanos(horizon.Now)})
	if err != nil {
		return nil, err
	}
	if many {
		index = `retirements_device`
	}
	return collect(q, scanRetirement, `SELECT `+retirementColumns+` FROM retirements INDEXED BY `+index+
		` WHERE `+where+` AND device > ? ORDER BY device`+atMost,
		nanos(horizon.Now), horizon.After, horizon.Limit+1)
}
