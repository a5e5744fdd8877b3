package fleet

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/rotation"
)

// Account is what the vendor knows of a device.
type Account struct {
	Holds map[certificate.ID]certificate.Standing // its certificates
	Vends []Vend                                  // the newest first
}

// Vend is a certificate that the device was given in a rotation.
type Vend struct {
	Certificate certificate.ID
	State       rotation.State
}

// Verdict is how a device ended.
type Verdict struct {
	Device string
	// Rotated says that the device works on a certificate that it was vended,
	// and that the vendor calls that rotation proven or finished.
	Rotated bool
	// Violation is something that must never be; nil if nothing is.
	Violation error
	// Why says why it has not rotated.
	Why error
}

// Judge holds the vendor's inventory against what each device of a report
// really has on its disk, and tries what is there: the newest pair first, and
// no further than the first that connects, because connecting with an older
// one would count as using it. Options.Operator is required. It returns an
// error, and no verdict, if the vendor could not be asked or ctx has ended.
func Judge(ctx context.Context, o Options, report Report) ([]Verdict, error) {
	if o.Operator == nil {
		return nil, errors.New("judge a fleet: nobody knows what the vendor holds")
	}
	verdicts := make([]Verdict, len(o.Devices))
	var group errgroup.Group
	if o.Concurrency > 0 {
		group.SetLimit(o.Concurrency)
	}
	for i, d := range o.Devices {
		group.Go(func() error {
			var err error
			verdicts[i], err = o.judge(ctx, d, report.Results[i])
			if o.Done != nil {
				o.Done(report.Results[i])
			}
			return err
		})
	}
	if err := errors.Join(group.Wait(), ctx.Err()); err != nil {
		return nil, err
	}
	return verdicts, nil
}

// judge returns an error only where nothing can be said about the device.
func (o Options) judge(ctx context.Context, d Device, r Result) (Verdict, error) {
	v := Verdict{Device: d.Name, Why: r.Err}
	pairs, err := o.pairsOnDisk(d)
	if err != nil {
		return o.judgeUnread(ctx, v, d, err)
	}
	// What the vendor has seen counts, not what this is about to show it.
	account, err := o.seen(ctx, d, idOf(pairs[0]))
	if err != nil {
		return v, err
	}
	works, err := o.firstThatWorks(ctx, d, pairs)
	if err != nil {
		v.Violation = err
		return v, ctx.Err()
	}
	after, err := o.account(ctx, d)
	if err != nil {
		return v, err
	}
	if v.Violation = errors.Join(after.hold(pairs, works), after.know(r.Received)); v.Violation != nil {
		return v, nil
	}
	state := account.stateOf(works)
	if v.Rotated = state == rotation.Proven || state == rotation.Finished; !v.Rotated {
		v.Why = errors.Join(v.Why, unproven(state))
	}
	return v, nil
}

// judgeUnread judges a device without a pair that could be read. What firmware
// threw away before it was vended anything is its own affair.
func (o Options) judgeUnread(ctx context.Context, v Verdict, d Device, unread error) (Verdict, error) {
	account, err := o.account(ctx, d)
	if err != nil {
		return v, err
	}
	unread = fmt.Errorf("read the disk: %w", unread)
	if len(account.Vends) == 0 {
		v.Why = errors.Join(v.Why, unread)
		return v, nil
	}
	v.Violation = unread
	return v, nil
}

func (o Options) account(ctx context.Context, d Device) (Account, error) {
	account, err := o.Operator.Account(ctx, d.Name)
	if err != nil {
		return account, fmt.Errorf("ask what the vendor knows: %w", err)
	}
	return account, nil
}

func unproven(state rotation.State) error {
	if state == "" {
		return errUnchanged
	}
	return fmt.Errorf("works on a certificate whose rotation is %s", state)
}

func (a Account) stateOf(id certificate.ID) rotation.State {
	for _, vend := range a.Vends {
		if vend.Certificate == id {
			return vend.State
		}
	}
	return ""
}

// seenWithin is how long a sighting may take to show.
const seenWithin = 3 * time.Second

// seen returns the account of a device, once what it did last is in it.
func (o Options) seen(ctx context.Context, d Device, newest certificate.ID) (Account, error) {
	for until := time.Now().Add(seenWithin); ; {
		account, err := o.account(ctx, d)
		if err != nil {
			return account, err
		}
		if state := account.stateOf(newest); state != rotation.Vended && state != rotation.Stale || time.Now().After(until) {
			return account, nil
		}
		if err := o.Operator.Sweep(ctx); err != nil {
			return account, fmt.Errorf("have the vendor sweep: %w", err)
		}
		if err := pause(ctx, 250*time.Millisecond); err != nil {
			return account, err
		}
	}
}

// firstThatWorks returns the newest pair that connects.
func (o Options) firstThatWorks(ctx context.Context, d Device, pairs []tls.Certificate) (certificate.ID, error) {
	var refused error
	for _, pair := range pairs {
		err := o.connects(ctx, d.Name, pair)
		if err == nil {
			return idOf(pair), nil
		}
		refused = errors.Join(refused, fmt.Errorf("certificate %.12s: %w", idOf(pair), err))
	}
	return "", fmt.Errorf("no certificate on its disk works: %w", refused)
}

// connects tries more than once: a network that is busy proves nothing.
func (o Options) connects(ctx context.Context, name string, pair tls.Certificate) error {
	var err error
	for try := range tries {
		if try > 0 {
			if err := pause(ctx, time.Duration(try)*200*time.Millisecond); err != nil {
				return err
			}
		}
		if err = CanConnect(ctx, o.Target, name, pair); err == nil {
			return nil
		}
	}
	return err
}

// know returns an error for a certificate that the device was given and that
// the inventory does not have.
func (a Account) know(received []certificate.ID) error {
	for _, id := range received {
		if _, known := a.Holds[id]; !known {
			return fmt.Errorf("certificate %.12s was vended, and is not in the inventory", id)
		}
	}
	return nil
}

// hold holds the inventory against the disk: it knows every certificate there,
// calls the one that works ACTIVE, and none so that was refused.
func (a Account) hold(pairs []tls.Certificate, works certificate.ID) error {
	tried := slices.IndexFunc(pairs, func(p tls.Certificate) bool { return idOf(p) == works })
	for i, pair := range pairs {
		id := idOf(pair)
		standing, known := a.Holds[id]
		switch {
		case !known:
			return fmt.Errorf("certificate %.12s is on its disk, and not in the inventory", id)
		case i == tried && standing != certificate.Active:
			return fmt.Errorf("certificate %.12s connects, and is %s in the inventory", id, standing)
		case i < tried && standing == certificate.Active:
			return fmt.Errorf("certificate %.12s is ACTIVE in the inventory, and does not connect", id)
		}
	}
	return nil
}
