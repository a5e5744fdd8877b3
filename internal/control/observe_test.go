package control

import (
	"slices"
	"strings"
	"testing"
)

// harmless are the routes that change what they change for a daemon that only
// observes too: who is in the registry, what is frozen, and nothing of the
// world's.
var harmless = []string{
	"POST /v1/inventory/sync", "POST /v1/inventory/names", "POST /v1/inventory/stop", "POST /v1/inventory/look/{name}", "POST /v1/devices/adopt", "DELETE /v1/devices/{name}", "POST /v1/devices/{name}/block", "POST /v1/devices/{name}/unblock",
	"POST /v1/ca/crl", "POST /v1/freeze", "POST /v1/thaw", "POST /v1/audit/verify", "POST /v1/profile", "POST /v1/campaigns/plan",
}

// Whoever adds a route that acts says whether a daemon that only observes has it.
func TestObserverKnowsEveryRoute(t *testing.T) {
	routes := (&Server{}).answers()
	for route := range routes {
		if refused, allowed := slices.Contains(vends, route), slices.Contains(harmless, route); !strings.HasPrefix(route, "GET ") && refused == allowed {
			t.Errorf("%s must stand either in vends or in harmless", route)
		}
	}
	for _, route := range slices.Concat(vends, harmless) {
		if routes[route] == nil {
			t.Errorf("there is no route %s", route)
		}
	}
}
