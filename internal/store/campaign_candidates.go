package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/certvendor/certvendor/campaign"
	"github.com/certvendor/certvendor/certificate"
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
		page, err = collect(q, scanCandidate, `SELECT d.id, d.blocked FROM devices d WHERE d.id > ? ORDER BY d.id`+atMost,
			after, candidatesAtOnce)
		if err != nil || len(page) == 0 {
			return err
		}
		s := stretch{q, page, make(map[string]*campaign.Candidate, len(page))}
		for i := range page {
			s.places[string(page[i].Device)] = &page[i]
		}
		for _, add := range []func() error{s.addActive, s.addOpen, s.addGrouped, s.addCampaign, s.addPolicies, s.addCrowded} {
			if err := add(); err != nil {
				return err
			}
		}
		for _, name := range attributes {
			if err := s.addAttribute(name); err != nil {
				return err
			}
		}
		return nil
	})
	return page, err
}

func scanCandidate(row scanner) (c campaign.Candidate, err error) {
	var id string
	err = row.Scan(&id, &c.Blocked)
	c.Device, c.Attributes = registry.DeviceID(id), map[string]string{}
	return c, err
}

// stretch is a page of candidates. What is known of them is read table after
// table, each in its own order, which costs far less than looking it up for
// each.
type stretch struct {
	querier
	page   []campaign.Candidate
	places map[string]*campaign.Candidate
}

// along reads what a query has of the stretch: a row's device, and what else
// it is read into, which add then gives to the candidate.
func (s stretch) along(add func(*campaign.Candidate), into []any, text string, args ...any) error {
	var device string
	into = append([]any{&device}, into...)
	return walk(s, func(row scanner) error {
		err := row.Scan(into...)
		if c := s.places[device]; err == nil && c != nil {
			add(c)
		}
		return err
	}, text, append(args, s.page[0].Device, s.page[len(s.page)-1].Device)...)
}

// addActive adds what is ACTIVE of each device.
func (s stretch) addActive() error {
	cas, err := authorities(s)
	if err != nil {
		return err
	}
	chains, err := collect(s, scanChain, `SELECT id, ders FROM chains`)
	if err != nil {
		return err
	}
	of := map[int64][][]byte{}
	for _, c := range chains {
		of[c.id] = c.ders
	}
	var id, issuer, keyType string
	var chain, begin, end, seen int64
	var unheard, shared bool
	return s.along(func(c *campaign.Candidate) {
		c.Active = append(c.Active, campaign.Active{
			ID: certificate.ID(id), Issuer: issuer, CA: issuerOf(cas, issuer, of[chain]), KeyType: keyType,
			NotBefore: time.Unix(begin, 0).UTC(), NotAfter: time.Unix(end, 0).UTC(), Seen: moment(seen), Unheard: unheard, Shared: shared,
		})
	}, []any{&id, &issuer, &chain, &keyType, &begin, &end, &seen, &unheard, &shared}, `SELECT device, certificate, issuer, chain,
		key_type, not_before, not_after, seen, seen = 0 AND EXISTS (SELECT 1 FROM rotations r WHERE r.device = holdings.device
			AND r.certificate = holdings.certificate AND r.acked_at = 0 AND r.proven_at = 0), shared FROM holdings
		WHERE device >= ? AND device <= ? AND detached = 0 AND standing = 'ACTIVE'`)
}

func (s stretch) addOpen() error {
	var state string
	var began int64
	return s.along(func(c *campaign.Candidate) {
		c.Open, c.Began = rotation.State(state), moment(began)
	}, []any{&state, &began}, `SELECT device, state, max(vended_at, opened)
		FROM rotations INDEXED BY rotations_open WHERE device >= ? AND device <= ?
		AND `+openStates)
}

func (s stretch) addGrouped() error {
	var isAsked bool
	return s.along(func(c *campaign.Candidate) { c.Grouped, c.Asked = true, isAsked }, []any{&isAsked},
		`SELECT g.device, `+asked+` FROM members g WHERE g.device >= ? AND g.device <= ?`)
}

// addCampaign adds the campaign that has not ended, and that a device has not
// come to its end in.
func (s stretch) addCampaign() error {
	running, err := collect(s, value[string], `SELECT name FROM campaigns WHERE state NOT IN ('preparing', 'aborted', 'canceled', 'finished')`)
	if err != nil {
		return err
	}
	for _, name := range running {
		var pending bool
		err := s.along(func(c *campaign.Candidate) {
			c.Pending = pending && (c.Campaign == "" || c.Pending)
			c.Campaign = name
		}, []any{&pending}, `SELECT device, standing = 'pending' FROM campaign_members
			INDEXED BY campaign_members_device WHERE campaign = ? AND device >= ? AND device <= ?
			AND standing IN ('pending', 'added', 'vended', 'proven')
			AND NOT (campaign = '`+campaign.AutoName+`' AND standing = 'pending')`, name)
		if err != nil {
			return err
		}
	}
	if slices.Contains(running, campaign.AutoName) {
		return s.addWaits()
	}
	return nil
}

// addWaits adds who waits for its turn in the campaign of due certificates,
// which keeps no device out of another.
func (s stretch) addWaits() error {
	return s.along(func(c *campaign.Candidate) { c.Waits = true }, nil, `SELECT device FROM campaign_members
		INDEXED BY campaign_members_device WHERE campaign = ? AND device >= ? AND device <= ? AND standing = 'pending'`, campaign.AutoName)
}

// addPolicies adds the policies of certificates with many.
func (s stretch) addPolicies() error {
	var policies string
	var unread error
	err := s.along(func(c *campaign.Candidate) {
		many, err := names[string](policies)
		unread = errors.Join(unread, err)
		if len(many) > len(c.Policies) {
			c.Policies = many
		}
	}, []any{&policies}, `SELECT h.device, c.policies FROM certificates c INDEXED BY certificates_policies
		CROSS JOIN holdings h ON h.certificate = c.id
		WHERE c.standing = 'ACTIVE' AND iif(c.policies = '', 0, json_array_length(c.policies)) > 10
		AND h.detached = 0 AND h.device >= ? AND h.device <= ?`)
	return errors.Join(err, unread)
}

// addCrowded adds who is in as many groups as it may be.
func (s stretch) addCrowded() error {
	var groups int
	return s.along(func(c *campaign.Candidate) { c.Groups = groups }, []any{&groups},
		`SELECT device, groups FROM crowded WHERE device >= ? AND device <= ?`)
}

func (s stretch) addAttribute(name string) error {
	var text string
	return s.along(func(c *campaign.Candidate) { c.Attributes[name] = text }, []any{&text},
		`SELECT device, value FROM attributes WHERE +name = ? AND device >= ? AND device <= ?`, name) // not by the index of values
}
