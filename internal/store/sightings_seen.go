package store

import (
	"context"
	"fmt"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

var _ rotation.Witness = Certificates{}

// Seen implements certificate.Inventory. A repeated sighting is written with
// the next commit, and within seconds.
func (h Certificates) Seen(ctx context.Context, seen certificate.Sighting) error {
	if !seen.At.IsZero() && h.s.sightings.repeat(seen) {
		return nil
	}
	return h.see(ctx, seen, func(*tx) error { return nil })
}

// Witness implements rotation.Witness.
func (h Certificates) Witness(ctx context.Context, seen certificate.Sighting, c rotation.Change) (rotation.Rotation, error) {
	if h.s.drafts.find(seen.Device) != nil {
		return rotation.Rotation{}, rotation.ErrChanged // which may be about to take its place
	}
	var r rotation.Rotation
	err := h.see(ctx, seen, func(t *tx) (err error) {
		r, err = advance(t, c)
		return err
	})
	if err != nil {
		return rotation.Rotation{}, err
	}
	return r, nil
}

// see commits a sighting with what it shows.
func (h Certificates) see(ctx context.Context, seen certificate.Sighting, shows func(*tx) error) error {
	if seen.At.IsZero() {
		return fmt.Errorf("sighting of device %s on certificate %s: without a time", seen.Device, seen.Certificate)
	}
	a := h.s.sightings.arrive(seen.Device)
	err := h.s.commitThen(ctx, func(t *tx) error {
		if !h.s.sightings.take(a) {
			return context.Canceled // nobody hears it
		}
		if err := maySee(t, seen); err != nil {
			return err
		}
		if err := shows(t); err != nil {
			return err
		}
		return h.s.sight(t, seen)
	}, func(error) { h.s.sightings.arrived(a) })
	if err != nil {
		h.s.sightings.giveUp(a)
		return fmt.Errorf("sighting of device %s on certificate %s: %w", seen.Device, seen.Certificate, err)
	}
	return nil
}

// maySee returns why a device cannot be seen on a certificate.
func maySee(q querier, seen certificate.Sighting) error {
	at, _, err := placeOf(q, seen.Device, seen.Certificate)
	switch {
	case err != nil:
		return err
	case !at.usable():
		return certificate.ErrNotHeld
	case at.standing != certificate.Active:
		return certificate.ErrNotActive
	}
	return nil
}

// sight writes a sighting on a certificate that was just found usable. Only such
// a one may be repeated without a look.
func (s *Store) sight(t *tx, seen certificate.Sighting) error {
	latest, err := latestOf(t, seen.Device)
	if err != nil {
		return err
	}
	s.order(&seen, latest)
	if err := writeSighting(t, seen); err != nil {
		return err
	}
	if err := wake(t, seen.Device); err != nil { // it may have gone back
		return err
	}
	if seen.At.After(latest.At) {
		latest = certificate.Sighting{
			Device: seen.Device, Certificate: seen.Certificate, At: moment(nanos(seen.At)), Evidence: seen.Evidence,
		}
	}
	if latest.Certificate == seen.Certificate {
		t.committed(func() { s.sightings.committed(latest) })
	}
	return nil
}

// order puts a live sighting behind every one of the device that was recorded
// before it, of which the latest is written, also if the clock was set back in
// between.
func (s *Store) order(seen *certificate.Sighting, latest certificate.Sighting) {
	if !seen.Live {
		return
	}
	for _, known := range append(s.sightings.of(seen.Device), latest) {
		if known.Certificate != seen.Certificate && !seen.At.After(known.At) {
			seen.At = known.At.Add(time.Nanosecond)
		}
	}
}

// writeSighting leaves a later one alone. A rotation that vended the
// certificate before is marked for the sweep.
func writeSighting(t *tx, seen certificate.Sighting) error {
	at := nanos(seen.At)
	n, err := t.carry(`UPDATE holdings SET seen = ?1, evidence = ?2 WHERE device = ?3 AND certificate = ?4 AND seen < ?1`,
		[]any{at, seen.Evidence, seen.Device, seen.Certificate})
	if err != nil || n == 0 {
		return err
	}
	t.touched.wroteSighting(seen)
	return t.noted(`UPDATE rotations SET woken = 1 WHERE device = ? AND certificate = ? AND woken = 0
		AND state IN ('vended', 'acknowledged', 'stale') AND (NOT by_package OR opened <= ?)`, seen.Device, seen.Certificate, at)
}

// latestOf returns the sighting that came last over all the device holds.
func latestOf(q querier, device registry.DeviceID) (certificate.Sighting, error) {
	latest := certificate.Sighting{Device: device}
	return scanned(single(q, func(row scanner) (certificate.Sighting, error) {
		var at int64
		err := row.Scan(&latest.Certificate, &at, &latest.Evidence)
		latest.At = moment(at)
		return latest, err
	}, `SELECT certificate, seen, evidence FROM holdings
		WHERE device = ? AND detached = 0 AND seen > 0 ORDER BY seen DESC LIMIT 1`, device))
}
