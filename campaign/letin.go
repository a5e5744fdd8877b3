package campaign

import (
	"context"
	"maps"
	"time"
)

// letIn lets in as many as the pace and those at work leave room for.
func (r *Runner) letIn(ctx context.Context, c Campaign, inFlight int, now time.Time) error {
	hold := r.Hold(ctx)
	zones, closed, err := r.openZones(ctx, c, now)
	if err != nil {
		return err
	}
	if hold == "" && closed > 0 && len(zones) == 0 {
		hold = "no window is open"
	}
	if hold == "" && c.IsAuto() && now.Before(r.restUntil) {
		hold = r.restWhy
	}
	r.hold(c.Name, hold)
	pace := r.pace(c, now)
	n := min(pace.whole(), c.MaxInFlight-inFlight, page)
	if hold != "" || n < 1 {
		return nil
	}
	members, err := r.Roll.Take(ctx, c.Name, c.Wave, zones, n)
	if err != nil {
		return err
	}
	pace.spend(len(members))
	for _, m := range members {
		if err := r.Group.Add(ctx, m.Device); err != nil {
			return err // the next round adds it again
		}
	}
	if len(members) > 0 {
		r.LetIn()
	}
	return nil
}

// openZones returns the zones of those who wait whose window is open now, nil: all
// are, and how many others there are.
func (r *Runner) openZones(ctx context.Context, c Campaign, now time.Time) (open []string, closed int, err error) {
	window, err := c.Window.parse()
	if err != nil || window.length() == wholeDay {
		return nil, 0, err
	}
	zones, err := r.Roll.Zones(ctx, c.Name)
	if err != nil {
		return nil, 0, err
	}
	open = []string{}
	for _, zone := range zones {
		if window.isOpen(zone, now) {
			open = append(open, zone)
		}
	}
	return open, len(zones) - len(open), nil
}

func (r *Runner) hold(name, why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.holds[name] = why
	maps.DeleteFunc(r.holds, func(_, why string) bool { return why == "" })
}

// allowance is how many devices a campaign may let in.
type allowance struct {
	n       float64
	counted time.Time
}

// pace returns a campaign's allowance, with what the time since the last round
// has added: never more than two seconds' worth, or one device.
func (r *Runner) pace(c Campaign, now time.Time) *allowance {
	a := r.paces[c.Name]
	if a == nil {
		a = &allowance{n: 1, counted: now}
		r.paces[c.Name] = a
	}
	perMinute := float64(c.PerMinute)
	a.n += max(now.Sub(a.counted).Minutes(), 0) * perMinute
	a.n = min(a.n, max(perMinute/30, 1))
	a.counted = now
	return a
}

func (a *allowance) whole() int  { return int(a.n) }
func (a *allowance) spend(n int) { a.n -= float64(n) }
