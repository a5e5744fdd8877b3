package rotation

import (
	"context"
	"strings"
	"time"
)

// Freeze is what an operator, or the circuit breaker, has stopped. The zero
// value is: nothing.
type Freeze struct {
	Vending  bool
	Retiring bool
	Why      string // for people; it names each where they have two reasons
	At       time.Time
}

// Brakes keep a Freeze durably. Methods are safe for concurrent use.
type Brakes interface {
	Frozen(context.Context) (Freeze, error)
	// SetFrozen changes what is frozen in one step and returns what is frozen
	// from then on: change is given what is at that moment, so that nothing
	// that somebody else stops is let go by it. change may be called more than
	// once. A change that changes nothing leaves no trace.
	SetFrozen(ctx context.Context, change func(*Freeze)) (Freeze, error)
}

// StopVending freezes vending, or gives it another reason.
func (f *Freeze) StopVending(why string, at time.Time) {
	r := f.reasons()
	r.vending = why
	f.Vending, f.At = true, at
	f.Why = r.join(*f)
}

// StopRetiring freezes retiring, or gives it another reason.
func (f *Freeze) StopRetiring(why string, at time.Time) {
	r := f.reasons()
	r.retiring = why
	f.Retiring, f.At = true, at
	f.Why = r.join(*f)
}

// Release lets go on what is named; the rest keeps its reason.
func (f *Freeze) Release(vending, retiring bool) {
	r := f.reasons()
	f.Vending, f.Retiring = f.Vending && !vending, f.Retiring && !retiring
	f.Why = r.join(*f)
}

// VendingWhy says why vending is frozen, where it is.
func (f Freeze) VendingWhy() string { return f.reasons().vending }

// RetiringWhy says why retiring is frozen, where it is.
func (f Freeze) RetiringWhy() string { return f.reasons().retiring }

type reasons struct{ vending, retiring string }

const (
	vendingReason  = "vending: "
	retiringReason = "; retiring: "
)

func (f Freeze) reasons() reasons {
	if f.Vending && f.Retiring {
		if both, ok := strings.CutPrefix(f.Why, vendingReason); ok {
			if vending, retiring, ok := strings.Cut(both, retiringReason); ok {
				return reasons{vending, retiring}
			}
		}
	}
	return reasons{f.Why, f.Why}
}

func (r reasons) join(f Freeze) string {
	switch {
	case f.Vending && f.Retiring && r.vending != r.retiring:
		return vendingReason + r.vending + retiringReason + r.retiring
	case f.Vending:
		return r.vending
	case f.Retiring:
		return r.retiring
	}
	return ""
}
