package campaign

import (
	"math"
	"testing"
)

func TestPrices(t *testing.T) {
	const tiers = "0.75:1000 0.35:10000 0.001"
	for text, calls := range map[string]map[int]float64{
		"0.000015": {0: 0, 1: 0.000015, 100_000: 1.5},
		tiers:      {0: 0, 999: 749.25, 1000: 750, 1001: 750.35, 10_000: 3900, 11_000: 3901},
		"0":        {5: 0},
	} {
		p, err := ParsePrice(text)
		if err != nil {
			t.Fatal(err)
		}
		for n, want := range calls {
			if got := p.Of(n); math.Abs(got-want) > 1e-9 {
				t.Errorf("%s: %d calls cost %g, want %g", text, n, got, want)
			}
		}
	}
	for _, text := range []string{"", "cheap", "-1", "NaN", "Inf", "1:1000", "1 2", "1:1000 2:1000 3", "1:x 2", "1:0 2"} {
		if p, err := ParsePrice(text); err == nil {
			t.Errorf("%q was read as %v", text, p)
		}
	}
}
