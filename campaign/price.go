package campaign

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Price is what one call costs, in tiers: each up to so many calls a month, the
// last without an end.
type Price []Tier

// Tier is what a call costs until there were so many in the month.
type Tier struct {
	Each float64
	UpTo int // 0: without an end
}

// ParsePrice reads "0.000015", or in tiers "0.75:1000 0.35:10000 0.001".
func ParsePrice(text string) (Price, error) {
	var p Price
	before := 0
	fields := strings.Fields(text)
	for i, field := range fields {
		each, upTo, isTier := strings.Cut(field, ":")
		tier := Tier{}
		var err error
		if tier.Each, err = strconv.ParseFloat(each, 64); err != nil || !(tier.Each >= 0) || math.IsInf(tier.Each, 0) {
			return nil, fmt.Errorf("%.40q is not what a call costs", each)
		}
		if isTier {
			if tier.UpTo, err = strconv.Atoi(upTo); err != nil || tier.UpTo <= before {
				return nil, fmt.Errorf("%.40q is not a number of calls above %d", upTo, before)
			}
		}
		if isTier == (i == len(fields)-1) {
			return nil, fmt.Errorf("%.80q: every price but the last is up to a number of calls", text)
		}
		p, before = append(p, tier), tier.UpTo
	}
	if len(p) == 0 {
		return nil, fmt.Errorf("%.40q is no price", text)
	}
	return p, nil
}

// Of returns what n calls cost if they are the first of a month, which is the
// most that they can.
func (p Price) Of(n int) float64 {
	var sum float64
	before := 0
	for _, tier := range p {
		upTo := n
		if tier.UpTo > 0 {
			upTo = min(n, tier.UpTo)
		}
		sum += tier.Each * float64(upTo-before)
		before = upTo
	}
	return sum
}
