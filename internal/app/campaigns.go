package app

import (
	"context"
	"time"

	"github.com/certvendor/certvendor/campaign"
	"github.com/certvendor/certvendor/internal/control"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/vending"
)

// campaignTick is how often campaigns are looked at. It bounds how evenly
// devices are let in, and how late a gate opens.
const campaignTick = time.Second

// typicalRotation is about how long a device takes from being let in to its
// proof, where nothing is known of it: a round of the campaign and one of the
// pacer, and the device's own time.
const typicalRotation = 3 * time.Second

func (a *App) newRunner() *campaign.Runner {
	store := a.world.Store().Campaigns()
	return campaign.NewRunner(campaign.Ports{
		Store: store, Roll: store, Watch: store, Group: a.backend.Group, Hold: a.holdCampaigns, LetIn: a.world.Poke,
		Told: a.toldCampaign, Now: a.clock.Now,
	})
}

// runCampaigns looks at the campaigns until ctx ends.
func (a *App) runCampaigns(ctx context.Context) {
	tick := time.NewTicker(campaignTick)
	defer tick.Stop()
	for {
		if err := a.runner.Round(ctx); err != nil && ctx.Err() == nil {
			a.log.Error().Err(err).Msg("campaigns")
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-a.look:
		}
	}
}

func (a *App) pokeCampaigns() {
	select {
	case a.look <- struct{}{}:
	default: // it will look anyway
	}
}

// holdCampaigns says why no campaign may let a device in now.
func (a *App) holdCampaigns(ctx context.Context) string {
	if err := a.Ready(ctx); err != nil {
		return err.Error()
	}
	frozen, err := a.backend.Brakes.Frozen(ctx)
	switch {
	case err != nil:
		return err.Error()
	case frozen.Vending:
		return "vending is frozen: " + frozen.Why
	}
	return ""
}

func (a *App) toldCampaign(c campaign.Campaign) {
	line := a.log.Info()
	if c.State == campaign.Aborted || c.State == campaign.Paused {
		line = a.log.Warn()
	}
	line.Str("campaign", c.Name).Str("state", string(c.State)).Str("why", c.Why).Int("wave", c.Wave).Msg("campaign")
}

// tellCampaigns hands on what a refused get says about the device, or about us.
func (a *App) tellCampaigns(o vending.Outcome) {
	if o.Accepted || o.Action != protocol.Get {
		return
	}
	switch o.Reason {
	case protocol.Malformed, protocol.CSRRejected, protocol.NotBound, protocol.PreviousNotHeld, protocol.CANotAllowed,
		protocol.NoPackage, protocol.NoCertificateID:
		a.runner.Refused(o.Device, string(o.Reason))
	case protocol.RegistryFailed, protocol.ActivationFailed, protocol.LinkFailed, protocol.NoCA, protocol.NoCAKey,
		protocol.IssueFailed, protocol.RegisterFailed, protocol.AttachFailed, protocol.PolicyFailed, protocol.PublishFailed,
		protocol.Internal:
		a.runner.Failed(string(o.Reason))
	}
}

// campaigns are what operators need for campaigns.
func (a *App) campaigns() control.Campaigns {
	store := a.world.Store().Campaigns()
	return control.Campaigns{
		CampaignStore: store, Running: store, Runner: a.runner, Poke: a.pokeCampaigns,
		Pace: campaign.Pace{
			PerMinute: a.config.Rotation.PerMinute, MaxInFlight: a.config.Rotation.MaxInFlight, Typical: typicalRotation,
		},
	}
}
