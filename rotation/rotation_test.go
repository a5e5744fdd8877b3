package rotation_test

import (
	"testing"
	"time"

	"github.com/certvendor/certvendor/rotation"
)

func TestRotationShownBy(t *testing.T) {
	opened := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	own := rotation.Rotation{Opened: opened, VendedAt: opened.Add(time.Hour)}
	packaged := own
	packaged.ByPackage = true
	for name, c := range map[string]struct {
		rotation rotation.Rotation
		seen     time.Time
		want     bool
	}{
		"never":                            {own, time.Time{}, false},
		"by a clock set back since":        {own, opened.Add(-time.Hour), true},
		"before it was vended again":       {own, opened.Add(time.Minute), true},
		"package, never":                   {packaged, time.Time{}, false},
		"package, before the rotation":     {packaged, opened.Add(-time.Nanosecond), false},
		"package, as it opened":            {packaged, opened, true},
		"package, before it came up again": {packaged, opened.Add(time.Minute), true},
	} {
		t.Run(name, func(t *testing.T) {
			if got := c.rotation.ShownBy(c.seen); got != c.want {
				t.Errorf("%t, want %t", got, c.want)
			}
		})
	}
}
