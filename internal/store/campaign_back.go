package store

import (
	"context"
	"fmt"

	"github.com/certvendor/certvendor/registry"
)

// PutsBack returns the campaigns that run and have let a device in which has not
// begun to rotate: whoever takes it out of the group has it added again.
func (h Campaigns) PutsBack(ctx context.Context, id registry.DeviceID) (names []string, err error) {
	err = h.s.look(ctx, func(q querier) (err error) {
		names, err = collect(q, value[string], `SELECT c.name FROM campaign_members m JOIN campaigns c ON c.name = m.campaign
			WHERE m.device = ?1 AND m.standing = 'added' AND c.state = 'running'
			AND m.before >= coalesce((SELECT max(number) FROM rotations WHERE device = ?1), 0) ORDER BY c.name`, id)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("which campaigns put device %s back: %w", id, err)
	}
	return names, nil
}
