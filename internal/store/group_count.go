package store

import (
	"context"
	"fmt"

	"github.com/certvendor/certvendor/registry"
)

// Count returns how many members the rotation group has.
func (h Group) Count(ctx context.Context) (int, error) {
	var n int
	err := h.s.view(ctx, func(q querier) error { return q.row(`SELECT count(*) FROM members`).Scan(&n) })
	if err != nil {
		return 0, fmt.Errorf("count the rotation group: %w", err)
	}
	return n, nil
}

// Has reports whether a device is a member.
func (h Group) Has(ctx context.Context, id registry.DeviceID) (bool, error) {
	var there bool
	err := h.s.look(ctx, func(q querier) (err error) {
		_, there, err = single(q, value[int], `SELECT 1 FROM members WHERE device = ?`, id)
		return err
	})
	if err != nil {
		return false, fmt.Errorf("is device %s in the rotation group: %w", id, err)
	}
	return there, nil
}
