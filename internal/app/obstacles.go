package app

import (
	"context"
	"fmt"
	"time"

	"github.com/certvendor/certvendor/campaign"
)

// obstacles says what in this world stands in the way of a device, as far as it
// is on record: what a get and `certvendor explain` would say of each.
func (a *App) obstacles(c campaign.Candidate) []string {
	var all []string
	if rule := a.config.PolicyRule(); rule.Exceeded(c.Policies) {
		all = append(all, fmt.Sprintf("its certificate has more than %d policies to inherit: a get would be refused", rule.Most))
	}
	if c.Groups > 0 && !c.Grouped {
		all = append(all, fmt.Sprintf("it is in %d thing groups already, and cannot join %s", c.Groups, a.config.Rotation.Group))
	}
	return all
}

// hindrance says what stands in the way of every device: a CA that does not
// sign, or ends before the certificates would.
func (a *App) hindrance(ctx context.Context) string {
	if a.backend.Signs == nil {
		return ""
	}
	until, err := a.backend.Signs(ctx)
	switch {
	case err != nil:
		return "no certificate can be issued now: " + err.Error()
	case !until.IsZero() && until.Before(a.clock.Now().Add(a.config.Vending.Validity)):
		return fmt.Sprintf("the CA ends on %s, and new certificates with it", until.UTC().Format(time.DateOnly))
	}
	return ""
}
