package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/registry"
)

// Sync is what is still to be read of another place's inventory, and how far
// that has come. All of it is durable.
type Sync struct{ s *Store }

// Sync returns what is to be read of another place.
func (s *Store) Sync() Sync { return Sync{s} }

// What can be read.
const (
	TodoCertificate = "certificate"
	TodoDevice      = "device"
	TodoPerhaps     = "perhaps" // a device that is read only if that is less work
)

// Todo is one thing to be read.
type Todo struct {
	What, Name string
	Tries      int // that have failed
}

// The keys of meta where the position is, and its number.
const (
	syncKey       = "inventory_sync"
	syncNumberKey = "inventory_sync_number"
)

// Position is how far a sync is. Each has the number that follows the one's
// that it was made from.
type Position struct {
	Number int64
	State  any // what is kept of it, as JSON
	// Kept is called once it is durable, whether or not somebody still waits for
	// that, in the order of the numbers, on the goroutine that writes: it must
	// not ask the store to write.
	Kept func()
}

// ErrOvertaken says that a position was made from one that is not the last any
// more. Nothing was changed.
var ErrOvertaken = errors.New("the sync of the inventory has gone on meanwhile")

// Position returns the number of the last position, and reads what was kept of
// it; nothing, and 0, if there was none.
func (h Sync) Position(ctx context.Context, into any) (number int64, err error) {
	var text string
	err = h.s.view(ctx, func(q querier) (err error) {
		if text, err = meta(q, syncKey); err != nil || text == "" {
			return err
		}
		number, err = syncNumber(q)
		return err
	})
	if err == nil && text != "" {
		err = json.Unmarshal([]byte(text), into)
	}
	if err != nil {
		return 0, fmt.Errorf("the position of the inventory's sync: %w", err)
	}
	return number, nil
}

// syncNumber is 0 of a position that an older version has kept.
func syncNumber(q querier) (int64, error) {
	text, err := meta(q, syncNumberKey)
	if err != nil || text == "" {
		return 0, err
	}
	return strconv.ParseInt(text, 10, 64)
}

// Add notes what is to be read, and a position, in one commit. Of what is noted
// already nothing becomes two.
func (h Sync) Add(ctx context.Context, todo []Todo, position Position) error {
	return h.write(ctx, position, func(t *tx) error {
		for _, one := range todo {
			err := t.change(`INSERT INTO sync_todo (what, name) VALUES (?, ?) ON CONFLICT DO NOTHING`, one.What, one.Name)
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// Done notes what was read, or tried, and a position, in one commit.
func (h Sync) Done(ctx context.Context, read, failed []Todo, position Position) error {
	return h.write(ctx, position, func(t *tx) error {
		for _, one := range read {
			if err := t.change(`DELETE FROM sync_todo WHERE what = ? AND name = ?`, one.What, one.Name); err != nil {
				return err
			}
		}
		for _, one := range failed {
			err := t.change(`UPDATE sync_todo SET tries = ? WHERE what = ? AND name = ?`, one.Tries+1, one.What, one.Name)
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// Decide makes devices that might be read such that are, or that are not, and
// notes a position in the same commit.
func (h Sync) Decide(ctx context.Context, devices bool, position Position) error {
	return h.write(ctx, position, func(t *tx) error {
		if devices {
			err := t.change(`INSERT INTO sync_todo (what, name) SELECT 'device', name FROM sync_todo WHERE what = 'perhaps' ON CONFLICT DO NOTHING`)
			if err != nil {
				return err
			}
		}
		return t.change(`DELETE FROM sync_todo WHERE what = 'perhaps'`)
	})
}

// Drop forgets all that was to be read, and notes a position in the same commit.
func (h Sync) Drop(ctx context.Context, position Position) error {
	return h.write(ctx, position, func(t *tx) error { return t.change(`DELETE FROM sync_todo`) })
}

func (h Sync) write(ctx context.Context, position Position, change func(*tx) error) error {
	text, err := json.Marshal(position.State)
	if err != nil {
		return fmt.Errorf("the position of the inventory's sync: %w", err)
	}
	err = h.s.commit(ctx, func(t *tx) error {
		last, err := syncNumber(t)
		switch {
		case err != nil:
			return err
		case position.Number != last+1:
			return ErrOvertaken
		}
		if err := change(t); err != nil {
			return err
		}
		if position.Kept != nil {
			t.committed(position.Kept)
		}
		return errors.Join(setMeta(t, syncKey, string(text)), setMeta(t, syncNumberKey, strconv.FormatInt(position.Number, 10)))
	})
	if err != nil {
		return fmt.Errorf("note how far the inventory's sync is: %w", err)
	}
	return nil
}

// Next returns some of what is to be read, of one kind: devices before
// certificates, and what has failed last.
func (h Sync) Next(ctx context.Context, most int) (todo []Todo, err error) {
	err = h.s.view(ctx, func(q querier) (err error) {
		for _, what := range []string{TodoDevice, TodoCertificate} {
			todo, err = collect(q, func(row scanner) (t Todo, err error) {
				return t, row.Scan(&t.What, &t.Name, &t.Tries)
			}, `SELECT what, name, tries FROM sync_todo WHERE what = ? ORDER BY tries, name`+atMost, what, limit(most))
			if err != nil || len(todo) > 0 {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("what is to be read of the inventory: %w", err)
	}
	return todo, nil
}

// Left counts what is to be read.
func (h Sync) Left(ctx context.Context) (map[string]int, error) {
	left := map[string]int{}
	err := h.s.view(ctx, func(q querier) error {
		var what string
		var n int
		return walk(q, func(row scanner) error {
			err := row.Scan(&what, &n)
			left[what] = n
			return err
		}, `SELECT what, count(*) FROM sync_todo GROUP BY what`)
	})
	if err != nil {
		return nil, fmt.Errorf("what is to be read of the inventory: %w", err)
	}
	return left, nil
}

// Listed is what another place's list says of a certificate.
type Listed struct {
	ID       certificate.ID
	Standing certificate.Standing
}

// Differ returns those of a page of another place's list that the inventory
// does not know, or has standing otherwise for a reason that may have gone.
func (h Certificates) Differ(ctx context.Context, page []Listed) (differ []certificate.ID, err error) {
	err = h.s.view(ctx, func(q querier) error {
		for _, one := range page {
			is, known, err := single(q, func(row scanner) (f foundRow, err error) {
				return f, row.Scan(&f.standing, &f.elsewhere)
			}, `SELECT standing, elsewhere FROM certificates WHERE id = ?`, one.ID)
			if err != nil {
				return err
			}
			off := is.standing == certificate.Active && one.Standing != certificate.Active
			on := is.elsewhere && is.standing == certificate.Inactive && one.Standing == certificate.Active
			if !known || off || on {
				differ = append(differ, one.ID)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("compare certificates: %w", err)
	}
	return differ, nil
}

// Unmet returns those of some devices that the registry does not know yet.
func (h Devices) Unmet(ctx context.Context, ids []registry.DeviceID) (unmet []registry.DeviceID, err error) {
	err = h.s.view(ctx, func(q querier) error {
		for _, id := range ids {
			_, there, err := single(q, value[int], `SELECT 1 FROM devices WHERE id = ?`, id)
			if err != nil {
				return err
			}
			if !there {
				unmet = append(unmet, id)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look devices up: %w", err)
	}
	return unmet, nil
}

// Count returns how many devices the registry has, and how many certificates
// the inventory.
func (h Sync) Count(ctx context.Context) (devices, certificates int, err error) {
	err = h.s.view(ctx, func(q querier) (err error) {
		if devices, err = value[int](q.row(`SELECT count(*) FROM devices`)); err != nil {
			return err
		}
		certificates, err = value[int](q.row(`SELECT count(*) FROM certificates`))
		return err
	})
	if err != nil {
		return 0, 0, fmt.Errorf("count the inventory: %w", err)
	}
	return devices, certificates, nil
}
