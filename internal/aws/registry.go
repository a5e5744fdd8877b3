package aws

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"
	"github.com/rs/zerolog"

	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/registry"
)

const (
	// thingKept is how long a thing's attributes are believed: from a get to
	// its ack, mostly.
	thingKept = time.Minute
	// remembering is for how many devices an answer of AWS is remembered.
	remembering = 1 << 16
)

// Registry asks its source which devices there are: the Device Registry of AWS
// IoT, for which every thing is one, or another. Whether a device is blocked,
// and since when it is known, is in the store, which has a row for every device
// that was asked about.
type Registry struct {
	store.Devices
	source source
	iot    *iot.Client
	known  *recent[registry.DeviceID, map[string]string]
	log    zerolog.Logger
	leave  func(context.Context, registry.DeviceID) error // the thing group
}

var (
	_ registry.Store     = (*Registry)(nil)
	_ registry.Registrar = (*Registry)(nil)
)

// Device implements registry.Store. What it says of the attributes may be a minute
// old. A device that a person has removed is unknown.
func (r *Registry) Device(ctx context.Context, id registry.DeviceID) (registry.Device, error) {
	removed, err := r.IsRemoved(ctx, id)
	switch {
	case err != nil:
		return registry.Device{}, err
	case removed:
		return registry.Device{}, fmt.Errorf("describe device %s: it was removed: %w", id, registry.ErrUnknown)
	}
	attributes, err := r.attributes(ctx, id)
	if err != nil {
		return registry.Device{}, err
	}
	return r.row(ctx, id, attributes)
}

// attributes returns what the source says of a device.
func (r *Registry) attributes(ctx context.Context, id registry.DeviceID) (map[string]string, error) {
	if attributes, lately := r.known.get(id); lately {
		return attributes, nil
	}
	attributes, err := r.source.look(ctx, id)
	if err != nil {
		return nil, err
	}
	if attributes == nil {
		attributes = map[string]string{}
	}
	r.known.put(id, attributes)
	return attributes, nil
}

// row brings the store's row of a device up to date, and returns it;
// registry.ErrUnknown for one that a person has removed meanwhile.
func (r *Registry) row(ctx context.Context, id registry.DeviceID, attributes map[string]string) (registry.Device, error) {
	row, err := r.Devices.Device(ctx, id)
	switch {
	case errors.Is(err, registry.ErrUnknown):
		if err := r.Meet(ctx, id, attributes); err != nil {
			return row, err
		}
		return r.Devices.Device(ctx, id)
	case err != nil || r.keepsNone() || maps.Equal(row.Attributes, attributes):
		return row, err
	}
	change := maps.Clone(attributes)
	for name := range row.Attributes {
		if _, still := attributes[name]; !still {
			change[name] = ""
		}
	}
	row.Attributes = maps.Clone(attributes)
	return row, r.Devices.SetAttributes(ctx, id, change)
}

// keepsNone reports whether the source has no attributes: the store's count.
func (r *Registry) keepsNone() bool {
	_, none := r.source.(anything)
	return none
}

func (r *Registry) isThings() bool {
	_, is := r.source.(things)
	return is
}

// SetAttributes implements registry.Store. What the source will not take, however
// often it is asked, is logged and is no error: a thing without a type has room
// for three attributes only, which shall not keep a device in its group.
func (r *Registry) SetAttributes(ctx context.Context, id registry.DeviceID, attributes map[string]string) error {
	if removed, err := r.IsRemoved(ctx, id); err != nil || removed {
		return errors.Join(err, registry.ErrUnknown)
	}
	err := r.source.write(ctx, id, attributes)
	r.known.forget(id)
	switch {
	case errors.Is(err, errNotTaken):
		r.log.Warn().Str("device", string(id)).Err(err).Msg("attributes not written")
		return nil
	case err != nil:
		return err
	}
	err = r.Devices.SetAttributes(ctx, id, attributes)
	if errors.Is(err, registry.ErrUnknown) {
		return r.Meet(ctx, id, attributes)
	}
	return err
}

// Add implements registry.Registrar. It makes the thing where there is
// none, if things are the registry.
func (r *Registry) Add(ctx context.Context, id registry.DeviceID, attributes map[string]string) error {
	r.known.forget(id)
	is, err := r.attributes(ctx, id)
	switch {
	case errors.Is(err, registry.ErrUnknown) && !r.isThings():
		return fmt.Errorf("add device %s: enter it where devices are kept first: %w", id, err)
	case errors.Is(err, registry.ErrUnknown):
		_, err := r.iot.CreateThing(ctx, &iot.CreateThingInput{
			ThingName: new(string(id)), AttributePayload: &types.AttributePayload{Attributes: attributes},
		})
		if err != nil {
			return fmt.Errorf("create thing %s: %w", id, err)
		}
	case err != nil:
		return err
	default:
		attributes = is
	}
	if err := r.LetIn(ctx, id); err != nil {
		return err
	}
	return r.Devices.Add(ctx, id, attributes)
}

// Remove implements registry.Registrar. The thing stays, with its certificates:
// others may know it. From here on it is as if there were none.
func (r *Registry) Remove(ctx context.Context, id registry.DeviceID) error {
	if _, err := r.Device(ctx, id); err != nil {
		return err
	}
	if err := r.TakeOut(ctx, id); err != nil {
		return err
	}
	return r.leave(ctx, id)
}

// Block implements registry.Registrar.
func (r *Registry) Block(ctx context.Context, id registry.DeviceID, blocked bool) error {
	if _, err := r.Device(ctx, id); err != nil {
		return err
	}
	return r.Devices.Block(ctx, id, blocked)
}
