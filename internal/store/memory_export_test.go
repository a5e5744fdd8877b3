package store

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"regexp"
	"strings"

	"github.com/google/go-cmp/cmp"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

// Remembered returns how many octets of devices, rotations and holdings are in
// memory, and of how many devices.
func (s *Store) Remembered() (octets, devices [3]int) {
	octets[0], devices[0] = s.memory.devices.remembered()
	octets[1], devices[1] = s.memory.rotations.remembered()
	octets[2], devices[2] = s.memory.held.remembered()
	return octets, devices
}

// RememberLess sets how many octets of each there may be.
func (s *Store) RememberLess(octets int) {
	s.memory.devices.room, s.memory.rotations.room, s.memory.held.room = octets, octets, octets
}

func (m *recall[T]) remembered() (octets, devices int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, there := range m.all {
		octets += there.size
	}
	if octets != m.taken || m.order.Len() != len(m.all) {
		octets = -1
	}
	return octets, len(m.all)
}

// CheckMemory holds all that is remembered against the database, and returns of
// how many devices something is. Nobody writes meanwhile.
func (s *Store) CheckMemory(ctx context.Context) (checked int, err error) {
	err = s.view(ctx, func(q querier) error {
		for _, check := range []func() error{
			func() error {
				return checkRecall(&s.memory.devices, func(id registry.DeviceID) (registry.Device, bool, error) {
					return single(q, scanDevice, `SELECT `+deviceColumns+` FROM devices d WHERE d.id = ?`, id)
				})
			},
			func() error {
				return checkRecall(&s.memory.rotations, func(id registry.DeviceID) ([]rotation.Rotation, bool, error) {
					all, err := collect(q, scanRotation, `SELECT `+rotationColumns+` FROM rotations WHERE device = ? ORDER BY number DESC LIMIT 200`, id)
					return all, true, err
				})
			},
			func() error {
				return checkRecall(&s.memory.held, func(id registry.DeviceID) ([]certificate.Holding, bool, error) {
					all, err := heldBy(q, id)
					return all, true, err
				})
			},
			func() error {
				return checkRecall(&s.memory.frozen, func(registry.DeviceID) (rotation.Freeze, bool, error) {
					var f rotation.Freeze
					text, err := meta(q, frozenKey)
					if err == nil && text != "" {
						err = json.Unmarshal([]byte(text), &f)
					}
					return f, true, err
				})
			},
			func() error { return s.checkFits(q) },
		} {
			if err := check(); err != nil {
				return err
			}
		}
		return nil
	})
	_, devices := s.Remembered()
	return devices[0] + devices[1] + devices[2], err
}

func checkRecall[T any](m *recall[T], read func(registry.DeviceID) (T, bool, error)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for device, there := range m.all {
		is, known, err := read(device)
		switch {
		case err != nil:
			return err
		case !there.read:
			return fmt.Errorf("the place of device %q is kept, and nobody reads", device)
		case !known || !reflect.DeepEqual(is, there.value):
			return fmt.Errorf("of device %q is remembered what is not so (%t): %s", device, known, cmp.Diff(is, there.value))
		}
	}
	return nil
}

// checkFits asks of every device that is remembered, and of drafts that fit and
// that do not, whether memory says what the database says.
func (s *Store) checkFits(q querier) error {
	s.memory.rotations.mu.Lock()
	defer s.memory.rotations.mu.Unlock()
	for device, there := range s.memory.rotations.all {
		if len(there.value) >= rotation.HistoryLimit {
			continue
		}
		for _, d := range draftsOf(device, there.value) {
			_, want := d.before(q)
			if is := d.fits(there.value); is != want {
				return fmt.Errorf("rotation %d in place of %+v of device %q: %v, want %v", d.rotation.Number, d.givesWay, device, is, want)
			}
		}
	}
	return nil
}

func draftsOf(device registry.DeviceID, all []rotation.Rotation) (drafts []draft) {
	next := rotation.History{Rotations: all}.Next()
	for _, number := range []int64{1, next - 1, next} {
		d := draft{rotation: rotation.Rotation{Device: device, Number: number}}
		drafts = append(drafts, d)
		for _, r := range all {
			changed := r
			changed.Version++
			drafts = append(drafts, draft{rotation: d.rotation, givesWay: &r}, draft{rotation: d.rotation, givesWay: &changed})
		}
	}
	return drafts
}

// Trigger is a table that a trigger changes when another is changed; so is a key
// with which rows go.
type Trigger struct{ Name, Table, Changes string }

// Triggers returns all that the schema has.
func (s *Store) Triggers(ctx context.Context) (all []Trigger, err error) {
	changes := regexp.MustCompile(`(?:INSERT INTO|UPDATE|DELETE FROM|REPLACE INTO)\s+(\w+)`)
	err = s.view(ctx, func(q querier) error {
		triggers, err := collect(q, func(row scanner) (g Trigger, err error) {
			return g, row.Scan(&g.Name, &g.Table, &g.Changes)
		}, `SELECT name, tbl_name, sql FROM sqlite_master WHERE type = 'trigger'
			UNION ALL SELECT 'key', f."table", ' BEGIN DELETE FROM ' || m.name FROM sqlite_master m, pragma_foreign_key_list(m.name) f
			WHERE m.type = 'table' AND f.on_delete = 'CASCADE'`)
		for _, g := range triggers {
			_, body, _ := strings.Cut(g.Changes, "BEGIN")
			for _, found := range changes.FindAllStringSubmatch(body, -1) {
				all = append(all, Trigger{g.Name, g.Table, found[1]})
			}
		}
		return err
	})
	return all, err
}

// Touches reports whether whatever is remembered of one table is dropped where a
// statement names another.
func Touches(named, changed string) bool {
	is, must := touchOf(named), touchOf(changed)
	return (is.devices || !must.devices) && (is.rotations || !must.rotations) && (is.held || !must.held) && (is.meta || !must.meta)
}
