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
	f, known, place := h.s.memory.frozen.find(nobody)
	err := h.s.open(ctx)
	if err == nil && !known {
		f, err = h.read(ctx)
	}
	h.s.memory.frozen.keep(nobody, place, f, err == nil)
	if err != nil {
		return rotation.Freeze{}, fmt.Errorf("what is frozen: %w", err)
	}
	return f, nil
}

func (h Brakes) read(ctx context.Context) (f rotation.Freeze, err error) {
	text, err := h.s.Meta(ctx, frozenKey)
	if err == nil && text != "" {
		err = json.Unmarshal([]byte(text), &f)
	}
	return f, err
}

// SetFrozen implements rotation.Brakes.
func (h Brakes) SetFrozen(ctx context.Context, change func(*rotation.Freeze)) (rotation.Freeze, error) {
	frozen, err := commitFor(ctx, h.s, func(t *tx) (rotation.Freeze, error) { return freeze(t, change) })
	if err != nil {
		return frozen, fmt.Errorf("freeze: %w", err)
	}
	return frozen, nil
}

func freeze(t *tx, change func(*rotation.Freeze)) (f rotation.Freeze, err error) {
	was, err := meta(t, frozenKey)
	if err == nil && was != "" {
		err = json.Unmarshal([]byte(was), &f)
	}
	if err != nil {
		return f, err
	}
	change(&f)
	text, err := json.Marshal(f)
	if err != nil || was == string(text) {
		return f, err
	}
	return f, setFrozen(t, f, string(text))
}

func setFrozen(t *tx, f rotation.Freeze, text string) error {
	if err := setMeta(t, frozenKey, text); err != nil {
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
