package store

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/certvendor/certvendor/campaign"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

// candidatesAtOnce is how many devices one read looks at.
const candidatesAtOnce = 5000

// Candidates calls look with every device of the registry, by name, with the
// attributes named. Each page is one snapshot; between two, others write.
func (h Campaigns) Candidates(ctx context.Context, attributes []string, look func(campaign.Candidate)) error {
	for after := registry.DeviceID(""); ; {
		page, err := h.candidates(ctx, after, attributes)
		if err != nil {
			return fmt.Errorf("look at the devices after %q: %w", after, err)
		}
		if len(page) == 0 {
			return nil
		}
		for _, c := range page {
			look(c)
		}
		after = page[len(page)-1].Device
	}
}

func (h Campaigns) candidates(ctx context.Context, after registry.DeviceID, attributes []string) (page []campaign.Candidate, err error) {
	err = h.s.view(ctx, func(q querier) (err error) {
		page, err = collect(q, scanCandidate, `SELECT d.id, d.blocked,
			coalesce((SELECT r.state || ' ' || max(r.vended_at, r.opened) FROM rotations r INDEXED BY rotations_open WHERE r.device = d.id
				AND r.state IN ('intended', 'issued', 'vended', 'acknowledged', 'proven')), ''),
			EXISTS (SELECT 1 FROM members g WHERE g.device = d.id),
			coalesce((SELECT c.name FROM campaign_members m JOIN campaigns c ON c.name = m.campaign
				WHERE m.device = d.id AND c.state NOT IN ('aborted', 'canceled', 'finished')
				AND m.standing IN ('pending', 'added', 'vended', 'proven')
				AND NOT (c.name = 'auto' AND m.standing = 'pending')), ''),
			EXISTS (SELECT 1 FROM campaign_members m WHERE m.device = d.id AND m.campaign = 'auto' AND m.standing = 'pending')
			FROM devices d WHERE d.id > ? ORDER BY d.id`+atMost, after, candidatesAtOnce)
		if err != nil || len(page) == 0 {
			return err
		}
		places := make(map[registry.DeviceID]int, len(page))
		for i, c := range page {
			places[c.Device] = i
		}
		last := page[len(page)-1].Device
		if err := addActive(q, page, places, after, last); err != nil {
			return err
		}
		for _, name := range attributes {
			if err := addAttribute(q, page, places, name, after, last); err != nil {
				return err
			}
		}
		return nil
	})
	return page, err
}

func scanCandidate(row scanner) (c campaign.Candidate, err error) {
	c.Attributes = map[string]string{}
	var open string
	if err := row.Scan(&c.Device, &c.Blocked, &open, &c.Grouped, &c.Campaign, &c.Waits); err != nil || open == "" {
		return c, err
	}
	state, since, _ := strings.Cut(open, " ")
	began, err := strconv.ParseInt(since, 10, 64)
	c.Open, c.Began = rotation.State(state), moment(began)
	return c, err
}

// addActive adds what is ACTIVE of each device of a page.
func addActive(q querier, page []campaign.Candidate, places map[registry.DeviceID]int, after, last registry.DeviceID) error {
	rows, err := q.query(`SELECT h.device, h.certificate, c.issuer, c.key_type, c.not_before, c.not_after, h.seen, c.holders > 1
		FROM holdings h JOIN certificates c ON c.id = h.certificate
		WHERE h.device > ? AND h.device <= ? AND h.detached = 0 AND c.standing = 'ACTIVE'`, after, last)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var device registry.DeviceID
		var a campaign.Active
		var begin, end, seen int64
		if err := rows.Scan(&device, &a.ID, &a.Issuer, &a.KeyType, &begin, &end, &seen, &a.Shared); err != nil {
			return err
		}
		a.NotBefore, a.NotAfter, a.Seen = time.Unix(begin, 0).UTC(), time.Unix(end, 0).UTC(), moment(seen)
		if i, ok := places[device]; ok {
			page[i].Active = append(page[i].Active, a)
		}
	}
	return rows.Err()
}

func addAttribute(q querier, page []campaign.Candidate, places map[registry.DeviceID]int, name string, after, last registry.DeviceID) error {
	rows, err := q.query(`SELECT device, value FROM attributes WHERE name = ? AND device > ? AND device <= ?`, name, after, last)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var device registry.DeviceID
		var text string
		if err := rows.Scan(&device, &text); err != nil {
			return err
		}
		if i, ok := places[device]; ok {
			page[i].Attributes[name] = text
		}
	}
	return rows.Err()
}
