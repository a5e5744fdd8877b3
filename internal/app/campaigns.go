package app

import (
	"context"
	"errors"
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
	ports := campaign.Ports{
		Store: store, Roll: store, Watch: store, Group: a.backend.Group, Hold: a.holdCampaigns, Unserved: a.unserved, LetIn: a.world.Poke,
		Told: a.toldCampaign, Now: a.clock.Now, Entrance: store,
	}
	if auto := a.config.Rotation.Auto; auto.Enabled {
		ports.Renewal = &campaign.Renewal{
			Spec: a.config.AutoSpec(), Before: auto.Before.Before, Except: auto.Except,
			Window: a.config.Standalone.Broker.Expired, Until: a.vendsUntil,
		}
	}
	return campaign.NewRunner(ports)
}

// vendsUntil returns when a certificate ends at the latest that is vended now.
func (a *App) vendsUntil(ctx context.Context) (time.Time, error) {
	until := a.clock.Now().Add(a.config.Vending.Validity)
	if a.backend.Signs == nil {
		return until, nil
	}
	limit, err := a.backend.Signs(ctx)
	if limit.Before(until) {
		until = limit
	}
	return until, err
}

// endAuto ends the campaign of due certificates where it is switched off.
func (a *App) endAuto(ctx context.Context) error {
	store := a.world.Store().Campaigns()
	c, err := store.Find(ctx, campaign.AutoName)
	switch {
	case a.config.Rotation.Auto.Enabled || errors.Is(err, campaign.ErrUnknown):
		return nil
	case err != nil || c.State.Ended():
		return err
	}
	if err := a.runner.Withdraw(ctx, c); err != nil {
		return err
	}
	c.State, c.Why, c.Ended = campaign.Canceled, "rotation.auto is switched off", a.clock.Now()
	_, err = store.Save(ctx, c)
	return err
}

// runCampaigns looks at the campaigns until ctx ends.
func (a *App) runCampaigns(ctx context.Context) {
	if err := a.endAuto(ctx); err != nil && ctx.Err() == nil {
		a.log.Error().Err(err).Msg("the campaign auto, which is switched off, goes on")
	}
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
	if why := a.unserved(ctx); why != "" {
		return why
	}
	canceled, err := a.world.Store().Jobs().Canceled(ctx)
	switch {
	case err != nil:
		return err.Error()
	case canceled:
		return "the job is canceled: `certvendor job ensure` brings it back"
	}
	return ""
}

// unserved says why no device can be vended anything now.
func (a *App) unserved(ctx context.Context) string {
	if err := a.Ready(ctx); err != nil {
		return err.Error()
	}
	frozen, err := a.backend.Brakes.Frozen(ctx)
	switch {
	case err != nil:
		return err.Error()
	case frozen.Vending:
		return "vending is frozen: " + frozen.VendingWhy()
	}
	return ""
}

func (a *App) toldCampaign(c campaign.Campaign) {
	line := a.log.Info()
	if c.State == campaign.Aborted || c.State == campaign.Paused || c.State == campaign.Stopped {
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

// steps are what the world is called for, where it is somewhere else.
func (a *App) steps() []campaign.Step {
	if a.cloud == nil {
		return nil
	}
	return a.cloud.Steps(a.config.Rotation.Previous, issuerCalls[a.config.AWS.Issuer.Kind]...)
}

// issuerCalls are what each kind of issuer on AWS calls for a certificate, where
// it waits once for it. IssueCertificate of ACM PCA is paid for by the piece.
var issuerCalls = map[string][]string{
	"kms": {"Sign"}, "pca": {"IssueCertificate", "GetCertificate"}, "iot": {"CreateCertificateFromCsr"},
}

// campaigns are what operators need for campaigns.
func (a *App) campaigns() control.Campaigns {
	store := a.world.Store().Campaigns()
	return control.Campaigns{
		CampaignStore: store, Running: store, Runner: a.runner, Poke: a.pokeCampaigns,
		Obstacles: a.obstacles, Hindrance: a.hindrance,
		Pace: campaign.Pace{
			PerMinute: a.config.Rotation.PerMinute, MaxInFlight: a.config.Rotation.MaxInFlight, Typical: typicalRotation,
			Steps: a.steps(),
		},
	}
}
