package aws

import (
	"context"
	"errors"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"

	"github.com/certvendor/certvendor/registry"
)

// source is whoever decides which devices there are. Safe for concurrent use.
type source interface {
	// look returns a device's attributes, or registry.ErrUnknown.
	look(context.Context, registry.DeviceID) (map[string]string, error)
	// write merges attributes into a device's; an empty value removes one.
	// registry.ErrUnknown, or errNotTaken for what will never be taken.
	write(context.Context, registry.DeviceID, map[string]string) error
}

// errNotTaken says that attributes will not be taken, however often it is tried.
var errNotTaken = errors.New("the attributes are not taken")

// things is the Device Registry: what is a thing is a device.
type things struct{ iot *iot.Client }

func (s things) look(ctx context.Context, id registry.DeviceID) (map[string]string, error) {
	described, err := s.iot.DescribeThing(ctx, &iot.DescribeThingInput{ThingName: new(string(id))})
	if isNotFound(err) {
		return nil, fmt.Errorf("describe thing %s: %w", id, registry.ErrUnknown)
	}
	if err != nil {
		return nil, fmt.Errorf("describe thing %s: %w", id, err)
	}
	return described.Attributes, nil
}

func (s things) write(ctx context.Context, id registry.DeviceID, attributes map[string]string) error {
	_, err := s.iot.UpdateThing(ctx, &iot.UpdateThingInput{
		ThingName: new(string(id)), AttributePayload: &types.AttributePayload{Attributes: attributes, Merge: true},
	})
	switch {
	case isNotFound(err):
		return fmt.Errorf("update thing %s: %w", id, registry.ErrUnknown)
	case codeOf(err) == invalidRequest:
		return fmt.Errorf("update thing %s: %w: %w", id, errNotTaken, err)
	case err != nil:
		return fmt.Errorf("update thing %s: %w", id, err)
	}
	return nil
}

// anything takes every name for a device, and keeps no attributes but the
// store's.
type anything struct{}

func (anything) look(context.Context, registry.DeviceID) (map[string]string, error) { return nil, nil }

func (anything) write(context.Context, registry.DeviceID, map[string]string) error { return nil }
