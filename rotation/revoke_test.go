package rotation

import (
	"testing"
	"time"

	"github.com/certvendor/certvendor/certificate"
)

// TestBricks goes through what may leave a device without a certificate that
// works. What is revoked is a.
func TestBricks(t *testing.T) {
	a, b := pad("a"), pad("b")
	hold := func(id certificate.ID, kind certificate.Kind, attached, seen time.Duration) certificate.Holding {
		h := holding(id, seen)
		h.Kind, h.Attached = kind, noon.Add(-attached)
		return h
	}
	with := func(h certificate.Holding, change func(*certificate.Holding)) certificate.Holding {
		change(&h)
		return h
	}
	inactive := func(h *certificate.Holding) { h.Standing = certificate.Inactive }
	expired := func(h *certificate.Holding) { h.NotAfter = noon.Add(-time.Hour) }
	const day = 24 * time.Hour
	old, current := hold(a, certificate.First, 90*day, 3*day), hold(b, certificate.Rotated, 3*day, time.Hour)
	clock := NewClock(func() time.Time { return noon }, nil, time.Time{}, 0)
	closer := NewCloser(Ports{}, clock, func(string) Terms { return Terms{} })
	for name, tc := range map[string]struct {
		held []certificate.Holding
		want bool
	}{
		"the only one":                                 {[]certificate.Holding{old}, true},
		"one behind the latest":                        {[]certificate.Holding{old, current}, false},
		"the latest, with one behind it":               {[]certificate.Holding{hold(a, certificate.First, 90*day, time.Hour), hold(b, certificate.Rotated, 3*day, 2*day)}, true},
		"one that works no more anyhow":                {[]certificate.Holding{with(old, inactive)}, false},
		"one that has expired":                         {[]certificate.Holding{with(old, expired)}, false},
		"the latest is inactive":                       {[]certificate.Holding{old, with(current, inactive)}, true},
		"the latest has expired":                       {[]certificate.Holding{old, with(current, expired)}, true},
		"vended and never seen, later than the latest": {[]certificate.Holding{hold(a, certificate.Rotated, day, never), current}, true},
		"vended and never seen, and then another":      {[]certificate.Holding{hold(a, certificate.Rotated, 4*day, never), current}, false},
		"given, never used, and the latest was":        {[]certificate.Holding{hold(a, certificate.Adopted, day, never), current}, false},
		"given after the latest was seen":              {[]certificate.Holding{hold(a, certificate.Adopted, time.Minute, never), current}, true},
		"a birth certificate is kept":                  {[]certificate.Holding{old, hold(b, certificate.Birth, 90*day, never)}, false},
		"a birth certificate that has expired":         {[]certificate.Holding{old, with(hold(b, certificate.Birth, 90*day, never), expired)}, true},
		"never seen, and given another since":          {[]certificate.Holding{hold(a, certificate.First, 2*day, never), hold(b, certificate.First, day, never)}, false},
		"never seen, and given another before":         {[]certificate.Holding{hold(a, certificate.First, day, never), hold(b, certificate.First, 2*day, never)}, true},
		"never seen, and vended another":               {[]certificate.Holding{hold(a, certificate.First, 2*day, never), hold(b, certificate.Rotated, day, never)}, true},
		"not held":                                     {[]certificate.Holding{current}, false},
	} {
		if got := closer.Bricks(tc.held, a); got != tc.want {
			t.Errorf("%s: %t", name, got)
		}
	}
	if !closer.Bricks([]certificate.Holding{old, current}, a, b) {
		t.Error("both at once")
	}
}
