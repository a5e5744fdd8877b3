package store

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/registry"
)

const holdingColumns = `c.id, c.der, n.ders, c.key, c.key_type, c.serial, c.subject, c.issuer,
	c.not_before, c.not_after, c.standing, c.kind, c.policies, c.created, c.holders > 1,
	coalesce(h.device, ''), coalesce(h.attached, 0), coalesce(h.seen, 0), coalesce(h.evidence, '')`

func scanHolding(row scanner) (certificate.Holding, error) {
	var (
		h                                            certificate.Holding
		chain                                        []byte
		policies                                     string
		notBefore, notAfter, created, attached, seen int64
	)
	err := row.Scan(&h.ID, &h.DER, &chain, &h.Key, &h.KeyType, &h.Serial, &h.Subject, &h.Issuer,
		&notBefore, &notAfter, &h.Standing, &h.Kind, &policies, &created, &h.Shared,
		&h.Device, &attached, &seen, &h.Evidence)
	if err != nil {
		return h, err
	}
	h.NotBefore, h.NotAfter = time.Unix(notBefore, 0).UTC(), time.Unix(notAfter, 0).UTC()
	h.Created, h.Attached, h.LastSeen = moment(created), moment(attached), moment(seen)
	h.Shared = h.Shared && h.Device != ""
	if h.Policies, err = names[string](policies); err != nil {
		return h, err
	}
	h.Chain, err = parted(chain)
	return h, err
}

// Held implements certificate.Inventory.
func (h Certificates) Held(ctx context.Context, device registry.DeviceID) ([]certificate.Holding, error) {
	// The sightings first: one that is written in between is read below.
	unwritten := h.s.sightings.of(device)
	held, err := h.held(ctx, device)
	if err != nil {
		return nil, fmt.Errorf("certificates of device %s: %w", device, err)
	}
	return h.s.alive(held, unwritten), nil
}

func (h Certificates) held(ctx context.Context, device registry.DeviceID) ([]certificate.Holding, error) {
	held, known, place := h.s.memory.held.find(device)
	if known {
		return lent(held), h.s.open(ctx)
	}
	err := h.s.look(ctx, func(q querier) (err error) {
		held, err = heldBy(q, device)
		return err
	})
	h.s.memory.held.keep(device, place, held, err == nil)
	return lent(held), err
}

// lent returns a copy of what is remembered, for a caller to do with it what it
// likes, but for what a certificate consists of.
func lent(held []certificate.Holding) []certificate.Holding {
	held = slices.Clone(held)
	for i := range held {
		held[i].Policies = slices.Clone(held[i].Policies)
	}
	return held
}

func heldBy(q querier, device registry.DeviceID) ([]certificate.Holding, error) {
	return collect(q, scanHolding, `SELECT `+holdingColumns+`
		FROM holdings h JOIN certificates c ON c.id = h.certificate JOIN chains n ON n.id = c.chain
		WHERE h.device = ? AND h.detached = 0 AND c.standing <> 'DELETED' ORDER BY h.attached, c.id`, device)
}

// alive adds what is not in the database: sightings not yet written, and which
// connections are open.
func (s *Store) alive(held []certificate.Holding, unwritten []certificate.Sighting) []certificate.Holding {
	for i := range held {
		for _, seen := range unwritten {
			if seen.Certificate == held[i].ID && seen.Device == held[i].Device && seen.At.After(held[i].LastSeen) {
				held[i].LastSeen, held[i].Evidence = seen.At.UTC(), seen.Evidence
			}
		}
		held[i].Connected = held[i].Device != "" && s.connected(held[i].Device, held[i].ID)
	}
	return held
}
