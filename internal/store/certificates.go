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

// Certificates is the inventory.
type Certificates struct{ s *Store }

var (
	_ certificate.Inventory = Certificates{}
	_ certificate.Catalogue = Certificates{}
)

// Register implements certificate.Inventory. A certificate that the device
// holds already stays exactly as it is: one that was deactivated is brought
// back by Activate, not by being registered again; but one that came with its
// device, or was there before, becomes a birth certificate if it is registered as
// one. One that nobody holds any
// more takes the standing it is registered with. One that was revoked is
// refused with certificate.ErrRevoked, one of a CA that was retired with
// certificate.ErrDistrusted.
func (h Certificates) Register(ctx context.Context, device registry.DeviceID, c certificate.Certificate) error {
	if h.s.drafts.register(device, c) {
		return nil
	}
	if err := h.s.commit(ctx, func(t *tx) error { return register(t, device, c) }); err != nil {
		return fmt.Errorf("register certificate %s for device %s: %w", c.ID, device, err)
	}
	return nil
}

// place is where a certificate stands with a device.
type place struct {
	standing certificate.Standing
	holders  int
	row      bool // there is a row for this device
	held     bool // and it was not detached
	seen     time.Time
	kind     certificate.Kind
	// elsewhere: it is INACTIVE because another place has said so.
	elsewhere bool
}

const placeQuery = `SELECT c.standing, c.holders, c.kind, c.elsewhere, h.device IS NOT NULL, coalesce(h.detached = 0, 0), coalesce(h.seen, 0)
	FROM certificates c LEFT JOIN holdings h ON h.certificate = c.id AND h.device = ? WHERE c.id = ?`

// placeOf returns false for a certificate that the inventory does not know.
func placeOf(q querier, device registry.DeviceID, id certificate.ID) (place, bool, error) {
	return single(q, func(row scanner) (p place, err error) {
		var seen int64
		err = row.Scan(&p.standing, &p.holders, &p.kind, &p.elsewhere, &p.row, &p.held, &seen)
		p.seen = moment(seen)
		return p, err
	}, placeQuery, device, id)
}

// usable reports whether the device holds the certificate and it is not
// deleted.
func (p place) usable() bool { return p.held && p.standing != certificate.Deleted }

func register(t *tx, device registry.DeviceID, c certificate.Certificate) error {
	if c.Standing == "" {
		c.Standing = certificate.Active
	}
	at, known, err := placeOf(t, device, c.ID)
	switch {
	case err != nil:
		return err
	case at.usable():
		return becomeBirth(t, device, c, at)
	case at.standing == certificate.Revoked:
		return certificate.ErrRevoked
	}
	if err := mayUse(t, c.Issuer, c.Chain); err != nil {
		return err
	}
	if !known {
		return insert(t, device, c)
	}
	if err := attach(t, device, c, at); err != nil {
		return err
	}
	if err := hold(t, device, c.ID); err != nil {
		return err
	}
	return becomeBirth(t, device, c, at)
}

// becomeBirth makes a known certificate a birth certificate, if it is registered as
// one: it may have been found with its device before a person has said so.
func becomeBirth(t *tx, device registry.DeviceID, c certificate.Certificate, at place) error {
	if c.Kind != certificate.Birth || at.kind != certificate.First && at.kind != certificate.Adopted {
		return nil
	}
	if err := t.birth(c.ID); err != nil {
		return err
	}
	return t.audit(Event{Kind: CertificateBirth, Device: device, Certificate: c.ID})
}

func (t *tx) birth(id certificate.ID) error {
	return t.changeOfHolders(id, nobody, `UPDATE certificates SET kind = ? WHERE id = ?`, certificate.Birth, id)
}

// hold attaches a certificate to a device. The triggers count it, and enter what
// stands beside a holding.
func hold(t *tx, device registry.DeviceID, id certificate.ID) error {
	return t.changeOfHolders(id, device, `INSERT INTO holdings (device, certificate, attached) VALUES (?, ?, ?)
		ON CONFLICT (device, certificate) DO UPDATE SET attached = excluded.attached, detached = 0`,
		device, id, nanos(t.now))
}

// attach audits that a known certificate goes to a device, and gives it the
// standing it is registered with if nobody holds it.
func attach(t *tx, device registry.DeviceID, c certificate.Certificate, at place) error {
	standing := at.standing
	if at.holders == 0 || at.standing == certificate.Deleted {
		standing = c.Standing
	}
	if standing != at.standing {
		if err := setStanding(t, c.ID, standing); err != nil {
			return err
		}
	}
	return t.audit(Event{Kind: CertificateAttached, Device: device, Certificate: c.ID, Detail: map[string]string{
		"standing": string(standing),
	}})
}

// setStanding sets a standing for a reason of this store's own.
func setStanding(t *tx, id certificate.ID, standing certificate.Standing) error {
	return t.changeOfHolders(id, nobody, `UPDATE certificates SET standing = ?, elsewhere = 0 WHERE id = ?`, standing, id)
}

// insert enters a certificate, and that the device holds it; without a device it
// is nobody's. It counts its holder and says what stands beside a holding, so
// that no trigger has to write either row once more.
func insert(t *tx, device registry.DeviceID, c certificate.Certificate) error {
	if c.ID == "" || len(c.DER) == 0 {
		return errors.New("a certificate needs its id and its DER")
	}
	created := c.Created
	if created.IsZero() {
		created = t.now
	}
	chain, err := t.chain(joined(c.Chain))
	if err != nil {
		return err
	}
	err = t.noted(`INSERT INTO certificates (id, der, chain, key, key_type, serial, subject, issuer,
		not_before, not_after, standing, kind, policies, created, elsewhere, holders)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		c.ID, c.DER, chain, c.Key, c.KeyType, c.Serial, c.Subject, c.Issuer,
		c.NotBefore.Unix(), c.NotAfter.Unix(), c.Standing, c.Kind, array(c.Policies), nanos(created),
		c.Kind == certificate.Adopted && c.Standing == certificate.Inactive, device != "")
	if err != nil {
		return err
	}
	if err := holdNew(t, device, c, chain); err != nil {
		return err
	}
	e := Event{Kind: CertificateRegistered, Device: device, Certificate: c.ID, Detail: map[string]string{
		"serial": c.Serial, "key": string(c.Key), "standing": string(c.Standing), "kind": string(c.Kind),
		"issuer": c.Issuer, "notAfter": c.NotAfter.UTC().Format(time.RFC3339),
		"der": base64.StdEncoding.EncodeToString(c.DER), "chain": strconv.FormatInt(chain, 10),
	}}
	if len(c.Policies) > 0 {
		e.Detail["policies"] = array(c.Policies)
	}
	return t.audit(e)
}

// holdNew is hold for a certificate that was just entered.
func holdNew(t *tx, device registry.DeviceID, c certificate.Certificate, chain int64) error {
	if device == "" {
		return nil
	}
	t.touched.wroteHolding(device, c, t.now)
	return t.noted(`INSERT INTO holdings (device, certificate, attached, standing, not_after,
		issuer, chain, key_type, not_before) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		device, c.ID, nanos(t.now), c.Standing, c.NotAfter.Unix(), c.Issuer, chain, c.KeyType, c.NotBefore.Unix())
}

// chainsKept bounds how many chains the writer remembers.
const chainsKept = 64

// chain returns the id of a chain, entering it if it is new. Those that are
// committed are remembered: a CA's certificates all carry the same.
func (t *tx) chain(ders []byte) (int64, error) {
	if id, ok := t.chains[string(ders)]; ok {
		return id, nil
	}
	n, err := t.carry(`INSERT INTO chains (ders) VALUES (?) ON CONFLICT (ders) DO NOTHING`, []any{ders}) // it is nobody's yet
	if err != nil {
		return 0, err
	}
	id, err := value[int64](t.row(`SELECT id FROM chains WHERE ders = ?`, ders))
	if err != nil {
		return 0, err
	}
	t.committed(func() {
		if len(t.chains) >= chainsKept {
			clear(t.chains)
		}
		t.chains[string(ders)] = id
	})
	if n == 0 {
		return id, nil
	}
	return id, t.audit(Event{Kind: CertificateChain, Detail: map[string]string{
		"chain": strconv.FormatInt(id, 10), "ders": base64.StdEncoding.EncodeToString(ders),
	}})
}

// Activate implements certificate.Inventory.
func (h Certificates) Activate(ctx context.Context, device registry.DeviceID, id certificate.ID) error {
	err := h.activate(ctx, device, id)
	if err != nil {
		return fmt.Errorf("activate certificate %s of device %s: %w", id, device, err)
	}
	return nil
}

func (h Certificates) activate(ctx context.Context, device registry.DeviceID, id certificate.ID) error {
	if d := h.s.drafts.find(device); d != nil && d.carries(id) {
		if err := h.activatable(ctx, device, id, d); err != nil {
			return err
		}
		if h.s.drafts.activate(device, id) {
			return nil
		}
	}
	return h.s.commit(ctx, func(t *tx) error { return activate(t, device, id) })
}

// activatable checks what is checked again when the draft is written.
func (h Certificates) activatable(ctx context.Context, device registry.DeviceID, id certificate.ID, d *draft) error {
	if d.registers(id) {
		return nil
	}
	return h.s.look(ctx, func(q querier) error {
		at, _, err := placeOf(q, device, id)
		switch {
		case err != nil:
			return err
		case !at.usable():
			return certificate.ErrNotHeld
		case at.standing == certificate.Revoked:
			return certificate.ErrRevoked
		case at.standing == certificate.Active:
			return nil
		}
		return mayUseID(q, id)
	})
}

func activate(t *tx, device registry.DeviceID, id certificate.ID) error {
	at, _, err := placeOf(t, device, id)
	switch {
	case err != nil:
		return err
	case !at.usable():
		return certificate.ErrNotHeld
	case at.standing == certificate.Revoked:
		return certificate.ErrRevoked
	case at.standing == certificate.Active:
		return nil
	}
	if err := mayUseID(t, id); err != nil {
		return err
	}
	if err := setStanding(t, id, certificate.Active); err != nil {
		return err
	}
	return t.audit(Event{Kind: CertificateActivated, Device: device, Certificate: id})
}
