package store

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/certvendor/certvendor/certificate"
)

// List implements certificate.Catalogue. A page may hold more than the limit
// where one certificate alone has more holders.
func (h Certificates) List(ctx context.Context, query certificate.Query) ([]certificate.Holding, error) {
	var page []certificate.Holding
	err := h.s.view(ctx, func(q querier) (err error) {
		page, err = listed(q, query)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list certificates: %w", err)
	}
	for i := range page {
		h.s.alive(page[i:i+1], h.s.sightings.of(page[i].Device))
	}
	return page, nil
}

// order is by id, or for what expires by when it does: what expires soon is a
// small part of all, and lies together in its index.
func order(query certificate.Query) string {
	if query.ExpiresBy.IsZero() {
		return ` ORDER BY c.id, h.device`
	}
	return ` ORDER BY c.not_after, c.id, h.device`
}

func listed(q querier, query certificate.Query) ([]certificate.Holding, error) {
	text, args, err := statement(q, query)
	if err != nil {
		return nil, err
	}
	most := limit(query.Limit)
	page, err := collect(q, scanHolding, text, append(args, most+1)...)
	if err != nil || len(page) <= most {
		return page, err
	}
	cut := page[most].ID
	whole := slices.IndexFunc(page, func(c certificate.Holding) bool { return c.ID == cut })
	if whole > 0 {
		return page[:whole], nil
	}
	one := selected(query)
	one.add(true, `c.id = ?`, cut)
	return collect(q, scanHolding, `SELECT `+holdingColumns+` FROM `+holdingTables+one.String()+order(query), one.args...)
}

// statement returns the query for a page, but for the last argument, which is
// how many holdings it may have.
func statement(q querier, query certificate.Query) (text string, args []any, err error) {
	from, f, err := lead(q, query)
	if err != nil {
		return "", nil, err
	}
	return `SELECT ` + holdingColumns + ` FROM ` + from + f.String() + order(query) + atMost, f.args, nil
}

const holdingTables = `certificates c JOIN chains n ON n.id = c.chain
	LEFT JOIN holdings h ON h.certificate = c.id AND h.detached = 0`

// lead decides where a listing begins: with what expires, or with few devices
// that have an attribute; else in the order of the ids, past what was not asked
// for.
func lead(q querier, query certificate.Query) (from string, f *filter, err error) {
	f = selected(query)
	by := func(index string) string {
		return strings.Replace(holdingTables, `certificates c`, `certificates c INDEXED BY `+index, 1)
	}
	switch {
	case query.Device != "" || query.Key != "":
	case !query.ExpiresBy.IsZero():
		return by(`certificates_not_after`), f, nil
	case query.Standing != "" && query.Standing != certificate.Active:
		f.add(true, `c.standing <> 'ACTIVE'`)
		return by(`certificates_standing`), f, nil
	case len(query.Attributes) > 0:
		name := slices.Min(slices.Collect(maps.Keys(query.Attributes)))
		many, err := manyOf(q, limit(query.Limit), `attributes WHERE name = ? AND value = ?`, []any{name, query.Attributes[name]})
		if err != nil || many {
			return holdingTables, f, err
		}
		f.add(true, `a.name = ? AND a.value = ?`, name, query.Attributes[name])
		return `attributes a CROSS JOIN holdings h ON h.device = a.device AND h.detached = 0
			CROSS JOIN certificates c ON c.id = h.certificate JOIN chains n ON n.id = c.chain`, f, nil
	}
	return holdingTables, f, nil
}

// selected returns the conditions of a query.
func selected(query certificate.Query) *filter {
	f := &filter{}
	f.add(query.ExpiresBy.IsZero(), `c.id > ?`, query.After)
	f.add(!query.ExpiresBy.IsZero() && query.After != "",
		`(c.not_after, c.id) > ((SELECT not_after FROM certificates WHERE id = ?), ?)`, query.After, query.After)
	f.add(query.Device != "", `h.device = ?`, query.Device)
	f.add(query.Key != "", `c.key = ?`, query.Key)
	f.add(query.Standing != "", `c.standing = ?`, query.Standing)
	f.add(query.Issuer != "", `c.issuer = ?`, query.Issuer)
	f.add(!query.ExpiresBy.IsZero(), `c.not_after <= ?`, query.ExpiresBy.Unix())
	for _, name := range slices.Sorted(maps.Keys(query.Attributes)) {
		f.add(true, `EXISTS (SELECT 1 FROM attributes x WHERE x.device = h.device AND x.name = ? AND x.value = ?)`,
			name, query.Attributes[name])
	}
	return f
}
