// Package registry knows which devices there are. It holds no I/O: a back end
// supplies a Store.
package registry

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"time"
)

// ErrUnknown is returned for a device that is not in the registry.
var ErrUnknown = errors.New("unknown device")

// DeviceID is the name of a device: the thing name, the client id and the
// level of a topic. Only ParseDeviceID makes one from input.
type DeviceID string

// The names AWS IoT allows for a thing (API reference, CreateThing), which
// hold nothing that has a meaning in a topic or in a path.
var deviceName = regexp.MustCompile(`^[a-zA-Z0-9:_-]{1,128}$`)

// ParseDeviceID returns the id for a name, or an error that says what a name
// may hold.
func ParseDeviceID(name string) (DeviceID, error) {
	if !deviceName.MatchString(name) {
		return "", fmt.Errorf("device name %.40q: must be 1 to 128 letters, digits, colons, underscores and hyphens", name)
	}
	return DeviceID(name), nil
}

// Device is what the registry knows of a device.
type Device struct {
	ID         DeviceID
	Attributes map[string]string
	Blocked    bool // nothing is vended to it and nothing of it is removed
	Added      time.Time
}

// Store answers for one device. Methods are safe for concurrent use.
type Store interface {
	// Device returns the device, or ErrUnknown.
	Device(context.Context, DeviceID) (Device, error)
	// SetAttributes merges attributes into the device's; an empty value
	// removes one. Idempotent. ErrUnknown for a device that is not there.
	SetAttributes(context.Context, DeviceID, map[string]string) error
}

// Query selects devices for a Catalogue. The zero Query selects all.
type Query struct {
	After      DeviceID          // only names greater than this one
	Attributes map[string]string // only devices that have all of these
	Limit      int               // at most so many; 0 is 1,000
}

// Catalogue lists devices by name, a page at a time: ask again with After set
// to the last name until a page comes back empty.
type Catalogue interface {
	List(context.Context, Query) ([]Device, error)
}

// Registrar changes which devices there are, for the operator.
type Registrar interface {
	// Add enters a device, or does nothing if it is there.
	Add(context.Context, DeviceID, map[string]string) error
	// Remove takes a device out, with its membership of the group; what its
	// certificates were stays on record. ErrUnknown if it is not there.
	Remove(context.Context, DeviceID) error
	// Block stops, or lets go on, everything that is done for a device.
	// Idempotent. ErrUnknown if it is not there.
	Block(ctx context.Context, id DeviceID, blocked bool) error
}
