package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
)

// pageSize is what a Limit of 0 means in every catalogue.
const pageSize = 1000

// Devices is the registry.
type Devices struct{ s *Store }

var (
	_ registry.Store     = Devices{}
	_ registry.Catalogue = Devices{}
	_ registry.Registrar = Devices{}
)

const deviceColumns = `d.id, d.blocked, d.added,
	(SELECT json_group_object(a.name, a.value) FROM attributes a WHERE a.device = d.id)`

func scanDevice(row scanner) (registry.Device, error) {
	var (
		d          registry.Device
		added      int64
		attributes string
	)
	if err := row.Scan(&d.ID, &d.Blocked, &added, &attributes); err != nil {
		return d, err
	}
	d.Added = moment(added)
	var err error
	d.Attributes, err = fields(attributes)
	return d, err
}

// Device implements registry.Store.
func (h Devices) Device(ctx context.Context, id registry.DeviceID) (registry.Device, error) {
	d, known, err := h.device(ctx, id)
	if err == nil && !known {
		err = registry.ErrUnknown
	}
	if err != nil {
		return registry.Device{}, fmt.Errorf("describe device %s: %w", id, err)
	}
	return d, nil
}

func (h Devices) device(ctx context.Context, id registry.DeviceID) (registry.Device, bool, error) {
	d, known, place := h.s.memory.devices.find(id)
	if known {
		d.Attributes = maps.Clone(d.Attributes)
		return d, true, h.s.open(ctx)
	}
	err := h.s.look(ctx, func(q querier) (err error) {
		d, known, err = single(q, scanDevice, `SELECT `+deviceColumns+` FROM devices d WHERE d.id = ?`, id)
		return err
	})
	h.s.memory.devices.keep(id, place, d, known && err == nil)
	d.Attributes = maps.Clone(d.Attributes)
	return d, known, err
}

// SetAttributes implements registry.Store.
func (h Devices) SetAttributes(ctx context.Context, id registry.DeviceID, attributes map[string]string) error {
	if err := h.s.commit(ctx, func(t *tx) error { return describe(t, id, attributes) }); err != nil {
		return fmt.Errorf("set attributes of device %s: %w", id, err)
	}
	return nil
}

func describe(t *tx, id registry.DeviceID, attributes map[string]string) error {
	if err := known(t, id); err != nil {
		return err
	}
	changed, err := setAttributes(t, id, attributes)
	if err != nil || len(changed) == 0 {
		return err
	}
	return t.audit(Event{Kind: DeviceAttributes, Device: id, Detail: attributesDetail(changed)})
}

// setAttributes writes those that are not so already, and returns them.
func setAttributes(t *tx, id registry.DeviceID, attributes map[string]string) (changed map[string]string, err error) {
	is, err := attributesOf(t, id)
	if err != nil {
		return nil, err
	}
	changed = map[string]string{}
	var rows []any // of what is not empty
	for _, name := range slices.Sorted(maps.Keys(attributes)) {
		value := attributes[name]
		if value == is[name] {
			continue
		}
		changed[name] = value
		if value != "" {
			rows = append(rows, id, name, value)
			continue
		}
		if err := t.noted(`DELETE FROM attributes WHERE device = ? AND name = ?`, id, name); err != nil {
			return nil, err
		}
	}
	for some := range slices.Chunk(rows, 3*attributeBunch) {
		text := `INSERT INTO attributes VALUES (?, ?, ?)` + strings.Repeat(`, (?, ?, ?)`, len(some)/3-1) +
			` ON CONFLICT (device, name) DO UPDATE SET value = excluded.value`
		if err := t.noted(text, some...); err != nil {
			return nil, err
		}
	}
	t.touched.wroteAttributes(id, changed)
	return changed, nil
}

// attributeBunch is how many attributes one statement writes at most.
const attributeBunch = 8

func attributesOf(q querier, id registry.DeviceID) (map[string]string, error) {
	text, err := value[string](q.row(`SELECT json_group_object(name, value) FROM attributes WHERE device = ?`, id))
	if err != nil {
		return nil, err
	}
	return fields(text)
}

// attributesDetail is what an event says of attributes, nil for none. A removed
// one is empty.
func attributesDetail(attributes map[string]string) map[string]string {
	if len(attributes) == 0 {
		return nil
	}
	return map[string]string{"attributes": object(attributes)}
}

// known returns registry.ErrUnknown for a device that is not in the registry.
func known(q querier, id registry.DeviceID) error {
	_, ok, err := single(q, value[int], `SELECT 1 FROM devices WHERE id = ?`, id)
	if err == nil && !ok {
		return registry.ErrUnknown
	}
	return err
}

// List implements registry.Catalogue.
func (h Devices) List(ctx context.Context, query registry.Query) (page []registry.Device, err error) {
	err = h.s.view(ctx, func(q querier) (err error) {
		text, args := devicesQuery(deviceColumns, query)
		page, err = collect(q, scanDevice, text, args...)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	return page, nil
}

// devicesQuery returns the query for a page of devices.
func devicesQuery(columns string, query registry.Query) (text string, args []any) {
	f, from, order := &filter{}, `devices d`, `d.id`
	for i, name := range slices.Sorted(maps.Keys(query.Attributes)) {
		if i == 0 {
			// The first attribute leads, in its index, which is by name of device.
			from, order = `attributes a CROSS JOIN devices d`, `a.device`
			f.add(true, `a.name = ? AND a.value = ? AND a.device > ? AND d.id = a.device`, name, query.Attributes[name], query.After)
			continue
		}
		f.add(true, `EXISTS (SELECT 1 FROM attributes x WHERE x.device = d.id AND x.name = ? AND x.value = ?)`,
			name, query.Attributes[name])
	}
	f.add(len(query.Attributes) == 0, `d.id > ?`, query.After)
	return `SELECT ` + columns + ` FROM ` + from + f.String() + ` ORDER BY ` + order + atMost, append(f.args, limit(query.Limit))
}

func limit(n int) int {
	if n <= 0 {
		return pageSize
	}
	return n
}

// Add implements registry.Registrar.
func (h Devices) Add(ctx context.Context, id registry.DeviceID, attributes map[string]string) error {
	if err := h.s.commit(ctx, func(t *tx) error { return addNew(t, id, attributes) }); err != nil {
		return fmt.Errorf("add device %s: %w", id, err)
	}
	return nil
}

// addNew adds a device unless it is there.
func addNew(t *tx, id registry.DeviceID, attributes map[string]string) error {
	err := known(t, id)
	if !errors.Is(err, registry.ErrUnknown) {
		return err
	}
	return addDevice(t, id, attributes)
}

func addDevice(t *tx, id registry.DeviceID, attributes map[string]string) error {
	if err := t.changeOf(id, `INSERT INTO devices VALUES (?, 0, ?)`, id, nanos(t.now)); err != nil {
		return err
	}
	set, err := setAttributes(t, id, attributes)
	if err != nil {
		return err
	}
	return t.audit(Event{Kind: DeviceAdded, Device: id, Detail: attributesDetail(set)})
}

// Remove implements registry.Registrar. Which certificates the device holds
// stays as it was: they are its own again if it is added again.
func (h Devices) Remove(ctx context.Context, id registry.DeviceID) error {
	err := h.s.commit(ctx, func(t *tx) error {
		if err := known(t, id); err != nil {
			return err
		}
		return removeDevice(t, id)
	})
	if err != nil {
		return fmt.Errorf("remove device %s: %w", id, err)
	}
	return nil
}

func removeDevice(t *tx, id registry.DeviceID) error {
	if err := leave(t, id, time.Time{}); err != nil {
		return err
	}
	// Nobody will end what it has begun: it would take a place in flight.
	begun, err := collect(t, scanExecution, `SELECT `+executionColumns+` FROM executions
		WHERE device = ? AND status IN ('QUEUED', 'IN_PROGRESS')`, id)
	if err != nil {
		return err
	}
	if err := endAll(t, begun, protocol.JobRemoved); err != nil {
		return err
	}
	if err := t.changeOf(id, `DELETE FROM devices WHERE id = ?`, id); err != nil {
		return err
	}
	return t.audit(Event{Kind: DeviceRemoved, Device: id})
}

// Block implements registry.Registrar.
func (h Devices) Block(ctx context.Context, id registry.DeviceID, blocked bool) error {
	err := h.s.commit(ctx, func(t *tx) error {
		is, there, err := single(t, value[bool], `SELECT blocked FROM devices WHERE id = ?`, id)
		switch {
		case err != nil:
			return err
		case !there:
			return registry.ErrUnknown
		case is == blocked:
			return nil
		}
		if err := t.changeOf(id, `UPDATE devices SET blocked = ? WHERE id = ?`, blocked, id); err != nil {
			return err
		}
		kind := DeviceUnblocked
		if blocked {
			kind = DeviceBlocked
		}
		return t.audit(Event{Kind: kind, Device: id})
	})
	if err != nil {
		return fmt.Errorf("block device %s: %w", id, err)
	}
	return nil
}
