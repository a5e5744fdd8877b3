package store

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
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
	var held []certificate.Holding
	err := h.s.look(ctx, func(q querier) (err error) {
		held, err = heldBy(q, device)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("certificates of device %s: %w", device, err)
	}
	return h.s.alive(held, unwritten), nil
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

// List implements certificate.Catalogue. A page may hold more than the limit
// where one certificate alone has more holders.
func (h Certificates) List(ctx context.Context, query certificate.Query) ([]certificate.Holding, error) {
	text, args := listing(query)
	var page []certificate.Holding
	err := h.s.view(ctx, func(q querier) (err error) {
		most := limit(query.Limit)
		page, err = collect(q, scanHolding, text+` LIMIT ?`, append(slices.Clone(args), most+1)...)
		if err != nil || len(page) <= most {
			return err
		}
		cut := page[most].ID
		whole := slices.IndexFunc(page, func(c certificate.Holding) bool { return c.ID == cut })
		if page = page[:whole]; whole > 0 {
			return nil
		}
		only := query
		only.After = ""
		text, args = listing(only, clause{`c.id = ?`, cut})
		page, err = collect(q, scanHolding, text, args...)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list certificates: %w", err)
	}
	for i := range page {
		one := page[i : i+1]
		h.s.alive(one, h.s.sightings.of(page[i].Device))
	}
	return page, nil
}

type clause struct {
	text string
	arg  any
}

// listing returns the statement for a query, by certificate, then device.
func listing(query certificate.Query, more ...clause) (string, []any) {
	all := append([]clause{{`c.id > ?`, query.After}}, more...)
	add := func(asked bool, text string, arg any) {
		if asked {
			all = append(all, clause{text, arg})
		}
	}
	add(query.Device != "", `h.device = ?`, query.Device)
	add(query.Key != "", `c.key = ?`, query.Key)
	add(query.Standing != "", `c.standing = ?`, query.Standing)
	add(query.Issuer != "", `c.issuer = ?`, query.Issuer)
	add(!query.ExpiresBy.IsZero(), `c.not_after <= ?`, query.ExpiresBy.Unix())
	for _, name := range slices.Sorted(maps.Keys(query.Attributes)) {
		all = append(all,
			clause{`EXISTS (SELECT 1 FROM attributes x WHERE x.device = h.device AND x.name = ?`, name},
			clause{`x.value = ?)`, query.Attributes[name]})
	}
	texts, args := make([]string, len(all)), make([]any, len(all))
	for i, c := range all {
		texts[i], args[i] = c.text, c.arg
	}
	return `SELECT ` + holdingColumns + `
		FROM certificates c JOIN chains n ON n.id = c.chain
		LEFT JOIN holdings h ON h.certificate = c.id AND h.detached = 0
		WHERE ` + strings.Join(texts, " AND ") + ` ORDER BY c.id, h.device`, args
}
