package store

import (
	"context"
	"fmt"

	"github.com/certvendor/certvendor/registry"
)

// SetCrowded remembers in how many groups of another place a device is, if
// these are as many as it may be in, or forgets it with 0. Idempotent.
func (h Devices) SetCrowded(ctx context.Context, id registry.DeviceID, groups int) error {
	is, err := h.Crowded(ctx, id)
	if err != nil || is == groups {
		return err
	}
	err = h.s.commit(ctx, func(t *tx) error {
		if groups == 0 {
			return t.change(`DELETE FROM crowded WHERE device = ?`, id)
		}
		return t.change(`INSERT INTO crowded VALUES (?, ?, ?)
			ON CONFLICT (device) DO UPDATE SET groups = excluded.groups, read = excluded.read`, id, groups, nanos(t.now))
	})
	if err != nil {
		return fmt.Errorf("note the groups of device %s: %w", id, err)
	}
	return nil
}

// Crowded returns in how many groups a device was found that can be in no more,
// or 0.
func (h Devices) Crowded(ctx context.Context, id registry.DeviceID) (groups int, err error) {
	err = h.s.look(ctx, func(q querier) (err error) {
		groups, _, err = single(q, value[int], `SELECT groups FROM crowded WHERE device = ?`, id)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("the groups of device %s: %w", id, err)
	}
	return groups, nil
}
