package store

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

// Journal is the record of rotations.
type Journal struct {
	s    *Store
	ends bool // does the steps behind a rotation too; see Ending
}

var (
	_ rotation.Journal   = Journal{}
	_ rotation.Catalogue = Journal{}
)

// Find implements rotation.Journal.
func (h Journal) Find(ctx context.Context, device registry.DeviceID) (rotation.History, error) {
	// The draft first: one that is written in between is read below.
	d := h.s.drafts.find(device)
	all, err := h.of(ctx, device)
	if err != nil {
		return rotation.History{}, fmt.Errorf("rotations of device %s: %w", device, err)
	}
	found := rotation.History{Rotations: slices.Clone(all)}
	for i, r := range all {
		found.Rotations[i] = cloned(r)
	}
	if d != nil {
		found.Rotations = d.shown(found.Rotations)
	}
	return found, nil
}

// of returns the newest rotations of a device, not to be changed.
func (h Journal) of(ctx context.Context, device registry.DeviceID) ([]rotation.Rotation, error) {
	all, known, place := h.s.memory.rotations.find(device)
	if known {
		return all, h.s.open(ctx)
	}
	err := h.s.look(ctx, func(q querier) (err error) {
		all, err = collect(q, scanRotation, `SELECT `+rotationColumns+` FROM rotations
			WHERE device = ? ORDER BY number DESC`+atMost, device, rotation.HistoryLimit)
		return err
	})
	h.s.memory.rotations.keep(device, place, all, err == nil)
	return all, err
}

// shown adds a draft to what was read, as if it had been written.
func (d *draft) shown(read []rotation.Rotation) []rotation.Rotation {
	if slices.ContainsFunc(read, func(r rotation.Rotation) bool { return r.Number == d.rotation.Number }) {
		return read // it was written meanwhile
	}
	if d.givesWay != nil {
		i := slices.IndexFunc(read, func(r rotation.Rotation) bool { return r.Number == d.givesWay.Number })
		if i < 0 || read[i].Version != d.givesWay.Version {
			return read // somebody else changed it: the draft will never be written
		}
		read[i] = d.gaveWay()
	}
	at := slices.IndexFunc(read, func(r rotation.Rotation) bool { return r.Number < d.rotation.Number })
	if at < 0 {
		at = len(read)
	}
	read = slices.Insert(read, at, cloned(d.rotation))
	return read[:min(len(read), rotation.HistoryLimit)]
}

// gaveWay returns what gave way to the draft as it is once the draft is written.
func (d *draft) gaveWay() rotation.Rotation {
	r := cloned(*d.givesWay)
	r.Version++
	return r
}

// Open implements rotation.Journal. What gives way and is given open becomes
// Superseded, now.
//
// A rotation that is still in memory and that no other instance works on is
// replaced as if it had never been: what gave way to it then gives way to next,
// whichever of the two is named.
func (h Journal) Open(ctx context.Context, next rotation.Rotation, givesWay *rotation.Rotation) (rotation.Rotation, error) {
	r, err := h.open(ctx, next, givesWay)
	if err != nil {
		return rotation.Rotation{}, fmt.Errorf("open rotation %d of device %s: %w", next.Number, next.Device, err)
	}
	return r, nil
}

func (h Journal) open(ctx context.Context, next rotation.Rotation, givesWay *rotation.Rotation) (rotation.Rotation, error) {
	next = cloned(next)
	next.Version = 1
	leftover := h.s.drafts.find(next.Device)
	d, err := h.drafted(next, givesWay, leftover)
	if err != nil {
		return next, err
	}
	if h.s.cfg.DurableIntent || !postponed(next.State) || (leftover != nil && leftover.busy) {
		err := h.s.commit(ctx, func(t *tx) error { return d.write(t, nil) })
		if err == nil && leftover != nil {
			h.s.drafts.settle(leftover, true)
		}
		return next, err
	}
	if err := h.check(ctx, d); err != nil {
		return next, err
	}
	if !h.s.drafts.put(d, leftover) {
		return next, rotation.ErrChanged
	}
	return cloned(next), nil
}

// postponed reports whether a rotation in this state need not be written.
func postponed(s rotation.State) bool { return s == rotation.Intended || s == rotation.Issued }

// drafted returns the draft of a new rotation.
func (h Journal) drafted(next rotation.Rotation, givesWay *rotation.Rotation, leftover *draft) (*draft, error) {
	d := &draft{rotation: next}
	if givesWay != nil {
		d.givesWay = new(h.ended(*givesWay))
	}
	if leftover == nil || leftover.busy {
		return d, nil
	}
	self := next.Lease.Instance
	if self == "" {
		self = h.s.cfg.Instance
	}
	if leftover.rotation.Lease.Held(self, h.s.now()) {
		return nil, rotation.ErrChanged
	}
	if givesWay != nil && givesWay.Number == leftover.rotation.Number {
		if givesWay.Version != leftover.rotation.Version {
			return nil, rotation.ErrChanged
		}
		d.givesWay = leftover.givesWay
	}
	return d, nil
}

// ended returns what gives way as it shall be written.
func (h Journal) ended(r rotation.Rotation) rotation.Rotation {
	r = cloned(r)
	if r.State.Open() {
		r.State, r.ClosedAt = rotation.Superseded, h.s.now()
	}
	r.Lease = rotation.Lease{}
	return r
}

// check returns rotation.ErrChanged if the draft cannot be written. Of a device
// with more rotations than are remembered the store is asked.
func (h Journal) check(ctx context.Context, d *draft) error {
	all, err := h.of(ctx, d.rotation.Device)
	if err != nil {
		return err
	}
	if len(all) < rotation.HistoryLimit {
		return d.fits(all)
	}
	return h.s.look(ctx, func(q querier) error {
		_, err := d.before(q)
		return err
	})
}

// fits is before, for all rotations of the device.
func (d *draft) fits(all []rotation.Rotation) error {
	var older rotation.Rotation
	if d.givesWay != nil {
		older = *d.givesWay
	}
	var version int64
	for _, r := range all {
		switch {
		case r.Number == d.rotation.Number:
			return rotation.ErrChanged
		case r.Number == older.Number:
			version = r.Version
		case r.State.Open():
			return rotation.ErrChanged
		}
	}
	if version != older.Version {
		return rotation.ErrChanged
	}
	return nil
}

// before returns the state of what gives way as it is, or rotation.ErrChanged if
// the draft cannot be written.
func (d *draft) before(q querier) (rotation.State, error) {
	var older rotation.Rotation // number 0 is nobody's
	if d.givesWay != nil {
		older = *d.givesWay
	}
	var found struct {
		taken, open bool
		version     int64
		state       rotation.State
	}
	err := q.row(`SELECT coalesce(max(number = ?2), 0),
		coalesce(max(number NOT IN (?2, ?3) AND `+openStates+`), 0),
		coalesce(max(iif(number = ?3, version, 0)), 0), coalesce(max(iif(number = ?3, state, '')), '')
		FROM rotations WHERE device = ?1`, d.rotation.Device, d.rotation.Number, older.Number).
		Scan(&found.taken, &found.open, &found.version, &found.state)
	if err == nil && (found.taken || found.open || found.version != older.Version) {
		err = rotation.ErrChanged
	}
	return found.state, err
}

// write writes the draft whole, with the retirements of the change that makes
// something of it.
func (d *draft) write(t *tx, retirements []rotation.Retirement) error {
	was, err := d.before(t)
	if err != nil {
		return err
	}
	if d.givesWay != nil {
		if err := write(t, d.gaveWay(), was); err != nil {
			return err
		}
	}
	if d.certificate != nil {
		if err := register(t, d.rotation.Device, *d.certificate); err != nil {
			return err
		}
	}
	if d.activate != "" {
		if err := activate(t, d.rotation.Device, d.activate); err != nil {
			return err
		}
	}
	if err := write(t, d.rotation, ""); err != nil {
		return err
	}
	return oweAll(t, retirements)
}

func oweAll(t *tx, all []rotation.Retirement) error {
	for _, r := range all {
		if err := owe(t, r); err != nil {
			return err
		}
	}
	return nil
}

// Advance implements rotation.Journal.
func (h Journal) Advance(ctx context.Context, c rotation.Change) (rotation.Rotation, error) {
	c.Rotation = cloned(c.Rotation)
	if !c.Rotation.State.Open() {
		c.Rotation.Lease = rotation.Lease{}
	}
	if !h.ends {
		c.Ending = nil
	}
	r, err := h.advance(ctx, c)
	if err != nil && c.Ending != nil && !errors.Is(err, rotation.ErrChanged) {
		c.Ending = nil // no ack fails for what is to be left behind it
		r, err = h.advance(ctx, c)
	}
	if err != nil {
		return rotation.Rotation{}, fmt.Errorf("rotation %d of device %s to %s: %w",
			c.Rotation.Number, c.Rotation.Device, c.Rotation.State, err)
	}
	return r, nil
}

func (h Journal) advance(ctx context.Context, c rotation.Change) (rotation.Rotation, error) {
	d := h.s.drafts.find(c.Rotation.Device)
	switch {
	case d == nil || d.busy:
	case c.Rotation.Number == d.rotation.Number:
		return h.advanceDraft(ctx, d, c)
	case d.givesWay != nil && c.Rotation.Number == d.givesWay.Number && c.Rotation.Version == d.givesWay.Version+1:
		// What gave way to the draft goes on from there: so the draft is written.
		return h.settle(ctx, d, c, func(t *tx, d *draft) error {
			if err := d.write(t, nil); err != nil {
				return err
			}
			c := c
			c.Ending = nil // the caller is told nothing of what this leaves
			_, err := advance(t, c)
			return err
		})
	}
	return commitFor(ctx, h.s, func(t *tx) (rotation.Rotation, error) {
		r, err := advance(t, c)
		if err != nil {
			return r, err
		}
		return r, h.vendedElsewhere(t, c.Rotation)
	})
}

func (h Journal) advanceDraft(ctx context.Context, d *draft, c rotation.Change) (rotation.Rotation, error) {
	if c.Rotation.Version != d.rotation.Version {
		return c.Rotation, rotation.ErrChanged
	}
	if postponed(c.Rotation.State) && len(c.Retirements) == 0 {
		if c.Rotation.Lease == (rotation.Lease{}) {
			h.s.drafts.forget(d)
			c.Rotation.Version++
			return c.Rotation, nil
		}
		r, ok := h.s.drafts.advance(d, c)
		if !ok {
			return r, rotation.ErrChanged
		}
		return r, nil
	}
	return h.settle(ctx, d, c, func(t *tx, d *draft) error {
		d.rotation = cloned(c.Rotation)
		d.rotation.Version++
		if c.Certificate != nil {
			d.certificate = c.Certificate
		}
		if err := d.write(t, c.Retirements); err != nil {
			return err
		}
		return h.vendedElsewhere(t, c.Rotation)
	})
}

// settle writes a draft by run, which gets a copy of it. A draft that lost its
// place meanwhile is forgotten; after any other failure it is as it was.
func (h Journal) settle(ctx context.Context, d *draft, c rotation.Change, run func(*tx, *draft) error) (rotation.Rotation, error) {
	taken := h.s.drafts.take(d)
	if taken == nil {
		return c.Rotation, rotation.ErrChanged
	}
	commit := h.s.commitThen
	if h.s.drafts.one() {
		commit = h.s.commitHere
	} // else the others are soon to be written too, by the same commit
	err := commit(ctx,
		func(t *tx) error { return run(t, new(*taken)) },
		func(err error) { h.s.drafts.settle(taken, err == nil || errors.Is(err, rotation.ErrChanged)) })
	return advanced(c), err
}

// advanced returns the rotation as a change leaves it. It does not touch the
// change, which the writer may have in hand still when its caller gave up.
func advanced(c rotation.Change) rotation.Rotation {
	r := c.Rotation
	r.Version++
	return r
}

// advance writes a change to a rotation that is in the database, and returns it
// as it is then.
func advance(t *tx, c rotation.Change) (rotation.Rotation, error) {
	r := cloned(c.Rotation)
	was, known, err := numbered(t, r.Device, r.Number)
	if err != nil {
		return r, err
	}
	if !known || was.Version != r.Version {
		return r, rotation.ErrChanged
	}
	if r.State.Open() && !was.State.Open() {
		open, err := otherOpen(t, r.Device, r.Number)
		if err != nil {
			return r, err
		}
		if open {
			return r, rotation.ErrChanged
		}
	}
	if c.Certificate != nil {
		if err := register(t, r.Device, *c.Certificate); err != nil {
			return r, err
		}
	}
	r.Version++
	done, err := doable(t, r, c.Ending)
	if err != nil {
		return r, err
	}
	left := r.Behind
	r.Behind = some(left[len(done):])
	if err := writeOwing(t, r, left, was.State); err != nil {
		return r, err
	}
	if c.Undo {
		if err := undo(t, r); err != nil {
			return r, err
		}
	}
	if err := oweAll(t, c.Retirements); err != nil {
		return r, err
	}
	return r, end(t, r.Device, done, c.Ending)
}

// VoidLeases ends every lease there is and returns how many there were: for a
// process that has made sure that it is the only one, when it starts.
func (h Journal) VoidLeases(ctx context.Context) (int, error) {
	n, err := commitFor(ctx, h.s, func(t *tx) (int64, error) {
		return t.exec(`UPDATE rotations SET lease_instance = '', lease_until = 0 WHERE lease_instance <> ''`)
	})
	if err != nil {
		return 0, fmt.Errorf("void leases: %w", err)
	}
	return int(n), nil
}
