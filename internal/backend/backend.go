// Package backend says what a world, AWS or one's own machines, must supply.
// Sub-package backendtest is the examination that every world sits.
package backend

import (
	"context"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/jobs"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
	"github.com/certvendor/certvendor/vending"
)

// Backend is a complete world: every port that the vendor, the sweep and the
// operator's API stand on.
type Backend struct {
	Registry     registry.Store
	Devices      registry.Catalogue
	Registrar    registry.Registrar
	Inventory    certificate.Inventory
	Certificates certificate.Catalogue
	Revoker      certificate.Revoker
	Journal      rotation.Journal
	Rotations    rotation.Catalogue
	Brakes       rotation.Brakes
	Witness      rotation.Witness // as rotation.Ports has it
	Group        rotation.Group
	Jobs         jobs.Continuous
	Issuer       vending.Issuer
	Packages     vending.Packages
	Bus          Bus
	Anchors      vending.Anchors // nil where they never change
	// Signs is as vending.Ports has it; nil where the world cannot say.
	Signs func(context.Context) (until time.Time, err error)
	// Joins is as vending.Ports has it; nil where nothing stands in the way.
	Joins func(context.Context, registry.DeviceID) error
	// Policies is as vending.Ports has it; nil where the inventory knows them.
	Policies func(context.Context, certificate.ID) ([]string, error)
}

// Bus carries messages between devices and certvendor.
type Bus interface {
	// Publish hands a reply to the broker, QoS 1, not retained. When it
	// returns nil the broker has it.
	Publish(ctx context.Context, topic string, payload []byte) error
	// Subscribe names who receives from now on. It is called once, before
	// the bus is started.
	Subscribe(Receiver)
}

// Receiver is who a Bus hands things to; vending.Handler is one. Both methods
// are called concurrently.
type Receiver interface {
	// Serve answers one message. The bus acknowledges the message to the
	// broker when Serve has returned: by then its outcome is durable and its
	// reply published, or it was told to try again later.
	Serve(context.Context, vending.Message)
	// Present reports a connection, before the broker accepts it. If it
	// returns an error, the connection is refused.
	Present(context.Context, vending.Caller) error
}
