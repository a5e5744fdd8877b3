package store

import (
	"strconv"

	"github.com/certvendor/certvendor/campaign"
)

// No row of the audit says where a member of a campaign stands: whoever runs
// the campaign finds it out from the rotations, which have rows. What it cannot
// find out is who was let in, and who was given up.

// againCampaign brings a campaign to a state. One that had finished does so
// again, when its members were looked at. One that was made since the backup is
// not known.
func (t *tx) againCampaign(e Event) error {
	state, name := campaign.State(e.Detail["state"]), e.Detail["campaign"]
	wave, err := strconv.Atoi(e.Detail["wave"])
	if err != nil || state == campaign.Finished {
		return err
	}
	var ended int64
	if state.Ended() {
		ended = nanos(e.At)
	}
	err = t.change(`UPDATE campaigns SET state = ?, why = ?, wave = ?, ended = ?, version = version + 1 WHERE name = ?`,
		state, e.Detail["why"], wave, ended, name)
	if err != nil {
		return err
	}
	err = t.remember(name, campaign.Change{At: e.At, State: state, Wave: wave, Why: e.Detail["why"], By: e.Detail["who"]})
	if err != nil || !state.Ended() {
		return err
	}
	return t.change(`UPDATE campaign_members SET standing = 'late', why = 'not heard of before the campaign ended', since = ?
		WHERE campaign = ? AND standing = 'added' AND before >= coalesce((SELECT max(number) FROM rotations WHERE device = campaign_members.device), 0)`,
		nanos(e.At), name)
}

// againLetIn lets a member in whose turn had not come when the store was backed
// up, for its device was put into the rotation group then.
func (t *tx) againLetIn(e Event) error {
	return t.change(`UPDATE campaign_members SET standing = 'added', added = ?, since = ?, look = 0,
		before = coalesce((SELECT max(number) FROM rotations WHERE device = campaign_members.device), 0)
		WHERE device = ? AND standing = 'pending' AND EXISTS (SELECT 1 FROM campaigns c WHERE c.name = campaign
			AND c.state NOT IN ('aborted', 'canceled', 'finished'))`, nanos(e.At), nanos(e.At), e.Device)
}

// againLeft gives a member up that left the group without a rotation: it had
// failed, or somebody took it out.
func (t *tx) againLeft(e Event) error {
	return t.change(`UPDATE campaign_members SET standing = 'skipped', why = 'it left the rotation group without a rotation, before the store was restored', since = ?
		WHERE device = ? AND standing = 'added' AND added < ?
		AND before >= coalesce((SELECT max(number) FROM rotations WHERE device = campaign_members.device), 0)`,
		nanos(e.At), e.Device, nanos(e.At))
}
