package store

import (
	"errors"

	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

// Ending returns the journal of a world whose registry and rotation group are
// this store's own: what an Advance has to do for its Ending is one commit with
// it, as far as no device has to be told.
func (h Journal) Ending() Journal {
	h.ends = true
	return h
}

// doable returns the first of the steps behind a rotation, as many as can be done
// in this transaction. A device that has a job waiting is to be told that leaving
// the group takes it away.
func doable(t *tx, r rotation.Rotation, ending *rotation.Ending) ([]rotation.Step, error) {
	if ending == nil {
		return nil, nil
	}
	for i, step := range r.Behind {
		switch step {
		case rotation.Attributes:
		case rotation.LeaveGroup:
			_, waits, err := single(t, value[int], `SELECT 1 FROM executions WHERE device = ? AND status = 'QUEUED' LIMIT 1`, r.Device)
			if err != nil || waits {
				return r.Behind[:i], err
			}
		default:
			return r.Behind[:i], nil
		}
	}
	return r.Behind, nil
}

// end does those steps.
func end(t *tx, device registry.DeviceID, steps []rotation.Step, ending *rotation.Ending) (err error) {
	for _, step := range steps {
		switch step {
		case rotation.Attributes:
			if len(ending.Attributes) > 0 {
				err = describe(t, device, ending.Attributes)
			}
			if errors.Is(err, registry.ErrUnknown) {
				err = nil // it was taken out of the registry meanwhile
			}
		case rotation.LeaveGroup:
			_, err = drop(t, device, ending.Leaves)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
