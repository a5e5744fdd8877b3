package store

import (
	"context"
	"encoding/json"
	"time"

	"github.com/certvendor/certvendor/campaign"
)

var _ campaign.Entrance = Campaigns{}

// byDaemon is who applied the campaign that is the daemon's own.
const byDaemon = "the configuration"

// Keep implements campaign.Entrance.
func (h Campaigns) Keep(ctx context.Context, spec campaign.Spec) error {
	text, err := json.Marshal(spec)
	if err != nil {
		return wrapCampaign("keep", spec.Name, err)
	}
	err = h.s.commit(ctx, func(t *tx) error {
		c, there, err := single(t, scanCampaign, `SELECT `+campaignColumns+` FROM campaigns WHERE name = ?`, spec.Name)
		if err != nil {
			return err
		}
		known, err := json.Marshal(c.Spec)
		switch {
		case err != nil:
			return err
		case !there:
			c = campaign.Campaign{Spec: spec, By: byDaemon}
			err = t.change(`INSERT INTO campaigns (`+campaignColumns+`) VALUES (?, ?, ?, '', 0, 0, ?, ?, 0, 1, ?, '[]')`,
				spec.Name, string(text), campaign.Running, c.By, nanos(t.now), nanos(t.now))
		case c.State.Ended():
			err = t.change(`UPDATE campaigns SET spec = ?, state = ?, why = '', ended = 0, resumed = ?, version = version + 1 WHERE name = ?`,
				string(text), campaign.Running, nanos(t.now), spec.Name)
		case string(known) != string(text):
			return t.change(`UPDATE campaigns SET spec = ?, version = version + 1 WHERE name = ?`, string(text), spec.Name)
		default:
			return nil
		}
		if err != nil {
			return err
		}
		c.Why = ""
		if err := t.remember(spec.Name, campaign.Change{At: t.now, State: campaign.Running, By: byDaemon}); err != nil {
			return err
		}
		return t.noteCampaign(c, campaign.Running, CampaignStarted)
	})
	return wrapCampaign("keep", spec.Name, err)
}

// Enter implements campaign.Entrance. A device keeps its place however often it
// enters, so that a campaign without an end has no more rows than devices.
func (h Campaigns) Enter(ctx context.Context, name string, entries []campaign.Entry) error {
	err := h.s.commit(ctx, func(t *tx) error {
		for _, e := range entries {
			if err := t.noted(`INSERT INTO campaign_members
				(campaign, place, device, wave, standing, why, zone, added, since, before, expires)
				VALUES (?1, (SELECT coalesce(max(place), -1) + 1 FROM campaign_members WHERE campaign = ?1), ?2, 0, 'pending', '', ?3, 0, ?4,
					(SELECT coalesce(max(number), 0) FROM rotations WHERE device = ?2), ?5)
				ON CONFLICT (device, campaign) DO UPDATE SET standing = 'pending', why = '', zone = excluded.zone, added = 0,
					since = excluded.since, before = excluded.before, expires = excluded.expires, wave = 0
				WHERE standing NOT IN ('pending', 'added', 'vended', 'proven') AND (since <= ?6 OR since > ?4)`,
				name, e.Device, e.Zone, nanos(t.now), e.Expires.Unix(), nanos(e.Again)); err != nil {
				return err
			}
		}
		return nil
	})
	return wrapCampaign("enter devices into", name, err)
}

// Recent implements campaign.Entrance.
func (h Campaigns) Recent(ctx context.Context, name string, after time.Time, most int) (map[campaign.Standing]int, error) {
	counts := map[campaign.Standing]int{}
	err := h.s.view(ctx, func(q querier) error {
		latest, err := collect(q, value[campaign.Standing], `SELECT standing FROM campaign_members INDEXED BY campaign_members_ended
			WHERE campaign = ? AND since > ? AND since <= ? AND standing IN ('proven', 'passed', 'failed') ORDER BY since DESC`+atMost,
			name, nanos(after), nanos(h.s.now()), limit(most))
		for _, standing := range latest {
			counts[standing]++
		}
		return err
	})
	return counts, wrapCampaign("count the latest of", name, err)
}
