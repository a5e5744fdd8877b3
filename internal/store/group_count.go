package store

import (
	"context"
	"fmt"
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
