package campaign

import (
	"context"
	"math"
	"time"

	"github.com/certvendor/certvendor/registry"
)

// look judges every member whose turn it is, and in the first round all: the
// process before may have died at any step.
func (r *Runner) look(ctx context.Context, c Campaign, refused map[registry.DeviceID]string, now time.Time) error {
	for after := beforeAll; ; {
		seen, err := r.turns(ctx, c, now, after)
		if err != nil {
			return err
		}
		var found []Noted
		for _, s := range seen {
			is, err := r.lookAt(ctx, c, s, refused[s.Device], now)
			if err != nil {
				return err
			}
			if is.Standing != s.Standing || !is.Next.IsZero() {
				found = append(found, is)
			}
		}
		if len(found) > 0 {
			if err := r.Roll.Mark(ctx, c.Name, found); err != nil {
				return err
			}
		}
		if len(seen) < page {
			r.known[c.Name] = true
			return nil
		}
		after = seen[len(seen)-1].Turn
	}
}

var beforeAll = Turn{Look: math.MinInt64, Place: -1}

// turns returns a page of those to be looked at.
func (r *Runner) turns(ctx context.Context, c Campaign, now time.Time, after Turn) ([]Sight, error) {
	if !r.known[c.Name] {
		return r.Roll.InProgress(ctx, c.Name, after.Place, page)
	}
	return r.Watch.Due(ctx, c.Name, now, after, page)
}

// lookAt judges one member.
func (r *Runner) lookAt(ctx context.Context, c Campaign, s Sight, refused string, now time.Time) (Noted, error) {
	s.Listens = r.began
	standing, why := c.Judge(s, now)
	if refused != "" && standing == Added {
		standing, why = Failed, "its request was refused: "+refused
	}
	end := r.endOf(c, s.Member)
	if standing == Added && !end.IsZero() && now.After(end) {
		standing, why = Late, "not heard of before its certificate ended"
	}
	is := Noted{Member: s.Member, Turn: s.Turn, Next: c.next(s, standing, now)}
	if standing == Added && !end.IsZero() && end.Before(is.Next) {
		is.Next = end.Add(1)
	}
	if standing != s.Standing {
		is.Standing, is.Why, is.Since = standing, why, now
	}
	if standing == Failed || standing == Skipped || standing == Late { // it is asked no more; what it was vended stays valid
		return is, r.letGo(ctx, s)
	}
	s.Member = is.Member
	return is, r.addAgain(ctx, c, s)
}

// letGo takes a member out of the group, unless another campaign waits for it:
// with that one it leaves.
func (r *Runner) letGo(ctx context.Context, s Sight) error {
	if s.Wanted {
		return nil
	}
	return r.Group.Remove(ctx, s.Device, time.Time{})
}

// addAgain adds a member to the group that was let in by a process that died
// before it could, or that was taken out since. Who takes a device out for longer
// pauses the campaign before.
func (r *Runner) addAgain(ctx context.Context, c Campaign, s Sight) error {
	lost := s.Standing == Added && s.Rotation.Number == 0 && (s.Job == "" && !s.Asked || s.takenOut())
	if !lost || c.State != Running {
		return nil
	}
	if err := r.Group.Add(ctx, s.Device); err != nil {
		return err
	}
	r.LetIn()
	return nil
}
