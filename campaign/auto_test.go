package campaign

import (
	"slices"
	"testing"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/registry"
)

func TestBefore(t *testing.T) {
	const day = 24 * time.Hour
	for name, c := range map[string]struct {
		before   Before
		lifetime time.Duration
		want     time.Duration
	}{
		"three years":                      {Before{}, 1095 * day, 365 * day},
		"ninety days":                      {Before{}, 90 * day, 30 * day},
		"eighty: a third is too little":    {Before{}, 80 * day, 30 * day},
		"sixty: 30 days are half of it":    {Before{}, 60 * day, 30 * day},
		"fifty: 30 days are more":          {Before{}, 51 * day, 17 * day},
		"a day":                            {Before{}, day, 8 * time.Hour},
		"as long as one likes":             {Before{Time: 20 * day}, 90 * day, 20 * day},
		"but never more than half":         {Before{Time: 20 * day}, day, 12 * time.Hour},
		"a part of it":                     {Before{Percent: 25}, day, 6 * time.Hour},
		"a part of what lasts a long time": {Before{Percent: 10}, 100 * day, 10 * day},
	} {
		if got := c.before.Of(c.lifetime); got != c.want {
			t.Errorf("%s: %s before its end, want %s", name, got, c.want)
		}
	}
}

// A new certificate is not due, whatever its lifetime, and every device's turn
// comes in the first half of the time before the end, always at one moment.
func TestDueAt(t *testing.T) {
	for _, lifetime := range []time.Duration{time.Minute, 24 * time.Hour, 90 * 24 * time.Hour, 30 * 365 * 24 * time.Hour, 200 * 365 * 24 * time.Hour} {
		for _, b := range []Before{{}, {Time: 1000 * time.Hour}, {Percent: 50}} {
			before := b.Of(lifetime)
			for _, name := range []string{"a", "b", "a much longer name of a device"} {
				current := Active{ID: "one", NotBefore: noon, NotAfter: noon.Add(lifetime)}
				at := dueAt(registry.DeviceID(name), current, before)
				if at.Before(noon.Add(lifetime/2)) || at.After(current.NotAfter.Add(-before/2)) {
					t.Errorf("%s of %s: due at %s", name, lifetime, at.Sub(noon))
				}
				if !at.Equal(dueAt(registry.DeviceID(name), current, before)) {
					t.Error("another moment when it is asked again")
				}
			}
		}
	}
}

// What a rotation has vended, and what its device was never heard of with, keeps
// no certificate from coming due that it may be on.
func TestCurrent(t *testing.T) {
	at := func(days int) time.Time { return noon.AddDate(0, 0, days) }
	old, vended := Active{ID: "old", NotAfter: at(10)}, Active{ID: "vended", NotAfter: at(1000), Unheard: true}
	acked, seen := vended, vended
	acked.Unheard = false
	seen.Unheard, seen.Seen = false, at(-1)
	oldSeen, back := old, old
	oldSeen.Seen, back.Seen = at(-2), at(0)
	for name, c := range map[string]struct {
		active []Active
		want   certificate.ID
	}{
		"never seen on either, and not acked": {[]Active{old, vended}, "old"},
		"never seen on either, and acked":     {[]Active{old, acked}, "vended"},
		"seen on the old one":                 {[]Active{oldSeen, vended}, "old"},
		"seen on both":                        {[]Active{oldSeen, seen}, "vended"},
		"seen on both, and went back":         {[]Active{back, seen}, "old"},
		"nothing else is left":                {[]Active{vended}, "vended"},
	} {
		for range 2 {
			if current, _ := (Candidate{Active: c.active}).current(); current.ID != c.want {
				t.Errorf("%s: %s, want %s", name, current.ID, c.want)
			}
			slices.Reverse(c.active)
		}
	}
}
