package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/certvendor/certvendor/campaign"
)

// Campaigns keeps the campaigns and their members.
type Campaigns struct{ s *Store }

var (
	_ campaign.Store = Campaigns{}
	_ campaign.Roll  = Campaigns{}
	_ campaign.Watch = Campaigns{}
)

// preparing is the state of a campaign whose members are not all written yet.
// Nobody but Apply sees it.
const preparing campaign.State = "preparing"

// CampaignState is an event of the audit.
const CampaignState = "campaign.state"

const campaignColumns = `name, spec, state, why, devices, wave, by_whom, applied, ended, version, resumed, history`

func scanCampaign(row scanner) (c campaign.Campaign, err error) {
	var name, spec, history string
	var applied, ended, resumed int64
	if err := row.Scan(&name, &spec, &c.State, &c.Why, &c.Devices, &c.Wave, &c.By, &applied, &ended, &c.Version, &resumed, &history); err != nil {
		return c, err
	}
	c.Applied, c.Ended, c.Resumed = moment(applied), moment(ended), moment(resumed)
	if err := json.Unmarshal([]byte(spec), &c.Spec); err != nil {
		return c, fmt.Errorf("read the spec of campaign %s: %w", name, err)
	}
	if err := json.Unmarshal([]byte(history), &c.History); err != nil {
		return c, fmt.Errorf("read the history of campaign %s: %w", name, err)
	}
	return c, nil
}

// membersAtOnce is how many members one commit writes, so that devices do not
// wait for a large campaign.
const membersAtOnce = 500

// Apply enters a campaign with its members, and lets it run. Where one of that
// name is there it changes nothing: made is false, and ErrDiffers if its spec is
// another. What a process that died had begun is done anew.
func (h Campaigns) Apply(ctx context.Context, c campaign.Campaign, members []campaign.Member) (made bool, err error) {
	spec, err := json.Marshal(c.Spec)
	if err != nil {
		return false, fmt.Errorf("apply campaign %s: %w", c.Name, err)
	}
	made, err = h.enter(ctx, c, string(spec))
	if err != nil || !made {
		return false, wrapCampaign("apply", c.Name, err)
	}
	for chunk := range slices.Chunk(members, membersAtOnce) {
		err = h.s.commit(ctx, func(t *tx) error {
			for _, m := range chunk {
				if err := t.change(`INSERT INTO campaign_members (campaign, place, device, wave, standing, why, zone, added, since, before)
					VALUES (?, ?, ?, ?, ?, '', ?, 0, 0, 0)`,
					c.Name, m.Place, m.Device, m.Wave, m.Standing, m.Zone); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return false, wrapCampaign("apply", c.Name, err)
		}
	}
	err = h.s.commit(ctx, func(t *tx) error {
		if err := t.change(`UPDATE campaigns SET state = ?, version = version + 1 WHERE name = ?`, campaign.Running, c.Name); err != nil {
			return err
		}
		if err := t.remember(c.Name, campaign.Change{At: t.now, State: campaign.Running, By: c.By}); err != nil {
			return err
		}
		return t.noteCampaign(c, campaign.Running, CampaignStarted)
	})
	return err == nil, wrapCampaign("apply", c.Name, err)
}

// enter writes the campaign without its members.
func (h Campaigns) enter(ctx context.Context, c campaign.Campaign, spec string) (bool, error) {
	return commitFor(ctx, h.s, func(t *tx) (bool, error) {
		before, there, err := single(t, scanCampaign, `SELECT `+campaignColumns+` FROM campaigns WHERE name = ?`, c.Name)
		if err != nil {
			return false, err
		}
		if there && before.State != preparing {
			known, err := json.Marshal(before.Spec)
			if err == nil && string(known) != spec {
				err = refusal{campaign.ErrDiffers}
			}
			return false, err
		}
		if err := t.change(`DELETE FROM campaign_members WHERE campaign = ?`, c.Name); err != nil {
			return false, err
		}
		if err := t.change(`DELETE FROM tallies WHERE what = ?`, campaignTally(c.Name)); err != nil {
			return false, err
		}
		return true, t.change(`INSERT OR REPLACE INTO campaigns (`+campaignColumns+`) VALUES (?, ?, ?, '', ?, 0, ?, ?, 0, 1, 0, '[]')`,
			c.Name, spec, preparing, c.Devices, c.By, nanos(t.now))
	})
}

// noteCampaign audits a campaign's state, and puts a notice into the outbox; an
// empty kind: none.
func (t *tx) noteCampaign(c campaign.Campaign, state campaign.State, kind string) error {
	detail := map[string]string{"campaign": c.Name, "state": string(state), "devices": strconv.Itoa(c.Devices), "wave": strconv.Itoa(c.Wave)}
	if c.Why != "" {
		detail["why"] = c.Why
	}
	if c.Acts != "" {
		detail["who"] = c.Acts
	}
	if err := t.audit(Event{Kind: CampaignState, Detail: detail}); err != nil || kind == "" {
		return err
	}
	return t.tell(kind, detail)
}

// remember adds to a campaign's history.
func (t *tx) remember(name string, change campaign.Change) error {
	text, err := json.Marshal(change)
	if err != nil {
		return err
	}
	return t.change(`UPDATE campaigns SET history = json_insert(history, '$[#]', json(?)) WHERE name = ?`, string(text), name)
}

// wrapCampaign names the campaign in an error; what refuses stays testable.
func wrapCampaign(what, name string, err error) error {
	if err == nil {
		return nil
	}
	if refused := (refusal{}); errors.As(err, &refused) {
		err = refused.why
	}
	return fmt.Errorf("%s campaign %s: %w", what, name, err)
}

// Find returns a campaign, or ErrUnknown.
func (h Campaigns) Find(ctx context.Context, name string) (campaign.Campaign, error) {
	all, err := h.list(ctx, `name = ?`, name)
	if err == nil && len(all) == 0 {
		err = campaign.ErrUnknown
	}
	if err != nil {
		return campaign.Campaign{}, wrapCampaign("find", name, err)
	}
	return all[0], nil
}

// List returns every campaign there ever was, the newest first.
func (h Campaigns) List(ctx context.Context) ([]campaign.Campaign, error) {
	all, err := h.list(ctx, `1`)
	slices.Reverse(all)
	return all, err
}

// Running implements campaign.Store.
func (h Campaigns) Running(ctx context.Context) ([]campaign.Campaign, error) {
	return h.list(ctx, `state NOT IN ('aborted', 'canceled', 'finished')`)
}

func (h Campaigns) list(ctx context.Context, where string, args ...any) (all []campaign.Campaign, err error) {
	err = h.s.view(ctx, func(q querier) (err error) {
		all, err = collect(q, scanCampaign, `SELECT `+campaignColumns+` FROM campaigns
			WHERE state <> 'preparing' AND `+where+` ORDER BY applied, name`, args...)
		return err
	})
	return all, err
}

// Save implements campaign.Store.
func (h Campaigns) Save(ctx context.Context, c campaign.Campaign) (bool, error) {
	saved, err := commitFor(ctx, h.s, func(t *tx) (bool, error) {
		before, there, err := single(t, scanCampaign, `SELECT `+campaignColumns+` FROM campaigns WHERE name = ?`, c.Name)
		if err != nil || !there || before.Version != c.Version {
			return false, err
		}
		if err := t.change(`UPDATE campaigns SET state = ?, why = ?, wave = ?, ended = ?, resumed = ?, version = version + 1 WHERE name = ?`,
			c.State, c.Why, c.Wave, nanos(c.Ended), nanos(c.Resumed), c.Name); err != nil {
			return false, err
		}
		if err := t.remember(c.Name, campaign.Change{At: t.now, State: c.State, Wave: c.Wave, Why: c.Why, By: c.Acts}); err != nil {
			return false, err
		}
		kind := ""
		if c.State != before.State {
			kind = noticeOf[c.State]
		}
		return true, t.noteCampaign(c, c.State, kind)
	})
	return saved, wrapCampaign("save", c.Name, err)
}

func campaignTally(name string) string { return "campaign " + name }

// Tally implements campaign.Store. Its cost does not grow with the members.
func (h Campaigns) Tally(ctx context.Context, name string) (campaign.Tally, error) {
	tally := campaign.Tally{}
	err := h.s.look(ctx, func(q querier) error {
		counts, err := tallies(q, campaignTally(name))
		for state, n := range counts {
			wave, standing, _ := strings.Cut(state, " ")
			number, err := strconv.Atoi(wave)
			if err != nil {
				return fmt.Errorf("tally %q: %w", state, err)
			}
			if tally[number] == nil {
				tally[number] = map[campaign.Standing]int{}
			}
			tally[number][campaign.Standing(standing)] = n
		}
		return err
	})
	return tally, wrapCampaign("count", name, err)
}
