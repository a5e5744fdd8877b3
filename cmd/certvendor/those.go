package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/certvendor/certvendor/campaign"
	"github.com/certvendor/certvendor/internal/control"
	"github.com/certvendor/certvendor/rotation"
)

// those says which devices a verb is about: they are named, stand in a file, or
// are a campaign's.
type those struct {
	file, campaign, standing string
}

func (t *those) flags(cmd *cobra.Command, ofCampaign string) {
	cmd.Flags().StringVar(&t.file, "file", "", "a file with a name a line; - is the standard input")
	cmd.Flags().StringVar(&t.campaign, "campaign", "", strings.TrimSpace("the devices of this campaign "+ofCampaign))
	cmd.Flags().StringVar(&t.standing, "standing", "", "with --campaign: only those that stand so in it, as failed or passed")
}

const thoseUsage = " NAME... | --file FILE | --campaign NAME [--standing S] [--yes]"

var standings = []string{
	string(campaign.Pending), string(campaign.Added), string(campaign.Vended), string(campaign.Proven),
	string(campaign.Passed), string(campaign.Failed), string(campaign.Skipped), string(campaign.Late),
}

// devices returns them, each once, in their order. Of a campaign it is those
// that the verb is for.
func (t those) devices(ctx context.Context, daemon *control.Client, verb string, args []string, isFor func(control.CampaignMember) bool) ([]string, error) {
	switch given := t.file != "" || len(args) > 0; {
	case given == (t.campaign != "") || t.file != "" && len(args) > 0:
		return nil, fmt.Errorf("%s: name devices, or give --file or --campaign, and only one of them", verb)
	case given && t.standing != "":
		return nil, fmt.Errorf("%s: --standing needs --campaign", verb)
	case given:
		return namedDevices(verb, t.file, args)
	}
	if t.standing != "" && !slices.Contains(standings, t.standing) {
		return nil, fmt.Errorf("%s: --standing %.40q is none of %s", verb, t.standing, strings.Join(standings, ", "))
	}
	if _, err := daemon.Campaign(ctx, t.campaign); err != nil {
		return nil, err
	}
	var names []string
	for m, err := range daemon.CampaignMembers(ctx, t.campaign) {
		if err != nil {
			return nil, err
		}
		if isFor(m) && (t.standing == "" || string(m.Standing) == t.standing) {
			names = append(names, m.Device)
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("%s: %w of campaign %s: `certvendor campaign report %s` lists where each stands", verb, errNobody, t.campaign, t.campaign)
	}
	return names, nil
}

var errNobody = errors.New("it is for no device")

// Which devices of a campaign a verb is for. What a device did after the
// campaign is not the campaign's.
func anybody(control.CampaignMember) bool { return true }

func gotNowhere(m control.CampaignMember) bool {
	return !m.Later && (m.Standing == campaign.Failed || m.Standing == campaign.Late)
}

func isUnfinished(m control.CampaignMember) bool {
	if m.Rotation == nil || m.Later {
		return false
	}
	switch m.Rotation.State {
	case rotation.Intended, rotation.Issued, rotation.Vended, rotation.Acknowledged, rotation.Stale:
		return true
	}
	return false
}

func mayBeUndone(m control.CampaignMember) bool {
	return m.Rotation != nil && !m.Later && m.Rotation.State == rotation.Finished && m.Rotation.Undone.IsZero()
}
