package store

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/certvendor/certvendor/rotation"
)

// frozenKey is the key of meta under which the brakes are kept.
const frozenKey = "frozen"

// Brakes keep what is frozen.
type Brakes struct{ s *Store }

var _ rotation.Brakes = Brakes{}

// Frozen implements rotation.Brakes. Nothing is frozen in a new store.
func (h Brakes) Frozen(ctx context.Context) (rotation.Freeze, error) {
	var f rotation.Freeze
	text, err := h.s.Meta(ctx, frozenKey)
	if err == nil && text != "" {
		err = json.Unmarshal([]byte(text), &f)
	}
	if err != nil {
		return rotation.Freeze{}, fmt.Errorf("what is frozen: %w", err)
	}
	return f, nil
}

// SetFrozen implements rotation.Brakes. Idempotent.
func (h Brakes) SetFrozen(ctx context.Context, f rotation.Freeze) error {
	if err := h.s.commit(ctx, func(t *tx) error { return freeze(t, f) }); err != nil {
		return fmt.Errorf("freeze: %w", err)
	}
	return nil
}

func freeze(t *tx, f rotation.Freeze) error {
	text, err := json.Marshal(f)
	if err != nil {
		return err
	}
	was, err := meta(t, frozenKey)
	if err != nil || was == string(text) {
		return err
	}
	if err := setMeta(t, frozenKey, string(text)); err != nil {
		return err
	}
	kind := Thawed
	if f.Vending || f.Retiring {
		kind = Frozen
	}
	return t.audit(Event{Kind: kind, Detail: map[string]string{
		"vending": strconv.FormatBool(f.Vending), "retiring": strconv.FormatBool(f.Retiring), "why": f.Why,
	}})
}
