package standalone

import (
	"testing"

	"github.com/certvendor/certvendor/internal/backend/backendtest"
)

// TestProperty plays random lives; backendtest.Property says how to ask for
// more of them.
func TestProperty(t *testing.T) {
	backendtest.Property(t, func(t *testing.T, clock *backendtest.Clock) backendtest.World {
		return examined(t, clock, t.TempDir())
	})
}
