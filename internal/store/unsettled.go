package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

// Unsettled are the certificates that may stand otherwise in another place than
// they do here, because telling it has begun and not ended.
type Unsettled struct{ s *Store }

// Unsettled returns what another place may not know yet.
func (s *Store) Unsettled() Unsettled { return Unsettled{s} }

// Mark says that another place is being told about a device's certificate.
type Mark struct {
	Certificate certificate.ID
	Device      registry.DeviceID
	Since       time.Time // when it was begun; List says so
}

// Begin notes that another place is about to be told about a certificate.
// Idempotent; durable when it returns. Where Config.Elsewhere says so, the
// commit that vends the certificate is the end of it.
func (h Unsettled) Begin(ctx context.Context, m Mark) error {
	err := h.s.commit(ctx, func(t *tx) error {
		return t.change(`INSERT INTO unsettled (certificate, device, since) VALUES (?, ?, ?) ON CONFLICT (certificate) DO NOTHING`,
			m.Certificate, m.Device, nanos(t.now))
	})
	if err != nil {
		return fmt.Errorf("note that certificate %s is being changed: %w", m.Certificate, err)
	}
	return nil
}

// End notes that the other place knows. Idempotent.
func (h Unsettled) End(ctx context.Context, id certificate.ID) error {
	if err := h.s.commit(ctx, func(t *tx) error { return settled(t, id) }); err != nil {
		return fmt.Errorf("note that certificate %s was changed: %w", id, err)
	}
	return nil
}

func settled(t *tx, id certificate.ID) error {
	return t.change(`DELETE FROM unsettled WHERE certificate = ?`, id)
}

// vendedElsewhere ends what was begun for the certificate that a change vends.
func (h Journal) vendedElsewhere(t *tx, r rotation.Rotation) error {
	if !h.s.cfg.Elsewhere || r.State != rotation.Vended {
		return nil
	}
	return settled(t, r.Certificate)
}

// Has reports whether telling another place about a certificate has begun.
func (h Unsettled) Has(ctx context.Context, id certificate.ID) (bool, error) {
	var has bool
	err := h.s.look(ctx, func(q querier) (err error) {
		_, has, err = single(q, value[int], `SELECT 1 FROM unsettled WHERE certificate = ?`, id)
		return err
	})
	if err != nil {
		return false, fmt.Errorf("certificate %s: %w", id, err)
	}
	return has, nil
}

// Speak notes that a device spoke over a certificate at a moment, if the other
// place is being told about it. What was noted of a later one stays. Durable when
// it returns; the end of the mark is the end of it.
func (h Unsettled) Speak(ctx context.Context, id certificate.ID, at time.Time) error {
	err := h.s.commit(ctx, func(t *tx) error {
		return t.change(`UPDATE unsettled SET spoken = ?1 WHERE certificate = ?2 AND spoken < ?1`, nanos(at), id)
	})
	if err != nil {
		return fmt.Errorf("note that somebody speaks over certificate %s: %w", id, err)
	}
	return nil
}

// Spoken returns what Speak has noted, or the zero time.
func (h Unsettled) Spoken(ctx context.Context, id certificate.ID) (time.Time, error) {
	var at int64
	err := h.s.look(ctx, func(q querier) (err error) {
		at, _, err = single(q, value[int64], `SELECT spoken FROM unsettled WHERE certificate = ?`, id)
		return err
	})
	if err != nil {
		return time.Time{}, fmt.Errorf("certificate %s: %w", id, err)
	}
	return moment(at), nil
}

// List lists what was begun and not ended, by certificate, a page of at most so
// many after one. What a rotation in memory carries is left out: its work goes
// on.
func (h Unsettled) List(ctx context.Context, after certificate.ID, most int) ([]Mark, error) {
	var page []Mark
	err := h.s.view(ctx, func(q querier) (err error) {
		page, err = collect(q, func(row scanner) (m Mark, err error) {
			var since int64
			err = row.Scan(&m.Certificate, &m.Device, &since)
			m.Since = moment(since)
			return m, err
		}, `SELECT certificate, device, since FROM unsettled WHERE certificate > ? ORDER BY certificate`+atMost, after, limit(most))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list what is being changed: %w", err)
	}
	return slices.DeleteFunc(page, func(m Mark) bool {
		d := h.s.drafts.find(m.Device)
		return d != nil && d.carries(m.Certificate)
	}), nil
}

// Place is how a certificate stands here with a device, and with all.
type Place struct {
	Known    bool // the inventory has it
	Standing certificate.Standing
	Held     bool // by this device
	Was      bool // of this device, now or before
	Holders  int
	// Begun says that a rotation has it which has not come as far as its
	// device: it is worth nothing before that is vended.
	Begun bool
	// AtWork says of one that is Begun that a request is at work on it.
	AtWork bool
}

// Place returns how a certificate stands with a device.
func (h Certificates) Place(ctx context.Context, device registry.DeviceID, id certificate.ID) (Place, error) {
	var p Place
	err := h.s.look(ctx, func(q querier) error {
		at, known, err := placeOf(q, device, id)
		if err != nil || !known {
			return err
		}
		p = Place{Known: true, Standing: at.standing, Held: at.usable(), Was: at.row, Holders: at.holders}
		return q.row(`SELECT count(*) > 0, coalesce(max(lease_instance <> '' AND lease_until > ?), 0) FROM rotations
			WHERE device = ? AND certificate = ? AND by_package = 0 AND state IN ('intended', 'issued')`,
			nanos(h.s.now()), device, id).Scan(&p.Begun, &p.AtWork)
	})
	if err != nil {
		return Place{}, fmt.Errorf("certificate %s of device %s: %w", id, device, err)
	}
	return p, nil
}

// Holders returns the devices that hold a certificate, by name.
func (h Certificates) Holders(ctx context.Context, id certificate.ID) ([]registry.DeviceID, error) {
	var holders []registry.DeviceID
	err := h.s.look(ctx, func(q querier) (err error) {
		holders, err = collect(q, value[registry.DeviceID],
			`SELECT device FROM holdings WHERE certificate = ? AND detached = 0 ORDER BY device`, id)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("who holds certificate %s: %w", id, err)
	}
	return holders, nil
}

// FormerHolders returns the devices from which a certificate was taken, by name.
func (h Certificates) FormerHolders(ctx context.Context, id certificate.ID) ([]registry.DeviceID, error) {
	var former []registry.DeviceID
	err := h.s.look(ctx, func(q querier) (err error) {
		former, err = collect(q, value[registry.DeviceID],
			`SELECT device FROM holdings WHERE certificate = ? AND detached <> 0 ORDER BY device`, id)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("who held certificate %s: %w", id, err)
	}
	return former, nil
}

// Certificate returns a certificate of the inventory, or
// certificate.ErrUnknown.
func (h Certificates) Certificate(ctx context.Context, id certificate.ID) (certificate.Certificate, error) {
	var (
		c     certificate.Holding
		known bool
	)
	err := h.s.look(ctx, func(q querier) (err error) {
		c, known, err = single(q, scanHolding, `SELECT `+holdingColumns+`
			FROM certificates c JOIN chains n ON n.id = c.chain LEFT JOIN holdings h ON false WHERE c.id = ?`, id)
		return err
	})
	if err == nil && !known {
		err = certificate.ErrUnknown
	}
	if err != nil {
		return certificate.Certificate{}, fmt.Errorf("certificate %s: %w", id, err)
	}
	return c.Certificate, nil
}

// TakeOut removes a device as Remove does, and remembers in the same commit that
// a person took it out: another registry has it still.
func (h Devices) TakeOut(ctx context.Context, id registry.DeviceID) error {
	err := h.s.commit(ctx, func(t *tx) error {
		if err := known(t, id); err != nil {
			return err
		}
		return errors.Join(t.change(`INSERT INTO removed VALUES (?) ON CONFLICT (device) DO NOTHING`, id), removeDevice(t, id))
	})
	if err != nil {
		return fmt.Errorf("remove device %s: %w", id, err)
	}
	return nil
}

// LetIn forgets that a person took a device out. Idempotent.
func (h Devices) LetIn(ctx context.Context, id registry.DeviceID) error {
	if err := h.s.commit(ctx, func(t *tx) error { return t.change(`DELETE FROM removed WHERE device = ?`, id) }); err != nil {
		return fmt.Errorf("let device %s in again: %w", id, err)
	}
	return nil
}

// Meet enters a device that another registry has, unless it is there, as Add
// does. It returns registry.ErrUnknown for one that a person took out, however
// lately.
func (h Devices) Meet(ctx context.Context, id registry.DeviceID, attributes map[string]string) error {
	err := h.s.commit(ctx, func(t *tx) error {
		_, out, err := single(t, value[int], `SELECT 1 FROM removed WHERE device = ?`, id)
		switch {
		case err != nil:
			return err
		case out:
			return registry.ErrUnknown
		}
		return addNew(t, id, attributes)
	})
	if err != nil {
		return fmt.Errorf("add device %s: %w", id, err)
	}
	return nil
}

// IsRemoved reports whether a person took a device out.
func (h Devices) IsRemoved(ctx context.Context, id registry.DeviceID) (bool, error) {
	var removed bool
	err := h.s.look(ctx, func(q querier) (err error) {
		_, removed, err = single(q, value[int], `SELECT 1 FROM removed WHERE device = ?`, id)
		return err
	})
	if err != nil {
		return false, fmt.Errorf("device %s: %w", id, err)
	}
	return removed, nil
}
