package aws

import (
	"maps"
	"slices"
	"testing"

	"github.com/certvendor/certvendor/campaign"
	"github.com/certvendor/certvendor/certificate"
)

// callsAllowed is how many calls a rotation may make that deactivates the old
// certificate; the original makes 18 to 20.
const callsAllowed = 11

// TestCallsOfARotation counts the calls to AWS of one rotation, of a thing that
// was never seen before, in each mode. `go test -v` prints them by name.
func TestCallsOfARotation(t *testing.T) {
	for _, mode := range []certificate.Mode{certificate.Keep, certificate.Deactivate, certificate.Delete} {
		t.Run(string(mode), func(t *testing.T) {
			c := newCourse(t, mode, nil)
			before := c.world.Calls()
			vended := c.turn()
			if mode == certificate.Delete { // the second half is the sweep's
				c.quiet(vended)
			}
			c.wantWhole(vended)
			total, after := int64(0), c.world.Calls()
			said := callsOfRotation(c.world.config.Registration, mode)
			delete(said, "AddThingToThingGroup") // the pacer's, which does not run here
			for _, api := range slices.Sorted(maps.Keys(after)) {
				if n := after[api].Calls - before[api].Calls; n > 0 {
					t.Logf("%-28s %d", api, n)
					total += n
					if said[api] != int(n) {
						t.Errorf("%s: %d calls, and a campaign's plan says %d", api, n, said[api])
					}
					delete(said, api)
				}
			}
			t.Logf("%-28s %d", "in all", total)
			if len(said) > 0 {
				t.Errorf("a campaign's plan says also %v", said)
			}
			if mode == certificate.Deactivate && total > callsAllowed {
				t.Errorf("%d calls, more than %d", total, callsAllowed)
			}
		})
	}
}

// TestStepsHaveTheirPrice holds that a plan is told what the operator says that
// a call costs, and nothing of the others.
func TestStepsHaveTheirPrice(t *testing.T) {
	c := newCourse(t, certificate.Keep, nil)
	price := campaign.Price{{Each: 0.75, UpTo: 1000}, {Each: 0.001}}
	c.world.config.Prices = map[string]campaign.Price{"IssueCertificate": price}
	for _, step := range c.world.Steps(certificate.Keep, "IssueCertificate") {
		if is := step.What == "IssueCertificate"; is != slices.Equal(step.Price, price) || !is && step.Price != nil {
			t.Errorf("%s costs %v", step.What, step.Price)
		}
	}
}
