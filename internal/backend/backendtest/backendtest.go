// Package backendtest is the examination that every world sits: whole
// rotations, played by model devices through vending.Handler.Serve on the
// world's own ports, with the promises of the program checked after every
// step.
//
// Read rig.go for what a scenario has at hand, device.go for how a device is
// played, check.go and judge.go for what is asserted whatever the scenario is
// about. The scenarios are in get.go, ack.go, packages.go, bricks.go,
// sweep.go, lifecycle.go, crash.go and others, by what they are about; those that
// nobody thought of are played by property.go.
package backendtest

import (
	"slices"
	"testing"

	"github.com/certvendor/certvendor/internal/backend"
	"github.com/certvendor/certvendor/vending"
)

// World is a world under examination.
type World struct {
	Backend backend.Backend
	// Crash returns the world as it is found after the process was killed at
	// this moment: only what was durable is there, and no lease of the killed
	// process holds. The world it is called on is not used again.
	Crash func() World
	// Fetch does what a device does with a link to a package, and returns the
	// status and the body of the answer.
	Fetch func(url string) (status int, body []byte)
	// Slow says that every step costs calls to another process: the longest
	// courses of events are shortened, as they are with the race detector.
	Slow bool
	// ActsOutside says that the issuer's signatures have an effect beyond its
	// answer: an intention is durable before it is asked, and outlives a failure.
	ActsOutside bool
	// Carry has the requests of devices come to a receiver over the world's own
	// bus, where given. What carries them ends with the test, or when the world
	// is carried again.
	Carry func(backend.Receiver) Carrier
}

// Carrier is the way of requests and replies between devices and a receiver.
type Carrier interface {
	// Ask hands over a request as its device would, and returns when the
	// receiver is done with it.
	Ask(vending.Message)
	// Publish sends a reply, and returns when the device has it.
	vending.Publisher
}

// Open opens an empty world whose clock is the one given. It ends with the
// test.
type Open func(t *testing.T, clock *Clock) World

// scenario is one thing that is to be shown, as a subtest of its name.
type scenario struct {
	name string
	run  func(t *testing.T, open Open)
}

// Run examines a world, or only the parts that are named. Every scenario opens
// one of its own.
func Run(t *testing.T, open Open, parts ...string) {
	for _, part := range []struct {
		name      string
		scenarios []scenario
	}{
		{"get", getScenarios()},
		{"key", keyScenarios()},
		{"lease", leaseScenarios()},
		{"name", nameScenarios()},
		{"group", groupScenarios()},
		{"ack", ackScenarios()},
		{"proof", proofScenarios()},
		{"package", packageScenarios()},
		{"brick", brickScenarios()},
		{"sweep", sweepScenarios()},
		{"retire", retireScenarios()},
		{"brake", brakeScenarios()},
		{"abandon", abandonScenarios()},
		{"undo", undoScenarios()},
		{"revoke", revokeScenarios()},
		{"lifecycle", lifecycleScenarios()},
		{"crash", crashScenarios()},
		{"edge", edgeScenarios()},
		{"rehearse", rehearseScenarios()},
	} {
		if len(parts) > 0 && !slices.Contains(parts, part.name) {
			continue
		}
		t.Run(part.name, func(t *testing.T) {
			for _, s := range part.scenarios {
				t.Run(s.name, func(t *testing.T) {
					t.Parallel()
					s.run(t, open)
				})
			}
		})
	}
}
