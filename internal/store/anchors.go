package store

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/registry"
)

// ErrNothingPrepared says that no server CA waits to be used.
var ErrNothingPrepared = errors.New("no server CA is prepared")

// ErrPrepared says that one does already.
var ErrPrepared = errors.New("a server CA is prepared already")

// ServerAuthority is a CA of the servers, after the one that the world was made
// with.
type ServerAuthority struct {
	ID       certificate.ID
	DER      []byte
	Prepared time.Time
	Used     time.Time // since when; zero: it is only prepared
}

// Anchors are the servers' CAs, and which devices trust them.
type Anchors struct{ s *Store }

// Anchors returns the servers' CAs.
func (s *Store) Anchors() Anchors { return Anchors{s} }

func scanServer(row scanner) (a ServerAuthority, err error) {
	var prepared, used int64
	err = row.Scan(&a.ID, &a.DER, &prepared, &used)
	a.Prepared, a.Used = moment(prepared), moment(used)
	return a, err
}

// List returns the servers' CAs, oldest first: only the last may be unused.
func (h Anchors) List(ctx context.Context) ([]ServerAuthority, error) {
	var all []ServerAuthority
	err := h.s.look(ctx, func(q querier) (err error) {
		all, err = collect(q, scanServer, `SELECT id, der, prepared, used FROM server_authorities ORDER BY prepared, id`)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list the servers' CAs: %w", err)
	}
	return all, nil
}

// Prepare enters a CA that is to be used once devices trust it. ErrPrepared if
// another one waits.
func (h Anchors) Prepare(ctx context.Context, id certificate.ID, der []byte) error {
	err := h.s.commit(ctx, func(t *tx) error {
		_, waits, err := single(t, value[int], `SELECT 1 FROM server_authorities WHERE used = 0`)
		if err != nil || waits {
			return errors.Join(err, ErrPrepared)
		}
		return prepareServer(t, id, der)
	})
	if err != nil {
		return fmt.Errorf("prepare server CA %.12s: %w", id, err)
	}
	return nil
}

// prepareServer enters a CA behind all others, whatever the clock did.
func prepareServer(t *tx, id certificate.ID, der []byte) error {
	if err := t.change(`INSERT INTO server_authorities VALUES (?1, ?2,
		(SELECT max(?3, coalesce(max(prepared), 0) + 1) FROM server_authorities), 0) ON CONFLICT (id) DO NOTHING`,
		id, der, nanos(t.now)); err != nil {
		return err
	}
	return t.audit(Event{Kind: ServerCAPrepared, Certificate: id, Detail: map[string]string{"der": base64.StdEncoding.EncodeToString(der)}})
}

// Missing is returned where more devices would be cut off than may.
type Missing struct{ Devices int }

func (m Missing) Error() string {
	return strconv.Itoa(m.Devices) + " devices have not said that they trust it"
}

// Use makes the prepared CA the one that is used. Where more devices than may be
// cut off have not said that they trust the set with this SHA-256, it does nothing
// and returns a Missing.
func (h Anchors) Use(ctx context.Context, sha256 string, cutOff int) error {
	err := h.s.commit(ctx, func(t *tx) error {
		id, waits, err := single(t, value[certificate.ID], `SELECT id FROM server_authorities WHERE used = 0`)
		switch {
		case err != nil:
			return err
		case !waits:
			return ErrNothingPrepared
		}
		n, err := countMissing(t, sha256)
		if err != nil {
			return err
		}
		if n > cutOff {
			return Missing{n}
		}
		if err := t.change(`UPDATE server_authorities SET used = ? WHERE id = ?`, nanos(t.now), id); err != nil {
			return err
		}
		return t.audit(Event{Kind: ServerCAUsed, Certificate: id, Detail: map[string]string{"missing": strconv.Itoa(n)}})
	})
	if err != nil {
		return fmt.Errorf("use the prepared server CA: %w", err)
	}
	return nil
}

// abandonedKey is the key of Meta under which the server CA is kept that was
// abandoned last.
const abandonedKey = "abandoned_server_ca"

// Abandon forgets the prepared CA, which is used by nobody yet. Where none is
// prepared it returns ErrNothingPrepared.
func (h Anchors) Abandon(ctx context.Context) error {
	err := h.s.commit(ctx, func(t *tx) error {
		id, waits, err := single(t, value[certificate.ID], `SELECT id FROM server_authorities WHERE used = 0`)
		if err == nil && !waits {
			err = ErrNothingPrepared
		}
		if err != nil {
			return err
		}
		return abandonServer(t, id)
	})
	if err != nil {
		return fmt.Errorf("abandon the prepared server CA: %w", err)
	}
	return nil
}

func abandonServer(t *tx, id certificate.ID) error {
	if err := t.change(`DELETE FROM server_authorities WHERE id = ?`, id); err != nil {
		return err
	}
	if err := setMeta(t, abandonedKey, string(id)); err != nil {
		return err
	}
	return t.audit(Event{Kind: ServerCAAbandoned, Certificate: id})
}

// Abandoned returns the CA that was abandoned last, which devices may have been
// told of; empty for none.
func (h Anchors) Abandoned(ctx context.Context) (certificate.ID, error) {
	id, err := h.s.Meta(ctx, abandonedKey)
	return certificate.ID(id), err
}

const missing = ` FROM devices d LEFT JOIN anchors a ON a.device = d.id WHERE (a.sha256 IS NULL OR a.sha256 <> ?)`

func countMissing(q querier, sha256 string) (int, error) {
	return value[int](q.row(`SELECT count(*)`+missing, sha256))
}

// CountMissing counts the devices that have not said that they trust the set.
func (h Anchors) CountMissing(ctx context.Context, sha256 string) (n int, err error) {
	err = h.s.look(ctx, func(q querier) (err error) {
		n, err = countMissing(q, sha256)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("count who does not trust the servers' CAs: %w", err)
	}
	return n, nil
}

// Missing returns a page of those devices by name, after one.
func (h Anchors) Missing(ctx context.Context, sha256 string, after registry.DeviceID, most int) ([]registry.DeviceID, error) {
	var page []registry.DeviceID
	err := h.s.look(ctx, func(q querier) (err error) {
		page, err = collect(q, value[registry.DeviceID], `SELECT d.id`+missing+` AND d.id > ? ORDER BY d.id`+atMost, sha256, after, limit(most))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list who does not trust the servers' CAs: %w", err)
	}
	return page, nil
}

// Of returns the SHA-256 of the set that a device has taken; empty for none.
func (h Anchors) Of(ctx context.Context, device registry.DeviceID) (sha256 string, err error) {
	err = h.s.look(ctx, func(q querier) (err error) {
		sha256, _, err = single(q, value[string], `SELECT sha256 FROM anchors WHERE device = ?`, device)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("what device %s trusts: %w", device, err)
	}
	return sha256, nil
}

// Took records which set a device has taken. Idempotent.
func (h Anchors) Took(ctx context.Context, device registry.DeviceID, sha256 string) error {
	if now, err := h.Of(ctx, device); err != nil || now == sha256 {
		return err
	}
	err := h.s.commit(ctx, func(t *tx) error {
		if err := known(t, device); err != nil {
			return err
		}
		return took(t, device, sha256)
	})
	if err != nil {
		return fmt.Errorf("what device %s trusts: %w", device, err)
	}
	return nil
}

func took(t *tx, device registry.DeviceID, sha256 string) error {
	err := t.change(`INSERT INTO anchors VALUES (?, ?, ?) ON CONFLICT (device) DO UPDATE SET sha256 = excluded.sha256, at = excluded.at`,
		device, sha256, nanos(t.now))
	if err != nil {
		return err
	}
	return t.audit(Event{Kind: DeviceAnchors, Device: device, Detail: map[string]string{"sha256": sha256}})
}

// againAnchors does what an event about the servers' CAs records.
func (t *tx) againAnchors(e Event) error {
	switch e.Kind {
	case DeviceAnchors:
		return took(t, e.Device, e.Detail["sha256"])
	case ServerCAAbandoned:
		return abandonServer(t, e.Certificate)
	case ServerCAUsed:
		return t.change(`UPDATE server_authorities SET used = ? WHERE id = ?`, nanos(e.At), e.Certificate)
	}
	der, err := base64.StdEncoding.DecodeString(e.Detail["der"])
	if err != nil {
		return err
	}
	return prepareServer(t, e.Certificate, der)
}
